//! A training that is killed, at any moment and as often as one likes, computes the bits of one that never stopped.

#![cfg(unix)]

mod support;

use moewe_train::random::Random;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};
use support::process::{Call, column, events, names, trainer};
use support::{Dataset, moe_gpt, tachyon};

const STEPS: usize = 24;
const LAST: &str = "checkpoint-24";
const PATIENCE: Duration = Duration::from_secs(60); // until a process that does nothing fails the test

/// A training of [`STEPS`] steps, and where it keeps its files.
struct Training {
    arguments: Vec<String>,
    out: PathBuf,
}

impl Training {
    fn new(dataset: &Dataset, preset: &str, name: &str) -> Self {
        let (shards, out) = (dataset.text("shards"), dataset.text(name));
        let settings = "--max-steps 24 --batch 2 --accumulate 2 --warmup-steps 4 --learning-rate 0.003 --save-every 2 \
                        --log-every 1 --eval-every 5 --eval-rows 4 --sample-every 7 --sample-tokens 4 --seed 11";
        let mut arguments: Vec<String> = settings.split_whitespace().map(String::from).collect();
        for (flag, value) in [("--preset", preset), ("--data", &shards), ("--out", &out)] {
            arguments.extend([flag.into(), value.into()]);
        }
        arguments.extend(["--tokenizer".into(), dataset.text("tokenizer.json")]);
        Self { arguments, out: out.into() }
    }

    /// The same with more flags.
    fn and(mut self, flags: &[&str]) -> Self {
        self.arguments.extend(flags.iter().map(|flag| (*flag).to_owned()));
        self
    }

    fn call(&self) -> Call {
        trainer(&self.arguments)
    }

    fn with(&self, flag: &str, value: &str) -> Call {
        self.call_with(&[(flag, value)])
    }

    /// The call with other values of flags that it has.
    fn call_with(&self, changes: &[(&str, &str)]) -> Call {
        let mut arguments = self.arguments.clone();
        for (flag, value) in changes {
            let place = arguments.iter().position(|argument| argument == flag).unwrap();
            arguments[place + 1] = (*value).into();
        }
        trainer(arguments)
    }

    /// Steps that metrics.jsonl tells of.
    fn steps(&self) -> usize {
        column(&self.out, "loss").len()
    }

    /// Starts the training and kills it `delay` after `when` says so; false if it was finished before.
    fn killed(&self, delay: Duration, mut when: impl FnMut() -> bool) -> bool {
        let mut child = self.call().spawn();
        let running = wait_until(&mut child, &mut when);
        std::thread::sleep(delay);
        child.kill().unwrap();
        child.wait().unwrap();
        running
    }

    /// Steps of the checkpoint that is being written: one that is newer than all finished ones.
    fn partial(&self) -> Option<u64> {
        let names = if self.out.exists() { names(&self.out) } else { vec![] };
        let step = |name: &str| name.strip_prefix("checkpoint-")?.parse::<u64>().ok();
        let newest = names.iter().filter_map(|name| step(name)).max().unwrap_or_default();
        let mut partial = names.iter().filter_map(|name| step(name.strip_suffix(".partial")?));
        partial.find(|&step| step > newest)
    }

    /// What a training is judged by: all events with a number or a text, and the last checkpoint.
    fn result(&self) -> (BTreeSet<String>, Vec<Vec<u8>>) {
        let counts = |event: &Map<String, Value>| {
            ["step", "validation", "sample"].contains(&event["event"].as_str().unwrap())
        };
        let events: Vec<_> = events(&self.out).into_iter().filter(counts).collect();
        let lines: BTreeSet<String> =
            events.iter().map(|event| Value::from(event.clone()).to_string()).collect();
        assert_eq!(lines.len(), events.len(), "an event stands there twice");
        assert_eq!(column(&self.out, "step"), (1..=STEPS).map(|step| step as f64).collect::<Vec<_>>());
        let files = ["model.safetensors", "optimizer.safetensors", "state.json"];
        (lines, files.map(|name| std::fs::read(self.out.join(LAST).join(name)).unwrap()).into())
    }

    fn assert_same(&self, reference: &Self) {
        let (own, expected) = (self.result(), reference.result());
        let different: Vec<_> = own.0.symmetric_difference(&expected.0).take(4).collect();
        assert!(different.is_empty(), "events that differ: {different:#?}");
        assert!(own.1 == expected.1, "weights, moments and state have the same bytes");
    }
}

/// Waits for `when`; false if the process ends before.
fn wait_until(child: &mut Child, when: &mut impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !when() {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        assert!(start.elapsed() < PATIENCE, "the process hangs");
        std::thread::sleep(Duration::from_micros(200));
    }
    child.try_wait().unwrap().is_none()
}

/// Five kills between steps and one inside a checkpoint.
fn kill_and_go_on(preset: &Value, name: &str) {
    let dataset = Dataset::new();
    let preset = dataset.preset(name, preset);
    let whole = Training::new(&dataset, &preset, "whole");
    whole.call().succeed();
    let broken = Training::new(&dataset, &preset, "broken");
    let mut random = Random::at(3, &[]);
    for kill in 0..5 {
        let at = 4 * kill + 1 + random.below(4) as usize;
        let delay = Duration::from_micros(random.below(6000));
        let reached = broken.killed(delay, || broken.steps() >= at);
        assert!(reached, "step {at} was reached before the kill");
    }
    let inside = (0..20).any(|_| {
        broken.killed(Duration::ZERO, || broken.partial().is_some());
        broken.partial().is_some()
    });
    assert!(inside, "no kill hit a checkpoint that was being written");
    broken.call().succeed();
    broken.assert_same(&whole);
    assert_eq!(broken.partial(), None);
    assert!(!names(&broken.out).iter().any(|name| name.ends_with(".old")), "{:?}", names(&broken.out));
    let dropped = events(&whole.out)
        .iter()
        .filter_map(|event| event.get("experts").cloned())
        .any(|experts| experts.as_array().unwrap().iter().any(|load| load["dropped"].as_u64() > Some(0)));
    assert_eq!(dropped, name == "moe_gpt", "the capacity is at work where there is one");
}

