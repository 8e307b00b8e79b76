//! What TensorBoard itself reads from our event files, resumed training included.
//!
//! Needs a Python with the package `tensorboard`: the one in MOEWE_PYTHON, or the environment that `.ci/run` makes.

use moewe_train::monitor::{Event, ExpertLoad, Monitor, Settings, Start, StepReport, Validation};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

fn python() -> Option<PathBuf> {
    let made_by_ci = Path::new(env!("CARGO_TARGET_TMPDIR")).parent()?.join("ci-venv/bin/python");
    let python = std::env::var_os("MOEWE_PYTHON").map_or(made_by_ci, PathBuf::from);
    let has_it = Command::new(&python).args(["-c", "import tensorboard"]).output();
    has_it.is_ok_and(|output| output.status.success()).then_some(python)
}

/// Steps `from + 1` to `to` of a training of which step 2 is worth a closer look.
fn train(folder: &Path, from: u64, to: u64) {
    let settings = Settings { folder: folder.to_owned(), step: from, log_every: 1 };
    let mut monitor = Monitor::open(&settings, &["tensorboard"]).unwrap();
    monitor.record(&Event::Start(Start { step: from, steps: 9, description: "tiny, seed 7".into() }));
    for step in from + 1..=to {
        let experts = vec![ExpertLoad { layer: 3, counts: vec![5, 0, 2], dropped: 1, entropy: 0.25 }];
        let experts = if step == 2 { experts } else { vec![] };
        let loss = step as f64 / 4.0 + from as f64;
        monitor.record(&Event::Step(StepReport { step, loss, memory_bytes: 1 << 32, experts, ..filled() }));
    }
    let validation =
        Validation { step: to, loss: 2.5, perplexity: 12.0, bits_per_byte: Some(1.5), tokens: 9 };
    monitor.record(&Event::Validation(validation));
    monitor.record(&Event::Sample { step: to, prompt: "Möwen".into(), text: " fliegen\nweit".into() });
    monitor.record(&Event::End { step: to });
}

fn filled() -> StepReport {
    StepReport {
        cross_entropy: 2.0,
        load_balance: 0.5,
        router_z: 0.125,
        learning_rate: 0.25,
        gradient_norm: 1.5,
        tokens_per_second: 1024.0,
        ..Default::default()
    }
}

fn read_back(python: &Path, folder: &Path) -> Value {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/read_events.py");
    let output = Command::new(python).arg(script).arg(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn tensorboard_reads_our_event_files() {
    let Some(python) = python() else {
        let advice =
            "SKIPPED: no Python with the package tensorboard; set MOEWE_PYTHON or run .ci/run online";
        return writeln!(std::io::stderr(), "{advice}").unwrap();
    };
    let folder = tempfile::tempdir().unwrap();
    train(folder.path(), 0, 3);
    train(folder.path(), 2, 4);
    let found = read_back(&python, &folder.path().join("tensorboard"));
    assert_eq!(found["version"], 2.0);
    let scalars = &found["scalars"];
    assert_eq!(scalars["train/loss"], json!([[1, 0.25], [2, 0.5], [3, 2.75], [4, 3.0]]));
    for (tag, value) in [
        ("train/cross_entropy", 2.0),
        ("train/load_balance", 0.5),
        ("train/router_z", 0.125),
        ("train/learning_rate", 0.25),
        ("train/gradient_norm", 1.5),
        ("train/tokens_per_second", 1024.0),
        ("train/memory_bytes", 4_294_967_296.0),
    ] {
        assert_eq!(scalars[tag], json!([[1, value], [2, value], [3, value], [4, value]]), "{tag}");
    }
    assert_eq!(scalars["validation/loss"], json!([[4, 2.5]]), "that of the void step 3 is gone");
    assert_eq!(scalars["validation/perplexity"], json!([[4, 12.0]]));
    assert_eq!(scalars["validation/bits_per_byte"], json!([[4, 1.5]]));
    assert_eq!(scalars["experts/layer_3/entropy"], json!([[2, 0.25]]));
    assert_eq!(scalars["experts/layer_3/dropped"], json!([[2, 1.0]]));
    let load = json!([[0.0, 1.0, 5.0], [1.0, 2.0, 0.0], [2.0, 3.0, 2.0]]);
    assert_eq!(found["histograms"]["experts/layer_3/load"], json!([[2, load]]));
    assert_eq!(found["text"]["samples/Möwen"], json!([[4, ["Möwen fliegen\nweit"]]]));
    assert_eq!(found["text"]["training"], json!([[0, ["tiny, seed 7"]], [2, ["tiny, seed 7"]]]));
}
