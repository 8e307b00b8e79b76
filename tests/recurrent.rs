//! Models with layers that carry a state: prompts in any pieces, conversations that go back, and others in between.
//!
//! Weights are in Q8_0 here, and pieces have at least four rows: matrices of floats are multiplied by other kernels for
//! fewer, and so are all on AMX, whose sums have other bits (`golden.rs` holds those to a tolerance).

#![allow(clippy::print_stdout, reason = "which instruction sets there were is for `--nocapture`")]

#[path = "support/fixtures.rs"]
#[allow(dead_code, reason = "nothing is rewritten here")]
mod fixtures;

use fixtures::{few_tokens as tokens, golden, options};
use moewe_convert::{Options as ConvertOptions, convert};
use moewe_engine::model::{Row, Wants};
use moewe_engine::quant::Format;
use moewe_engine::session::{Engine, MemoryLimit, Options, Session};
use moewe_engine::simd::Isa;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use std::path::{Path, PathBuf};

/// Every kind of state, windows with keys as values, entries that stand for several positions.
const FIXTURES: [&str; 7] =
    ["qwen35moe", "qwen3next", "nemotron-h-moe", "granitehybrid", "lfm2moe", "gemma4", "deepseek4"];

/// Those that cannot go back to any position.
fn is_recurrent(name: &str) -> bool {
    name != "gemma4"
}

/// A reference checkpoint in Q8_0, made once.
fn quantized(name: &str, folder: &Path) -> PathBuf {
    let out = folder.join(name).with_extension("gguf");
    if !out.exists() {
        let options = ConvertOptions::new(Format::by_name("Q8_0").unwrap());
        convert(&golden().join(name), &out, &options, &()).unwrap();
    }
    out
}

fn isas() -> impl Iterator<Item = Isa> {
    Isa::available().filter(|isa| *isa < Isa::Amx)
}

fn engine(name: &str, folder: &Path, isa: Isa, batch: usize) -> Engine {
    let file = quantized(name, folder);
    Engine::open(file, Options { isa: Some(isa), batch, ..options("f32") }).unwrap()
}

fn fastest(name: &str, folder: &Path) -> Engine {
    engine(name, folder, isas().last().unwrap(), 512)
}

/// Logits of all tokens behind what the session holds.
fn rest(session: &mut Session<'_>, tokens: &[u32]) -> Vec<Vec<f32>> {
    let mut all = vec![];
    let mut keep = |_: usize, row: &[f32]| {
        all.push(row.to_vec());
        Ok(())
    };
    let held = session.tokens().len();
    session.extend_with_logits(&tokens[held..], &mut keep).unwrap();
    all
}

#[test]
fn prompts_have_the_same_bits_in_any_pieces() {
    let folder = tempfile::tempdir().unwrap();
    for name in FIXTURES {
        for isa in isas() {
            println!("{name} on {isa}");
            let prompt = tokens(140, 3);
            let of = |batch| {
                let engine = engine(name, folder.path(), isa, batch);
                rest(&mut engine.session().unwrap(), &prompt)
            };
            let whole = of(512);
            for batch in [7, 64] {
                assert!(of(batch) == whole, "{name} {isa} in pieces of {batch}");
            }
        }
    }
}

/// Loops in f64 do not know how many rows there are, so pieces may be of one.
#[test]
fn single_tokens_have_the_bits_of_a_prompt() {
    let folder = tempfile::tempdir().unwrap();
    for name in FIXTURES {
        let file = quantized(name, folder.path());
        let of = |batch| {
            let engine = Engine::open(&file, Options { plain: true, batch, ..options("f32") }).unwrap();
            rest(&mut engine.session().unwrap(), &tokens(140, 8))
        };
        let whole = of(512);
        for batch in [1, 7, 64] {
            assert!(of(batch) == whole, "{name} in pieces of {batch}");
        }
    }
}

/// Turn after turn is taken back, and what follows is as in a conversation that never went there.
#[test]
fn conversations_go_back_to_every_turn() {
    let folder = tempfile::tempdir().unwrap();
    for name in FIXTURES {
        let engine = fastest(name, folder.path());
        let (all, other) = (tokens(80, 5), tokens(20, 6));
        let fresh = |tokens: &[u32]| {
            let mut session = engine.session().unwrap();
            session.synchronise(tokens).unwrap();
            session.logits().to_vec()
        };
        let turns = [20, 40, 60, 80];
        let mut session = engine.session().unwrap();
        turns.iter().for_each(|turn| _ = session.synchronise(&all[..*turn]).unwrap());
        let mut computed = vec![];
        for turn in turns.into_iter().rev() {
            let tokens = [&all[..turn], &other].concat();
            computed.push(session.synchronise(&tokens).unwrap());
            assert!(session.logits() == fresh(&tokens), "{name}: back to {turn}");
        }
        // The last two turns' beginnings are known; further back it begins anew.
        let expected = if is_recurrent(name) { [20, 20, 60, 40] } else { [20; 4] };
        assert_eq!(computed, expected, "{name}");
    }
}

