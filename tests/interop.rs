//! Files between Möwe and llama.cpp, both ways: what we write computes the same there, what llama-quantize writes
//! computes the same here.
//!
//! Logits of quantized files are compared where both programs send every token so far to the same experts: activations
//! are rounded to bytes, by each in its own way, and where two experts are nearly as likely that decides between them.
//! What is allowed beyond the fixed tolerances is what llama.cpp's rounding does to the exact logits of the same weights.
//! The weights themselves are compared bit by bit.
//!
//! Needs llama.cpp: `tests/interop.sh` builds the small program that prints its logits and names both in the
//! environment. Without them the tests say that they are skipped.

#![allow(clippy::print_stdout, reason = "the table of differences and what is skipped")]

use moewe_convert::{Options as ConvertOptions, Pad, Recipe, convert};
use moewe_engine::eval::importance::{Entry, Importance};
use moewe_engine::gguf::{Existing, Gguf};
use moewe_engine::model::{Observe, Routing, Row, Wants};
use moewe_engine::session::{Engine, Options, cache_format};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Largest difference of F32 logits, relative to the largest: llama.cpp rounds activations to F16 here and there.
const F32_TOLERANCE: f32 = 3e-3;
/// Mean divergence in other formats, or so many times that of llama.cpp from exact arithmetic: two roundings differ by
/// twice one of them.
const KL_TOLERANCE: f64 = 1e-3;
const KL_FACTOR: f64 = 3.0;
/// Two best tokens so close may change places; or so many times what llama.cpp's rounding moves a logit at most, since
/// both tokens move, and in both programs.
const GAP: f32 = 0.05;
const GAP_FACTOR: f32 = 4.0;
/// Tokens of a sequence, and of all.
const LENGTH: usize = 4;
const TOKENS: u32 = 96;
/// So many of them have to go to the same experts in both programs, lest nothing is compared.
const LEAST: usize = 24;

/// Fixtures of all architectures that both know and the model in the program, and whether stock llama.cpp computes what the original does.
const FIXTURES: &[(&str, bool)] = &[
    ("llama-dense", true),
    ("mixtral", true),
    ("olmoe", true),
    ("qwen2moe", true),
    ("qwen2moe-norm", false), // stock llama.cpp never divides the weights of qwen2moe by their sum
    ("qwen3moe", true),
    ("granitemoe", true),
    ("deepseek2", true),
    ("deepseek3", true),
    ("deepseek4", true),
    ("kimi-k2-int4", true),
    ("glm4-moe-lite", true),
    ("glm4moe", true),
    ("glm-dsa", true),
    ("minimax-m2", true),
    ("bailingmoe2", true),
    ("gpt-oss", true),
    ("qwen35moe", true),
    ("qwen3next", true),
    ("gemma4", true),
    ("nemotron-h-moe", true),
    ("granitehybrid", true),
    ("lfm2moe", true),
    ("tachyon-shared1", true),
    ("moewe-mini", true),
];

/// Fixtures with hidden widths that have to be padded for blocks of 256.
const NARROW: &[&str] = &["deepseek2-yarn", "llama3-biased", "qwen2-tied", "tachyon-checkpoint"];

/// Formats of llama-quantize newer than this program.
const UNKNOWN: &[&str] = &["Q1_0", "Q2_0"];

/// llama.cpp on this machine.
struct Peer {
    quantize: PathBuf,
    logits: PathBuf,
    folder: tempfile::TempDir,
}

/// What a program computes for tokens.
#[derive(Default)]
struct Seen {
    logits: Vec<f32>,
    /// By token and layer: ours the chosen experts, llama.cpp's all, from the likeliest down.
    experts: BTreeMap<(usize, usize), Vec<u32>>,
    /// The first token of the sequence that is computed.
    first: usize,
}

