//! Tests of the store: damage, kills at every stage, full disks, pruning, the best checkpoint.

use super::*;
use std::time::{Duration, Instant};

fn write(contents: &str) -> impl FnOnce(&Path) -> Result<()> {
    let contents = contents.to_owned();
    move |folder| {
        fs::create_dir(folder.join("data")).unwrap();
        fs::write(folder.join("model.safetensors"), &contents).unwrap();
        fs::write(folder.join("data/state.json"), "{}").unwrap();
        Ok(())
    }
}

fn model(folder: &Path) -> String {
    fs::read_to_string(folder.join("model.safetensors")).unwrap()
}

/// A store with the checkpoints of these steps.
fn store(steps: &[u64]) -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), 2).unwrap();
    for step in steps {
        store.save(*step, write(&format!("weights {step}"))).unwrap();
    }
    (folder, store)
}

fn visible(folder: &Path) -> Vec<String> {
    let mut names = names(folder).unwrap();
    names.retain(|name| name != LOCK);
    names.sort();
    names
}

#[test]
fn the_newest_is_found_by_number_not_by_name() {
    let (_folder, store) = store(&[]);
    assert_eq!(store.latest().unwrap(), None);
    let (folder, store) = self::store(&[9, 10]);
    fs::create_dir(folder.path().join("checkpoint-011")).unwrap();
    let found = store.latest().unwrap().unwrap();
    assert_eq!((found.step, model(&found.path)), (10, "weights 10".into()));
    assert!(found.warnings.is_empty());
}

#[test]
fn damaged_checkpoints_are_passed_over_with_the_reason() {
    type Damage = fn(&Path);
    let cases: [(&str, Damage, &str); 8] = [
        ("truncated", |path| fs::write(path.join("model.safetensors"), "weigh").unwrap(), "9 bytes"),
        ("flipped byte", |path| fs::write(path.join("model.safetensors"), "weightz 2").unwrap(), "BLAKE3"),
        ("missing file", |path| fs::remove_file(path.join("data/state.json")).unwrap(), "state.json"),
        ("missing manifest", |path| fs::remove_file(path.join("manifest.json")).unwrap(), "manifest.json"),
        (
            "half a manifest",
            |path| fs::write(path.join("manifest.json"), "{\"step\":2,").unwrap(),
            "manifest",
        ),
        ("empty manifest", |path| fs::write(path.join("manifest.json"), "").unwrap(), "manifest"),
        ("another step", rename_step, "step 3"),
        ("a path outside", outside, "inside the checkpoint"),
    ];
    for (name, damage, reason) in cases {
        let (folder, store) = store(&[1, 2]);
        damage(&folder.path().join("checkpoint-2"));
        let found = store.latest().unwrap().unwrap();
        assert_eq!(found.step, 1, "{name}");
        let [warning] = &found.warnings[..] else { panic!("{name}: {:?}", found.warnings) };
        assert!(warning.contains("checkpoint-2") && warning.contains(reason), "{name}: {warning}");
        assert_eq!(visible(folder.path()), ["checkpoint-1", "checkpoint-2.aside"], "{name}");
    }
}

#[test]
fn a_store_of_damaged_checkpoints_is_not_an_empty_one() {
    let (folder, store) = store(&[1, 2]);
    for step in ["checkpoint-1", "checkpoint-2"] {
        fs::remove_file(folder.path().join(step).join("manifest.json")).unwrap();
    }
    let error = store.latest().unwrap_err().to_string();
    assert!(error.contains("checkpoint-1") && error.contains("start anew"), "{error}");
}

fn rename_step(path: &Path) {
    let file = path.join("manifest.json");
    let text = fs::read_to_string(&file).unwrap().replace("\"step\": 2", "\"step\": 3");
    fs::write(file, text).unwrap();
}

fn outside(path: &Path) {
    let text = r#"{"step": 2, "files": {"../../passwd": {"bytes": 1, "blake3": ""}}}"#;
    fs::write(path.join("manifest.json"), text).unwrap();
}

#[test]
fn a_failed_save_leaves_what_was_there_and_says_so() {
    let (folder, store) = store(&[1]);
    for step in [1, 2] {
        let full = |path: &Path| {
            fs::write(path.join("model.safetensors"), "half").unwrap();
            Err(Error::io(path, "write", std::io::ErrorKind::StorageFull.into()))
        };
        let error = store.save(step, full).unwrap_err().to_string();
        assert!(error.contains(&format!("checkpoint {step} is not saved")), "{error}");
        assert!(error.contains("free disk space"), "{error}");
        assert_eq!(visible(folder.path()), ["checkpoint-1"]);
        assert_eq!(model(&store.latest().unwrap().unwrap().path), "weights 1");
    }
}

#[test]
fn the_same_step_is_replaced() {
    let (folder, store) = store(&[1]);
    store.save(1, write("again")).unwrap();
    assert_eq!(model(&store.latest().unwrap().unwrap().path), "again");
    assert_eq!(visible(folder.path()), ["checkpoint-1"]);
}

