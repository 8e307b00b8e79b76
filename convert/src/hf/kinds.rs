//! Layers of several kinds: what a configuration's list says of each, and the arrays of metadata that follow from it.
//! Tables ask it layer by layer, so a list that cannot be understood must be refused before, with the metadata.

use super::config::Config;
use moewe_engine::gguf::Value;
use moewe_engine::{Error, Result};

/// What a layer does, as far as tensors differ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    /// Mixes positions through a state.
    Recurrent,
    /// Attends to all positions before.
    Attention,
    /// Attends to the last few positions.
    Window,
    /// Is a network of experts and nothing else.
    Experts,
    /// Is a dense network and nothing else.
    Dense,
}

/// Words of configurations, and what they mean.
pub(super) type Words = &'static [(&'static str, Kind)];

/// The list under a key, one word a layer.
pub(super) fn listed(config: &Config, layers: u64, key: &str, words: Words) -> Result<Option<Vec<Kind>>> {
    let Some((_, list)) = config.get(&[key]) else { return Ok(None) };
    let broken =
        |expected: String, found: String| Error::malformed(format!("config, {key}"), expected, found);
    let list = list.as_array().ok_or_else(|| broken("a list".into(), list.to_string()))?;
    if list.len() as u64 != layers {
        return Err(broken(format!("as many as there are layers, {layers}"), list.len().to_string()));
    }
    let kind = |word: &serde_json::Value| {
        let known = words.iter().find(|known| word == known.0).map(|known| known.1);
        known.ok_or_else(|| {
            let all: Vec<&str> = words.iter().map(|known| known.0).collect();
            broken(format!("{} for each layer", all.join(" or ")), word.to_string())
        })
    };
    list.iter().map(kind).collect::<Result<Vec<_>>>().map(Some)
}

/// A number where a layer is of a kind, 0 elsewhere.
pub(super) fn number_where(kinds: &[Kind], wanted: Kind, number: u64) -> Value {
    let number = i32::try_from(number).unwrap_or(i32::MAX); // lengths are bounded far below
    Value::from(kinds.iter().map(|&kind| if kind == wanted { number } else { 0 }).collect::<Vec<i32>>())
}

/// Whether a layer is of a kind.
pub(super) fn is(kinds: Result<Vec<Kind>>, layer: u64, wanted: Kind) -> bool {
    kinds.is_ok_and(|kinds| kinds.get(layer as usize) == Some(&wanted))
}
