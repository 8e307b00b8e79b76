//! What the command says about experts: where they are, how they are used, and what changes the output.

#[path = "support/command.rs"]
mod command;
mod support;

use command::{stderr, stdout};
use serde_json::Value;
use std::path::Path;
use support::Tiny;

fn moewe(folder: &Path, arguments: &[&str], input: &str) -> (bool, String, String) {
    let output = command::fed(command::moewe(folder).args(arguments), input);
    (output.status.success(), stdout(&output), stderr(&output))
}

fn place() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    Tiny::default().write(&folder.path().join("tiny.gguf"));
    folder
}

#[test]
fn too_little_memory_is_said_and_computes_the_same() {
    let folder = place();
    let run = |more: &[&str]| {
        let arguments = ["run", "tiny.gguf", "--raw", "-p", "once", "-n", "20", "--temp", "0"];
        moewe(folder.path(), &[&arguments[..], more].concat(), "")
    };
    let (good, expected, said) = run(&[]);
    assert!(good && said.contains("for all 8 experts"), "{said}");
    for memory in ["0", "1M"] {
        let (good, text, said) = run(&["--memory", memory]);
        assert!(good && text == expected, "{said}");
        assert!(said.contains("for 0 of 8 experts") && said.contains("too little"), "{said}");
    }
    let (good, _, said) = run(&["--memory", "much"]);
    assert!(!good && said.contains("6G, 800M or 50%"), "{said}");
}

#[test]
fn what_changes_the_output_says_so() {
    let folder = place();
    let run = |more: &[&str]| {
        let arguments = ["run", "tiny.gguf", "--raw", "-p", "once", "-n", "20", "--temp", "0", "--json"];
        let (good, text, said) = moewe(folder.path(), &[&arguments[..], more].concat(), "");
        let json: Value = serde_json::from_str(&text).unwrap_or_default();
        (good, json, said)
    };
    let uses = |json: &Value| {
        let layers = json["experts"]["uses"].as_array().unwrap().clone();
        layers.iter().flat_map(|layer| layer.as_array().unwrap()).map(|n| n.as_u64().unwrap()).sum::<u64>()
    };
    let (_, usual, said) = run(&[]);
    assert!(!said.contains("says other things"), "{said}");
    let rows = uses(&usual) / 4; // two layers, two experts per token
    for (flags, expected) in [
        (&["--experts-used", "1"][..], 2 * rows),
        (&["--experts-used", "4"], 8 * rows),
        (&["--expert-threshold", "0.99"], 2 * rows),
    ] {
        let (good, json, said) = run(flags);
        assert!(good && said.contains("says other things"), "{said}");
        assert_eq!(uses(&json), expected, "{flags:?}");
    }
    for (flags, part) in
        [(["--experts-used", "5"], "1 to 4 experts"), (["--experts-used", "0"], "1 to 4 experts")]
            .into_iter()
            .chain([(["--expert-threshold", "1"], "below 1")])
    {
        let (good, _, said) = run(&flags);
        assert!(!good && said.contains(part), "{said}");
    }
}

#[test]
fn use_is_drawn_recorded_and_replayed() {
    let folder = place();
    std::fs::write(folder.path().join("text"), "the quick brown fox ".repeat(20)).unwrap();
    let arguments = ["experts", "tiny.gguf", "--text", "text", "--trace", "trace"];
    let (good, map, said) = moewe(folder.path(), &arguments, "");
    assert!(good && said.contains("routing of 400 tokens"), "{said}");
    let rows: Vec<&str> = map.lines().collect();
    assert!(rows.len() == 3 && rows[0].starts_with("    0  ") && rows[2].contains("even share"), "{map}");
    let (good, table, said) = moewe(folder.path(), &["experts", "--replay", "trace"], "");
    assert!(good && table.contains("LRU per layer") && table.contains("Belady"), "{table}{said}");
    let (good, json, _) = moewe(folder.path(), &["experts", "--replay", "trace", "--json"], "");
    let json: Value = serde_json::from_str(&json).unwrap();
    assert!(good && json["tokens"] == 400 && json["experts"] == 8);
    let rates = |row: usize| json["policies"][row]["hit_rates"].as_array().unwrap().clone();
    let bound = json["policies"].as_array().unwrap().len() - 1;
    assert!(rates(0).iter().zip(rates(bound)).all(|(lru, bound)| lru.as_f64() <= bound.as_f64()));
    let timed = ["experts", "--replay", "trace", "--disk", "1M", "--compute", "20ms"];
    let (good, table, said) = moewe(folder.path(), &timed, "");
    assert!(good && table.contains("TOKENS/S IF THERE FIT"), "{table}{said}");
    let (good, json, _) = moewe(folder.path(), &[&timed[..], &["--json"]].concat(), "");
    let json: Value = serde_json::from_str(&json).unwrap();
    let row = &json["policies"][0];
    let figure = |name: &str, share: usize| row[name][share].as_f64().unwrap();
    for share in 0..8 {
        let (rate, stall) = (figure("tokens_per_second", share), figure("stall_ms_per_token", share));
        assert!(good && (1e3 / rate - 20.0 - stall).abs() < 1e-6, "a token is computing and waiting: {row}");
    }
    assert!(figure("tokens_per_second", 0) < figure("tokens_per_second", 7), "{row}");
    let (good, _, said) =
        moewe(folder.path(), &[&timed[..3], &["--disk", "fast", "--compute", "20ms"]].concat(), "");
    assert!(!good && said.contains("such as 3G"), "{said}");
    std::fs::write(folder.path().join("trace"), "{}").unwrap();
    let (good, _, said) = moewe(folder.path(), &["experts", "--replay", "trace"], "");
    assert!(!good && said.contains("trace: line 1"), "{said}");
}

#[test]
fn a_chat_shows_where_experts_are() {
    let folder = place();
    let chat = ["chat", "tiny.gguf", "-n", "4"];
    let (good, _, said) = moewe(folder.path(), &chat, "hello\n/stats\n/experts\n");
    assert!(good, "{said}");
    for part in ["memory: ", "experts       ", "layer  one column per expert", "in memory; "] {
        assert!(said.contains(part), "{part}: {said}");
    }
}
