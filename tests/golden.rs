//! Every reference checkpoint, converted to F32, must compute what its original computes.
//!
//! With `--nocapture` it prints every error. Folders under `golden/` with an `expected.safetensors` are found by themselves; their README says what made them.

#![allow(clippy::print_stdout, reason = "the table of errors is for `--nocapture`")]

use moewe_convert::{Options as ConvertOptions, Progress, convert};
use moewe_engine::quant::Format;
use moewe_engine::session::{CapacityMode, Engine, Options, cache_format};
use moewe_engine::simd::Isa;
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};

/// Largest difference from the reference, relative to its largest logit.
const REFERENCE_TOLERANCE: f32 = 2e-5;
/// Largest difference between prefill and token by token, likewise: as much, since a delta net divides small sums by
/// themselves at a head's first tokens.
const DECODE_TOLERANCE: f32 = 2e-5;

struct Quiet;
impl Progress for Quiet {}

struct Case {
    name: String,
    tokens: Vec<u32>,
    logits: Vec<Vec<f32>>,
}

fn fixtures() -> Vec<PathBuf> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let folders = std::fs::read_dir(golden).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<_> = folders.filter(|folder| folder.join("expected.safetensors").exists()).collect();
    folders.sort();
    folders
}

fn numbers<const N: usize, T>(bytes: &[u8], parse: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|&chunk| parse(chunk)).collect()
}

fn cases(folder: &Path) -> Vec<Case> {
    let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let names: Vec<_> = tensors.names().iter().filter_map(|name| name.strip_suffix(".tokens")).collect();
    assert!(!names.is_empty(), "{} has no cases", folder.display());
    let case = |name: &str| {
        let tokens = numbers(tensors.tensor(&format!("{name}.tokens")).unwrap().data(), i32::from_le_bytes);
        let logits = numbers(tensors.tensor(&format!("{name}.logits")).unwrap().data(), f32::from_le_bytes);
        let width = logits.len() / tokens.len();
        Case {
            name: name.to_owned(),
            tokens: tokens.into_iter().map(|token| token as u32).collect(),
            logits: logits.chunks_exact(width).map(<[f32]>::to_vec).collect(),
        }
    };
    names.into_iter().map(case).collect()
}

fn converted(folder: &Path, target: &Path) -> PathBuf {
    let source =
        match ["state_dict.pt", "checkpoint.pt"].iter().map(|name| folder.join(name)).find(|p| p.exists()) {
            Some(pickle) => pickle,
            None => std::fs::read_dir(folder)
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .find(|path| path.extension().is_some_and(|extension| extension == "pt"))
                .unwrap_or_else(|| folder.to_owned()),
        };
    let out = target.join(folder.file_name().unwrap()).with_extension("gguf");
    convert(&source, &out, &ConvertOptions::new(Format::by_name("F32").unwrap()), &Quiet).unwrap();
    out
}

fn options(case: &Case) -> Options {
    let (capacity, context) = (capacity_of(case), Some(case.tokens.len()));
    Options { capacity, cache: cache_format("f32").unwrap(), context, ..Options::default() }
}

/// Every way to compute on this machine, by name.
fn machines(case: &Case) -> Vec<(String, Options)> {
    let mut all = vec![("plain".to_owned(), Options { plain: true, ..options(case) })];
    for isa in Isa::available() {
        all.push((isa.name().to_owned(), Options { isa: Some(isa), threads: Some(1), ..options(case) }));
    }
    all
}

fn prefill(engine: &Engine, tokens: &[u32]) -> Vec<Vec<f32>> {
    let mut logits = vec![];
    let mut session = engine.session().unwrap();
    session
        .extend_with_logits(tokens, |_, row| {
            logits.push(row.to_vec());
            Ok(())
        })
        .unwrap();
    logits
}

fn token_by_token(engine: &Engine, tokens: &[u32]) -> Vec<Vec<f32>> {
    let mut session = engine.session().unwrap();
    let mut step = |token: &u32| {
        session.extend(&[*token]).unwrap();
        session.logits().to_vec()
    };
    tokens.iter().map(&mut step).collect()
}

fn largest(rows: &[Vec<f32>]) -> f32 {
    rows.iter().flatten().fold(0.0, |largest, logit| largest.max(logit.abs()))
}

/// The largest difference relative to the reference's largest logit; infinite for NaN.
fn difference(found: &[Vec<f32>], reference: &[Vec<f32>]) -> f32 {
    assert_eq!(found.len(), reference.len());
    let pairs = found.iter().flatten().zip(reference.iter().flatten());
    let worst = pairs
        .map(|(a, b)| (a - b).abs())
        .fold(0f32, |a, b| if b.is_nan() { f32::INFINITY } else { a.max(b) });
    worst / largest(reference)
}

/// Positions whose best token differs although the reference's best two are further apart than the tolerance.
fn wrong_choices(found: &[Vec<f32>], reference: &[Vec<f32>]) -> usize {
    let tolerance = REFERENCE_TOLERANCE * largest(reference);
    let best_two = |row: &[f32]| {
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
        (order[0], row[order[0]] - row[order[1]])
    };
    let wrong = |(found, reference): &(&Vec<f32>, &Vec<f32>)| {
        let (token, gap) = best_two(reference);
        gap > tolerance && best_two(found).0 != token
    };
    found.iter().zip(reference).filter(wrong).count()
}

fn capacity_of(case: &Case) -> CapacityMode {
    if case.name.starts_with("reference") { CapacityMode::Reference } else { CapacityMode::Dropless }
}

#[test]
fn every_fixture_computes_its_reference_logits() {
    let target = tempfile::tempdir().unwrap();
    let (mut table, mut failures) = (vec![], vec![]);
    for folder in fixtures() {
        let file = converted(&folder, target.path());
        for case in cases(&folder) {
            for (machine, options) in machines(&case) {
                let engine = Engine::open(&file, options).unwrap();
                let found = prefill(&engine, &case.tokens);
                let error = difference(&found, &case.logits);
                let wrong = wrong_choices(&found, &case.logits);
                let line = format!(
                    "{:22} {:14} {machine:11} {error:.1e} {wrong} wrong choices",
                    folder.file_name().unwrap().display(),
                    case.name
                );
                if error > REFERENCE_TOLERANCE || wrong > 0 {
                    failures.push(line.clone());
                }
                table.push(line);
            }
        }
    }
    println!("{}", table.join("\n"));
    assert!(failures.is_empty(), "off by more than {REFERENCE_TOLERANCE:e}:\n{}", failures.join("\n"));
}

#[test]
fn token_by_token_equals_prefill_and_threads_change_nothing() {
    let target = tempfile::tempdir().unwrap();
    let mut failures = vec![];
    for folder in fixtures() {
        let file = converted(&folder, target.path());
        for case in cases(&folder).iter().filter(|case| capacity_of(case) == CapacityMode::Dropless) {
            for (machine, options) in machines(case) {
                let engine = Engine::open(&file, options.clone()).unwrap();
                let whole = prefill(&engine, &case.tokens);
                let error = difference(&token_by_token(&engine, &case.tokens), &whole);
                let name = format!("{} {} {machine}", folder.display(), case.name);
                if error > DECODE_TOLERANCE {
                    failures.push(format!("{name}: token by token is off by {error:e}"));
                }
                let engine = Engine::open(&file, Options { threads: Some(3), ..options }).unwrap();
                if prefill(&engine, &case.tokens) != whole {
                    failures.push(format!("{name}: three threads compute other bits than one"));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