#[test]
fn moe_gpt_survives_kills() {
    kill_and_go_on(&moe_gpt(), "moe_gpt");
}

#[test]
fn tachyon_survives_kills() {
    kill_and_go_on(&tachyon(), "tachyon");
}

/// The masters are F32, what is computed with is made from them.
#[test]
fn bf16_survives_a_kill() {
    let dataset = Dataset::new();
    let preset = dataset.preset("moe_gpt", &moe_gpt());
    let training = |name| Training::new(&dataset, &preset, name).and(&["--precision", "bf16"]);
    let (whole, broken) = (training("whole"), training("broken"));
    whole.call().succeed();
    assert!(broken.killed(Duration::ZERO, || broken.steps() >= 9));
    broken.call().succeed();
    broken.assert_same(&whole);
}

#[test]
fn threads_and_segments_change_no_bit() {
    let dataset = Dataset::new();
    for (name, preset) in [("moe_gpt", moe_gpt()), ("tachyon", tachyon())] {
        let preset = dataset.preset(name, &preset);
        let training = |out: &str, flags: &[&str]| {
            let training = Training::new(&dataset, &preset, &format!("{name}-{out}")).and(flags);
            training.call().succeed();
            training
        };
        let whole = training("one", &["--threads", "1"]);
        training("three", &["--threads", "3", "--segment", "1"]).assert_same(&whole);
    }
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("sh").args(["-c", &format!("kill -{name} {}", child.id())]).status().unwrap();
    assert!(status.success());
}

#[test]
fn interrupted_damaged_and_foreign_runs() {
    let dataset = Dataset::new();
    let preset = dataset.preset("tachyon", &tachyon());
    let whole = Training::new(&dataset, &preset, "whole");
    whole.call().succeed();
    // The keyboard's way, and that of a cluster whose time is up.
    for name in ["INT", "TERM"] {
        a_signal_saves_and_the_next_start_goes_on(name, &dataset, &preset, &whole);
    }
    a_damaged_checkpoint_is_passed_over(&dataset, &preset, &whole);
    another_run_is_refused(&dataset, &whole);
}

fn a_signal_saves_and_the_next_start_goes_on(name: &str, dataset: &Dataset, preset: &str, whole: &Training) {
    let stopped = Training::new(dataset, preset, &format!("stopped-{name}"));
    // Saves only when it is told to stop.
    let mut child = stopped.with("--save-every", "1000").spawn();
    assert!(wait_until(&mut child, &mut || stopped.steps() >= 5), "it was still running");
    signal(&child, name);
    assert!(child.wait().unwrap().success(), "a training that was asked to stop has not failed");
    let steps = stopped.steps();
    assert!((5..STEPS).contains(&steps), "{steps}");
    assert!(stopped.out.join(format!("checkpoint-{steps}")).is_dir(), "{:?}", names(&stopped.out));
    stopped.call().succeed();
    let starts: Vec<_> = events(&stopped.out).into_iter().filter(|event| event["event"] == "start").collect();
    assert_eq!(starts.last().unwrap()["step"], steps);
    stopped.assert_same(whole);
}

fn a_damaged_checkpoint_is_passed_over(dataset: &Dataset, preset: &str, whole: &Training) {
    let damaged = Training::new(dataset, preset, "damaged");
    damaged.call().succeed();
    let file = damaged.out.join(LAST).join("optimizer.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 100]).unwrap();
    let said = damaged.call().succeed();
    assert!(said.contains("WARN") && said.contains(LAST) && said.contains("damaged"), "{said}");
    damaged.assert_same(whole);
    assert!(damaged.out.join(format!("{LAST}.aside")).is_dir(), "{:?}", names(&damaged.out));
}

/// Neither changes anything in the folder.
fn another_run_is_refused(dataset: &Dataset, whole: &Training) {
    let settings = |out: &Path| std::fs::read_to_string(out.join("run.toml")).unwrap();
    let before = (names(&whole.out), settings(&whole.out));
    let mut wider = tachyon();
    wider["d_ff"] = 64.into();
    let mut other_rule = tachyon();
    other_rule["top_k_experts"] = 1.into();
    for (flag, value, expected) in [
        ("--seed", "12".to_owned(), vec!["--seed 11", "12", "another --out"]),
        ("--preset", dataset.preset("wider", &wider), vec!["layers.0.moe.w1", "another --out"]),
        ("--preset", dataset.preset("moe_gpt", &moe_gpt()), vec!["transformer.wte.weight", "another --out"]),
        ("--preset", dataset.preset("rule", &other_rule), vec!["top_k_experts", "another --out"]),
    ] {
        let error = whole.call_with(&[(flag, &value), ("--max-steps", "30")]).refused();
        let misses = expected.iter().find(|text| !error.contains(**text));
        assert_eq!(misses, None, "{error}");
        assert_eq!((names(&whole.out), settings(&whole.out)), before, "{flag} {value}");
    }
}
