//! What a conversion refuses, and what it says instead of doing it without a word: importance and patterns that do not
//! fit, numbers that are none, targets that another conversion writes.

use super::*;
use moewe_engine::eval::Importance;
use moewe_engine::eval::importance::Entry;
use moewe_engine::gguf::Gguf;
use moewe_engine::quant::Format;
use moewe_engine::session::{self, Engine};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const TENSOR: &str = "blk.1.ffn_up_exps.weight";

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name)
}

fn options(format: &str) -> Options {
    Options::new(Format::by_name(format).unwrap())
}

/// Fixtures that convert.
fn fixtures() -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(golden("")).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.join("expected.safetensors").is_file())
}

/// The error of a conversion, which leaves nothing.
fn refused(src: &Path, options: &Options) -> String {
    let folder = tempfile::tempdir().unwrap();
    let message = convert(src, &folder.path().join("m.gguf"), options, &()).unwrap_err().to_string();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "{message}");
    assert!(!message.contains('\n'), "{message}");
    message
}

fn report(src: &Path, options: &Options) -> Report {
    let folder = tempfile::tempdir().unwrap();
    convert(src, &folder.path().join("m.gguf"), options, &()).unwrap()
}

/// Importance of a model as measured on a few tokens.
fn measured(model: &Path) -> Importance {
    let options = session::Options { context: Some(64), all_logits: true, ..session::Options::default() };
    let engine = Engine::open(model, options).unwrap();
    let size = engine.config().vocab_size as u32;
    let chunk = |i: u32| (0..64).map(|j| (i * 97 + j * 31) % size).collect();
    let chunks: Vec<Vec<u32>> = (0..2).map(chunk).collect();
    Importance::measure(&engine, &chunks, &mut |_, _| true).unwrap()
}

