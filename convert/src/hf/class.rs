//! What a configuration class knows: its keys, and the values of those that a config.json leaves out. The data is
//! `config_defaults.json`, which `tests/golden/config_defaults.py` writes from transformers' own classes; the founding
//! systems, which have none there, have what their code has.

use moewe_engine::{Error, Result};
use serde_json::{Map, Value};
use std::sync::LazyLock;

static DATA: LazyLock<Value> = LazyLock::new(|| {
    let data = serde_json::from_str(include_str!("config_defaults.json"));
    data.expect("the file is written by a script and read by the tests")
});

/// Keys outside of every class that say how weights are stored or where they lie.
const STORAGE: &[&str] = &["model_type", "quantization_config", "transformers_weights", "torch_dtype"];

/// Keys of the rotation: transformers takes them apart from a class's own.
const ROTARY: &[&str] =
    &["rope_scaling", "rope_theta", "partial_rotary_factor", "original_max_position_embeddings"];

/// Keys that are read where the modelling code does, or the original code of a model did, though its configuration
/// class has no field of that name.
const READ_BESIDES: &[(&str, &[&str])] = &[
    ("deepseek_v2", DEEPSEEK),
    ("deepseek_v3", DEEPSEEK),
    ("deepseek_v4", COMPRESSED),
    ("kimi_k2", DEEPSEEK),
    ("deepseek_v32", DEEPSEEK),
    ("glm_moe_dsa", CHOOSERS),
    ("dots1", ROUTER),
    ("ernie4_5_moe", &["head_dim"]),
    ("glm4_moe", ROUTER),
    ("glm4_moe_lite", &["scoring_func", "topk_method", "first_k_dense_replace"]),
    ("gemma4_text", &["global_head_dim", "num_global_key_value_heads", "per_layer_config"]),
    ("lfm2_moe", &["tie_embedding"]),
    (
        "nemotron_h",
        &[
            "hybrid_override_pattern",
            "num_hidden_layers",
            "mamba_n_groups",
            "mamba_d_conv",
            "mamba_conv_bias",
        ],
    ),
    ("qwen3_5_moe_text", DELTA),
    ("qwen3_5_text", DELTA),
    ("qwen3_next", DELTA),
    ("gemma3_text", &["rope_local_base_freq", "sliding_window_pattern"]),
    (
        "minimax_m2",
        &[
            "rotary_dim",
            "scoring_func",
            "use_routing_bias",
            "use_qk_norm",
            "qk_norm_type",
            "attn_type_list",
            "shared_intermediate_size",
        ],
    ),
];
const CHOOSERS: &[&str] = &[
    "scoring_func",
    "topk_method",
    "moe_layer_freq",
    "index_topk_freq",
    "index_topk_pattern",
    "index_skip_topk_offset",
];
const DELTA: &[&str] = &["full_attention_interval", "attn_output_gate"];
const ROUTER: &[&str] = &["scoring_func", "topk_method"];
const COMPRESSED: &[&str] = &[
    "compress_ratios",
    "compress_rate_csa",
    "compress_rate_hca",
    "expert_dtype",
    "num_hash_layers",
    "qk_rope_head_dim",
    "topk_method",
];
const DEEPSEEK: &[&str] = &["scoring_func", "topk_method", "moe_layer_freq"];

/// Keys that cannot change what a model computes: of training, of loading, of earlier versions.
const HARMLESS: &[&str] = &[
    "_name_or_path",
    "_commit_hash",
    "_sliding_window_pattern",
    "_attn_implementation",
    "adapter_layers",
    "attention_dropout",
    "attn_implementation",
    "auto_map",
    "aux_loss_alpha",
    "balance_loss_coef",
    "cache_implementation",
    "custom_pipelines",
    "dropout",
    "embd_pdrop",
    "ep_size",
    "hidden_dropout",
    "initializer_range",
    "is_decoder",
    "mamba_ssm_dtype",
    "max_window_layers",
    "model_max_length",
    "moe_shared_expert_intermediate_size",
    "mtp_loss_scaling_factor",
    "mtp_num_hidden_layers",
    "mtp_transformer_layers",
    "mtp_use_dedicated_embeddings",
    "name_or_path",
    "num_labels",
    "num_mtp_modules",
    "num_nextn_predict_layers",
    "output_attentions",
    "output_router_logits",
    "pretraining_tp",
    "qk_head_dim",
    "resid_pdrop",
    "router_dtype",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "router_z_loss_coef",
    "seq_aux",
    "summary_type",
    "task_specific_params",
    "tokenizer_class",
    "torchscript",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
    "use_mtp",
    "vision_config",
    "z_loss_coef",
];

