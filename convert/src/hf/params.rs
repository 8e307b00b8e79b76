//! The lengths ([`Dim`]) that shapes and metadata are made of, as a configuration says or implies them. Every length is
//! bounded here, before anything is built on it.

use super::class::Class;
use super::config::{Config, names_of};
use super::wide;
use moewe_engine::{Error, Result};
use serde_json::{Map, Value};
use std::ops::Deref;

/// Lengths that tensors and metadata are described in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dim {
    /// Tokens of the vocabulary.
    Vocab,
    /// Positions that the model was made for.
    Context,
    /// Width of the residual stream.
    Embedding,
    /// Layers.
    Layers,
    /// Query heads.
    Heads,
    /// Key and value heads.
    HeadsKv,
    /// Width of a head.
    Head,
    /// All query heads side by side.
    Q,
    /// All key heads side by side.
    Kv,
    /// Queries, keys and values side by side.
    Qkv,
    /// Hidden width of a dense feed-forward layer.
    Ff,
    /// Hidden width of one expert.
    ExpertFf,
    /// Hidden width of all shared experts together.
    SharedFf,
    /// Experts per layer.
    Experts,
    /// Experts that a token uses.
    ExpertsUsed,
    /// Experts that every token uses.
    ExpertsShared,
    /// Latent attention: rank of the query projection.
    QRank,
    /// Latent attention: rank of the key-value projection.
    KvRank,
    /// Latent attention: rotated part of a head's key.
    HeadRope,
    /// Latent attention: part of a head's key without position.
    HeadPlain,
    /// Latent attention: width of a head's value.
    HeadValue,
    /// Latent attention: a head's whole key.
    HeadKey,
    /// Latent attention: the latent and the rotated key side by side.
    KvLatent,
    /// Latent attention: what a cached position holds, as metadata has it.
    Keys,
    /// Latent attention: all values side by side.
    Values,
    /// One.
    One,
    /// Width of a head in layers that see everything, where those have heads of their own.
    WideHead,
    /// Key heads of such layers.
    WideHeadsKv,
    /// All query heads of such a layer side by side.
    WideQ,
    /// All key heads of such a layer side by side.
    WideKv,
    /// Gates and hidden units of one expert.
    ExpertGateUp,
    /// Three times the residual stream.
    Embedding3,
    /// Queries and what gates attention's output, head by head.
    QGated,
    /// Convolution before a state: positions that it sees.
    Taps,
    /// Delta rule: heads of keys.
    KeyHeads,
    /// Delta rule: heads of values.
    ValueHeads,
    /// Delta rule: width of a key.
    KeyWidth,
    /// Delta rule: width of a value.
    ValueWidth,
    /// Delta rule: all keys side by side.
    DeltaKeys,
    /// Delta rule: all values side by side.
    DeltaValues,
    /// Delta rule: all values that belong to one key head.
    ValuesPerKey,
    /// Delta rule: queries, keys and values side by side.
    DeltaQkv,
    /// Delta rule: two numbers for each value head.
    DeltaPairs,
    /// Mamba-2: heads.
    StateHeads,
    /// Mamba-2: width of a head.
    StateHead,
    /// Mamba-2: groups that share what is written into a state and read from it.
    StateGroups,
    /// Mamba-2: numbers that a state keeps for each element of a head.
    State,
    /// Mamba-2: all heads side by side.
    Inner,
    /// Mamba-2: heads of one group side by side.
    GroupWidth,
    /// Mamba-2: heads, and what groups write and read.
    Channels,
    /// Mamba-2: the gate, the channels, and a time step for each head.
    Mixed,
    /// Width of what routed experts see where that is not the residual stream.
    Latent,
    /// Width of what routed experts see.
    ExpertIn,
    /// Heads of the indexer.
    IndexHeads,
    /// Width of the indexer's heads and keys.
    IndexHead,
    /// All heads of the indexer side by side.
    IndexQ,
    /// Positions that the indexer chooses.
    IndexBest,
    /// A position's parts in two neighbouring keys of the indexer.
    IndexHead2,
    /// Groups of heads that have an output matrix each.
    OutGroups,
    /// What such a matrix yields.
    OutRank,
    /// What all of them yield, side by side.
    OutRanks,
    /// All heads of such a group side by side.
    OutGroupIn,
    /// Three.
    Three,
    /// Residual streams.
    Streams,
    /// All residual streams side by side.
    StreamsWide,
    /// What mixes streams: weights of each for the input and the output, and of each for each.
    StreamMix,
    /// Compressed attention: positions that become one where an indexer chooses.
    RatioSparse,
    /// Compressed attention: positions that become one where all are seen.
    RatioHeavy,
    /// Compressed attention: a position's parts in two neighbouring entries.
    Head2,
}

