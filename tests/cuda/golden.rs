//! The golden models on a card: reference logits of prompts, and the same bits token by token.

use super::command::stderr;
use super::{fixtures, hash, is_left_out, is_real, run};
use moewe_engine::quant::Format;
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};

/// Largest difference from the reference, relative to its largest logit.
const TOLERANCE: f32 = 2e-5;
/// Models that a card does not compute: it says so.
const REFUSED: [&str; 3] = ["deepseek32", "deepseek4", "glm-dsa"];
/// Positions of each golden model.
const POSITIONS: usize = 8;

fn numbers<const N: usize, T>(bytes: &[u8], parse: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|&chunk| parse(chunk)).collect()
}

/// Logits of some tokens, by the program; else what it complains of.
fn logits(
    folder: &Path,
    file: &Path,
    tokens: &[u32],
    more: &[&str],
    settings: &[(&str, &str)],
) -> Option<Result<Vec<f32>, String>> {
    let tokens = tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let arguments =
        ["logits", file.to_str().unwrap(), "-o", "out.safetensors", "--force", "-q", "--tokens", &tokens];
    let output = run(folder, &[&arguments[..], more].concat(), settings)?;
    if !output.status.success() {
        return Some(Err(format!("{}: {}", output.status, stderr(&output))));
    }
    let bytes = std::fs::read(folder.join("out.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    Some(Ok(numbers(tensors.tensor("logits").unwrap().data(), f32::from_le_bytes)))
}

/// What a golden folder asks: flags, tokens and logits. The original's way of dropping tokens is one of the whole text.
fn cases(golden: &Path) -> Vec<(&'static [&'static str], Vec<u32>, Vec<f32>)> {
    let bytes = std::fs::read(golden.join("expected.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut names: Vec<_> = tensors.names().iter().filter_map(|name| name.strip_suffix(".tokens")).collect();
    names.sort_by_key(|name| (name.ends_with("_1"), name.len(), *name));
    let case = |name: &str, most: usize| {
        let tokens = numbers(tensors.tensor(&format!("{name}.tokens")).unwrap().data(), i32::from_le_bytes);
        let logits = numbers(tensors.tensor(&format!("{name}.logits")).unwrap().data(), f32::from_le_bytes);
        let (width, count) = (logits.len() / tokens.len(), tokens.len().min(most));
        let tokens = tokens[..count].iter().map(|&token| token as u32).collect();
        (tokens, logits[..count * width].to_vec())
    };
    let mut cases: Vec<(&[&str], _, _)> = vec![];
    if let Some(name) = names.iter().find(|name| !name.starts_with("reference")) {
        let (tokens, logits) = case(name, POSITIONS);
        cases.push((&[], tokens, logits));
    }
    if let Some(name) = names.iter().find(|name| name.starts_with("reference")) {
        let (tokens, logits) = case(name, usize::MAX);
        cases.push((&["--capacity", "reference"], tokens, logits));
    }
    cases
}

/// A golden folder as an F32 file.
fn converted(golden: &Path, target: &Path) -> PathBuf {
    let files = std::fs::read_dir(golden).unwrap().map(|entry| entry.unwrap().path());
    let pickle = files.into_iter().find(|path| path.extension().is_some_and(|ending| ending == "pt"));
    let out = target.join(golden.file_name().unwrap()).with_extension("gguf");
    let options = moewe_convert::Options::new(Format::by_name("F32").unwrap());
    moewe_convert::convert(&pickle.unwrap_or_else(|| golden.to_owned()), &out, &options, &()).unwrap();
    out
}

pub(crate) fn difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0f32, |largest, logit| largest.max(logit.abs()));
    let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    worst.fold(0f32, |worst, far| if far.is_nan() { f32::INFINITY } else { worst.max(far) }) / largest
}

#[test]
fn every_golden_model_computes_its_reference_logits() {
    let folder = tempfile::tempdir().unwrap();
    let mut names: Vec<_> =
        std::fs::read_dir(fixtures::golden()).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.retain(|path| path.join("expected.safetensors").exists());
    names.sort();
    let mut failures = vec![];
    for golden in &names {
        let name = golden.file_name().unwrap().to_str().unwrap();
        let file = converted(golden, folder.path());
        for (more, tokens, expected) in cases(golden) {
            let flags = ["--device", "cuda", "--context", "64", "--cache-type", "f32"];
            let flags = [&flags, more].concat();
            let Some(all) = logits(folder.path(), &file, &tokens, &flags, &[]) else { return };
            let way = if more.is_empty() { "dropless" } else { "capacity" };
            match all.as_ref().map(|found| (difference(found, &expected), hash(found))) {
                Ok((error, _)) if error > TOLERANCE => failures.push(format!("{name} {way}: {error:.1e}")),
                Ok((error, hash)) => println!("{name:24} {error:.1e}\nbits {name} {way} {hash:016x}"),
                Err(complaint)
                    if REFUSED.contains(&name) && complaint.contains("without kernels for cards") =>
                {
                    break;
                }
                Err(complaint) => failures.push(format!("{name} {way}: {complaint}")),
            }
            // From the second token on, a step is a graph of joined kernels.
            if more.is_empty() {
                let flags = [&flags[..], &["--batch", "1"]].concat();
                let one = logits(folder.path(), &file, &tokens, &flags, &[]).unwrap();
                if one.as_ref().map(|one| hash(one)) != all.as_ref().map(|all| hash(all)) {
                    failures.push(format!("{name}: other bits token by token {:?}", one.err()));
                }
            }
        }
        std::fs::remove_file(file).unwrap();
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Where neither heads nor their sums are special, seven kernels compute a layer of a token.
#[test]
fn a_layer_of_a_token_is_seven_kernels() {
    if is_left_out() || is_real() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let settings = [("MOEWE_EMULATION_LOG", log.to_str().unwrap())];
    for name in ["mixtral", "qwen3moe", "gpt-oss"] {
        let file = converted(&fixtures::golden().join(name), folder.path());
        let flags = ["--device", "cuda", "--context", "64", "--batch", "1"];
        let Some(computed) = logits(folder.path(), &file, &[1, 2, 3], &flags, &settings) else { return };
        computed.unwrap();
        let said = std::fs::read_to_string(&log).unwrap();
        let launched = said.lines().filter_map(|line| line.strip_prefix("captured launch "));
        let names: Vec<_> = launched.map(|line| line.split(['_', ' ']).next().unwrap()).collect();
        let layer = ["row", "heads", "attention", "row", "norm", "gate", "down"];
        let expected = [&["embed"], &layer[..], &layer, &["select", "row"]].concat();
        assert_eq!(names, expected, "{name}");
        std::fs::remove_file(&log).unwrap();
    }
}
