//! The German system trained: its capacity and its noise at work on text, in the trainer and in the runtime.
//!
//! The model: `models/german-mini`. The text was in none of its training data.

#![allow(clippy::print_stdout, reason = "the figures are for `--nocapture`")]

mod support;

use moewe_engine::session::CapacityMode;
use moewe_engine::tokenizer::Special;
use moewe_train::model::{Batch, Losses, Model, Pass};
use std::path::PathBuf;
use support::{config, cross_entropy, difference, engine, golden, model, numbers, tensors};

const CONTEXT: usize = 256;
const ROWS: usize = 4;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../models/german-mini")
}

fn german() -> Model {
    model(config(&folder()), &tensors(&folder().join("model.safetensors")))
}

/// Rows of the text, with how many bytes their targets have.
fn text() -> (Vec<u32>, usize) {
    let text = std::fs::read_to_string(golden("text/de.txt")).unwrap();
    let engine = engine(&folder(), CapacityMode::Dropless);
    let tokenizer = engine.tokenizer().unwrap();
    let mut tokens = tokenizer.encode(&text, Special::Plain).unwrap();
    tokens.truncate(ROWS * CONTEXT);
    assert_eq!(tokens.len(), ROWS * CONTEXT);
    let bytes = tokens.chunks(CONTEXT).flat_map(|row| &row[1..]).map(|&id| tokenizer.piece_bytes(id).len());
    let bytes = bytes.sum();
    (tokens, bytes)
}

fn losses(model: &Model, tokens: &[u32], seed: Option<u64>) -> Losses {
    let pass = Pass { seed, ..Pass::evaluation() };
    model.evaluate(Batch { tokens, rows: tokens.len() / CONTEXT, packing: None }, &pass).unwrap()
}

fn dropped(losses: &Losses) -> u64 {
    losses.experts.iter().map(|load| load.dropped).sum()
}

#[test]
fn it_has_learned_german_with_its_capacity() {
    let (tokens, bytes) = text();
    let mut model = german();
    let with = losses(&model, &tokens, None);
    model.config.experts.capacity = None;
    let without = losses(&model, &tokens, None);
    let bits = |losses: &Losses| {
        losses.cross_entropy * losses.targets as f64 / std::f64::consts::LN_2 / bytes as f64
    };
    println!("{:.3} bits per byte, {:.3} without a capacity", bits(&with), bits(&without));
    assert!(bits(&with) < 2.1 && (bits(&with) - bits(&without)).abs() < 0.05);
    assert_eq!(dropped(&without), 0);
    // The balance was learned: all experts are used, none by more than a half more than its part.
    for load in &with.experts {
        let fair = tokens.len() as u64 * 2 / load.counts.len() as u64;
        assert!(load.counts.iter().all(|&count| count > fair / 2 && count < fair * 3 / 2), "{load:?}");
    }
}

#[test]
fn noise_moves_tokens_to_other_experts_and_follows_the_seed() {
    let (tokens, _) = text();
    let mut model = german();
    model.config.dropout = 0.0;
    let [still, one, again, other] =
        [None, Some(1), Some(1), Some(2)].map(|seed| losses(&model, &tokens, seed));
    assert_eq!((one.cross_entropy, &one.experts), (again.cross_entropy, &again.experts));
    for (a, b) in [(&still, &one), (&one, &other)] {
        let moved = a.experts.iter().zip(&b.experts).all(|(a, b)| a.counts != b.counts);
        assert!(moved && a.cross_entropy != b.cross_entropy, "{a:?} {b:?}");
    }
}

#[test]
fn the_runtime_drops_the_tokens_that_the_trainer_drops() {
    let (tokens, _) = text();
    let mut model = german();
    let engines = [CapacityMode::Reference, CapacityMode::Dropless].map(|mode| engine(&folder(), mode));
    for (capacity, engine) in [model.config.experts.capacity, None].into_iter().zip(&engines) {
        model.config.experts.capacity = capacity;
        for row in tokens.chunks(CONTEXT) {
            let mut session = engine.session().unwrap();
            let mut logits = vec![];
            let each = |_, row: &[f32]| {
                logits.extend_from_slice(row);
                Ok(())
            };
            session.extend_with_logits(row, each).unwrap();
            let own = losses(&model, row, None);
            let runtime = cross_entropy(&logits, row);
            assert!((own.cross_entropy - runtime).abs() < 1e-5, "{} {runtime}", own.cross_entropy);
            let last = numbers(&model.logits(Batch { tokens: row, rows: 1, packing: None }).unwrap());
            let off = difference(&logits[logits.len() - last.len()..], &last);
            assert!(off < 1e-4, "{capacity:?}: {off:.1e}");
        }
    }
    model.config.experts.capacity = config(&folder()).experts.capacity;
    let drops: Vec<u64> = tokens.chunks(CONTEXT).map(|row| dropped(&losses(&model, row, None))).collect();
    println!("dropped choices per row: {drops:?}");
    assert!(drops.iter().any(|&count| count > 0), "no token was dropped");
}
