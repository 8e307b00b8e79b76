//! What a merge is made of and what it takes, known before anything is computed: what a dry run tells.

use super::gates::Material;
use super::member::{Member, Members};
use super::mixture::{GateMode, Mixture, Origin};
use crate::recipe::by_name;
use crate::tensor::Tensor;
use moewe_engine::Result;
use moewe_engine::gguf::TensorName;
use moewe_engine::quant::Kind;
use serde::Serialize;
use std::collections::HashMap;

/// A model that something is taken from.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Ingredient {
    /// What the person calls it.
    pub name: String,
    /// What is taken: the base, which experts.
    pub parts: Vec<String>,
    /// `general.architecture`.
    pub architecture: String,
    /// Layers.
    pub layers: u64,
    /// Width of the residual stream.
    pub width: u64,
    /// Units of a feed-forward network.
    pub hidden: u64,
    /// Tokens of the embedding.
    pub vocabulary: u64,
    /// Formats of its weights, that of most weights first.
    pub formats: Vec<String>,
    /// All weights.
    pub weights: u64,
}

/// What gates are made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reading {
    /// `gate_mode`.
    pub mode: String,
    /// Prompts, and pieces of texts.
    pub passages: usize,
    /// Their tokens, which go through all layers of the base.
    pub tokens: usize,
}

/// All models of a mixture, the base first.
pub(super) fn ingredients(mixture: &Mixture, members: &Members) -> Result<Vec<Ingredient>> {
    let mut all: Vec<Ingredient> = Vec::new();
    let mut known: Vec<&Origin> = Vec::new();
    let base = match mixture.base.len() {
        1 => "base".to_owned(),
        count => format!("base (one of {count})"),
    };
    let bases = mixture.base.iter().map(|(origin, _)| (origin, base.clone()));
    let routed = mixture.experts.iter().enumerate();
    let routed = routed.map(|(e, expert)| (&expert.source, format!("expert {e}")));
    let shared = mixture.shared.iter().map(|expert| (&expert.source, "shared expert".to_owned()));
    for (origin, part) in bases.chain(routed).chain(shared) {
        let same = |known: &&Origin| (&known.path, &known.adapters) == (&origin.path, &origin.adapters);
        let place = known.iter().position(same).unwrap_or(all.len());
        if place == all.len() {
            all.push(ingredient(members.get(origin))?);
            known.push(origin);
        }
        all[place].parts.push(part);
    }
    Ok(all)
}

fn ingredient(member: &Member) -> Result<Ingredient> {
    let tensors = member.source.tensors();
    let mut formats: Vec<(String, u64)> = Vec::new();
    for tensor in tensors {
        let weights = tensor.subject.weights();
        let known = tensor.subject.stored.or(tensor.subject.float);
        let name = known.map_or("other", |format| format.name);
        match formats.iter_mut().find(|(known, _)| known == name) {
            Some((_, sum)) => *sum += weights,
            None => formats.push((name.to_owned(), weights)),
        }
    }
    formats.sort_by_key(|(_, weights)| std::cmp::Reverse(*weights));
    Ok(Ingredient {
        name: member.name.clone(),
        parts: vec![],
        architecture: member.architecture()?.to_owned(),
        layers: member.length("block_count")?,
        width: member.length("embedding_length")?,
        hidden: member.length("feed_forward_length")?,
        vocabulary: member.tensor("token_embd.weight")?.subject.rows(),
        formats: formats.into_iter().map(|(name, _)| name).collect(),
        weights: tensors.iter().map(|tensor| tensor.subject.weights()).sum(),
    })
}

/// What the gates will read.
pub(super) fn reading(mixture: &Mixture, material: &Material) -> Reading {
    let passages = &material.passages;
    Reading {
        mode: mixture.gate_mode.name().to_owned(),
        passages: passages.len(),
        tokens: passages.iter().map(|passage| passage.tokens.len()).sum(),
    }
}

/// Weights that a token uses, with `used` of so many experts.
pub(super) fn active(experts: u64, used: u64, tensors: &[Tensor]) -> u64 {
    let weights = |tensor: &Tensor| match tensor.subject.shape.len() > 2 {
        true => tensor.subject.weights() / experts * used,
        false => tensor.subject.weights(),
    };
    tensors.iter().map(weights).sum()
}

/// The program itself, its threads, and what allocators keep.
const FLOOR: u64 = 64 << 20;
/// Rows that go through a layer together, each with its inputs, hidden units and attention.
const ROWS: u64 = 512;
/// Weights that are converted at a time, in all their forms.
const CONVERTED: u64 = 8 << 20;

/// Memory that gates of so many tokens take, computed with this file of the base.
pub(super) fn gates_memory(mixture: &Mixture, base: &Member, tokens: usize) -> Result<u64> {
    if tokens == 0 {
        return Ok(0);
    }
    let (width, hidden) = (base.length("embedding_length")?, base.length("feed_forward_length")?);
    // A layer as it is read, as a file and packed for the kernels, what enters, is seen and leaves, and a batch.
    let stream = 5 * tokens as u64 * width * 4;
    let batch = ROWS.min(tokens as u64) * (8 * width + 4 * hidden) * 4;
    let sums = if mixture.gate_mode == GateMode::Text { width * width * 12 } else { 0 };
    Ok(3 * layer_bytes(base) + stream + batch + sums)
}

/// Memory that a merge takes at most beyond the mapped files of its sources. What the gates took may not have gone back
/// to the system when writing begins. `piece`: bytes of the largest tensor that is written whole.
pub(super) fn memory(gates: u64, piece: u64) -> u64 {
    let threads = rayon::current_num_threads() as u64;
    FLOOR + gates + CONVERTED * 4 + piece + threads * (8 << 20)
}

/// Bytes of the largest layer as it is stored.
fn layer_bytes(member: &Member) -> u64 {
    let mut layers: HashMap<usize, u64> = HashMap::new();
    for tensor in member.source.tensors() {
        if let Some(layer) = TensorName::of(&tensor.subject.name).layer {
            let float = tensor.subject.float.filter(|float| float.kind == Kind::Float);
            let format = tensor.subject.stored.or(float).unwrap_or_else(|| by_name("F32"));
            let bytes = format.bytes_for(tensor.subject.weights()).unwrap_or(0);
            *layers.entry(layer).or_default() += bytes;
        }
    }
    layers.into_values().max().unwrap_or(0)
}
