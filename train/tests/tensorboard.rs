//! What TensorBoard itself reads from our event files, resumed training included.
//!
//! Needs a Python with the package `tensorboard`: the one in MOEWE_PYTHON, or the environment that `.ci/run` makes.

mod support;

use moewe_train::monitor::{Event, ExpertLoad, Monitor, Settings, Start, StepReport, Validation};
use serde_json::{Map, Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::process::{events_of, trainer};
use support::{Dataset, moe_gpt};

fn python() -> Option<PathBuf> {
    let made_by_ci = Path::new(env!("CARGO_TARGET_TMPDIR")).parent()?.join("ci-venv/bin/python");
    let python = std::env::var_os("MOEWE_PYTHON").map_or(made_by_ci, PathBuf::from);
    let has_it = Command::new(&python).args(["-c", "import tensorboard"]).output();
    has_it.is_ok_and(|output| output.status.success()).then_some(python)
}

fn skipped() {
    let advice = "SKIPPED: no Python with the package tensorboard; set MOEWE_PYTHON or run .ci/run online";
    let _ = writeln!(std::io::stderr(), "{advice}");
}

/// Steps `from + 1` to `to` of a training of which step 2 is worth a closer look.
fn train(folder: &Path, from: u64, to: u64) {
    let settings = Settings { folder: folder.to_owned(), step: from, log_every: 1 };
    let mut monitor = Monitor::open(&settings, &["tensorboard"]).unwrap();
    monitor.record(&Event::Start(Start { step: from, steps: 9, description: "tiny, seed 7".into() }));
    for step in from + 1..=to {
        let experts = vec![ExpertLoad { layer: 3, counts: vec![5, 0, 2], dropped: 1, entropy: 0.25 }];
        let experts = if step == 2 { experts } else { vec![] };
        let loss = step as f64 / 4.0 + from as f64;
        monitor.record(&Event::Step(StepReport { step, loss, memory_bytes: 1 << 32, experts, ..filled() }));
    }
    let validation =
        Validation { step: to, loss: 2.5, perplexity: 12.0, bits_per_byte: Some(1.5), tokens: 9 };
    monitor.record(&Event::Validation(validation));
    monitor.record(&Event::Sample { step: to, prompt: "Möwen".into(), text: " fliegen\nweit".into() });
    monitor.record(&Event::End { step: to });
}

fn filled() -> StepReport {
    StepReport {
        cross_entropy: 2.0,
        load_balance: 0.5,
        router_z: 0.125,
        learning_rate: 0.25,
        gradient_norm: 1.5,
        tokens_per_second: 1024.0,
        ..Default::default()
    }
}

fn read_back(python: &Path, folder: &Path) -> Value {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/read_events.py");
    let output = Command::new(python).arg(script).arg(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn tensorboard_reads_our_event_files() {
    let Some(python) = python() else { return skipped() };
    let folder = tempfile::tempdir().unwrap();
    train(folder.path(), 0, 3);
    train(folder.path(), 2, 4);
    let found = read_back(&python, &folder.path().join("tensorboard"));
    assert_eq!(found["version"], 2.0);
    let scalars = &found["scalars"];
    assert_eq!(scalars["train/loss"], json!([[1, 0.25], [2, 0.5], [3, 2.75], [4, 3.0]]));
    for (tag, value) in [
        ("train/cross_entropy", 2.0),
        ("train/load_balance", 0.5),
        ("train/router_z", 0.125),
        ("train/learning_rate", 0.25),
        ("train/gradient_norm", 1.5),
        ("train/tokens_per_second", 1024.0),
        ("train/memory_bytes", 4_294_967_296.0),
    ] {
        assert_eq!(scalars[tag], json!([[1, value], [2, value], [3, value], [4, value]]), "{tag}");
    }
    assert_eq!(scalars["validation/loss"], json!([[4, 2.5]]), "that of the void step 3 is gone");
    assert_eq!(scalars["validation/perplexity"], json!([[4, 12.0]]));
    assert_eq!(scalars["validation/bits_per_byte"], json!([[4, 1.5]]));
    assert_eq!(scalars["experts/layer_3/entropy"], json!([[2, 0.25]]));
    assert_eq!(scalars["experts/layer_3/dropped"], json!([[2, 1.0]]));
    let load = json!([[0.0, 1.0, 5.0], [1.0, 2.0, 0.0], [2.0, 3.0, 2.0]]);
    assert_eq!(found["histograms"]["experts/layer_3/load"], json!([[2, load]]));
    assert_eq!(found["text"]["samples/Möwen"], json!([[4, ["Möwen fliegen\nweit"]]]));
    assert_eq!(found["text"]["training"], json!([[0, ["tiny, seed 7"]], [2, ["tiny, seed 7"]]]));
}

/// Steps and numbers in the precision of event files.
type Points = Vec<(u64, f32)>;

/// What metrics.jsonl says under `key`.
fn expected(out: &Path, kind: &str, key: &str) -> Points {
    let point =
        |event: &Map<String, Value>| (event["step"].as_u64().unwrap(), event[key].as_f64().unwrap() as f32);
    events_of(out, kind).iter().map(point).collect()
}

/// What TensorBoard found under `tag`.
fn scalars(found: &Value, tag: &str) -> Points {
    let point = |point: &Value| (point[0].as_u64().unwrap(), point[1].as_f64().unwrap() as f32);
    found["scalars"][tag].as_array().unwrap().iter().map(point).collect()
}

#[test]
fn tensorboard_reads_a_real_training() {
    let Some(python) = python() else { return skipped() };
    let dataset = Dataset::new();
    let out = dataset.path("out");
    let settings = "--max-steps 12 --batch 2 --log-every 3 --eval-every 6 --eval-rows 4 --sample-every 6 \
                    --sample-tokens 5 --prompt Möwe";
    let data = ["--data", &dataset.text("shards"), "--tokenizer", &dataset.text("tokenizer.json")];
    let run = ["--preset", &dataset.preset("moe_gpt", &moe_gpt()), "--out", out.to_str().unwrap()];
    trainer(settings.split_whitespace()).args(data).args(run).succeed();
    let found = read_back(&python, &out.join("tensorboard"));
    for key in ["loss", "cross_entropy", "load_balance", "router_z", "learning_rate", "gradient_norm"] {
        let expected = expected(&out, "step", key);
        assert_eq!(expected.len(), 4);
        assert_eq!(scalars(&found, &format!("train/{key}")), expected, "{key}");
    }
    for key in ["loss", "perplexity", "bits_per_byte"] {
        assert_eq!(scalars(&found, &format!("validation/{key}")), expected(&out, "validation", key), "{key}");
    }
    let load = |event: &Map<String, Value>| {
        let counts = event["experts"][0]["counts"].as_array().unwrap();
        let bars = counts.iter().enumerate().map(|(e, n)| json!([e as f64, e as f64 + 1.0, n.as_f64()]));
        json!([event["step"], bars.collect::<Vec<_>>()])
    };
    let loads: Value = events_of(&out, "step").iter().map(load).collect();
    assert_eq!(found["histograms"]["experts/layer_0/load"], loads);
    let sample = |event: &Map<String, Value>| {
        json!([event["step"], [format!("Möwe{}", event["text"].as_str().unwrap())]])
    };
    let samples: Value = events_of(&out, "sample").iter().map(sample).collect();
    assert_eq!(samples.as_array().unwrap().len(), 2);
    assert_eq!(found["text"]["samples/Möwe"], samples);
}