/// Every state that a kill can leave, and what is there after the next start.
#[test]
fn a_kill_at_any_moment_leaves_the_old_or_the_new_one() {
    let cases: [(&[&str], &str); 5] = [
        (&["checkpoint-1", "checkpoint-1.partial"], "checkpoint-1"), // while writing
        (&["checkpoint-1.old", "checkpoint-1.partial"], "checkpoint-1.old"), // between the renames
        (&["checkpoint-1.old", "checkpoint-1"], "checkpoint-1"),     // before the old one is removed
        (&["checkpoint-1", "best.old", "best.partial"], "checkpoint-1"),
        (&["checkpoint-1", "best", "best.old"], "checkpoint-1"),
    ];
    for (left, expected) in cases {
        let folder = tempfile::tempdir().unwrap();
        for name in left {
            fs::create_dir(folder.path().join(name)).unwrap();
            write(name)(&folder.path().join(name)).unwrap();
            manifest::seal(&folder.path().join(name), 1).unwrap();
        }
        let store = Store::open(folder.path(), 1).unwrap();
        assert_eq!(model(&store.latest().unwrap().unwrap().path), expected, "{left:?}");
        let best = left.iter().any(|name| name.starts_with(BEST));
        assert_eq!(store.best().unwrap().is_some(), best, "{left:?}");
        assert!(visible(folder.path()).iter().all(|name| is_ours(name)), "{left:?}");
    }
}

const PATIENCE: Duration = Duration::from_secs(120); // with a machine that others have

const CHILD: &str = "MOEWE_TEST_STORE"; // names the folder to a process that saves until it is killed

/// Not a test by itself: what the killed process does.
#[test]
fn saves_until_killed() {
    let Some(folder) = std::env::var_os(CHILD) else { return };
    let store = Store::open(folder, 2).unwrap();
    let first = store.latest().unwrap().map_or(0, |found| found.step);
    for step in 2 * first.. {
        store.save(step / 2, write(&format!("weights {}", step / 2).repeat(100_000))).unwrap();
        store.mark_best(step / 2).unwrap();
        store.prune().unwrap();
    }
}

#[test]
fn processes_killed_in_earnest_lose_no_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let (mut newest, start) = (0, Instant::now());
    for round in 0.. {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "checkpoint::store::tests::saves_until_killed"]).env(CHILD, folder.path());
        let mut child = command.stdout(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(60 + 17 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        let store = Store::open(folder.path(), 2).unwrap();
        if let Some(found) = store.latest().unwrap() {
            newest = newest.max(found.step);
            assert_eq!(found.warnings, [""; 0], "what looks like a checkpoint is one");
            assert_eq!(model(&found.path), format!("weights {}", found.step).repeat(100_000));
        }
        store.best().unwrap();
        assert!(visible(folder.path()).iter().all(|name| is_ours(name)));
        // Where others have the machine, a process may be killed before it comes to anything: later ones have longer.
        if round >= 11 && newest > 1 {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "no process came to anything before it was killed");
    }
}

#[test]
fn strangers_files_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("notes.partial")).unwrap();
    fs::write(folder.path().join("notes.old"), "").unwrap();
    Store::open(folder.path(), 1).unwrap();
    assert_eq!(visible(folder.path()), ["notes.old", "notes.partial"]);
}

#[test]
fn pruning_keeps_the_newest_and_the_best() {
    let (folder, store) = store(&[1, 2, 3, 10]);
    store.mark_best(2).unwrap();
    assert_eq!(store.prune().unwrap(), [2, 1]);
    assert_eq!(visible(folder.path()), ["best", "checkpoint-10", "checkpoint-3"]);
    let best = store.best().unwrap().unwrap();
    assert_eq!((best.step, model(&best.path)), (2, "weights 2".into()));
    store.mark_best(10).unwrap();
    assert_eq!(store.best().unwrap().unwrap().step, 10);
    assert!(store.mark_best(2).unwrap_err().to_string().contains("checkpoint-2"));
    assert_eq!(store.best().unwrap().unwrap().step, 10);
    assert_eq!(visible(folder.path()), ["best", "checkpoint-10", "checkpoint-3"]);
}

#[test]
fn a_training_that_went_back_keeps_what_it_saves_now() {
    let (folder, store) = store(&[1, 7, 8, 9]);
    store.save(2, write("again")).unwrap();
    assert_eq!(store.prune().unwrap(), [0; 0], "7, 8 and 9 belong to another course of the training");
    store.set_aside_after(2).unwrap();
    assert_eq!(store.latest().unwrap().unwrap().step, 2);
    store.save(3, write("again")).unwrap();
    assert_eq!(store.prune().unwrap(), [1]);
    let aside = ["checkpoint-7.aside", "checkpoint-8.aside", "checkpoint-9.aside"];
    assert_eq!(visible(folder.path()), [&["checkpoint-2", "checkpoint-3"], &aside[..]].concat());
}

#[test]
fn replacing_a_checkpoint_does_not_change_the_best() {
    let (_folder, store) = store(&[1]);
    store.mark_best(1).unwrap();
    store.save(1, write("again")).unwrap();
    assert_eq!(model(&store.best().unwrap().unwrap().path), "weights 1");
}

#[test]
fn two_trainings_do_not_share_a_folder() {
    let (folder, store) = store(&[1]);
    let error = Store::open(folder.path(), 1).unwrap_err().to_string();
    assert!(error.contains("another training"), "{error}");
    assert_eq!(latest(folder.path()).unwrap().unwrap().step, 1, "reading needs no lock");
    drop(store);
    Store::open(folder.path(), 1).unwrap();
    assert!(Store::open(folder.path().join("other"), 0).is_err());
}
