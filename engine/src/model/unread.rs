//! Keys of a file's architecture that nothing here has read. What only repeats the tensors or concerns other uses passes;
//! what changes a model's logits and is not computed here is refused by name; the rest is said.
//!
//! Names are those of llama.cpp's `LLM_KV_NAMES` (autumn 2026) and two of ollama's. A key that llama.cpp does not know
//! either must not keep a file from running: it is a warning.

use super::keys::Keys;
use crate::error::{Error, Result};
use crate::gguf::Value;

/// Told by the tensors as well, read where it applies only, or without a part in computing logits.
static HARMLESS: &[&str] = &[
    "attention.kv_lora_rank",
    "attention.layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon",
    "attention.q_lora_rank",
    "attention.sliding_window_pattern", // without a window
    "attention.temperature_length",     // without a scale
    "classifier.output_labels",
    "decoder_start_token_id",
    "expert_count",
    "expert_feed_forward_length",
    "expert_gating_func",
    "expert_group_count",
    "expert_group_used_count",
    "expert_layer_frequency", // of German MoE GPT, in the converter's words
    "expert_shared_count",
    "expert_shared_feed_forward_length",
    "expert_used_count",
    "expert_weights_norm",
    "expert_weights_scale",
    "feed_forward_length",
    "interleave_moe_layer_step",
    "leading_dense_block_count",
    "moe_every_n_layers",
    "n_deepstack_layers",
    "nextn_predict_layers",
    "pooling_type",
    "rope.dimension_sections", // text has one position in all sections
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "rope.scaling.yarn_ext_factor",
    "rope.scaling.yarn_log_multiplier",
    "tensor_data_layout",
    "vocab_size",
];