#[test]
fn what_is_measured_on_a_model_fits_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut refused = vec![];
    for src in fixtures() {
        let model = folder.path().join("f32.gguf");
        convert(&src, &model, &Options { force: true, ..options("F32") }, &()).unwrap();
        let importance = Some(Arc::new(measured(&model)));
        for source in [&src, &model] {
            let weighed = Options { importance: importance.clone(), dry_run: true, ..options("Q4_0") };
            let outcome = convert(source, Path::new("unused"), &weighed, &());
            refused.extend(outcome.err().map(|error| format!("{}: {error}", src.display())));
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

#[test]
fn importance_of_another_model_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let src = folder.path().join("f32.gguf");
    convert(&golden("mixtral"), &src, &options("F32"), &()).unwrap();
    let whole = Importance { file: Some("some.dat".into()), ..measured(&src) };
    let with = |change: &dyn Fn(&mut Importance)| {
        let mut importance = whole.clone();
        change(&mut importance);
        Options { importance: Some(Arc::new(importance)), ..options("Q4_0") }
    };
    assert!(report(&src, &with(&|_| {})).unweighed.is_empty());
    let entry = |importance: &mut Importance| -> Entry { importance.entries.remove(TENSOR).unwrap() };
    let half = with(&|importance| {
        let all: Vec<String> = importance.entries.keys().cloned().collect();
        for name in all {
            let entry = importance.entries.get_mut(&name).unwrap();
            entry.sums.truncate(entry.sums.len() / 2);
        }
    });
    let partial = with(&|importance| drop(entry(importance)));
    let zeros = with(&|importance| {
        let zeros = vec![0.0; entry(importance).sums.len()];
        importance.entries.insert(TENSOR.into(), Entry { sums: zeros, counts: vec![9.0; 4] });
    });
    let unseen = with(&|importance| importance.entries.get_mut(TENSOR).unwrap().counts.fill(0.0));
    let deeper = with(&|importance| {
        let entry = importance.entries[TENSOR].clone();
        importance.entries.insert("blk.2.ffn_up_exps.weight".into(), entry);
    });
    let names = with(&|importance| {
        let entries = std::mem::take(&mut importance.entries);
        importance.entries =
            entries.into_iter().map(|(name, entry)| (format!("model.{name}"), entry)).collect();
    });
    for (options, parts) in [
        (&half, &["another model", "blk.0.attn_k.weight with 128 columns, not 256", " more"][..]),
        (&partial, &["no importance for blk.1.ffn_up_exps.weight", "--allow-partial"]),
        (&zeros, &["no importance for blk.1.ffn_up_exps.weight"]),
        (&unseen, &["no importance for blk.1.ffn_up_exps.weight"]),
        (&deeper, &["another model", "blk.2.ffn_up_exps.weight", "--allow-partial"]),
        (&names, &["another model", "model.blk.0.attn_k.weight"]),
    ] {
        let message = refused(&src, options);
        assert!(message.starts_with("some.dat: "), "{message}");
        assert!(parts.iter().all(|part| message.contains(part)), "{parts:?}: {message}");
    }
    let allowed = |options: &Options| Options { allow_partial: true, ..options.clone() };
    for options in [&partial, &zeros, &unseen] {
        assert_eq!(report(&src, &allowed(options)).unweighed, [TENSOR]);
    }
    assert!(report(&src, &allowed(&deeper)).unweighed.is_empty());
    assert!(refused(&src, &allowed(&half)).contains("another model"));
    assert!(refused(&src, &allowed(&names)).contains("it tells nothing of this model"));
    // Nothing is rounded, so nothing is missed.
    report(&src, &Options { importance: partial.importance.clone(), ..options("BF16") });
}

#[test]
fn a_pattern_that_changes_nothing_is_refused() {
    let over = |pattern: &str| Override {
        pattern: regex::Regex::new(pattern).unwrap(),
        format: Format::by_name("Q6_K").unwrap(),
    };
    let src = golden("mixtral");
    for (patterns, part) in [
        (&["ffn_donw"][..], "--tensor ffn_donw: no tensor has such a name"),
        (&["ffn_down", "attn_x"], "--tensor attn_x: no tensor has such a name; names are like"),
        (&["ffn", "ffn_down"], "--tensor ffn_down: patterns before it"),
        (&["_norm"], "--tensor _norm: it fits norms, biases or routers only"),
    ] {
        let overrides: Vec<Override> = patterns.iter().map(|pattern| over(pattern)).collect();
        for dry_run in [false, true] {
            let options = Options { overrides: overrides.clone(), dry_run, ..options("Q8_0") };
            let message = refused(&src, &options);
            assert!(message.contains(part), "{message}");
        }
    }
    let written =
        report(&src, &Options { overrides: vec![over("ffn_down"), over("ffn|attn")], ..options("Q8_0") });
    for planned in written.plan.iter().filter(|planned| planned.tensor.starts_with("blk.")) {
        let is_matrix = !planned.tensor.contains("norm") && !planned.tensor.contains("_inp");
        assert_eq!(planned.format, if is_matrix { "Q6_K" } else { "F32" }, "{}", planned.tensor);
    }
}

/// Writes bytes over the beginning of some tensors of a file.
fn spoil(file: &Path, tensors: &[&str], bytes: &[u8]) {
    let gguf = Gguf::open(file).unwrap();
    let start = |name: &&str| gguf.bytes(gguf.tensor(name).unwrap()).file_position().unwrap().1 as usize;
    let starts: Vec<usize> = tensors.iter().map(start).collect();
    drop(gguf);
    let mut contents = std::fs::read(file).unwrap();
    starts.iter().for_each(|&start| contents[start..start + bytes.len()].copy_from_slice(bytes));
    std::fs::write(file, contents).unwrap();
}

#[test]
fn numbers_that_are_none_stop_a_conversion() {
    let folder = tempfile::tempdir().unwrap();
    let src = folder.path().join("f32.gguf");
    convert(&golden("llama-dense"), &src, &options("F32"), &()).unwrap();
    let spoiled = ["blk.0.attn_norm.weight", "blk.1.attn_q.weight", "output.weight"];
    spoil(&src, &spoiled, bytemuck::cast_slice(&[f32::NAN, f32::NEG_INFINITY, 1.0]));
    // The norms are copied as they are; so is everything in F32.
    for format in ["F32", "Q8_0"] {
        let message = refused(&src, &options(format));
        assert!(
            message.contains("f32.gguf: weights that are NaN or infinite") && message.contains("--allow-nan")
        );
        assert!(spoiled.iter().all(|name| message.contains(&format!("{name} (2)"))), "{message}");
        let report = report(&src, &Options { allow_nan: true, ..options(format) });
        let counts: Vec<u64> = report.suspicious.iter().map(|found| found.not_finite).collect();
        assert_eq!(counts, [2, 2, 2], "{format}");
    }
}

#[test]
fn what_is_quantized_already_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let src = golden("qwen3moe");
    let written = |format: &str| {
        let out = folder.path().join(format);
        assert!(convert(&src, &out, &options(format), &()).unwrap().requantized.is_empty(), "{format}");
        out
    };
    let floats = ["F32", "F16", "BF16"].map(written);
    assert!(floats.iter().all(|src| report(src, &options("Q4_0")).requantized.is_empty()));
    let quantized = written("Q8_0");
    assert!(report(&quantized, &options("Q8_0")).requantized.is_empty(), "the bytes are copied");
    for format in ["Q4_0", "F16"] {
        assert_eq!(report(&quantized, &options(format)).requantized, ["Q8_0"], "{format}");
    }
}

