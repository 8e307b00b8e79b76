//! Gemma 4's layers that see everything and have heads of their own: how many key heads, and how wide. Published files
//! name two numbers (`global_head_dim`, `num_global_key_value_heads`), transformers 5 writes them per layer.

use super::config::Config;
use super::kinds::{self, Kind, Words};
use moewe_engine::{Error, Result};
use serde_json::{Map, Value};

/// The width of the class, where nothing says one.
const WIDTH: u64 = 512;
const WORDS: Words = &[("sliding_attention", Kind::Window), ("full_attention", Kind::Attention)];

/// What layers see: as listed, or five windows to one layer that sees everything; the last always does.
pub(super) fn kinds(config: &Config, layers: u64) -> Result<Vec<Kind>> {
    let by_rule = |layer: u64| if (layer + 1).is_multiple_of(6) { Kind::Attention } else { Kind::Window };
    let listed = kinds::listed(config, layers, "layer_types", WORDS)?;
    let mut kinds = listed.unwrap_or_else(|| (0..layers).map(by_rule).collect());
    if let Some(last) = kinds.last_mut() {
        *last = Kind::Attention;
    }
    Ok(kinds)
}

/// Key heads and width of a head in layers that see everything, where other layers have `usual` ones.
pub(super) fn heads(config: &Config, layers: u64, usual: (u64, u64)) -> Result<(u64, u64)> {
    let bounded = |(heads, width): (u64, u64)| {
        let fits = (1..=1 << 14).contains(&heads) && (1..=1 << 16).contains(&width);
        let place = "config, heads of layers that see everything";
        let found = || format!("{heads} of {width}");
        if fits { Ok((heads, width)) } else { Err(Error::malformed(place, "possible numbers", found())) }
    };
    let Some((_, listed)) = config.get(&["per_layer_config"]) else {
        let heads = config.uint(&["num_global_key_value_heads"])?;
        let is_shared = config.flag(&["attention_k_eq_v"], false)?; // else the class takes no other number
        let width = config.uint(&["global_head_dim"])?.unwrap_or(WIDTH);
        return bounded((heads.filter(|_| is_shared).unwrap_or(usual.0), width));
    };
    let broken =
        |expected: &str, found: String| Error::malformed("config, per_layer_config", expected, found);
    let listed = listed.as_object().ok_or_else(|| broken("an object", listed.to_string()))?;
    let mut found = None;
    for (layer, kind) in kinds(config, layers)?.into_iter().enumerate() {
        let own = of_layer(listed, layer, usual).ok_or_else(|| {
            broken("head_dim and num_key_value_heads for each layer", format!("another thing for {layer}"))
        })?;
        let expected = if kind == Kind::Window { usual } else { *found.get_or_insert(own) };
        if own != expected {
            let what =
                format!("config: heads of {own:?} in layer {layer} (per_layer_config), {expected:?} before");
            return Err(Error::unsupported(what, "layers of one kind have the same heads"));
        }
    }
    bounded(found.unwrap_or(usual))
}

/// The numbers of one layer; `None` where something else stands there.
fn of_layer(listed: &Map<String, Value>, layer: usize, usual: (u64, u64)) -> Option<(u64, u64)> {
    let Some(own) = listed.get(&layer.to_string()) else { return Some(usual) };
    let own = own.as_object()?;
    let number = |name: &str, usual| own.get(name).map_or(Some(usual), Value::as_u64);
    let is_known = own.keys().all(|key| matches!(key.as_str(), "head_dim" | "num_key_value_heads"));
    is_known.then_some((number("num_key_value_heads", usual.0)?, number("head_dim", usual.1)?))
}
