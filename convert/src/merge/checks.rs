//! How sources may differ from the base: what would break the mixture is an error, what changes its meaning a note.

use super::assembled::PARTS;
use super::family::{Family, dense_only};
use super::member::{Member, Members};
use super::mixture::{Expert, Mixture};
use moewe_engine::gguf::Metadata;
use moewe_engine::{Error, Result};
use std::collections::HashSet;

/// Tokens named in a note.
const SHOWN: usize = 6;

/// Looks at all sources before anything is computed or written. Yields notes.
///
/// # Errors
/// Experts of another width, of other lengths, or with biases that no mixture has; one source for all experts.
pub(super) fn check(
    mixture: &Mixture,
    family: &Family,
    members: &Members,
    upcycle: bool,
) -> Result<Vec<String>> {
    let base = members.get(&mixture.base[0].0);
    let mut notes = Vec::new();
    whole(base)?;
    heads_divide(base)?;
    for (origin, _) in &mixture.base[1..] {
        same_shapes(base, members.get(origin))?;
    }
    one_for_all(mixture, upcycle)?;
    let mut seen = HashSet::new();
    for (place, expert) in mixture.named() {
        let member = members.get(&expert.source);
        expert_fits(&place, base, member)?;
        if seen.insert(&expert.source.path) && expert.source.path != mixture.base[0].0.path {
            notes.extend(differences(base, member)?);
        }
    }
    notes.extend(fillings(mixture, members)?);
    notes.extend(unused(mixture));
    let window = base.number("attention.sliding_window")?.filter(|&window| window > 0);
    notes.extend(window.map(|window| {
        format!("{} looks back through a window of {window} tokens, and so does the mixture", base.name)
    }));
    if family.gguf == "qwen2moe" {
        if window.is_some() {
            return Err(Error::unsupported(
                format!(
                    "{} looks back through a window, which mixtures with a shared expert do not",
                    base.name
                ),
                "leave the shared expert out",
            ));
        }
        notes.push(
            "llama.cpp does not read expert_weights_norm of qwen2moe files and weighs the chosen experts otherwise; moewe reads it"
                .to_owned(),
        );
    }
    Ok(notes)
}

/// Experts that are shorter than the longest.
fn fillings(mixture: &Mixture, members: &Members) -> Result<Vec<String>> {
    let hidden = |expert: &Expert| members.get(&expert.source).length("feed_forward_length");
    let lengths = mixture.experts.iter().map(hidden).collect::<Result<Vec<_>>>()?;
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let short = mixture.named().zip(lengths).filter(|(_, length)| *length < longest);
    let note = |((place, _), length): ((String, _), u64)| {
        format!(
            "{place} has {length} units in its feed-forward networks, the longest expert {longest}: zeros fill it up, which changes nothing that it computes"
        )
    };
    Ok(short.map(note).collect())
}

/// Prompts and texts that the mode makes nothing of.
fn unused(mixture: &Mixture) -> Option<String> {
    let mode = mixture.gate_mode;
    let prompts =
        mixture.named().any(|(_, expert)| !expert.positive.is_empty() || !expert.negative.is_empty());
    let texts = mixture.named().any(|(_, expert)| !expert.texts.is_empty());
    let what = match (prompts && !mode.wants_prompts(), texts && mode.name() != "text") {
        (true, _) => "prompts",
        (_, true) => "texts",
        _ => return None,
    };
    Some(format!("gate_mode {} makes nothing of the {what}; they serve the check of loads only", mode.name()))
}

/// Experts that are all the same gain nothing, unless they are to be trained apart.
fn one_for_all(mixture: &Mixture, upcycle: bool) -> Result<()> {
    let first = &mixture.experts[0];
    let same = |expert: &Expert| {
        (&expert.source.path, &expert.source.adapters) == (&first.source.path, &first.source.adapters)
            && expert.noise_scale.unwrap_or(0.0) == 0.0
    };
    if upcycle || mixture.experts.len() == 1 || !mixture.experts.iter().all(same) {
        return Ok(());
    }
    Err(Error::request(format!(
        "all experts are {}, so the mixture computes what that does, at more cost; --upcycle makes it all the same, to be trained on",
        first.source.name
    )))
}

