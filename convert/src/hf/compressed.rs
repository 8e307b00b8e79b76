//! Attention over compressed positions: which layers make one of how many, as configurations list it. Tables ask layer by
//! layer, so `supported` refuses before what cannot be understood.

use super::keys::Pairs;
use super::params::{Dim, HEAVY, Params, SPARSE};
use moewe_engine::gguf::Value;
use moewe_engine::{Error, Result};

/// What transformers calls the kinds of layers.
const WORDS: [(&str, u64); 3] = [
    ("sliding_attention", 0),
    ("compressed_sparse_attention", SPARSE),
    ("heavily_compressed_attention", HEAVY),
];

/// What the configuration lists: for each layer how many positions become one, 0 for none; layers that predict further
/// tokens may follow.
fn ratios(params: &Params) -> Result<Vec<u64>> {
    let layers = params.dim(Dim::Layers)? as usize;
    let broken = |found: String| {
        let expected = format!("0, {SPARSE} or {HEAVY} for each of {layers} layers");
        Error::malformed("config, compress_ratios", expected, found)
    };
    let ratio = |value: &serde_json::Value| {
        let named = WORDS.iter().find(|known| value == known.0).map(|known| known.1);
        let number = value.as_u64().filter(|ratio| WORDS.iter().any(|known| known.1 == *ratio));
        named.or(number).ok_or_else(|| broken(value.to_string()))
    };
    let Some((_, list)) = params.get(&["layer_types", "compress_ratios"]) else {
        // As the class fills it in: all compressed, from the third layer on in turns.
        let of = |layer: usize| if layer > 2 && layer % 2 == 1 { SPARSE } else { HEAVY };
        return Ok((0..layers).map(of).collect());
    };
    let list = list.as_array().ok_or_else(|| broken(list.to_string()))?;
    if list.len() < layers || list.len() > 2 * layers + 1 {
        return Err(broken(list.len().to_string()));
    }
    list.iter().map(ratio).collect()
}

/// How many positions become one in a layer; 0 where none do.
pub(super) fn ratio_of(params: &Params, layer: u64) -> u64 {
    ratios(params).ok().and_then(|ratios| ratios.get(layer as usize).copied()).unwrap_or(0)
}

pub(super) fn ratios_key(params: &Params) -> Result<Pairs> {
    let ratios: Vec<i32> = ratios(params)?.into_iter().map(|ratio| ratio as i32).collect();
    Ok(vec![("attention.compress_ratios", Value::from(ratios))])
}

pub(super) fn window(params: &Params) -> Result<Pairs> {
    let window = params.length("sliding_window", 1 << 28)?;
    Ok(vec![("attention.sliding_window", Value::from(window as u32))])
}

/// Refuses other ratios than the kinds of layers have.
pub(super) fn supported(params: &Params) -> Result<()> {
    for (name, known) in [("compress_rate_csa", SPARSE), ("compress_rate_hca", HEAVY)] {
        let rate = params.uint(&[name])?.unwrap_or(known);
        params.refuse(rate != known, &format!("{name} {rate} (only {known} is known)"))?;
    }
    for (name, known) in WORDS.iter().filter(|known| known.1 > 0) {
        let rate = params.uint(&[&format!("compress_rates.{name}")])?.unwrap_or(*known);
        params.refuse(rate != *known, &format!("compress_rates {rate} (only {known} is known)"))?;
    }
    let (heads, groups) = (params.dim(Dim::Heads)?, params.dim(Dim::OutGroups)?);
    params.refuse(heads % groups != 0, &format!("{heads} heads in {groups} groups (o_groups)"))
}