/// A value under which a key changes nothing.
enum Neutral {
    /// Zero, in every place of an array.
    Zero,
    One,
    True,
    False,
    /// What another key of the architecture says.
    SameAs(&'static str),
    /// There is none.
    Never,
}
use Neutral::{False, Never, One, SameAs, True, Zero};

/// What changes the logits.
static COMPUTING: &[(&str, Neutral)] = &[
    ("activation_sparsity_scale", Zero),
    ("altup.num_inputs", Zero),
    ("attention.causal", True),
    ("attention.clamp_kqv", Zero),
    ("attention.indexer.head_count", Zero),
    ("attention.indexer.top_k", Zero),
    ("attention.key_length_mla", SameAs("attention.key_length")),
    ("attention.key_length_swa", SameAs("attention.key_length")),
    ("attention.max_alibi_bias", Zero),
    ("attention.output_scale", One),
    ("attention.relative_buckets_count", Zero),
    ("attention.shared_kv_layers", Zero),
    ("attention.temperature_scale", Zero),
    ("attention.value_length_mla", SameAs("attention.value_length")),
    ("attention.value_length_swa", SameAs("attention.value_length")),
    ("attn_logit_softcapping", Zero),
    ("decoder_block_count", Zero),
    ("embedding_length_out", SameAs("embedding_length")),
    ("embedding_length_per_layer_input", Zero),
    ("expert_chunk_feed_forward_length", Zero),
    ("expert_group_scale", One),
    ("experts_per_group", Zero),
    ("final_logit_softcapping", Zero),
    ("full_attention_interval", Zero),
    ("kda.head_dim", Zero),
    ("moe_latent_size", Zero),
    ("rescale_every_n_layers", Zero),
    ("rope.dimension_count_swa", SameAs("rope.dimension_count")),
    ("rope.freq_base_swa", SameAs("rope.freq_base")),
    ("rope.global.freq_base", Never), // ollama's Gemma 3, in the place of freq_base and freq_base_swa
    ("rope.local.freq_base", Never),
    ("rope.scaling.alpha", Zero),
    ("router_logit_softcapping", Zero),
    ("shortconv.l_cache", Zero),
    ("ssm.conv_kernel", Zero),
    ("ssm.inner_size", Zero),
    ("swiglu_clamp_exp", Zero),
    ("swiglu_clamp_shexp", Zero),
    ("swin_norm", False),
    ("token_shift_count", Zero),
    ("use_parallel_residual", False),
    ("wkv.head_size", Zero),
];

/// What is to be said of one key.
#[derive(Debug, PartialEq)]
enum Verdict {
    Passes,
    Changes,
    Unknown,
}

/// Refuses keys that change what a model computes, and says which ones nobody knows.
///
/// # Errors
/// With the first key that asks for something that is not computed here.
pub(super) fn refuse(keys: &Keys<'_>) -> Result<()> {
    let mut unknown = Vec::new();
    for (name, value) in keys.unread() {
        match judge(keys, name, value) {
            Verdict::Passes => {}
            Verdict::Changes => {
                return Err(Error::unsupported(
                    format!(
                        "key `{}` ({}) changes what the model computes",
                        keys.full(name),
                        value.describe()
                    ),
                    "that is not computed here for this architecture",
                ));
            }
            Verdict::Unknown => unknown.push(name),
        }
    }
    if let Some(first) = unknown.first() {
        let first = keys.full(first);
        let more = match unknown.len() - 1 {
            0 => String::new(),
            more => format!(" (nor are {more} more)"),
        };
        tracing::warn!("key `{}` is not known here{more} and has no effect", first.escape_debug());
    }
    Ok(())
}

fn judge(keys: &Keys<'_>, name: &str, value: &Value) -> Verdict {
    if HARMLESS.contains(&name) {
        return Verdict::Passes;
    }
    match COMPUTING.iter().find(|(known, _)| *known == name) {
        None => Verdict::Unknown,
        Some((_, neutral)) if neutral.is(keys, value) => Verdict::Passes,
        Some(_) => Verdict::Changes,
    }
}

impl Neutral {
    fn is(&self, keys: &Keys<'_>, value: &Value) -> bool {
        let number = |value: &Value| value.as_f32().or_else(|| value.as_i64().map(|number| number as f32));
        match self {
            Zero => match value.as_array().and_then(|array| array.as_f32s()) {
                Some(all) => all.iter().all(|number| *number == 0.0),
                None => number(value) == Some(0.0),
            },
            One => number(value) == Some(1.0),
            True => value.as_bool() == Some(true),
            False => value.as_bool() == Some(false),
            SameAs(other) => keys.value(other).and_then(number) == number(value) && number(value).is_some(),
            Never => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::{Bytes, Gguf, Metadata, Writer};

    fn file(entries: &[(&str, Value)]) -> Gguf {
        let mut metadata = Metadata::new();
        metadata.set("x.rope.freq_base", 5e5f32);
        metadata.set("other.swin_norm", true);
        entries.iter().for_each(|(key, value)| metadata.set(format!("x.{key}"), value.clone()));
        let none: Vec<(String, _, _)> = vec![];
        let file = Writer::new(metadata, none).unwrap().over(Vec::new()).unwrap().into_inner().unwrap();
        Gguf::from_bytes(Bytes::from(file)).unwrap()
    }

    #[test]
    fn tables_are_sorted_and_apart() {
        assert!(HARMLESS.is_sorted() && COMPUTING.is_sorted_by_key(|(name, _)| name));
        assert!(COMPUTING.iter().all(|(name, _)| !HARMLESS.contains(name)));
    }

    #[test]
    fn what_changes_the_logits_is_refused_by_name() {
        for (name, neutral, other) in [
            ("attention.clamp_kqv", Value::F32(0.0), Value::F32(8.0)),
            ("attention.causal", Value::Bool(true), Value::Bool(false)),
            ("final_logit_softcapping", Value::F32(0.0), Value::F32(30.0)),
            ("swin_norm", Value::Bool(false), Value::Bool(true)),
            ("attention.shared_kv_layers", Value::U32(0), Value::U32(10)),
            ("rope.freq_base_swa", Value::F32(5e5), Value::F32(1e4)),
            ("swiglu_clamp_exp", vec![0f32; 3].into(), vec![0f32, 7.0, 0.0].into()),
        ] {
            let neutral = file(&[(name, neutral)]);
            refuse(&Keys::new(&neutral, "x")).unwrap();
            let other = file(&[(name, other)]);
            let error = refuse(&Keys::new(&other, "x")).unwrap_err().to_string();
            assert!(error.contains(&format!("key `x.{name}`")), "{error}");
        }
    }

    #[test]
    fn what_was_read_or_is_unknown_passes() {
        let file = file(&[("attention.clamp_kqv", Value::F32(8.0)), ("hobby", "gulls".into())]);
        let keys = Keys::new(&file, "x");
        assert_eq!(keys.float("attention.clamp_kqv").unwrap(), Some(8.0));
        assert_eq!(keys.float("rope.freq_base").unwrap(), Some(5e5));
        refuse(&keys).unwrap();
        let unread: Vec<_> = keys.unread().map(|(name, value)| judge(&keys, name, value)).collect();
        assert_eq!(unread, [Verdict::Unknown], "the hobby alone");
    }
}