fn expert_fits(place: &str, base: &Member, member: &Member) -> Result<()> {
    dense_only(member)?;
    let (ours, theirs) = (base.architecture()?, member.architecture()?);
    if ours != theirs {
        return Err(Error::unsupported(
            format!("{place} is of the architecture {theirs}, the base {} of {ours}", base.name),
            "take experts of the base's family",
        ));
    }
    for (key, what) in [("embedding_length", "width"), ("block_count", "number of layers")] {
        let [ours, theirs] = [base, member].map(|member| member.length(key));
        let (ours, theirs) = (ours?, theirs?);
        if ours != theirs {
            return Err(Error::unsupported(
                format!("{place} has another {what} than the base {}: {theirs}, not {ours}", base.name),
                "take experts of the base's size",
            ));
        }
    }
    whole(member)?;
    let biased = PARTS.iter().find(|part| member.find(&format!("blk.0.ffn_{part}.bias")).is_some());
    match biased {
        Some(part) => Err(Error::unsupported(
            format!("{place} has biases in its feed-forward networks (ffn_{part}.bias), which no expert has"),
            "take another expert",
        )),
        None => Ok(()),
    }
}

/// Whether all layers have the matrices of a feed-forward network in the lengths that the metadata say: a file may say
/// anything, and all that follows builds on it.
fn whole(member: &Member) -> Result<()> {
    let [layers, width, hidden] =
        ["block_count", "embedding_length", "feed_forward_length"].map(|key| member.length(key));
    let (layers, width, hidden) = (layers?, width?, hidden?);
    for layer in 0..layers {
        for part in PARTS {
            let tensor = member.tensor(&format!("blk.{layer}.ffn_{part}.weight"))?;
            let expected = if part == "down" { [width, hidden] } else { [hidden, width] };
            if tensor.subject.shape != expected {
                let place = format!("{} of {}", tensor.subject.name, member.name);
                return Err(Error::malformed(
                    place,
                    format!("{expected:?}"),
                    format!("{:?}", tensor.subject.shape),
                ));
            }
        }
    }
    Ok(())
}

/// Heads are as many equal parts of the rows, each of pairs.
fn heads_divide(base: &Member) -> Result<()> {
    for (key, part) in [("attention.head_count", "q"), ("attention.head_count_kv", "k")] {
        let heads = base.length(key)?;
        for layer in 0..base.length("block_count")? {
            let rows = base.tensor(&format!("blk.{layer}.attn_{part}.weight"))?.subject.rows();
            if heads == 0 || rows == 0 || rows % (2 * heads) != 0 {
                let place = format!("blk.{layer}.attn_{part}.weight of {}", base.name);
                return Err(Error::malformed(place, format!("rows for {heads} heads"), rows));
            }
        }
    }
    Ok(())
}

/// Whether another file can be the base's, to compute gates with.
///
/// # Errors
/// It is of another architecture, width or depth.
pub(super) fn same_base(base: &Member, other: &Member) -> Result<()> {
    let hint = "name a file of the base with --gates-from";
    let (ours, theirs) = (base.architecture()?, other.architecture()?);
    if ours != theirs {
        let what = format!("{} is not the base: it is of the architecture {theirs}, not {ours}", other.name);
        return Err(Error::unsupported(what, hint));
    }
    for key in ["embedding_length", "block_count"] {
        let [ours, theirs] = [base, other].map(|member| member.length(key));
        let (ours, theirs) = (ours?, theirs?);
        if ours != theirs {
            let what = format!("{} is not the base: its {key} is {theirs}, not {ours}", other.name);
            return Err(Error::unsupported(what, hint));
        }
    }
    whole(other)
}

