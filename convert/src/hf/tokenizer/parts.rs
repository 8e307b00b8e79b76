//! The parts of a tokenizer.json: normalizers, pre-tokenizers, decoders and post-processors come alone or in sequences,
//! which may hold sequences.

use serde_json::Value as Json;

/// The parts of a pipeline, sequences opened.
pub(super) fn flatten(part: &Json) -> Vec<&Json> {
    let lists = ["pretokenizers", "normalizers", "decoders", "processors"];
    match lists.iter().find_map(|list| part[*list].as_array()) {
        Some(parts) => parts.iter().flat_map(flatten).collect(),
        None if part.is_object() => vec![part],
        None => vec![],
    }
}
