//! Calibration at the edges: a checkpoint as the source, experts that a text does not reach, texts that are too short, and
//! importance files between `moewe importance` and `moewe convert`. What calibration gains is in `perplexity.rs`.

#[path = "support/command.rs"]
mod command;
#[path = "support/bytes.rs"]
mod bytes;

use command::{names, stderr, stdout};
use moewe_convert::{Options, Recipe, Text, convert};
use std::path::{Path, PathBuf};
use std::process::Output;

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn moewe(folder: &Path, arguments: &[&str]) -> Output {
    command::moewe(folder).args(arguments).output().unwrap()
}

/// Two pieces of text: enough to begin, too little for most experts.
fn little_text(folder: &Path) -> PathBuf {
    let text = std::fs::read_to_string(root("tests/golden/text/de-seen.txt")).unwrap();
    let path = folder.join("little.txt");
    std::fs::write(&path, &text[..text.floor_char_boundary(5_500)]).unwrap();
    path
}

#[test]
fn a_checkpoint_is_calibrated_and_experts_without_text_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(little_text(folder.path())).unwrap();
    let out = folder.path().join("out.gguf");
    // About 80 tokens for two of eight experts each; 32 are the least for 256 columns.
    let calibrate = Text { text: text[..text.floor_char_boundary(400)].to_owned(), context: 40 };
    let q2_k = Options::with(Recipe::by_name("Q2_K").unwrap());
    let options = Options { calibrate: Some(calibrate), force: true, ..q2_k };
    let written = || {
        let report = convert(&root("models/moewe-mini"), &out, &options, &()).unwrap();
        (report, std::fs::read(&out).unwrap())
    };
    let (report, bytes) = written();
    assert!(bytes == written().1, "the same text gives other bytes");
    assert!(!report.fallbacks.is_empty() && report.fallbacks.iter().all(|few| few.rows < 32));
    assert!(report.fallbacks.iter().all(|few| few.tensor.contains("_exps")), "{:?}", report.fallbacks);
    assert_eq!(names(folder.path()), ["little.txt", "out.gguf"], "nothing else is left");
    let output =
        moewe(folder.path(), &["run", "out.gguf", "--raw", "-p", "Es war", "-n", "4", "--temp", "0"]);
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn a_text_that_is_too_short_or_absent_is_an_error_that_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let model = root("models/moewe-mini");
    std::fs::write(folder.path().join("short.txt"), "Es war einmal.").unwrap();
    for (name, expected) in [("short.txt", "needs at least"), ("absent.txt", "absent.txt: cannot read")] {
        let arguments =
            ["convert", model.to_str().unwrap(), "-o", "out.gguf", "--bits", "3", "--calibrate", name];
        let output = moewe(folder.path(), &arguments);
        assert!(!output.status.success() && stderr(&output).contains(expected), "{}", stderr(&output));
        assert_eq!(names(folder.path()), ["short.txt"]);
    }
}

#[test]
fn importance_goes_from_a_model_through_a_file_into_a_conversion() {
    let folder = tempfile::tempdir().unwrap();
    let model = root("models/moewe-mini/moewe-mini.gguf");
    let model = model.to_str().unwrap();
    little_text(folder.path());
    let measure = ["importance", model, "--text", "little.txt", "-o", "imatrix.gguf", "-c", "128"];
    let output = moewe(folder.path(), &measure);
    assert!(output.status.success() && stdout(&output).contains("blk.5.ffn_down_exps.weight"));
    let again = moewe(folder.path(), &measure);
    assert!(!again.status.success() && stderr(&again).contains("--force replaces it"), "{}", stderr(&again));
    let looked = moewe(folder.path(), &["importance", "imatrix.gguf"]);
    assert_eq!(stdout(&looked), stdout(&output));
    let convert = |out: &str, more: &[&str]| {
        let arguments = [&["convert", model, "-o", out, "--format", "IQ3_S"], more].concat();
        let output = moewe(folder.path(), &arguments);
        assert!(output.status.success(), "{}", stderr(&output));
        std::fs::read(folder.path().join(out)).unwrap()
    };
    let (plain, weighted) = (convert("a.gguf", &[]), convert("b.gguf", &["--importance", "imatrix.gguf"]));
    assert!(plain.len() == weighted.len() && plain != weighted);
    let wrong = moewe(folder.path(), &["convert", model, "-o", "c.gguf", "--importance", "a.gguf"]);
    assert!(!wrong.status.success() && stderr(&wrong).contains("imatrix"), "{}", stderr(&wrong));
}

