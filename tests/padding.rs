//! Hidden widths padded with zeros change no logit, in any fixture that has such a width.

use moewe_convert::{Options as ConvertOptions, Pad, convert};
use moewe_engine::gguf::Gguf;
use moewe_engine::quant::Format;
use moewe_engine::session::{Engine, Options, cache_format};
use std::path::{Path, PathBuf};

/// Largest difference relative to the largest logit: sums of other lengths round otherwise.
const TOLERANCE: f32 = 1e-6;

/// Checkpoints with some network of less than 256 units.
const NARROW: &[&str] = &[
    "deepseek2-yarn",
    "gemma3-linear",
    "german-moe-swiglu",
    "llama3-biased",
    "qwen2-tied",
    "qwen2moe-norm",
    "qwen3moe-mixed",
    "tachyon-checkpoint/checkpoint_2000.pt",
];

fn converted(name: &str, format: &str, pad: Pad, folder: &Path) -> (PathBuf, usize) {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let out = folder.join(format!("{format}-{pad:?}.gguf"));
    let options =
        ConvertOptions { pad, force: true, ..ConvertOptions::new(Format::by_name(format).unwrap()) };
    let report = convert(&src, &out, &options, &()).unwrap_or_else(|e| panic!("{name}: {e}"));
    (out, report.paddings.len())
}

fn logits(file: &Path, plain: bool) -> Vec<f32> {
    let cache = cache_format("f32").unwrap();
    let options = Options { cache, plain, context: Some(64), threads: Some(1), ..Options::default() };
    let engine = Engine::open(file, options).unwrap();
    let mut logits = vec![];
    let mut keep = |_, row: &[f32]| {
        logits.extend_from_slice(row);
        Ok(())
    };
    engine.session().unwrap().extend_with_logits(&[1, 17, 150, 3, 99, 42, 7, 130], &mut keep).unwrap();
    logits
}

#[test]
fn padding_changes_no_logit() {
    let folder = tempfile::tempdir().unwrap();
    let mut failures = vec![];
    for name in NARROW {
        for format in ["F32", "Q8_0"] {
            let (narrow, none) = converted(name, format, Pad::Never, folder.path());
            let (wide, some) = converted(name, format, Pad::Always, folder.path());
            assert!(none == 0 && some > 0, "{name} {format}: {none} and {some} paddings");
            for plain in [false, true] {
                let (expected, found) = (logits(&narrow, plain), logits(&wide, plain));
                let largest = expected.iter().fold(0f32, |largest, logit| largest.max(logit.abs()));
                let error = expected.iter().zip(&found).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                if error.is_nan() || error > TOLERANCE * largest {
                    failures.push(format!("{name} {format} plain {plain}: {:e}", error / largest));
                }
            }
        }
    }
    assert!(failures.is_empty(), "off by more than {TOLERANCE:e}:\n{}", failures.join("\n"));
}

#[test]
fn a_padded_file_can_be_the_source() {
    let folder = tempfile::tempdir().unwrap();
    let (wide, _) = converted("qwen3moe-mixed", "F32", Pad::Always, folder.path());
    let again = folder.path().join("again.gguf");
    let options = ConvertOptions::new(Format::by_name("Q8_0").unwrap());
    let report = convert(&wide, &again, &options, &()).unwrap();
    let (before, after) = (Gguf::open(&wide).unwrap(), Gguf::open(&again).unwrap());
    let stored: u64 = after.tensors().iter().map(|tensor| tensor.elements()).sum();
    assert!(report.paddings.is_empty() && report.weights < stored);
    for key in ["moewe.weights_without_padding", "moewe.paddings", "qwen3moe.expert_feed_forward_length"] {
        assert!(before.metadata().get(key).is_some(), "{key}");
        assert_eq!(before.metadata().get(key), after.metadata().get(key), "{key}");
    }
}