/// Positions that become one where an indexer chooses among them.
pub(super) const SPARSE: u64 = 4;
/// Positions that become one where all of them are seen.
pub(super) const HEAVY: u64 = 128;

/// One of the names under which configurations hold a length (`models/names.rs` has the others), and the most it may be.
const NAMES: &[(Dim, u64, &str)] = &[
    (Dim::Vocab, 1 << 24, "vocab_size"),
    (Dim::Context, 1 << 30, "max_position_embeddings"),
    (Dim::Embedding, 1 << 20, "hidden_size"),
    (Dim::Layers, 1 << 12, "num_hidden_layers"),
    (Dim::Heads, 1 << 14, "num_attention_heads"),
    (Dim::HeadsKv, 1 << 14, "num_key_value_heads"),
    (Dim::Head, 1 << 16, "head_dim"),
    (Dim::Ff, 1 << 24, "intermediate_size"),
    (Dim::ExpertFf, 1 << 24, "moe_intermediate_size"),
    (Dim::SharedFf, 1 << 24, "shared_expert_intermediate_size"),
    (Dim::Experts, 1 << 16, "num_local_experts"),
    (Dim::ExpertsUsed, 1 << 16, "num_experts_per_tok"),
    (Dim::ExpertsShared, 1 << 12, "n_shared_experts"),
    (Dim::QRank, 1 << 20, "q_lora_rank"),
    (Dim::KvRank, 1 << 20, "kv_lora_rank"),
    (Dim::HeadRope, 1 << 16, "qk_rope_head_dim"),
    (Dim::HeadPlain, 1 << 16, "qk_nope_head_dim"),
    (Dim::HeadValue, 1 << 16, "v_head_dim"),
    (Dim::Taps, 1 << 8, "linear_conv_kernel_dim"),
    (Dim::KeyHeads, 1 << 14, "linear_num_key_heads"),
    (Dim::ValueHeads, 1 << 14, "linear_num_value_heads"),
    (Dim::KeyWidth, 1 << 16, "linear_key_head_dim"),
    (Dim::ValueWidth, 1 << 16, "linear_value_head_dim"),
    (Dim::StateHeads, 1 << 14, "mamba_num_heads"),
    (Dim::StateHead, 1 << 16, "mamba_head_dim"),
    (Dim::StateGroups, 1 << 14, "n_groups"),
    (Dim::State, 1 << 16, "ssm_state_size"),
    (Dim::Latent, 1 << 20, "moe_latent_size"),
    (Dim::IndexHeads, 1 << 14, "index_n_heads"),
    (Dim::IndexHead, 1 << 16, "index_head_dim"),
    (Dim::IndexBest, 1 << 28, "index_topk"),
];

/// A configuration, and the lengths that it says or implies.
#[derive(Clone, Debug)]
pub struct Params(Config);

impl Deref for Params {
    type Target = Config;
    fn deref(&self) -> &Config {
        &self.0
    }
}

impl Params {
    /// Takes a configuration as it stands.
    #[cfg(test)]
    pub(super) fn plain(config: &Value) -> Self {
        Self(Config::plain(config))
    }

    /// Takes a configuration as its class understands it.
    pub(super) fn new(config: &Map<String, Value>, class: Option<Class>) -> Result<Self> {
        Config::new(config, class).map(Self)
    }

    /// The same configuration with another head.
    pub(super) fn with_tied(mut self, tied: bool) -> Self {
        self.0.json["tie_word_embeddings"] = tied.into();
        self
    }

    /// The same configuration with a larger vocabulary.
    pub(crate) fn with_vocabulary(mut self, rows: u64) -> Self {
        for name in names_of("vocab_size") {
            if let Some(size) = self.0.json.get_mut(*name) {
                *size = rows.into();
            }
        }
        self
    }

    /// A length that must be known.
    ///
    /// # Errors
    /// When it is not known, 0, or as [`Params::maybe`].
    pub fn dim(&self, dim: Dim) -> Result<u64> {
        self.maybe(dim)?.filter(|&length| length > 0).ok_or_else(|| {
            let names = NAMES.iter().find(|row| row.0 == dim).map_or("", |row| row.2);
            Error::malformed(format!("config, {names}"), format!("the length {dim:?}"), "none")
        })
    }