/// A configuration class.
#[derive(Clone, Copy, Debug)]
pub(super) struct Class {
    /// Its `model_type`.
    pub(super) name: &'static str,
    /// Whether it is one of transformers.
    pub(super) is_foreign: bool,
    data: &'static Value,
}

impl Class {
    /// The class of a `model_type`.
    pub(super) fn of(name: &'static str) -> Option<Self> {
        let (theirs, ours) = (&DATA["classes"][name], &DATA["ours"][name]);
        let data = if theirs.is_object() { theirs } else { ours };
        data.is_object().then_some(Self { name, is_foreign: theirs.is_object(), data })
    }

    /// The value of a key that is left out; `None` where the class has no such key.
    pub(super) fn default(&self, key: &str) -> Option<&'static Value> {
        self.data["defaults"].get(key)
    }

    /// The rotation of a configuration that says nothing about it, as the class has computed it.
    pub(super) fn rotation(&self) -> Option<&'static Map<String, Value>> {
        self.data["computed"]["rope_parameters"].as_object()
    }

    /// What an object without arguments has computed under a key.
    #[cfg(test)]
    pub(super) fn computed(&self, key: &str) -> Option<&'static Value> {
        self.data["computed"].get(key)
    }

    /// Other names of keys, with the names that they go by.
    fn aliases(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.data["aliases"].as_object().into_iter().flatten().map(|(alias, name)| (alias.as_str(), name))
    }

    /// The name that a key goes by in this class.
    fn canonical<'k>(&self, key: &'k str) -> &'k str {
        self.data["aliases"].get(key).and_then(|name| name.as_str()).unwrap_or(key)
    }

    /// Whether anything here could read this key of a configuration.
    fn reads(&self, key: &str) -> bool {
        let besides = READ_BESIDES.iter().find(|row| row.0 == self.name).map_or(&[][..], |row| row.1);
        let rotary = ROTARY.contains(&key) || key == "head_dim"; // the modelling code asks for it in every class
        self.default(key).is_some()
            || self.aliases().any(|(alias, name)| alias == key || name == key)
            || STORAGE.contains(&key)
            || besides.contains(&key)
            || key.ends_with("_token_id")
            || (self.is_foreign && rotary)
    }

    /// The configuration as the class has it: only its keys, under its own names, those left out at their defaults.
    /// `named_alike` are the other names of a key that a founding system's configuration may go by.
    ///
    /// # Errors
    /// A null where the class wants a value; two names of one number that disagree.
    pub(super) fn fill(
        &self,
        given: &Map<String, Value>,
        named_alike: impl Fn(&str) -> Vec<&'static str>,
    ) -> Result<Map<String, Value>> {
        let mut filled = Map::new();
        for (key, value) in given {
            if self.reads(key) || (!self.is_foreign && !named_alike(key).is_empty()) {
                self.take(key, value, &mut filled)?;
            }
        }
        for (key, value) in self.data["defaults"].as_object().into_iter().flatten() {
            let key = self.canonical(key);
            if !named_alike(key).iter().any(|name| filled.contains_key(*name)) {
                filled.entry(key).or_insert_with(|| value.clone());
            }
        }
        Ok(filled)
    }

    fn take(&self, key: &str, value: &Value, filled: &mut Map<String, Value>) -> Result<()> {
        let has_default = self.default(key).is_some_and(|default| !default.is_null()) || key == "rope_theta";
        let may_be_null =
            self.data["nullable"].as_array().is_some_and(|names| names.iter().any(|n| n == key));
        if value.is_null() && has_default && !may_be_null {
            if self.is_foreign {
                return Err(Error::malformed(format!("config, {key}"), "a value, or no such key", "null"));
            }
            return Ok(());
        }
        let name = self.canonical(key);
        match filled.insert(name.to_owned(), value.clone()) {
            Some(other) if other != *value => {
                Err(Error::malformed("config", format!("one {name}"), format!("{other} and {key} {value}")))
            }
            _ => Ok(()),
        }
    }

    /// Keys that neither this class nor anything else here knows.
    pub(super) fn unknown<'k>(&self, given: &'k Map<String, Value>) -> Vec<&'k str> {
        let listed =
            |list: &str, key: &str| DATA[list].as_array().is_some_and(|all| all.iter().any(|k| k == key));
        let known = |key: &str| {
            self.reads(key) || HARMLESS.contains(&key) || listed("common", key) || listed("generation", key)
        };
        given.keys().map(String::as_str).filter(|key| !known(key)).collect()
    }
}

#[cfg(test)]
#[path = "class_tests.rs"]
mod tests;
