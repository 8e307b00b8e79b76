//! Whether an importance file belongs to the model that is converted. Names and lengths tell: a file of another model
//! would weigh nothing, or weigh wrongly, and nobody would see it in the result.

use super::{guide::Guide, inputs::Inputs};
use crate::options::Options;
use crate::recipe::{Recipe, Role, is_quantizable};
use crate::tensor::Tensor;
use moewe_engine::eval::Importance;
use moewe_engine::quant::Kind;
use moewe_engine::{Error, Result};
use std::collections::HashSet;

/// A matrix for each head or group of heads: the two halves of latent attention's `attn_kv_b`, and what puts heads out in
/// groups. Our forward does not observe them; llama.cpp writes entries of one row or of one per head, or of the whole, as
/// its version has it. So they say nothing about whose importance this is.
const PER_HEAD: [&str; 4] =
    ["attn_k_b.weight", "attn_v_b.weight", "attn_kv_b.weight", "attn_output_a.weight"];
/// Names in a message; the others are counted.
const NAMED: usize = 4;

/// Tensors that are rounded without importance although a file was given, which is an error unless it may be partial.
pub(crate) fn check(tensors: &[Tensor], head: &str, options: &Options) -> Result<Vec<String>> {
    let Some(importance) = &options.importance else { return Ok(vec![]) };
    let file = importance.file.as_ref().map_or("the importance".into(), |file| file.display().to_string());
    let refuse = |what: String| Err(Error::request(format!("{file}: {what}")));
    let wrong = wrong_lengths(importance, tensors, head);
    if !wrong.is_empty() {
        return refuse(format!("this is the importance of another model: {}", listed(&wrong)));
    }
    let missing = missing(importance, tensors, head, options);
    if options.allow_partial {
        let fits = |tensor: &Tensor| is_known(importance, Inputs::of(&tensor.subject, head).observed());
        return if tensors.iter().any(fits) {
            Ok(missing)
        } else {
            refuse("it tells nothing of this model".into())
        };
    }
    let strange = strange(importance, tensors, head);
    if !strange.is_empty() {
        let what = "this is the importance of another model, or of more than this one: it has none of";
        return refuse(format!("{what} {}; --allow-partial takes what fits", listed(&strange)));
    }
    match missing.is_empty() {
        true => Ok(missing),
        false => refuse(format!(
            "no importance for {}; --allow-partial rounds these without, `moewe importance` measures all",
            listed(&missing)
        )),
    }
}

/// Tensors of the model whose entries have another length.
fn wrong_lengths(importance: &Importance, tensors: &[Tensor], head: &str) -> Vec<String> {
    let wrong = |tensor: &Tensor| {
        let inputs = Inputs::of(&tensor.subject, head);
        let (found, expected) =
            (importance.entries.get(inputs.observed())?.sums.len(), inputs.experts * inputs.columns);
        (found != expected && !is_per_head(inputs.name))
            .then(|| format!("{} with {found} columns, not {expected}", inputs.observed()))
    };
    tensors.iter().filter_map(wrong).collect()
}

fn is_per_head(name: &str) -> bool {
    PER_HEAD.iter().any(|ending| name.ends_with(ending))
}

/// Entries for tensors that the model does not have.
fn strange(importance: &Importance, tensors: &[Tensor], head: &str) -> Vec<String> {
    let known = tensors
        .iter()
        .flat_map(|tensor| [tensor.subject.name.as_str(), Inputs::of(&tensor.subject, head).observed()]);
    let known: HashSet<&str> = known.collect();
    let strange = |name: &&String| !known.contains(name.as_str()) && !is_per_head(name);
    importance.entries.keys().filter(strange).cloned().collect()
}

/// Tensors that are rounded and have no importance. llama.cpp measures neither the embedding, which is no factor of a
/// product, nor the head, unless it is asked to.
fn missing(importance: &Importance, tensors: &[Tensor], head: &str, options: &Options) -> Vec<String> {
    if matches!(options.recipe, Recipe::Uniform(format) if format.kind == Kind::Float) {
        return vec![];
    }
    let nothing = Guide::default();
    let is_missing = |tensor: &&Tensor| {
        let question = nothing.question(&tensor.subject, head);
        is_quantizable(question)
            && !question.is_original
            && !is_per_head(question.name)
            && !matches!(question.role(), Role::Embedding | Role::Head)
            && !is_known(importance, question.name)
    };
    tensors.iter().filter(is_missing).map(|tensor| tensor.subject.name.clone()).collect()
}

/// Whether anything was measured of a tensor: sums of zeros weigh nothing.
fn is_known(importance: &Importance, tensor: &str) -> bool {
    let entry = importance.entries.get(tensor);
    entry.is_some_and(|entry| {
        entry.counts.iter().any(|&count| count > 0.0) && entry.sums.iter().any(|&sum| sum > 0.0)
    })
}

/// The first names, and how many there are beyond.
pub(crate) fn listed(names: &[String]) -> String {
    let named = names[..names.len().min(NAMED)].join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}
