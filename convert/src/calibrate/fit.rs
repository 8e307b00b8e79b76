//! Whether an importance file belongs to the model that is converted. Names and lengths tell: a file of another model
//! would weigh nothing, or weigh wrongly, and nobody would see it in the result.

use super::Subject;
use crate::Options;
use crate::recipe::{Question, Recipe, Role, is_quantizable};
use crate::stream::Rows;
use moewe_engine::eval::Importance;
use moewe_engine::quant::Kind;
use moewe_engine::{Error, Result};
use std::collections::HashSet;

/// The two halves of latent attention's `attn_kv_b`. Our forward does not observe them; llama.cpp writes entries of one
/// row or of one per head, or of the whole, as its version has it. So they say nothing about whose importance this is.
const ABSORBED: [&str; 3] = ["attn_k_b.weight", "attn_v_b.weight", "attn_kv_b.weight"];
/// Names in a message; the others are counted.
const NAMED: usize = 4;

/// Tensors that are rounded without importance although a file was given, which is an error unless it may be partial.
pub(crate) fn check<R: Rows>(tensors: &[R], head: &str, options: &Options) -> Result<Vec<String>> {
    let Some(importance) = &options.importance else { return Ok(vec![]) };
    let file = importance.file.as_ref().map_or("the importance".into(), |file| file.display().to_string());
    let refuse = |what: String| Err(Error::request(format!("{file}: {what}")));
    let wrong = wrong_lengths(importance, tensors, head);
    if !wrong.is_empty() {
        return refuse(format!("this is the importance of another model: {}", listed(&wrong)));
    }
    let missing = missing(importance, tensors, head, options);
    if options.allow_partial {
        let fits = |tensor: &R| is_known(importance, Subject::of(tensor, head).observed());
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
fn wrong_lengths<R: Rows>(importance: &Importance, tensors: &[R], head: &str) -> Vec<String> {
    let wrong = |tensor: &R| {
        let subject = Subject::of(tensor, head);
        let (found, expected) =
            (importance.entries.get(subject.observed())?.sums.len(), subject.experts * subject.columns);
        (found != expected && !is_absorbed(subject.name))
            .then(|| format!("{} with {found} columns, not {expected}", subject.observed()))
    };
    tensors.iter().filter_map(wrong).collect()
}

fn is_absorbed(name: &str) -> bool {
    ABSORBED.iter().any(|ending| name.ends_with(ending))
}

/// Entries for tensors that the model does not have.
fn strange<R: Rows>(importance: &Importance, tensors: &[R], head: &str) -> Vec<String> {
    let known = tensors.iter().flat_map(|tensor| [tensor.name(), Subject::of(tensor, head).observed()]);
    let known: HashSet<&str> = known.collect();
    let strange = |name: &&String| !known.contains(name.as_str()) && !is_absorbed(name);
    importance.entries.keys().filter(strange).cloned().collect()
}

/// Tensors that are rounded and have no importance. llama.cpp measures neither the embedding, which is no factor of a
/// product, nor the head, unless it is asked to.
fn missing<R: Rows>(importance: &Importance, tensors: &[R], head: &str, options: &Options) -> Vec<String> {
    if matches!(options.recipe, Recipe::Uniform(format) if format.kind == Kind::Float) {
        return vec![];
    }
    let is_missing = |tensor: &&R| {
        let (name, is_original) = (tensor.name(), tensor.is_original());
        let (shape, stored) = (tensor.shape(), tensor.stored());
        let question = Question { name, shape, stored, is_original, is_head: name == head, matters: None };
        is_quantizable(question)
            && !is_original
            && !is_absorbed(name)
            && !matches!(question.role(), Role::Embedding | Role::Head)
            && !is_known(importance, name)
    };
    tensors.iter().filter(is_missing).map(|tensor| tensor.name().to_owned()).collect()
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