impl Peer {
    /// `None`, said aloud, where there is no llama.cpp.
    fn find() -> Option<Self> {
        let (Some(bin), Some(logits)) =
            (std::env::var_os("MOEWE_LLAMA_CPP"), std::env::var_os("MOEWE_LLAMA_LOGITS"))
        else {
            println!("SKIPPED: no llama.cpp; tests/interop.sh BIN runs this with one");
            return None;
        };
        let quantize = Path::new(&bin).join("llama-quantize");
        assert!(quantize.is_file(), "{} is missing", quantize.display());
        Some(Self { quantize, logits: logits.into(), folder: tempfile::tempdir().unwrap() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Our file of a fixture; also how many widths were padded.
    fn convert(&self, fixture: &str, recipe: &str, pad: Pad) -> (PathBuf, usize) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let src = root.join("tests/golden").join(fixture);
        let src = if src.exists() { src } else { root.join("models").join(fixture) };
        let pickle = src.join("checkpoint_2000.pt");
        let src = if pickle.exists() { pickle } else { src };
        let out = self.path(&format!("{fixture}-{recipe}.gguf"));
        let recipe = match recipe.parse() {
            Ok(bits) => Recipe::Bits(bits),
            Err(_) => Recipe::by_name(recipe).unwrap(),
        };
        let options = ConvertOptions { pad, force: true, ..ConvertOptions::with(recipe) };
        let report = convert(&src, &out, &options, &()).unwrap_or_else(|e| panic!("{fixture}: {e}"));
        (out, report.paddings.len())
    }

    /// llama-quantize from one file to another.
    fn quantize(&self, options: &[&Path], from: &Path, to: &Path, name: &str) {
        let mut command = Command::new(&self.quantize);
        command.args(options).arg("--allow-requantize").args([from, to]).arg(name);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// What llama.cpp computes, or what it says against the file.
    fn compute(&self, file: &Path, tokens: &[u32]) -> Result<Seen, String> {
        let out = self.path("logits");
        let mut command = Command::new(&self.logits);
        command.arg(file).arg(&out).arg(LENGTH.to_string()).args(tokens.iter().map(u32::to_string));
        let output = command.output().unwrap();
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        }
        let bytes = std::fs::read(&out).unwrap();
        let logits = bytes.as_chunks().0.iter().map(|&chunk| f32::from_le_bytes(chunk)).collect();
        let routes = std::fs::read_to_string(self.path("logits.routes")).unwrap();
        let route = |line: &str| {
            let mut numbers = line.split(' ').map(|number| number.parse::<u32>().unwrap());
            let mut place = || numbers.next().unwrap() as usize;
            ((place(), place()), numbers.collect())
        };
        Ok(Seen { logits, experts: routes.lines().map(route).collect(), first: 0 })
    }

    /// Whether llama.cpp finds the weights in a file that we find, to the bit.
    fn finds_the_same_weights(&self, file: &Path) -> Result<(), String> {
        let plain = self.path("plain.gguf");
        self.quantize(&[], file, &plain, "F32");
        let (ours, theirs) = (Gguf::open(file).unwrap(), Gguf::open(&plain).unwrap());
        assert_eq!(ours.tensors().len(), theirs.tensors().len());
        for tensor in ours.tensors() {
            let (ours, theirs) = (weights(&ours, &tensor.name), weights(&theirs, &tensor.name));
            if ours != theirs {
                return Err(format!("other weights in {} ({})", tensor.name, tensor.format));
            }
        }
        Ok(())
    }
}

fn weights(gguf: &Gguf, name: &str) -> Vec<f32> {
    let tensor = gguf.tensor(name).unwrap();
    let mut weights = vec![0.0; tensor.elements() as usize];
    (tensor.format.dequantize)(&gguf.bytes(tensor), &mut weights);
    weights
}

impl Observe for Seen {
    fn routed(&mut self, layer: usize, routing: &Routing) {
        for row in 0..routing.rows() {
            let experts = routing.choices(row).iter().map(|choice| choice.index).collect();
            self.experts.insert((self.first + row, layer), experts);
        }
    }
}

/// What we compute, in the fast way or in exact arithmetic.
fn compute(file: &Path, tokens: &[u32], plain: bool) -> Seen {
    let cache = cache_format("f32").unwrap();
    let options = Options { cache, plain, context: Some(64), ..Options::default() };
    let engine = Engine::open(file, options).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let mut batch = engine.batch(1).unwrap();
    let mut seen = Seen::default();
    for sequence in tokens.chunks(LENGTH) {
        batch.rewind(0, 0);
        let row = |(position, &token)| Row { sequence: 0, position, token, wants: Wants::Logits };
        let rows: Vec<Row> = sequence.iter().enumerate().map(row).collect();
        batch.observed_step(&rows, &mut seen).unwrap();
        (0..rows.len()).for_each(|row| seen.logits.extend_from_slice(batch.logits(row)));
        seen.first += rows.len();
    }
    seen
}

/// Tokens of a fixture's vocabulary.
fn tokens(file: &Path) -> Vec<u32> {
    let vocabulary = Gguf::open(file).unwrap().tensor("token_embd.weight").unwrap().shape[1] as u32;
    (0..TOKENS).map(|i| (i * i * 31 + i * 7 + 5) % vocabulary).collect()
}

/// How far two programs' logits are from each other.
#[derive(Default)]
struct Difference {
    largest: f32,    // logit
    worst: f32,      // difference of a logit
    kl: f64,         // mean over compared tokens
    gap: f32,        // how far ahead a best token was that is not the best in the other program, at most
    compared: usize, // tokens that went to the same experts, and all before them in their sequence
}

fn difference(ours: &Seen, theirs: &Seen) -> Difference {
    assert_eq!(ours.logits.len(), theirs.logits.len());
    let width = ours.logits.len() / TOKENS as usize;
    let rows = ours.logits.chunks_exact(width).zip(theirs.logits.chunks_exact(width));
    let best = |row: &[f32]| (0..width).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
    let mut found = Difference::default();
    for (token, (a, b)) in rows.enumerate() {
        found.largest = a.iter().fold(found.largest, |largest, logit| largest.max(logit.abs()));
        if !(token - token % LENGTH..=token).all(|token| same_experts(ours, theirs, token)) {
            continue;
        }
        let far = a.iter().zip(b).map(|(a, b)| (a - b).abs());
        found.worst = far.fold(found.worst, |a, b| if b.is_nan() { f32::INFINITY } else { a.max(b) });
        found.kl += divergence(a, b);
        found.gap = found.gap.max(a[best(a)] - a[best(b)]);
        found.compared += 1;
    }
    Difference { kl: found.kl / found.compared.max(1) as f64, ..found }
}

fn same_experts(ours: &Seen, theirs: &Seen, token: usize) -> bool {
    let of_token = ours.experts.range((token, 0)..(token + 1, 0));
    of_token.into_iter().all(|(place, chosen)| {
        let likeliest = &theirs.experts[place][..chosen.len()];
        chosen.iter().all(|expert| likeliest.contains(expert))
    })
}

fn divergence(base: &[f32], other: &[f32]) -> f64 {
    let log_sum = |row: &[f32]| row.iter().map(|&logit| f64::from(logit).exp()).sum::<f64>().ln();
    let (base_sum, other_sum) = (log_sum(base), log_sum(other));
    let term = |(&p, &q): (&f32, &f32)| {
        let (p, q) = (f64::from(p) - base_sum, f64::from(q) - other_sum);
        p.exp() * (p - q)
    };
    base.iter().zip(other).map(term).sum()
}

/// Compares a file in both programs; the line of the table, and whether they agree.
fn compare(peer: &Peer, name: &str, file: &Path, is_f32: bool) -> (String, bool) {
    let tokens = tokens(file);
    let theirs = match peer.compute(file, &tokens) {
        Ok(seen) => seen,
        Err(message) => return (format!("{name:32} llama.cpp refuses it: {message}"), false),
    };
    let found = difference(&compute(file, &tokens, false), &theirs);
    let rounding =
        if is_f32 { Difference::default() } else { difference(&compute(file, &tokens, true), &theirs) };
    let near = if is_f32 {
        found.worst <= F32_TOLERANCE * found.largest
    } else {
        found.kl <= KL_TOLERANCE.max(KL_FACTOR * rounding.kl)
            && found.gap <= GAP.max(GAP_FACTOR * rounding.worst)
    };
    let weights = peer.finds_the_same_weights(file);
    let line = format!(
        "{name:30} {:2} of {TOKENS} tokens: relative {:.1e}  KL {:.1e} (exact to llama.cpp {:.1e})  gap {:.3}{}",
        found.compared,
        found.worst / found.largest,
        found.kl,
        rounding.kl,
        found.gap,
        weights.as_ref().err().map_or(String::new(), |message| format!("  {message}"))
    );
    (line, near && found.compared >= LEAST && weights.is_ok())
}

#[test]
fn llama_cpp_computes_what_we_write() {
    let Some(peer) = Peer::find() else { return };
    let mut failures = vec![];
    for &(fixture, is_same_function) in FIXTURES {
        // Another function is another function in every format.
        let recipes = ["F32", "Q8_0", "Q4_K", "Q2_K", "4.8", "2.9"];
        for recipe in &recipes[..if is_same_function { recipes.len() } else { 1 }] {
            let (file, _) = peer.convert(fixture, recipe, Pad::Auto);
            let (line, agrees) = compare(&peer, &format!("{fixture} {recipe}"), &file, *recipe == "F32");
            let note = if is_same_function { "" } else { "  (stock llama.cpp computes another function)" };
            println!("{line}{note}");
            if agrees != is_same_function {
                failures.push(line);
            }
        }
    }
    assert!(failures.is_empty(), "not as stated:\n{}", failures.join("\n"));
}

#[test]
fn llama_cpp_reads_every_format_that_we_write() {
    let Some(peer) = Peer::find() else { return };
    let mut failures = vec![];
    for mix in moewe_convert::recipe::MIXES {
        let (file, _) = peer.convert("mixtral", mix.name, Pad::Never);
        let found = peer.finds_the_same_weights(&file);
        println!("{:32} {}", mix.name, found.as_ref().err().map_or("the same weights", |message| message));
        failures.extend(found.err().map(|message| format!("{}: {message}", mix.name)));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn llama_cpp_reads_padded_files() {
    let Some(peer) = Peer::find() else { return };
    let mut failures = vec![];
    for fixture in NARROW {
        for recipe in ["F32", "Q8_0", "Q4_K"] {
            let (file, paddings) = peer.convert(fixture, recipe, Pad::Always);
            let (line, agrees) =
                compare(&peer, &format!("{fixture} {recipe} padded"), &file, recipe == "F32");
            println!("{line}");
            if !agrees || paddings == 0 {
                failures.push(line);
            }
        }
    }
    assert!(failures.is_empty(), "padded files differ:\n{}", failures.join("\n"));
}

/// An importance file of ones, which llama-quantize demands for its smallest formats.
fn write_importance(model: &Path, out: &Path) {
    let gguf = Gguf::open(model).unwrap();
    let matrices = gguf.tensors().iter().filter(|tensor| tensor.shape.len() > 1);
    let ones = matrices.map(|tensor| {
        let experts = tensor.shape.get(2).map_or(1, |&experts| experts as usize);
        let entry = Entry { sums: vec![1.0; tensor.shape[0] as usize * experts], counts: vec![1.0; experts] };
        (tensor.name.clone(), entry)
    });
    let datasets = vec!["ones".to_owned()];
    let importance =
        Importance { entries: ones.collect(), datasets, chunks: 1, chunk_size: 1, ..Importance::default() };
    importance.write(out, Existing::Replace).unwrap();
}

#[test]
fn we_compute_what_llama_quantize_writes() {
    let Some(peer) = Peer::find() else { return };
    let (source, importance) = (peer.convert("mixtral", "F32", Pad::Never).0, peer.path("importance.gguf"));
    write_importance(&source, &importance);
    let mixes = moewe_convert::recipe::MIXES.iter().map(|mix| mix.name);
    let mut failures = vec![];
    for name in ["F32", "F16", "BF16"].into_iter().chain(mixes).chain(UNKNOWN.iter().copied()) {
        let file = peer.path(&format!("{name}.gguf"));
        peer.quantize(&[Path::new("--imatrix"), &importance], &source, &file, name);
        if UNKNOWN.contains(&name) {
            let message = Gguf::open(&file).map(|_| ()).unwrap_err().to_string();
            println!("llama-quantize {name:17} not read here");
            assert!(message.contains(name) && message.contains("supported are"), "{message}");
            continue;
        }
        let (line, agrees) = compare(&peer, &format!("llama-quantize {name}"), &file, name == "F32");
        println!("{line}");
        if !agrees {
            failures.push(line);
        }
    }
    assert!(failures.is_empty(), "we compute something else:\n{}", failures.join("\n"));
}
