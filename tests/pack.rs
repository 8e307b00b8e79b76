//! `moewe pack` and what a side file of experts has to bear: cuts, flips, other models, other kernels, a stop in the middle.

#[path = "support/command.rs"]
mod command;
mod support;

use command::{names, stderr, stdout};
use moewe_engine::Error;
use moewe_engine::experts::pack::SideFile;
use moewe_engine::gguf::{Gguf, Metadata, Value, Writer};
use moewe_engine::model::Model;
use moewe_engine::simd::Isa;
use serde_json::Value as Json;
use std::path::{Path, PathBuf};
use support::Tiny;

fn moewe(folder: &Path, arguments: &[&str]) -> (bool, String, String) {
    let output = command::moewe(folder).args(arguments).output().unwrap();
    (output.status.success(), stdout(&output), stderr(&output))
}

fn answer(folder: &Path, more: &[&str]) -> (String, String) {
    let run = ["run", "tiny.gguf", "--raw", "-p", "once", "-n", "12", "--temp", "0", "--memory", "0"];
    let (good, text, said) = moewe(folder, &[&run[..], more].concat());
    assert!(good, "{said}");
    (text, said)
}

fn place() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    Tiny::default().write(&folder.path().join("tiny.gguf"));
    folder
}

#[test]
fn experts_are_packed_listed_verified_and_used() {
    let folder = place();
    let (expected, _) = answer(folder.path(), &[]);
    let (good, _, said) = moewe(folder.path(), &["pack", "tiny.gguf"]);
    assert!(!good && said.contains("on the disk besides the model") && said.contains("--yes"), "{said}");
    assert_eq!(names(folder.path()), ["tiny.gguf"]);
    let (good, json, said) = moewe(folder.path(), &["pack", "tiny.gguf", "--yes", "--json"]);
    let json: Json = serde_json::from_str(&json).unwrap_or_default();
    assert!(good && said.contains("times as fast"), "{said}");
    let side = folder.path().join("tiny.gguf.experts");
    assert_eq!(json["bytes"], side.metadata().unwrap().len());
    let (good, _, said) = moewe(folder.path(), &["pack", "tiny.gguf"]);
    assert!(good && said.contains("is there and fits"), "{said}");
    let (good, text, said) = moewe(folder.path(), &["pack", "tiny.gguf", "--verify"]);
    assert!(good && text.contains("all experts are the model's"), "{text}{said}");
    let bench = ["bench", "tiny.gguf", "-p", "0", "-n", "4", "-r", "1", "--memory", "0", "--json"];
    let (_, json, said) = moewe(folder.path(), &bench);
    let json: Json = serde_json::from_str(&json).unwrap();
    assert!(json["are_experts_packed"] == true && json["decode_packing_ms_per_token"] == 0.0, "{json}{said}");
    let (text, said) = answer(folder.path(), &[]);
    assert!(text == expected && !said.contains("is not used"), "{said}");
    let listed =
        command::moewe(folder.path()).args(["list", "--json"]).env("MOEWE_MODELS", folder.path()).output();
    let listed: Json = serde_json::from_str(&stdout(&listed.unwrap())).unwrap();
    let entry = listed.as_array().unwrap().iter().find(|entry| entry["name"] == "tiny").unwrap().clone();
    assert!(entry["are_packed_experts_current"] == true, "{listed}");
    assert_eq!(listed.as_array().unwrap().len(), 2, "the side file is no model: {listed}");
}

#[test]
fn a_side_file_that_does_not_fit_is_told_and_left_alone() {
    let folder = place();
    let (expected, _) = answer(folder.path(), &[]);
    assert!(moewe(folder.path(), &["pack", "tiny.gguf", "--yes"]).0);
    let side = folder.path().join("tiny.gguf.experts");
    let whole = std::fs::read(&side).unwrap();
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    for (bytes, part) in [
        (whole[..whole.len() - 1].to_vec(), "experts within"),
        (whole[..100].to_vec(), "expected"),
        (flipped(0), "a file of packed experts"),
        (flipped(8), "version 1"),
        (flipped(20), "it is damaged"),
    ] {
        std::fs::write(&side, bytes).unwrap();
        let (text, said) = answer(folder.path(), &[]);
        assert!(text == expected && said.contains("not used") && said.contains(part), "{part}: {said}");
    }
    std::fs::write(&side, flipped(whole.len() - 4096)).unwrap();
    let (good, _, said) = moewe(folder.path(), &["pack", "tiny.gguf", "--verify"]);
    assert!(!good && said.contains("of layer 1 differs"), "{said}");
    // The same bytes, written at another time, may be another model's.
    std::fs::write(&side, &whole).unwrap();
    let model = std::fs::File::options().write(true).open(folder.path().join("tiny.gguf")).unwrap();
    model.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1)).unwrap();
    let (text, said) = answer(folder.path(), &[]);
    assert!(text == expected && said.contains("before it was changed"), "{said}");
    let (good, _, said) = moewe(folder.path(), &["pack", "tiny.gguf", "--verify"]);
    assert!(!good && said.contains("pack it again"), "{said}");
    assert!(moewe(folder.path(), &["pack", "tiny.gguf", "--yes"]).0, "a stale one is replaced");
    assert!(!answer(folder.path(), &[]).1.contains("not used"));
}

