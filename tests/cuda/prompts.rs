//! Prompts of many rows, which go through tensor cores: the bits of their rows in small pieces, whatever fits on the card.

use super::{fixtures, hash, inside, is_real};
use moewe_convert::{Options as ConvertOptions, convert};
use moewe_engine::gguf::Gguf;
use moewe_engine::quant::Format;
use moewe_engine::session::{DeviceChoice, Engine, MemoryLimit, Options};
use std::path::Path;

/// Tokens of the prompt: more than a tile of inputs.
const TOKENS: usize = 70;
/// Golden models and a format each: with mins and without, of halves of groups, without panels, with biases.
const MODELS: [(&str, &str); 4] =
    [("mixtral", "Q4_K"), ("qwen3moe", "Q6_K"), ("gpt-oss", "Q8_0"), ("glm4moe", "Q5_1")];

#[test]
fn a_prompt_has_the_bits_of_its_pieces() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let settings = [("MOEWE_EMULATION_LOG", log.to_str().unwrap())];
    if inside("prompts::pieces", &settings).is_none() || is_real() {
        return;
    }
    let said = std::fs::read_to_string(log).unwrap();
    for (_, format) in MODELS {
        let launch = format!("launch prompt_products_{format} ");
        assert!(said.contains(&launch), "no {launch}");
    }
    assert!(said.contains("launch sort_slots "));
}

#[test]
#[ignore = "is run with an emulated driver by the test above"]
fn pieces() {
    let folder = tempfile::tempdir().unwrap();
    for (name, format) in MODELS {
        let file = folder.path().join(name).with_extension("gguf");
        let options = ConvertOptions::new(Format::by_name(format).unwrap());
        convert(&fixtures::golden().join(name), &file, &options, &()).unwrap();
        let expected = logits(&file, 5, None);
        for (batch, slots) in [(TOKENS, 100), (33, 5), (TOKENS, 0)] {
            // Four that belong to no layer come first.
            let bytes = if slots == 0 { 0 } else { (slots + 4) * expert_bytes(&file) };
            let found = logits(&file, batch, Some(MemoryLimit::Experts(bytes)));
            assert!(found == expected, "{name} {format}: other bits, {batch} rows at once, {slots} slots");
        }
        println!("bits {name} {format} {:016x}", hash(&expected));
    }
}

fn expert_bytes(file: &Path) -> u64 {
    let gguf = Gguf::open(file).unwrap();
    let of_one = |part: &str| {
        let tensor = gguf.tensor(&format!("blk.1.ffn_{part}_exps.weight")).unwrap();
        gguf.bytes(tensor).len() as u64 / tensor.shape[2]
    };
    ["gate", "up", "down"].map(of_one).iter().sum()
}

fn logits(file: &Path, batch: usize, vram: Option<MemoryLimit>) -> Vec<f32> {
    let options = Options {
        device: DeviceChoice::Cuda(0),
        vram,
        batch,
        context: Some(128),
        ..fixtures::options("f16")
    };
    let engine = Engine::open(file, options).unwrap();
    let mut all = vec![];
    let mut keep = |_: usize, row: &[f32]| {
        all.extend_from_slice(row);
        Ok(())
    };
    let mut session = engine.session().unwrap();
    session.extend_with_logits(&fixtures::tokens(TOKENS, 3), &mut keep).unwrap();
    all
}
