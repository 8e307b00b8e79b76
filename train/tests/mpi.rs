//! Ranks as real processes under `mpirun`: sums, where the ranks check what they get, and whole trainings, which must
//! be those of one process.
//!
//! Built only with the feature `mpi`, which needs an MPI library.

mod support;

use candle_core::{Device, Tensor};
use moewe_train::checkpoint::Store;
use moewe_train::distributed::World;
use std::path::Path;
use std::process::{Command, Output};
use support::process::{Call, column, events_of, names, trainer};
use support::{Dataset, tachyon};

const PART: &str = "MOEWE_TEST_PART"; // which part a process started by a test plays

/// Runs the test `inside` of this binary as so many ranks.
fn ranks(count: usize, part: &str) -> Output {
    let mut command = Command::new("mpirun");
    command.args(["--allow-run-as-root", "--oversubscribe", "-n", &count.to_string()]);
    command.arg(std::env::current_exe().unwrap()).args(["--exact", "inside", "--nocapture"]);
    command.env(PART, part).output().expect("mpirun, from the package openmpi-bin")
}

fn text(output: &Output) -> String {
    [&output.stdout[..], &output.stderr].iter().map(|bytes| String::from_utf8_lossy(bytes)).collect()
}

#[test]
fn ranks_add_up() {
    for count in [2, 3] {
        let output = ranks(count, "sum");
        assert!(output.status.success(), "{count} ranks:\n{}", text(&output));
        assert_eq!(text(&output).matches("1 passed").count(), count);
    }
}

#[test]
fn a_rank_that_fails_takes_the_others_along() {
    let output = ranks(2, "fail");
    assert_eq!(output.status.code(), Some(7), "{}", text(&output));
}

/// Not a test by itself: what the ranks do.
#[test]
fn inside() {
    match std::env::var(PART).as_deref() {
        Ok("sum") => sums(&World::from_environment().unwrap()),
        Ok("fail") => fails(&World::from_environment().unwrap()),
        _ => {}
    }
}

fn fails(world: &World) {
    if world.rank == 1 {
        world.abort(7);
    }
    world.barrier().unwrap();
}

/// A number whose sums depend on the order of additions.
fn value(rank: usize, index: usize) -> f32 {
    (index as f32 + 0.1).sin() * 1e3f32.powi(rank as i32)
}

fn sums(world: &World) {
    // More than one chunk, and a length that no number of ranks divides.
    for length in [0, 1, 7, (1 << 20) + 5] {
        let mut values: Vec<f32> = (0..length).map(|index| value(world.rank, index)).collect();
        world.sum_f32(&mut values).unwrap();
        let expected = |index| (1..world.size).fold(value(0, index), |sum, rank| sum + value(rank, index));
        let wrong = (0..length).find(|&index| values[index].to_bits() != expected(index).to_bits());
        assert_eq!(wrong, None, "bit for bit, in the order of ranks");
    }
    let mut losses = [world.rank as f64, 1.0];
    world.sum_f64(&mut losses).unwrap();
    assert_eq!(losses, [(world.size * (world.size - 1) / 2) as f64, world.size as f64]);
    let mut fractions = [world.rank as f64];
    world.mean_f64(&mut fractions).unwrap();
    assert_eq!(fractions, [(world.size - 1) as f64 / 2.0]);
    tensors(world);
    let mut bytes = if world.is_first() { b"checkpoint-7".to_vec() } else { vec![1] };
    world.broadcast_bytes(&mut bytes).unwrap();
    assert_eq!(bytes, b"checkpoint-7");
    world.barrier().unwrap();
}

fn tensors(world: &World) {
    let full = |shape: &[usize]| Tensor::full(world.rank as f32 + 1.0, shape, &Device::Cpu).unwrap();
    let (mut small, mut smaller, mut large) = (full(&[2, 3]), full(&[]), full(&[9, 1 << 20]));
    world.sum_tensors(&mut [&mut small, &mut smaller, &mut large]).unwrap();
    let total = (world.size * (world.size + 1) / 2) as f32;
    for tensor in [small, smaller, large] {
        let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
        assert!(values.iter().all(|&value| value == total), "{:?}", tensor.shape());
    }
}