    /// A length, where the configuration says or implies it.
    ///
    /// # Errors
    /// When it is no whole number, larger than any model's, or told differently under two names.
    pub fn maybe(&self, dim: Dim) -> Result<Option<u64>> {
        if dim == Dim::StateHead && self.raw("mamba_d_head").is_some_and(|width| width == "auto") {
            let inner = self.uint(&["mamba_expand"])?.unwrap_or(2).saturating_mul(self.dim(Dim::Embedding)?);
            return Ok(Some(inner / self.dim(Dim::StateHeads)?).filter(|&width| width <= 1 << 16));
        }
        if let Some((_, most, name)) = NAMES.iter().find(|row| row.0 == dim)
            && let Some(length) = self.uint(names_of(name))?
        {
            self.agree(names_of(name), length)?;
            if length > *most {
                return Err(Error::malformed(format!("config, {name}"), format!("at most {most}"), length));
            }
            return Ok(Some(length));
        }
        self.implied(dim)
    }

    /// A length that goes by several names has one value.
    fn agree(&self, names: &[&str], length: u64) -> Result<()> {
        for name in names {
            if let Some(other) = self.uint(&[name])?.filter(|&other| other != length) {
                let place = format!("config, {name}");
                return Err(Error::malformed(place, format!("{length} as under another name"), other));
            }
        }
        Ok(())
    }

    /// Lengths that follow from others. All factors are bounded, so products fit.
    fn implied(&self, dim: Dim) -> Result<Option<u64>> {
        let product = |a: Dim, b: Dim| Ok(Some(self.dim(a)? * self.dim(b)?));
        let sum = |a: Dim, b: Dim| Ok(Some(self.dim(a)? + self.dim(b)?));
        match dim {
            Dim::HeadsKv => self.maybe(Dim::Heads),
            Dim::Layers => self.listed_layers(),
            Dim::Head => {
                let (width, heads) = (self.dim(Dim::Embedding)?, self.dim(Dim::Heads)?);
                if width % heads != 0 {
                    return Err(Error::malformed(
                        "config",
                        format!("a width that {heads} heads divide"),
                        width,
                    ));
                }
                Ok(Some(width / heads))
            }
            Dim::Q => product(Dim::Heads, Dim::Head),
            Dim::Kv => product(Dim::HeadsKv, Dim::Head),
            Dim::Qkv => Ok(Some(self.dim(Dim::Q)? + 2 * self.dim(Dim::Kv)?)),
            // GPT-2's convention where no width is given.
            Dim::Ff => Ok(self.uint(&["n_embd"])?.map(|width| 4 * width)),
            Dim::ExpertFf => self.maybe(Dim::Ff),
            Dim::SharedFf => {
                let Some(count) = self.maybe(Dim::ExpertsShared)? else { return Ok(None) };
                let each = match self.uint(&["d_shared_ff", "moe_shared_expert_intermediate_size"])? {
                    Some(each) if each <= 1 << 24 => each,
                    Some(each) => {
                        let place = "config, width of a shared expert";
                        return Err(Error::malformed(place, "at most 2^24", each));
                    }
                    None => self.dim(Dim::ExpertFf)?,
                };
                Ok(Some(count * each))
            }
            Dim::HeadKey => sum(Dim::HeadPlain, Dim::HeadRope),
            Dim::KvLatent => sum(Dim::KvRank, Dim::HeadRope),
            Dim::Keys => product(Dim::Heads, Dim::HeadKey),
            Dim::Values => product(Dim::Heads, Dim::HeadValue),
            Dim::WideHead => self.wide_heads().map(|(_, head)| Some(head)),
            Dim::WideHeadsKv => self.wide_heads().map(|(heads, _)| Some(heads)),
            Dim::WideQ => product(Dim::Heads, Dim::WideHead),
            Dim::WideKv => product(Dim::WideHeadsKv, Dim::WideHead),
            Dim::IndexQ => product(Dim::IndexHeads, Dim::IndexHead),
            Dim::ExpertGateUp => Ok(Some(2 * self.dim(Dim::ExpertFf)?)),
            Dim::One => Ok(Some(1)),
            Dim::Embedding3 => Ok(Some(3 * self.dim(Dim::Embedding)?)),
            Dim::QGated => Ok(Some(2 * self.dim(Dim::Q)?)),
            Dim::ExpertIn => match self.maybe(Dim::Latent)? {
                None => self.dim(Dim::Embedding).map(Some),
                latent => Ok(latent),
            },
            _ => self.of_states(dim),
        }
    }

    fn wide_heads(&self) -> Result<(u64, u64)> {
        let usual = (self.dim(Dim::HeadsKv)?, self.dim(Dim::Head)?);
        wide::heads(self, self.dim(Dim::Layers)?, usual)
    }

