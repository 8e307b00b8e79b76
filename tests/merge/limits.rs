//! Merges at their limits: the memory that they take, a disk that is full, a signal in the middle. Nothing is left
//! behind, and memory does not grow with the number of models.
#![cfg(target_os = "linux")]

use crate::command::{moewe, names, stderr};
use crate::merging::Sizes;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A folder with a model of so many bytes under four names, each a file of its own to whoever opens it, and mixtures.
struct Place {
    folder: tempfile::TempDir,
    bytes: u64,
}

impl Place {
    fn new(sizes: Sizes) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bytes = sizes.write(&folder.path().join("m0"));
        for name in ["m1", "m2", "m3"] {
            let copy = folder.path().join(name);
            std::fs::create_dir(&copy).unwrap();
            for file in names(&folder.path().join("m0")) {
                std::fs::hard_link(folder.path().join("m0").join(&file), copy.join(&file)).unwrap();
            }
        }
        let experts: String = (0..4)
            .map(|e| format!("- source_model: m{e}\n  positive_prompts: [{}]\n", ["a", "b", "c", "d"][e]))
            .collect();
        let words = format!("base_model: m0\ngate_mode: hidden\nexperts:\n{experts}");
        std::fs::write(folder.path().join("merge.yaml"), words).unwrap();
        std::fs::create_dir(folder.path().join("to")).unwrap();
        Self { folder, bytes }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A merge under limits of the shell.
    fn limited(&self, limits: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new("sh");
        command.args(["-c", &format!(r#"{limits}; exec "$@""#), "sh", env!("CARGO_BIN_EXE_moewe"), "merge"]);
        command.args(["merge.yaml", "-q", "-o"]).args(arguments).current_dir(self.path());
        // Else the allocator reserves addresses for each thread.
        command.env("MALLOC_ARENA_MAX", "1").env_remove("RUST_MIN_STACK");
        command.env("HOME", self.path()).output().unwrap()
    }

    fn left(&self) -> Vec<String> {
        names(&self.path().join("to"))
    }
}

const LARGE: Sizes = Sizes { vocabulary: 40 << 10, width: 1024, hidden: 1024, layers: 2 };
const SMALL: Sizes = Sizes { vocabulary: 320, width: 256, hidden: 2048, layers: 3 };

/// Four models of 200 MB are mapped, and no more than a layer and a tensor are in memory: what the program may take
/// besides its mapped files is less than two of the models, and as much as its plan says.
#[test]
fn memory_is_that_of_a_layer_and_not_that_of_the_models() {
    let place = Place::new(LARGE);
    assert!(place.bytes > 190_000_000, "{}", place.bytes);
    for (out, more) in [("to/out", &[][..]), ("to/out.gguf", &["--format", "Q8_0"])] {
        let plan = place.limited("true", &[&[out, "--dry-run", "--json"], more].concat());
        let plan: serde_json::Value = serde_json::from_slice(&plan.stdout).unwrap();
        let memory = plan["merge"]["memory"].as_u64().unwrap();
        assert!(memory < 2 * place.bytes, "{memory}");
        // What is mapped counts as virtual memory; the data of the program have a limit of their own.
        let mapped = 4 * place.bytes + (128 << 20);
        let limits = format!("ulimit -d {}; ulimit -v {}", memory >> 10, (mapped + memory) >> 10);
        let start = Instant::now();
        let output = place.limited(&limits, &[&[out], more].concat());
        assert!(output.status.success(), "{limits}: {}", stderr(&output));
        assert!(start.elapsed() < Duration::from_secs(120), "{:?}", start.elapsed());
        // The limit is one: a few megabytes are too little.
        let output = place
            .limited("ulimit -d 20000", &[&[if out == "to/out" { "x" } else { "x.gguf" }], more].concat());
        assert!(!output.status.success());
    }
    assert_eq!(place.left(), ["out", "out.gguf"]);
}

#[test]
fn a_full_disk_leaves_nothing() {
    let place = Place::new(SMALL);
    // Files may have 64 blocks of 512 or 1024 bytes, as the shell counts.
    let output = place.limited("ulimit -f 64", &["to/out.gguf"]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("out.gguf: cannot make room") && said.contains("File too large"), "{said}");
    assert_eq!(place.left(), [""; 0]);
    let output = place.limited("ulimit -f 64", &["to/out"]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("to/out/model.safetensors: cannot write") && said.contains("File too large"),
        "{said}"
    );
    assert_eq!(said.matches("error:").count(), 1, "{said}");
    assert_eq!(place.left(), [""; 0]);
}

/// Sends a signal to a merge once there is something of it.
fn stopped(place: &Place, out: &str, more: &[&str], signal: &str) -> Output {
    let has_begun = || {
        let empty = |name: &String| {
            let path = place.path().join("to").join(name);
            std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
        };
        !place.left().iter().all(empty)
    };
    let mut command = moewe(place.path());
    command.args(["merge", "merge.yaml", "-o", out]).args(more);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    while !has_begun() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before there was anything");
        assert!(start.elapsed() < Duration::from_secs(300));
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    child.wait_with_output().unwrap()
}

#[test]
fn a_signal_leaves_nothing() {
    let place = Place::new(LARGE);
    for (out, more, signal, status) in [
        ("to/out.gguf", &["--format", "IQ2_XXS"][..], "-TERM", 143),
        ("to/out", &[], "-TERM", 143),
        ("to/out", &[], "-INT", 130),
    ] {
        let output = stopped(&place, out, more, signal);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(status), "{out} {signal}: {said}");
        assert!(said.contains("stopped"), "{out} {signal}: {said}");
        assert_eq!(place.left(), [""; 0], "{out} {signal}");
    }
}

#[test]
fn what_a_killed_merge_left_is_cleared_by_the_next() {
    let place = Place::new(SMALL);
    for out in ["to/out", "to/out.gguf"] {
        let killed = stopped(&place, out, &[], "-KILL");
        assert_eq!(killed.status.code(), None, "{}", stderr(&killed));
        assert_eq!(place.left().len(), 1);
        // A folder of that name that no merge made stays.
        std::fs::create_dir_all(place.path().join("to/.moewe-merge-mine/inside")).unwrap();
        let next = place.limited("true", &[out]);
        assert!(next.status.success(), "{}", stderr(&next));
        let name = out.strip_prefix("to/").unwrap();
        assert_eq!(place.left(), [".moewe-merge-mine", name]);
        std::fs::remove_dir_all(place.path().join("to")).unwrap();
        std::fs::create_dir(place.path().join("to")).unwrap();
    }
}

/// A merge that was killed before it had locked its folder left it empty.
#[test]
fn an_empty_folder_is_cleared_once_it_is_old() {
    let place = Place::new(SMALL);
    let [old, new] = ["old", "new"].map(|age| place.path().join(format!("to/.moewe-merge-{age}")));
    std::fs::create_dir(&old).unwrap();
    std::fs::create_dir(&new).unwrap();
    let hour_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
    std::fs::File::open(&old).unwrap().set_modified(hour_ago).unwrap();
    let merged = place.limited("true", &["to/out"]);
    assert!(merged.status.success(), "{}", stderr(&merged));
    assert_eq!(place.left(), [".moewe-merge-new", "out"]);
}