/// Does something when the second tensor comes.
struct Meanwhile<F>(F, std::sync::atomic::AtomicUsize);

impl<F: Fn() + Sync> Progress for Meanwhile<F> {
    fn tensor(&self, _name: &str) {
        if self.1.fetch_add(1, Ordering::Relaxed) == 1 {
            self.0();
        }
    }
}

#[test]
fn two_conversions_do_not_write_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let (src, out) = (golden("llama-dense"), folder.path().join("m.gguf"));
    let second = |force: bool| {
        let options = Options { force, ..options("Q4_0") };
        convert(&src, &out, &options, &()).unwrap_err().to_string()
    };
    let told = Meanwhile(
        || [false, true].into_iter().for_each(|force| assert!(second(force).contains("being written"))),
        Default::default(),
    );
    convert(&src, &out, &options("Q8_0"), &told).unwrap();
    assert_eq!(Gguf::open(&out).unwrap().metadata().u64("general.file_type").unwrap(), Some(7));
    // What knows no locks may still be faster.
    std::fs::remove_file(&out).unwrap();
    let faster = Meanwhile(|| std::fs::write(&out, "precious").unwrap(), Default::default());
    let message = convert(&src, &out, &options("Q8_0"), &faster).unwrap_err().to_string();
    assert!(message.contains("exists now") && message.contains("m.gguf"), "{message}");
    assert_eq!(std::fs::read(&out).unwrap(), b"precious");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn the_source_is_not_written_over() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(golden("llama-dense").join(file), folder.path().join(file)).unwrap();
    }
    let forced = Options { force: true, ..options("Q8_0") };
    let inside = |name: &str| folder.path().join(name);
    for (src, out) in
        [("", "model.safetensors"), ("", "config.json"), ("model.safetensors", "model.safetensors")]
    {
        let before = std::fs::read(inside(out)).unwrap();
        let message = convert(&inside(src), &inside(out), &forced, &()).unwrap_err().to_string();
        assert!(message.contains(out) && message.contains("part of the source"), "{message}");
        assert_eq!(std::fs::read(inside(out)).unwrap(), before);
    }
    let gguf = inside("m.gguf");
    convert(folder.path(), &gguf, &forced, &()).unwrap();
    convert(folder.path(), &gguf, &forced, &()).unwrap();
    let message = convert(&gguf, &gguf, &forced, &()).unwrap_err().to_string();
    assert!(message.contains("part of the source"), "{message}");
    Gguf::open(&gguf).unwrap();
}
