//! Sums over real processes: each test starts its own binary under `mpirun`, where the ranks check what they get.
//!
//! Built only with the feature `mpi`, which needs an MPI library.

use candle_core::{Device, Tensor};
use moewe_train::distributed::World;
use std::process::{Command, Output};

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
