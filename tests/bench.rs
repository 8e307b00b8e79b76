//! `moewe bench` beyond its figures for one model: the kernels alone, and turns with another program.

#[path = "support/command.rs"]
mod command;
#[cfg(unix)]
mod support;

use command::{moewe, stderr};
use serde_json::Value;
use std::path::Path;
use std::process::Output;
#[cfg(unix)]
use support::Tiny;

fn bench(folder: &Path, arguments: &[&str]) -> Output {
    moewe(folder).arg("bench").args(arguments).output().unwrap()
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", stderr(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn kernels_need_no_model() {
    let folder = tempfile::tempdir().unwrap();
    let all = json(&bench(folder.path(), &["-t", "2", "--json", "--kernels", "q8_0"]));
    assert_eq!(all.as_array().map(Vec::len), Some(1));
    let [rate, share] = ["bytes_per_second", "share_of_read_rate"].map(|key| all[0][key].as_f64().unwrap());
    assert!(all[0]["format"] == "Q8_0" && rate > 0.0 && share > 0.0, "{all}");
    assert_eq!(all[0]["products_per_second"].as_array().map(Vec::len), Some(3));
    let unknown = bench(folder.path(), &["--kernels", "F16"]);
    assert!(stderr(&unknown).contains("F16 is not a block format"));
}

/// Another model's routing on another machine's disk.
#[cfg(unix)]
#[test]
fn a_recording_stands_in_for_the_router_and_a_rate_for_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    Tiny::default().write(&folder.path().join("tiny.gguf"));
    let layer = |layer: usize| serde_json::json!({ "layer": layer, "expert_count": 4, "expert_bytes": 1 });
    let heading = serde_json::json!({ "layers": [layer(0), layer(1)] });
    // Every token another pair, so with no slots everything is read for each.
    std::fs::write(folder.path().join("trace"), format!("{heading}\n[[0,1],[2,3]]\n[[2,3],[0,1]]\n"))
        .unwrap();
    let flags = ["tiny.gguf", "-p", "0", "-n", "8", "-r", "1", "-t", "1", "--memory", "0", "--json"];
    let route = ["--route", "trace", "--direct", "--disk", "1M"];
    let figures = json(&bench(folder.path(), &[&flags[..], &route].concat()));
    let figure = |name: &str| figures[name].as_f64().unwrap();
    assert_eq!(figure("decode_expert_hit_rate"), 0.0, "{figures}");
    let bytes = figure("decode_bytes_read_per_token");
    assert!(figure("decode_disk_busy_ms_per_token") >= bytes / 1e6 * 1e3 * 0.99, "{figures}");
    assert!(figures["expert_reads"].as_str().unwrap().contains("the page cache"), "{figures}");
    let wrong = bench(folder.path(), &["tiny.gguf", "--disk", "fast"]);
    assert!(stderr(&wrong).contains("such as 3G"), "{}", stderr(&wrong));
    std::fs::write(folder.path().join("trace"), format!("{heading}\n[[0],[2,3]]\n")).unwrap();
    let short = bench(folder.path(), &[&flags[..], &route].concat());
    assert!(stderr(&short).contains("1 of 4 experts in layer 0"), "{}", stderr(&short));
}

/// A script stands for llama-bench: it checks what it is asked and prints what that prints.
#[cfg(unix)]
#[test]
fn peers_are_measured_in_turns() {
    let folder = tempfile::tempdir().unwrap();
    Tiny::default().write(&folder.path().join("tiny.gguf"));
    let script = folder.path().join("llama bench");
    let tests =
        r#"[{"n_prompt": 8, "n_gen": 0, "avg_ts": 0.5}, {"n_prompt": 0, "n_gen": 2, "avg_ts": 0.25}]"#;
    let checked =
        "case \"$*\" in '-rtr 1 -m '*' -t 1 -p 8 -n 2 -r 1 -o json') ;; *) echo \"$*\" >&2; exit 3;; esac";
    std::fs::write(&script, format!("{checked}\necho '{tests}'\n")).unwrap();
    let command = format!("sh '{}' -rtr 1", script.display());
    let flags = ["tiny.gguf", "-p", "8", "-n", "2", "-r", "2", "-t", "1", "--json", "--peer"];
    let with = |peer| bench(folder.path(), &[&flags[..], &[peer]].concat());
    let rows = json(&with(&command));
    assert_eq!((&rows[0]["program"], &rows[1]["program"]), (&"moewe".into(), &command.as_str().into()));
    assert_eq!((&rows[0]["decode_ratio"], &rows[1]["prefill_tokens_per_second"]), (&1.0.into(), &0.5.into()));
    for (kind, speed) in [("prefill", 0.5), ("decode", 0.25)] {
        let own = rows[0][format!("{kind}_tokens_per_second")].as_f64().unwrap();
        let ratio = rows[1][format!("{kind}_ratio")].as_f64().unwrap();
        // The median of two turns' ratios is the ratio of the medians, for the other speed is always the same.
        assert!((ratio - own / speed).abs() < 1e-6 * ratio, "{rows}");
    }
    let broken = with("sh -c 'echo no such option >&2; exit 2'");
    assert_eq!(broken.status.code(), Some(1));
    assert!(stderr(&broken).contains("no such option"));
    let nameless = bench(folder.path(), &["--peer", "true"]);
    assert!(stderr(&nameless).contains("needs a model in a file"));
}