#[test]
fn what_does_not_fit_is_said_on_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let model = root("models/moewe-mini/moewe-mini.gguf");
    let model = model.to_str().unwrap();
    // Of one tensor, in llama.cpp's older kind.
    let name = "blk.0.attn_output.weight";
    let mut one = 1i32.to_le_bytes().to_vec();
    one.extend((name.len() as i32).to_le_bytes());
    one.extend(name.as_bytes());
    one.extend([1i32, 256].iter().flat_map(|number| number.to_le_bytes()));
    one.extend(std::iter::repeat_n(1f32.to_le_bytes(), 256).flatten());
    std::fs::write(folder.path().join("one.dat"), one).unwrap();
    let convert = |more: &[&str]| {
        let arguments = ["convert", model, "-o", "out.gguf", "--format", "Q4_0", "--importance", "one.dat"];
        moewe(folder.path(), &[&arguments[..], more].concat())
    };
    let refused = convert(&[]);
    let message = stderr(&refused);
    assert_eq!(refused.status.code(), Some(1), "{message}");
    assert!(
        message.contains("error: one.dat: no importance for blk.0.attn_qkv")
            && message.contains("--allow-partial")
    );
    assert_eq!(names(folder.path()), ["one.dat"]);
    let allowed = convert(&["--allow-partial"]);
    let said = stderr(&allowed);
    assert!(allowed.status.success() && said.contains("tensors have no importance"), "{said}");
    assert!(said.contains("the source is quantized already ("), "{said}");
    let quiet = convert(&["--allow-partial", "--force", "-q"]);
    assert!(quiet.status.success() && quiet.stderr.is_empty(), "{}", stderr(&quiet));
    let pattern = convert(&["--allow-partial", "--force", "--tensor", "ffn_donw=Q6_K"]);
    assert!(stderr(&pattern).contains("--tensor ffn_donw: no tensor"), "{}", stderr(&pattern));
}

/// Families with routers, mixers and sources of their own: calibrated, measured, and weighed by what was measured.
#[test]
fn families_are_calibrated_and_measured() {
    for name in [
        "deepseek3",
        "kimi-k2-int4",
        "glm4moe",
        "minimax-m2",
        "bailingmoe2",
        "qwen35moe",
        "gemma4",
        "nemotron-h-moe",
        "lfm2moe",
    ] {
        let folder = tempfile::tempdir().unwrap();
        little_text(folder.path());
        bytes::speaking(name, &folder.path().join("source"));
        let run = |arguments: &[&str]| {
            let output = moewe(folder.path(), arguments);
            assert!(output.status.success(), "{name}: {arguments:?}\n{}", stderr(&output));
            stdout(&output)
        };
        let convert = |out: &str, more: &[&str]| {
            // Importance fits the widths that it was measured on.
            let arguments = ["convert", "source", "-o", out, "--bits", "4", "--pad", "never"];
            run(&[&arguments, more].concat());
            std::fs::read(folder.path().join(out)).unwrap()
        };
        let plain = convert("plain.gguf", &[]);
        assert_ne!(convert("calibrated.gguf", &["--calibrate", "little.txt"]), plain, "{name}");
        let measured =
            run(&["importance", "plain.gguf", "--text", "little.txt", "-o", "i.gguf", "-c", "128"]);
        assert!(measured.contains("blk.1.ffn_down_exps.weight"), "{measured}");
        assert_ne!(convert("weighed.gguf", &["--importance", "i.gguf"]), plain, "{name}");
        run(&["perplexity", "calibrated.gguf", "--text", "little.txt", "-c", "128"]);
    }
}
