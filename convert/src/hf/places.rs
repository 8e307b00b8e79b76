//! Where a checkpoint's matrix stands in a GGUF file, for adapters: they know a module by the checkpoint's name and have
//! no checkpoint around them.

use super::ARCHITECTURES;
use super::params::Dim;
use super::rules::{Join, Op};
use moewe_engine::{Error, Result};

/// A place of a matrix.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Place {
    /// GGUF's tensor.
    pub(crate) tensor: String,
    /// Which expert of it; all of them where a parameter holds all.
    pub(crate) expert: Option<usize>,
    /// The key that counts the heads whose rows change places, below the architecture's name.
    pub(crate) paired: Option<&'static str>,
    /// Part `.0` of `.1` of its rows.
    pub(crate) part: Option<(usize, usize)>,
    /// Which of queries, keys and values it is, where these stand below each other in one tensor.
    pub(crate) joined: Option<usize>,
}

/// Which row of a checkpoint's queries or keys stands in this row of GGUF's neighbouring pairs; heads have `head` rows.
pub(crate) fn in_pairs(row: u64, head: u64) -> u64 {
    row / head * head + row % 2 * (head / 2) + row % head / 2
}

/// All places of a parameter, such as `model.layers.3.self_attn.q_proj.weight`, in files of an architecture.
///
/// # Errors
/// It is stored in a way that no sum of two small matrices survives.
pub(crate) fn places(gguf: &str, parameter: &str) -> Result<Vec<Place>> {
    let mut found: Vec<Place> = Vec::new();
    for architecture in ARCHITECTURES.iter().filter(|known| known.gguf == gguf) {
        for rule in (architecture.rules)() {
            let names = rule
                .sources
                .iter()
                .flat_map(|source| source.names.iter().enumerate().map(move |(i, name)| (source, i, *name)));
            let hits = names.filter_map(|(source, i, name)| Some((source, i, numbers(name, parameter)?)));
            for (source, i, (layer, expert)) in hits {
                let place = Place {
                    tensor: rule.to.replace("{i}", &layer.to_string()),
                    expert,
                    paired: None,
                    part: None,
                    joined: (source.names.len() > 1).then_some(i),
                };
                let is_joined = source.names.len() > 1;
                let is_qkv = source.names.len() == 3 && source.join == Join::Rows && source.ops.is_empty();
                let place = match &source.ops[..] {
                    _ if !source.pieces.is_empty() || is_joined && !is_qkv => None,
                    [] | [Op::Squeeze] => Some(place),
                    [Op::PairHalves(Dim::Heads)] => {
                        Some(Place { paired: Some("attention.head_count"), ..place })
                    }
                    [Op::PairHalves(Dim::HeadsKv)] => {
                        Some(Place { paired: Some("attention.head_count_kv"), ..place })
                    }
                    [Op::Part(part, of)] => {
                        Some(Place { part: Some((*part as usize, *of as usize)), ..place })
                    }
                    _ => None,
                };
                let place = place.ok_or_else(|| {
                    Error::unsupported(
                        format!("{parameter} is laid out anew in GGUF, where its adapter has no place"),
                        "merge it into its base first (PEFT: merge_and_unload, then save_pretrained)",
                    )
                })?;
                if !found.contains(&place) {
                    found.push(place);
                }
            }
        }
    }
    Ok(found)
}

/// The layer and the expert that a name has where a pattern says `{i}` and `{e}`.
fn numbers(pattern: &str, name: &str) -> Option<(usize, Option<usize>)> {
    let (mut pattern, mut name, mut layer, mut expert) = (pattern, name, 0, None);
    while let Some(start) = pattern.find('{') {
        let rest = name.strip_prefix(&pattern[..start])?;
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number = rest[..digits].parse().ok()?;
        match pattern.get(start..start + 3)? {
            "{i}" => layer = number,
            "{e}" => expert = Some(number),
            // Several shared experts are one network in the file: only a single one is a matrix of it.
            "{s}" if number == 0 => {}
            _ => return None,
        }
        (pattern, name) = (&pattern[start + 3..], &rest[digits..]);
    }
    (pattern == name).then_some((layer, expert))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_find_their_places() {
        let one = |gguf: &str, parameter: &str| {
            let found = places(gguf, parameter).unwrap();
            assert_eq!(found.len(), 1, "{found:?}");
            found.into_iter().next().unwrap()
        };
        let query = one("llama", "model.layers.12.self_attn.q_proj.weight");
        assert_eq!(
            (query.tensor.as_str(), query.paired),
            ("blk.12.attn_q.weight", Some("attention.head_count"))
        );
        let query = one("qwen3moe", "model.layers.1.self_attn.q_proj.weight");
        assert_eq!((query.tensor.as_str(), query.paired), ("blk.1.attn_q.weight", None));
        let expert = one("llama", "model.layers.0.block_sparse_moe.experts.7.w2.weight");
        assert_eq!((expert.tensor.as_str(), expert.expert), ("blk.0.ffn_down_exps.weight", Some(7)));
        let fused = places("qwen3moe", "model.layers.0.mlp.experts.gate_up_proj").unwrap();
        let parts: Vec<_> = fused.iter().map(|place| (place.tensor.as_str(), place.part)).collect();
        assert_eq!(
            parts,
            [("blk.0.ffn_gate_exps.weight", Some((0, 2))), ("blk.0.ffn_up_exps.weight", Some((1, 2)))]
        );
        let key = one("bailingmoe2", "layers.2.attn.k_proj.weight");
        assert_eq!((key.tensor.as_str(), key.joined), ("blk.2.attn_qkv.weight", Some(1)));
        assert!(places("llama", "model.layers.0.nothing.weight").unwrap().is_empty());
        let error = places("deepseek2", "model.layers.0.self_attn.kv_b_proj.weight").unwrap_err().to_string();
        assert!(error.contains("kv_b_proj") && error.contains("merge_and_unload"), "{error}");
    }
}
