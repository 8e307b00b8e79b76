//! `moewe bench` beyond its figures for one model: the kernels alone, and turns with another program.

mod support;

use serde_json::Value;
use std::process::{Command, Output};
use support::Tiny;

fn moewe(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_moewe")).args(arguments).output().unwrap()
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn kernels_need_no_model() {
    let all = json(&moewe(&["bench", "-t", "2", "--json", "--kernels", "q8_0"]));
    assert_eq!(all.as_array().map(Vec::len), Some(1));
    let [rate, share] = ["bytes_per_second", "share_of_read_rate"].map(|key| all[0][key].as_f64().unwrap());
    assert!(all[0]["format"] == "Q8_0" && rate > 0.0 && share > 0.0, "{all}");
    assert_eq!(all[0]["products_per_second"].as_array().map(Vec::len), Some(3));
    let unknown = moewe(&["bench", "--kernels", "F16"]);
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("F16 is not a block format"));
}

/// A script stands for llama-bench: it checks what it is asked and prints what that prints.
#[cfg(unix)]
#[test]
fn peers_are_measured_in_turns() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("tiny.gguf");
    Tiny::default().write(&model);
    let model = model.to_str().unwrap();
    let script = folder.path().join("llama bench");
    let tests =
        r#"[{"n_prompt": 8, "n_gen": 0, "avg_ts": 0.5}, {"n_prompt": 0, "n_gen": 2, "avg_ts": 0.25}]"#;
    let checked =
        "case \"$*\" in '-rtr 1 -m '*' -t 1 -p 8 -n 2 -r 1 -o json') ;; *) echo \"$*\" >&2; exit 3;; esac";
    std::fs::write(&script, format!("{checked}\necho '{tests}'\n")).unwrap();
    let command = format!("sh '{}' -rtr 1", script.display());
    let bench = ["bench", model, "-p", "8", "-n", "2", "-r", "2", "-t", "1", "--json"];
    let rows = json(&moewe(&[&bench[..], &["--peer", &command]].concat()));
    assert_eq!((&rows[0]["program"], &rows[1]["program"]), (&"moewe".into(), &command.as_str().into()));
    assert_eq!((&rows[0]["decode_ratio"], &rows[1]["prefill_tokens_per_second"]), (&1.0.into(), &0.5.into()));
    for (kind, speed) in [("prefill", 0.5), ("decode", 0.25)] {
        let own = rows[0][format!("{kind}_tokens_per_second")].as_f64().unwrap();
        let ratio = rows[1][format!("{kind}_ratio")].as_f64().unwrap();
        // The median of two turns' ratios is the ratio of the medians, for the other speed is always the same.
        assert!((ratio - own / speed).abs() < 1e-6 * ratio, "{rows}");
    }
    let broken = moewe(&[&bench[..], &["--peer", "sh -c 'echo no such option >&2; exit 2'"]].concat());
    assert_eq!(broken.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&broken.stderr).contains("no such option"));
    let nameless = moewe(&["bench", "--peer", "true"]);
    assert!(String::from_utf8_lossy(&nameless.stderr).contains("needs a model in a file"));
}