#[test]
fn conversations_in_turns_know_nothing_of_each_other() {
    let folder = tempfile::tempdir().unwrap();
    for name in FIXTURES {
        let engine = fastest(name, folder.path());
        let texts = [tokens(64, 1), tokens(64, 2)];
        let alone = texts.each_ref().map(|text| rest(&mut engine.session().unwrap(), text));
        let mut sessions = [engine.session().unwrap(), engine.session().unwrap()];
        let mut found = [vec![], vec![]];
        for end in [4, 9, 20, 33, 64] {
            for ((session, text), found) in sessions.iter_mut().zip(&texts).zip(&mut found) {
                found.extend(rest(session, &text[..end]));
            }
        }
        assert!(found == alone, "{name}");
        // And in one step.
        let mut batch = engine.batch(2).unwrap();
        for range in [0..16, 16..64] {
            let rows = |(sequence, text): (usize, &Vec<u32>)| {
                let row = |position: usize| {
                    // As many as four of each: what ends several residual streams is a matrix of floats.
                    let wants = Wants::logits_if(position >= 60);
                    Row { sequence, position, token: text[position], wants }
                };
                range.clone().map(row).collect::<Vec<_>>()
            };
            batch.step(&texts.iter().enumerate().flat_map(rows).collect::<Vec<_>>()).unwrap();
        }
        for (sequence, alone) in alone.iter().enumerate() {
            let last = batch.logits(4 * sequence + 3);
            assert!(last == alone[63], "{name}: sequence {sequence}");
        }
    }
}

/// States and what is kept of them are in the plan, and a small memory changes no bit.
#[test]
fn states_count_as_memory() {
    let folder = tempfile::tempdir().unwrap();
    for name in FIXTURES {
        let file = quantized(name, folder.path());
        let of = |memory, sequences| {
            let options = Options { memory, sequences, ..options("f32") };
            let engine = Engine::open(&file, options).unwrap();
            let plan = engine.memory().clone();
            (plan.states, plan.total(), rest(&mut engine.session().unwrap(), &tokens(70, 4)))
        };
        let (states, total, all) = of(None, None);
        assert_eq!(states > 0, is_recurrent(name), "{name}");
        assert!(total > states);
        let (more, ..) = of(None, Some(8));
        assert_eq!(more, states / 5 * 20, "{name}: four kept ones, and two for each of eight or one");
        let (_, _, small) = of(Some(MemoryLimit::Experts(0)), None);
        assert!(small == all, "{name}: experts read for every token");
    }
}

/// Nemotron 3 Super's experts work in a space of their own; one that is twice as long and comes back a quarter changes
/// nothing, as the experts square what they read.
#[test]
fn experts_in_a_latent_space() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    std::fs::create_dir(&source).unwrap();
    let plain = golden().join("nemotron-h-moe");
    let config = std::fs::read_to_string(plain.join("config.json")).unwrap();
    let latent = config.replace("\"moe_latent_size\": null", "\"moe_latent_size\": 64");
    assert_ne!(latent, config);
    std::fs::write(source.join("config.json"), latent).unwrap();
    let bytes = std::fs::read(plain.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let diagonal = |upper: u8, lower: u8| {
        let element = |i: usize| if i.is_multiple_of(65) { [lower, upper] } else { [0, 0] };
        (0..64 * 64).flat_map(element).collect::<Vec<u8>>()
    };
    let (two, quarter) = (diagonal(0x40, 0), diagonal(0x3e, 0x80));
    let mut all: Vec<(String, TensorView<'_>)> =
        tensors.iter().map(|(name, view)| (name.to_owned(), view)).collect();
    for layer in [1, 4] {
        for (part, bytes) in [("fc1", &two), ("fc2", &quarter)] {
            let name = format!("backbone.layers.{layer}.mixer.{part}_latent_proj.weight");
            all.push((name, TensorView::new(Dtype::BF16, vec![64, 64], bytes).unwrap()));
        }
    }
    safetensors::serialize_to_file(all, None, &source.join("model.safetensors")).unwrap();
    let of = |source: &Path, name: &str, memory| {
        let out = folder.path().join(name);
        if !out.exists() {
            convert(source, &out, &ConvertOptions::new(Format::by_name("F32").unwrap()), &()).unwrap();
        }
        let engine = Engine::open(out, Options { memory, ..options("f32") }).unwrap();
        rest(&mut engine.session().unwrap(), &tokens(40, 2))
    };
    let latent = of(&source, "latent.gguf", None);
    let expected = of(&plain, "plain.gguf", None);
    let largest = expected.iter().flatten().fold(0f32, |largest, logit| largest.max(logit.abs()));
    for (found, expected) in latent.iter().flatten().zip(expected.iter().flatten()) {
        assert!((found - expected).abs() < 2e-6 * largest, "{found} {expected}");
    }
    assert!(
        latent == of(&source, "latent.gguf", Some(MemoryLimit::Experts(0))),
        "experts read for every token"
    );
}
