//! The checkpoint readers: safetensors and PyTorch's zipped pickles, told apart by their first bytes.
//!
//! They open files by path, so each input is written to one first; put `TMPDIR` on a RAM disk.

#![no_main]

use libfuzzer_sys::fuzz_target;
use moewe_convert::checkpoint::Checkpoint;

fuzz_target!(|file: &[u8]| {
    let folder = std::env::temp_dir().join(format!("moewe-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("config.json"), r#"{"model_type":"mixtral"}"#).unwrap();
    let path = folder.join("input");
    std::fs::write(&path, file).unwrap();
    let Ok(checkpoint) = Checkpoint::open(&path) else { return };
    for tensor in checkpoint.tensors() {
        assert!(checkpoint.elements(tensor).len() <= file.len());
    }
});