/// Models whose attention is mixed have the same tensors.
fn same_shapes(base: &Member, other: &Member) -> Result<()> {
    let of_attention = |member: &Member| -> Vec<String> {
        let names = member.source.tensors().iter().map(|tensor| tensor.subject.name.clone());
        names.filter(|name| name.contains(".attn_") && !name.ends_with("norm.weight")).collect()
    };
    let (ours, theirs) = (base.architecture()?, other.architecture()?);
    if ours != theirs {
        return Err(Error::unsupported(
            format!("base_model: {} is of the architecture {theirs}, {} of {ours}", other.name, base.name),
            "only attention of one family has a mean",
        ));
    }
    if let Some(name) = of_attention(other).into_iter().find(|name| base.find(name).is_none()) {
        return Err(Error::unsupported(
            format!("base_model: {} has {name}, {} has not", other.name, base.name),
            "only attention of the same tensors has a mean",
        ));
    }
    for name in of_attention(base) {
        let tensor = base.tensor(&name)?;
        let (name, shape) = (&tensor.subject.name, &tensor.subject.shape);
        let found = other.tensor(name)?;
        if found.subject.shape != *shape {
            return Err(Error::unsupported(
                format!(
                    "base_model: {name} is {:?} in {} and {shape:?} in {}",
                    found.subject.shape, other.name, base.name
                ),
                "only attention of one shape has a mean",
            ));
        }
    }
    Ok(())
}

/// What an expert was trained with and the mixture does not have, a line each.
fn differences(base: &Member, member: &Member) -> Result<Vec<String>> {
    let architecture = base.architecture()?;
    let keys = ["rope.", "attention.layer_norm_rms_epsilon", "attention.sliding_window", "context_length"];
    let of = |metadata: &Metadata| -> Vec<(String, String)> {
        let own = metadata.iter().filter_map(|(key, value)| {
            let key = key.strip_prefix(architecture)?.strip_prefix('.')?;
            keys.iter().any(|known| key.starts_with(known)).then(|| (key.to_owned(), format!("{value:?}")))
        });
        own.collect()
    };
    let (ours, theirs) = (of(base.metadata()), of(member.metadata()));
    let missing = ours.iter().filter(|(key, _)| !theirs.iter().any(|(other, _)| other == key));
    let other = theirs.iter().filter(|pair| !ours.contains(pair)).chain(missing);
    let mut differing: Vec<&str> = other.map(|(key, _)| key.as_str()).collect();
    if frequencies(base)? != frequencies(member)? {
        differing.push("rope scaling");
    }
    let mut notes = Vec::new();
    if !differing.is_empty() {
        notes.push(format!(
            "{} was trained with another {}: attention is the base's, so the base's counts",
            member.name,
            differing.join(", ")
        ));
    }
    notes.extend(vocabulary(base, member));
    Ok(notes)
}

/// Divisors of the rotation's frequencies, where keys do not say them (Llama 3's scaling).
fn frequencies(member: &Member) -> Result<Option<Vec<f32>>> {
    let tensor = member.find("rope_freqs.weight");
    tensor.map(|tensor| tensor.read(0..tensor.subject.rows())).transpose()
}

/// Tokens that only an expert has.
fn vocabulary(base: &Member, member: &Member) -> Option<String> {
    let tokens = |member: &Member| -> Vec<String> {
        let list = member.metadata().get("tokenizer.ggml.tokens").and_then(|value| value.as_array());
        list.and_then(|list| Some(list.as_strings()?.map(str::to_owned).collect())).unwrap_or_default()
    };
    let (ours, theirs) = (tokens(base), tokens(member));
    if ours == theirs {
        return None;
    }
    let known: HashSet<&String> = ours.iter().collect();
    let own: Vec<&str> = theirs.iter().filter(|token| !known.contains(token)).map(String::as_str).collect();
    let shown = own.iter().take(SHOWN).map(|token| format!("{token:?}")).collect::<Vec<_>>().join(", ");
    Some(match own.len() {
        0 => format!("{} has another vocabulary than the base, whose counts", member.name),
        1 => format!(
            "{} has 1 token that the base lacks ({shown}): it means nothing to the mixture",
            member.name
        ),
        count => format!(
            "{} has {count} tokens that the base lacks, such as {shown}: they mean nothing to the mixture",
            member.name
        ),
    })
}