    /// Nemotron's configurations list their layers and need not count them.
    fn listed_layers(&self) -> Result<Option<u64>> {
        let count = |(_, list): (String, &Value)| match list {
            Value::Array(list) => Some(list.len() as u64),
            Value::String(letters) => Some(letters.chars().count() as u64),
            _ => None,
        };
        let count = self.get(&["layers_block_type", "hybrid_override_pattern"]).and_then(count);
        if let Some(layers) = count.filter(|&layers| layers > 1 << 12) {
            return Err(Error::malformed("config, layers_block_type", "at most 4096 layers", layers));
        }
        Ok(count)
    }

    /// A length that no architecture has under another name, and that must be there.
    pub(super) fn length(&self, name: &str, most: u64) -> Result<u64> {
        let found = self.uint(&[name])?;
        found.filter(|length| (1..=most).contains(length)).ok_or_else(|| {
            let found = found.map_or_else(|| "none".to_owned(), |found| found.to_string());
            Error::malformed(format!("config, {name}"), format!("a number from 1 to {most}"), found)
        })
    }

    /// Lengths of residual streams and compressed attention; all factors are bounded.
    fn of_compressed(&self, dim: Dim) -> Result<Option<u64>> {
        let of = |dim: Dim| self.dim(dim);
        Ok(Some(match dim {
            Dim::Three => 3,
            Dim::RatioSparse => SPARSE,
            Dim::RatioHeavy => HEAVY,
            Dim::Streams => self.length("hc_mult", 1 << 6)?,
            Dim::StreamsWide => of(Dim::Streams)? * of(Dim::Embedding)?,
            Dim::StreamMix => of(Dim::Streams)? * (of(Dim::Streams)? + 2),
            Dim::Head2 => 2 * of(Dim::Head)?,
            Dim::IndexHead2 => 2 * of(Dim::IndexHead)?,
            Dim::OutGroups => self.length("o_groups", 1 << 14)?,
            Dim::OutRank => self.length("o_lora_rank", 1 << 20)?,
            Dim::OutRanks => of(Dim::OutGroups)? * of(Dim::OutRank)?,
            Dim::OutGroupIn => of(Dim::Q)? / of(Dim::OutGroups)?,
            _ => return Ok(None),
        }))
    }

    /// Lengths of recurrent layers that follow from others.
    fn of_states(&self, dim: Dim) -> Result<Option<u64>> {
        let product = |a: Dim, b: Dim| Ok(Some(self.dim(a)? * self.dim(b)?));
        match dim {
            Dim::DeltaKeys => product(Dim::KeyHeads, Dim::KeyWidth),
            Dim::DeltaValues => product(Dim::ValueHeads, Dim::ValueWidth),
            Dim::ValuesPerKey => {
                let (of_values, of_keys) = (self.dim(Dim::ValueHeads)?, self.dim(Dim::KeyHeads)?);
                if of_values % of_keys != 0 {
                    let expected = format!("a number that {of_keys} key heads divide");
                    return Err(Error::malformed("config, linear_num_value_heads", expected, of_values));
                }
                Ok(Some(of_values / of_keys * self.dim(Dim::ValueWidth)?))
            }
            Dim::DeltaQkv => Ok(Some(2 * self.dim(Dim::DeltaKeys)? + self.dim(Dim::DeltaValues)?)),
            Dim::DeltaPairs => Ok(Some(2 * self.dim(Dim::ValueHeads)?)),
            Dim::Inner => product(Dim::StateHeads, Dim::StateHead),
            Dim::GroupWidth => {
                let (heads, groups) = (self.dim(Dim::StateHeads)?, self.dim(Dim::StateGroups)?);
                if heads % groups != 0 {
                    let place = "config, heads of states";
                    return Err(Error::malformed(
                        place,
                        format!("a number that {groups} groups divide"),
                        heads,
                    ));
                }
                Ok(Some(heads / groups * self.dim(Dim::StateHead)?))
            }
            Dim::Channels => {
                let shared = 2 * self.dim(Dim::StateGroups)? * self.dim(Dim::State)?;
                Ok(Some(self.dim(Dim::Inner)? + shared))
            }
            Dim::Mixed => {
                let rows = self.dim(Dim::Inner)? + self.dim(Dim::Channels)?;
                Ok(Some(rows + self.dim(Dim::StateHeads)?))
            }
            _ => self.of_compressed(dim),
        }
    }
}

#[cfg(test)]
mod name_tests {
    use super::*;

    #[test]
    fn every_length_stands_in_the_table_of_names() {
        for (dim, _, name) in NAMES {
            assert_eq!(names_of(name).first(), Some(name), "{dim:?} is found under no name");
        }
    }
}