/// The arguments of a training of 20 steps on rows of `dataset`.
fn training(dataset: &Dataset, out: &Path, batch: usize) -> Vec<String> {
    let mut preset = tachyon();
    preset["balance_loss_coef"] = 0.1.into();
    let settings = "--max-steps 20 --warmup-steps 4 --learning-rate 0.003 --log-every 1 --eval-every 10 --eval-rows 4 \
                    --sample-every 10 --sample-tokens 4 --save-every 5 --keep-last 9 --threads 1 --prompt Möwe";
    let mut arguments: Vec<String> = settings.split_whitespace().map(String::from).collect();
    let (preset, batch) = (dataset.preset("tachyon", &preset), batch.to_string());
    let paths = [("--data", dataset.text("shards")), ("--tokenizer", dataset.text("tokenizer.json"))];
    let run = [("--preset", preset), ("--batch", batch), ("--out", out.to_str().unwrap().to_owned())];
    arguments.extend(paths.into_iter().chain(run).flat_map(|(flag, value)| [flag.to_owned(), value]));
    arguments
}

/// The binary as two ranks; one that waits for ever is ended, with another status.
fn two_ranks(arguments: &[String]) -> Call {
    let mut command = Command::new("timeout");
    command.args(["120", "mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "2"]);
    command.arg(env!("CARGO_BIN_EXE_moewe-train")).args(arguments);
    Call(command)
}

fn assert_close(key: &str, own: &[f64], expected: &[f64]) {
    assert_eq!((own.len(), expected.len()), (20, 20), "{key}");
    for (step, (own, expected)) in own.iter().zip(expected).enumerate() {
        assert!(
            (own - expected).abs() <= 1e-5 * expected.abs(),
            "{key} of step {step}: {own}, not {expected}"
        );
    }
}

#[test]
fn two_ranks_train_as_one_with_twice_the_batch() {
    let dataset = Dataset::new();
    let (one, two) = (dataset.path("one"), dataset.path("two"));
    trainer(training(&dataset, &one, 4)).succeed();
    two_ranks(&training(&dataset, &two, 2)).succeed();
    for key in ["loss", "cross_entropy", "load_balance", "router_z", "gradient_norm", "tokens_seen"] {
        assert_close(key, &column(&two, key), &column(&one, key));
    }
    for layer in 0..2 {
        let loads = |out: &Path| -> (Vec<f64>, Vec<u64>) {
            let loads = events_of(out, "step").into_iter().map(|event| event["experts"][layer].clone());
            let counts = |load: &serde_json::Value| {
                load["counts"].as_array().unwrap().iter().map(|count| count.as_u64().unwrap()).sum::<u64>()
            };
            loads.map(|load| (load["entropy"].as_f64().unwrap(), counts(&load))).unzip()
        };
        let (own, expected) = (loads(&two), loads(&one));
        assert_close("entropy", &own.0, &expected.0);
        assert_eq!(own.1, expected.1, "tokens of all ranks");
    }
    only_the_first_rank_writes(&two);
    ranks_go_on_together(&dataset, &two);
}

fn only_the_first_rank_writes(out: &Path) {
    assert_eq!(names(&out.join("tensorboard")).len(), 1);
    for (kind, count) in
        [("start", 1), ("step", 20), ("validation", 2), ("sample", 2), ("checkpoint", 4), ("end", 1)]
    {
        assert_eq!(events_of(out, kind).len(), count, "{kind}");
    }
    let expected = ["checkpoint-10", "checkpoint-15", "checkpoint-20", "checkpoint-5"];
    let own: Vec<_> = names(out).into_iter().filter(|name| name.starts_with("checkpoint")).collect();
    assert_eq!(own, expected);
}

fn ranks_go_on_together(dataset: &Dataset, out: &Path) {
    let model = out.join("checkpoint-20/model.safetensors");
    let (losses, weights) = (column(out, "loss"), std::fs::read(&model).unwrap());
    for name in ["checkpoint-15", "checkpoint-20"] {
        std::fs::remove_dir_all(out.join(name)).unwrap();
    }
    two_ranks(&training(dataset, out, 2)).succeed();
    assert_eq!(events_of(out, "start")[1]["step"], 10);
    assert_eq!(column(out, "loss"), losses);
    assert!(std::fs::read(&model).unwrap() == weights, "the bits of the ranks that never stopped");
}

/// Only the first rank sees what is wrong; the other one must not wait for it.
#[test]
fn what_one_rank_refuses_ends_all() {
    let dataset = Dataset::new();
    let out = dataset.path("out");
    let _open = Store::open(&out, 1).unwrap();
    let output = two_ranks(&training(&dataset, &out, 2)).0.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("another training"), "{}", text(&output));
}
