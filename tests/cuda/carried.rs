//! What a sequence carries along on a card: recurrent states that go back to where they were marked and no further, shared
//! beginnings, and adapters beside the weights.

use super::{difference, fixture, fixtures, inside};
use moewe_convert::convert_adapter;
use moewe_engine::gguf::Existing;
use moewe_engine::model::{Adapter, Row, Wants};
use moewe_engine::quant::Format;
use moewe_engine::session::{Batch, DeviceChoice, Engine, MemoryLimit, Options};
use std::path::Path;

/// Largest difference from the processor, relative to its largest logit.
const TOLERANCE: f32 = 2e-5;

#[test]
fn states_go_back_to_where_they_were_marked() {
    inside("carried::states", &[]);
}

fn engine(file: &Path, device: DeviceChoice, options: Options) -> Engine {
    let options = Options { device, context: Some(300), batch: 16, ..options };
    Engine::open(file, options).unwrap()
}

/// All tokens behind those that the sequence has, in one step; logits of the last.
fn step(batch: &mut Batch<'_>, sequence: usize, tokens: &[u32]) -> Vec<f32> {
    let start = batch.len(sequence);
    let row = |(i, token): (usize, &u32)| {
        let wants = Wants::logits_if(i + 1 == tokens.len());
        Row { sequence, position: start + i, token: *token, wants }
    };
    batch.step(&tokens.iter().enumerate().map(row).collect::<Vec<_>>()).unwrap();
    batch.fetch().unwrap();
    batch.logits(0).to_vec()
}

/// The same from nothing, on another sequence.
fn anew(engine: &Engine, tokens: &[u32]) -> Vec<f32> {
    step(&mut engine.batch(1).unwrap(), 0, tokens)
}

#[test]
#[ignore = "is run with an emulated driver by the test above"]
fn states() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["qwen35moe", "granitehybrid", "lfm2moe"] {
        let file = fixture(name, folder.path());
        let card = engine(&file, DeviceChoice::Cuda(0), fixtures::options("f32"));
        let cpu = engine(&file, DeviceChoice::Cpu, fixtures::options("f32"));
        let all = fixtures::tokens(20, 3);
        let close = |found: &[f32], tokens: &[u32], what: &str| {
            let error = difference(found, &anew(&cpu, tokens));
            assert!(error <= TOLERANCE, "{name}, {what}: {error:.1e}");
        };
        let mut batch = card.batch(2).unwrap();
        batch.mark(0, 4);
        // A mark in the middle of a step, then single tokens, some of which are graphs.
        let whole = step(&mut batch, 0, &all[..9]);
        close(&whole, &all[..9], "a prompt");
        for end in 10..=14 {
            close(&step(&mut batch, 0, &all[end - 1..end]), &all[..end], "a token");
        }
        let reaches: Vec<_> = (0..=14).map(|len| batch.reach(0, len)).collect();
        assert_eq!(reaches, [[0; 4].as_slice(), &[4; 10], &[14]].concat(), "{name}");
        // Two sequences go on from the same state, together in one step.
        let fork = batch.fork(0, 14);
        batch.replace(1, fork);
        let row = |sequence: usize, token: u32| Row { sequence, position: 14, token, wants: Wants::Logits };
        batch.step(&[row(0, all[14]), row(1, 77)]).unwrap();
        batch.fetch().unwrap();
        let other = [&all[..14], &[77][..]].concat();
        close(batch.logits(0), &all[..15], "the first of two");
        close(batch.logits(1), &other, "the second of two");
        close(&step(&mut batch, 1, &[5]), &[&other[..], &[5]].concat(), "the second alone");
        // Back to the mark, on another way; then from there once more.
        for tokens in [[8, 9, 10], [3, 200, 4]] {
            assert_eq!(batch.rewind(0, 6), 4, "{name}");
            let way = [&all[..4], &tokens[..]].concat();
            let found = step(&mut batch, 0, &tokens);
            close(&found, &way, "another way");
            assert_eq!(batch.rewind(0, 4), 4, "{name}");
            assert!(step(&mut batch, 0, &tokens) == found, "{name}: other bits once more");
        }
        assert_eq!(batch.rewind(0, 3), 0, "{name}");
        close(&step(&mut batch, 0, &all[..2]), &all[..2], "from the beginning");
        close(&step(&mut batch, 1, &[6]), &[&other[..], &[5, 6]].concat(), "what the other one has");
        drop(batch);
        assert_eq!(card.pool().used(), 0, "{name}");
    }
}

#[test]
fn adapters_add_what_they_add_on_the_processor() {
    inside("carried::adapters", &[]);
}

#[test]
#[ignore = "is run with an emulated driver by the test above"]
fn adapters() {
    let folder = tempfile::tempdir().unwrap();
    for (adapter, base) in [("mixtral-attention", "mixtral"), ("qwen3moe-all", "qwen3moe")] {
        let golden = fixtures::golden().join("lora");
        let (base, out) = (golden.join(base), folder.path().join(adapter));
        let file = out.with_extension("base.gguf");
        let options = moewe_convert::Options::new(Format::by_name("F32").unwrap());
        moewe_convert::convert(&base, &file, &options, &()).unwrap();
        let f32s = Format::by_name("F32").unwrap();
        convert_adapter(&golden.join(adapter), &base, &out, f32s, Existing::Keep).unwrap();
        let tokens = fixtures::tokens(7, 2);
        let with = |device, adapters, vram| {
            let options = Options { adapters, vram, ..fixtures::options("f32") };
            let engine = engine(&file, device, options);
            let mut batch = engine.batch(1).unwrap();
            // A prompt, then tokens by themselves, the last of which are graphs of joined kernels.
            let mut all = step(&mut batch, 0, &tokens[..4]);
            tokens[4..].iter().for_each(|token| all.extend(step(&mut batch, 0, &[*token])));
            all
        };
        let added = || vec![Adapter::open(&out, 1.0).unwrap()];
        let expected = with(DeviceChoice::Cpu, added(), None);
        let found = with(DeviceChoice::Cuda(0), added(), None);
        let error = difference(&found, &expected);
        assert!(error <= TOLERANCE, "{adapter}: {error:.1e}");
        assert!(
            difference(&found, &with(DeviceChoice::Cuda(0), vec![], None)) > 1e-3,
            "{adapter} adds nothing"
        );
        let passing = with(DeviceChoice::Cuda(0), added(), Some(MemoryLimit::Experts(0)));
        assert!(passing == found, "{adapter}: other bits where experts pass");
    }
}
