//! `moewe train` is the trainer, not its parent: what signals the one process that was started reaches the training.
//!
//! The first test has a script in the trainer's place and needs nothing else; the second trains with the real program
//! where it was built beside the command (`cargo test --workspace` does that).

#![cfg(unix)]

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(120); // until a process that does nothing fails the test

/// A folder in which `moewe` stands beside `trainer`.
fn folder_with(trainer: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(env!("CARGO_BIN_EXE_moewe"), folder.path().join("moewe")).unwrap();
    std::os::unix::fs::symlink(trainer, folder.path().join("moewe-train")).unwrap();
    folder
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("sh").args(["-c", &format!("kill -{name} {}", child.id())]).status().unwrap();
    assert!(status.success());
}

/// Waits for `when`; the process must not end before.
fn wait_until(child: &mut Child, mut when: impl FnMut() -> bool) {
    let start = Instant::now();
    while !when() {
        assert!(child.try_wait().unwrap().is_none(), "the process ended");
        assert!(start.elapsed() < PATIENCE, "the process hangs");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Starts a program that was just written: while another test starts one, that one holds every open file for a moment, and
/// what is open for writing cannot be started.
fn started(command: &mut Command) -> Child {
    let start = Instant::now();
    loop {
        match command.spawn() {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy && start.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(5));
            }
            child => return child.unwrap(),
        }
    }
}

#[test]
fn the_command_becomes_the_trainer() {
    let scripts = tempfile::tempdir().unwrap();
    let script = scripts.path().join("script");
    let text = "#!/bin/sh\ntrap 'echo saved >> \"$1\"; exit 7' TERM\necho \"$$ $2\" > \"$1\"\nwhile :; do sleep 0.01; done\n";
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    let folder = folder_with(&script);
    let log = folder.path().join("log");
    let mut command = Command::new(folder.path().join("moewe"));
    let mut child = started(command.arg("train").arg(&log).arg("--flag").stdin(Stdio::null()));
    let said = || std::fs::read_to_string(&log).unwrap_or_default();
    wait_until(&mut child, || said().ends_with('\n'));
    let is_same = said() == format!("{} --flag\n", child.id());
    signal(&child, "TERM");
    let status = child.wait().unwrap();
    assert!(is_same, "another process than {} trains: {}", child.id(), said());
    assert_eq!(status.code(), Some(7), "the trainer's own status");
    assert!(said().ends_with("saved\n"), "it had time to save: {}", said());
}

/// A run of the real trainer.
struct Run {
    folder: tempfile::TempDir,
}

impl Run {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn train(&self, arguments: &str) -> Command {
        let mut command = Command::new(self.path("moewe"));
        command.current_dir(self.folder.path()).stdin(Stdio::null()).arg("train");
        command.args(arguments.split_whitespace());
        command
    }

    #[track_caller]
    fn succeed(&self, arguments: &str) -> String {
        let output = self.train(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Finished steps that the run's log tells of.
    fn steps(&self) -> usize {
        let log = std::fs::read_to_string(self.path("run/metrics.jsonl")).unwrap_or_default();
        log.lines().filter(|line| line.contains("\"event\":\"step\"")).count()
    }
}

/// Begins a long training, sends it `name`, and goes on with it.
fn a_signal_saves(run: &Run, name: &str) {
    let config =
        "--preset small.json --data data --out run --batch 1 --eval-every 0 --sample-every 0 --log-every 1";
    let before = run.steps();
    let long = format!("{config} --max-steps 100000 --save-every 100000");
    let mut child = started(run.train(&long).stdout(Stdio::null()).stderr(Stdio::null()));
    wait_until(&mut child, || run.steps() > before + 2);
    signal(&child, name);
    let status = child.wait().unwrap();
    let steps = run.steps();
    assert!(status.success(), "{name}: a training that was asked to stop has not failed: {status}");
    assert!(run.path(&format!("run/checkpoint-{steps}")).is_dir(), "{name}: no checkpoint of step {steps}");
    // Nobody holds the lock: the next start goes on.
    run.succeed(&format!("{config} --max-steps {} --save-every 100000", steps + 1));
    assert_eq!(run.steps(), steps + 1, "{name}");
}

#[test]
#[allow(clippy::print_stderr, reason = "what is skipped is said")]
fn a_signal_to_the_command_saves_a_checkpoint() {
    let trainer = Path::new(env!("CARGO_BIN_EXE_moewe")).with_file_name("moewe-train");
    if !trainer.is_file() {
        eprintln!("SKIPPED: {} is not built (`cargo test --workspace` builds it)", trainer.display());
        return;
    }
    let run = Run { folder: folder_with(&trainer) };
    let words: String = (0..4000).map(|i| format!("{} {}.\n\n", i * i % 977, i)).collect();
    std::fs::write(run.path("corpus.txt"), words).unwrap();
    let config = r#"{"model_type": "tachyon", "vocab_size": 300, "max_seq_len": 32, "d_model": 32, "n_layers": 2,
        "n_heads": 4, "n_kv_heads": 2, "d_ff": 32, "d_shared_ff": 32, "n_routed_experts": 4, "n_shared_experts": 1,
        "top_k_experts": 2}"#;
    std::fs::write(run.path("small.json"), config).unwrap();
    run.succeed("tokenizer --data corpus.txt --vocabulary 280 -o tokenizer.json -q");
    run.succeed("shards --data corpus.txt --tokenizer tokenizer.json --context 32 -o data -q");
    for name in ["TERM", "INT"] {
        a_signal_saves(&run, name);
    }
}
