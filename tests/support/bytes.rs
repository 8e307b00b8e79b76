//! The reference checkpoints with a tokenizer, which they have none of: the 256 bytes.

use std::path::Path;

/// A tokenizer of the 256 bytes in GPT-2's alphabet.
fn tokenizer_of_bytes() -> String {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let others = (0..=255u8).filter(|byte| !printable(byte)).collect::<Vec<_>>();
    let letter = |byte: u8| match others.iter().position(|&other| other == byte) {
        Some(place) => char::from_u32(256 + place as u32).unwrap(),
        None => char::from(byte),
    };
    let vocab: serde_json::Map<_, _> =
        (0..=255u8).map(|byte| (letter(byte).to_string(), byte.into())).collect();
    let by_bytes = serde_json::json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
        "use_regex": true });
    serde_json::json!({ "version": "1.0", "added_tokens": [], "pre_tokenizer": by_bytes, "decoder": by_bytes,
        "model": { "type": "BPE", "vocab": vocab, "merges": [] } })
    .to_string()
}

/// A reference checkpoint with that tokenizer, in a new folder.
pub(crate) fn speaking(name: &str, folder: &Path) {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    std::fs::create_dir(folder).unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(golden.join(file), folder.join(file)).unwrap();
    }
    std::fs::write(folder.join("tokenizer.json"), tokenizer_of_bytes()).unwrap();
}