/// Möwe-mini in a folder of its own: six layers in a format that kernels want in panels.
fn mini() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mini.gguf");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/moewe-mini/moewe-mini.gguf");
    std::fs::copy(source, &path).unwrap();
    (folder, path)
}

#[test]
fn what_was_stopped_goes_on_where_it_was() {
    let (folder, path) = mini();
    let gguf = Gguf::open(&path).unwrap();
    let model = Model::bind(&gguf).unwrap();
    let (store, isa) = (&model.weights.experts, Isa::detect());
    let whole = store.pack(&gguf, isa, |_, _| true).unwrap();
    let side = SideFile::path(&gguf).unwrap();
    let expected = std::fs::read(&side).unwrap();
    assert_eq!((whole.bytes, whole.kept_layers), (expected.len() as u64, 0));
    std::fs::remove_file(&side).unwrap();
    let mut turns = 0;
    let stopped = store.pack(&gguf, isa, |_, _| {
        turns += 1;
        turns < 4
    });
    assert!(matches!(stopped, Err(Error::Stopped)) && names(folder.path()).len() == 2);
    // What an end in the middle leaves behind the last layer is written anew.
    let part = folder.path().join("mini.gguf.experts.part");
    let mut bytes = std::fs::read(&part).unwrap();
    bytes.extend([7; 1000]);
    std::fs::write(&part, &bytes).unwrap();
    let holder = std::fs::File::open(&part).unwrap();
    holder.lock().unwrap();
    let busy = store.pack(&gguf, isa, |_, _| true).unwrap_err().to_string();
    assert!(busy.contains("is being written by another process"), "{busy}");
    drop(holder);
    let again = store.pack(&gguf, isa, |_, _| true).unwrap();
    assert_eq!(again.kept_layers, 3);
    assert!(std::fs::read(&side).unwrap() == expected, "other bytes than in one go");
    assert_eq!(names(folder.path()), ["mini.gguf", "mini.gguf.experts"]);
    // For other kernels they lie otherwise, which is told by the reason.
    let options = |isa| moewe_engine::session::Options { isa: Some(isa), ..Default::default() };
    let open = |isa| moewe_engine::session::Engine::open(&path, options(isa)).unwrap();
    assert!(open(isa).has_packed_experts());
    assert_eq!(open(Isa::Portable).has_packed_experts(), isa == Isa::Portable);
}

/// A limit on the size of files is a full disk to whoever writes.
#[cfg(unix)]
#[test]
fn a_disk_that_is_full_in_the_middle_leaves_what_goes_on() {
    let folder = place();
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", r#"ulimit -f 32; exec "$@""#, "sh", env!("CARGO_BIN_EXE_moewe")]);
    let output = limited.current_dir(folder.path()).args(["pack", "tiny.gguf", "--yes"]).output().unwrap();
    assert!(
        !output.status.success() && stderr(&output).contains("experts.part: cannot write"),
        "{}",
        stderr(&output)
    );
    assert_eq!(names(folder.path()), ["tiny.gguf", "tiny.gguf.experts.part"]);
    assert!(moewe(folder.path(), &["pack", "tiny.gguf", "--yes"]).0);
    assert_eq!(names(folder.path()), ["tiny.gguf", "tiny.gguf.experts"]);
    assert!(moewe(folder.path(), &["pack", "tiny.gguf", "--verify"]).0);
}

#[test]
fn a_split_model_has_one_side_file_and_one_in_the_program_none() {
    let folder = place();
    let source = Gguf::open(folder.path().join("tiny.gguf")).unwrap();
    let tensors = source.tensors();
    let path = |number: usize| folder.path().join(format!("split-{number:05}-of-00002.gguf"));
    for (number, half) in
        [&tensors[..tensors.len() / 2], &tensors[tensors.len() / 2..]].into_iter().enumerate()
    {
        let mut metadata = if number == 0 { source.metadata().clone() } else { Metadata::default() };
        metadata.set("split.no", Value::U16(number as u16));
        metadata.set("split.count", Value::U16(2));
        metadata.set("split.tensors.count", Value::I32(tensors.len() as i32));
        let directory = half.iter().map(|tensor| (tensor.name.clone(), tensor.format, tensor.shape.clone()));
        let mut writer =
            Writer::new(metadata, directory.collect()).unwrap().create(&path(number + 1)).unwrap();
        half.iter().for_each(|tensor| writer.write_tensor(&source.bytes(tensor)).unwrap());
        writer.finish().unwrap();
    }
    let split = "split-00001-of-00002.gguf";
    let (good, _, said) = moewe(folder.path(), &["pack", split, "--yes"]);
    assert!(good, "{said}");
    assert!(moewe(folder.path(), &["pack", split, "--verify"]).0);
    let gguf = Gguf::open(path(1)).unwrap();
    assert!(SideFile::beside(&gguf).unwrap().unwrap().is_of(&gguf));
    // Another time of the second part is another model.
    let second = std::fs::File::options().write(true).open(path(2)).unwrap();
    second.set_modified(std::time::UNIX_EPOCH).unwrap();
    assert!(!SideFile::beside(&gguf).unwrap().unwrap().is_of(&gguf));
    let (good, _, said) = moewe(folder.path(), &["pack", "moewe-mini", "--yes"]);
    assert!(!good, "{said}");
}
