//! What an empty config.json means, against what transformers' classes say themselves.

use super::super::architecture::WRAPPERS;
use super::super::params::{Dim, Params};
use super::super::{ARCHITECTURES, Architecture};
use super::*;
use moewe_engine::gguf::Metadata;
use serde_json::json;

fn params(kind: &'static str, config: Value) -> Result<Params> {
    Params::new(config.as_object().unwrap(), Class::of(kind))
}

/// The metadata of a configuration with these keys only.
fn metadata(kind: &'static str, config: Value) -> Result<Metadata> {
    let architecture = ARCHITECTURES.iter().find(|known| known.model_types.contains(&kind)).unwrap();
    architecture.metadata(&params(kind, config)?)
}

#[test]
fn every_architecture_has_its_classes() {
    assert_eq!(DATA["transformers"], "5.24.0");
    for kind in ARCHITECTURES.iter().flat_map(|known| known.model_types) {
        assert!(Class::of(kind).is_some(), "{kind}");
    }
}

#[test]
fn lengths_that_follow_are_those_that_the_classes_compute() {
    let mut compared = 0;
    for kind in
        ARCHITECTURES.iter().flat_map(|known| known.model_types).filter(|kind| !WRAPPERS.contains(kind))
    {
        let class = Class::of(kind).unwrap();
        let params = params(kind, json!({})).unwrap();
        for (dim, key) in [(Dim::HeadsKv, "num_key_value_heads"), (Dim::Head, "head_dim")] {
            let Some(computed) = class.computed(key).and_then(Value::as_u64) else { continue };
            // DeepSeek calls the rotated part of a head so.
            let dim = if params.is_latent() && dim == Dim::Head { Dim::HeadRope } else { dim };
            assert_eq!(params.dim(dim).unwrap(), computed, "{kind} {key}");
            compared += 1;
        }
    }
    assert!(compared > 15, "{compared}");
}

/// A key of GGUF, and the key of the class whose value it has when config.json is silent.
type Row = (&'static str, &'static str);

const GROUPED: &[Row] = &[
    ("block_count", "num_hidden_layers"),
    ("context_length", "max_position_embeddings"),
    ("embedding_length", "hidden_size"),
    ("feed_forward_length", "intermediate_size"),
    ("attention.head_count", "num_attention_heads"),
    ("vocab_size", "vocab_size"),
    ("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
];
const ROTATION: &[Row] = &[("rope.freq_base", "rope_parameters.rope_theta")];

const LATENT: &[Row] = &[
    ("attention.q_lora_rank", "q_lora_rank"),
    ("attention.kv_lora_rank", "kv_lora_rank"),
    ("attention.value_length_mla", "v_head_dim"),
    ("rope.dimension_count", "qk_rope_head_dim"),
];
const SHARED: &[Row] = &[
    ("expert_feed_forward_length", "moe_intermediate_size"),
    ("expert_shared_count", "n_shared_experts"),
    ("expert_weights_scale", "routed_scaling_factor"),
    ("expert_weights_norm", "norm_topk_prob"),
    ("expert_count", "n_routed_experts"),
];
const GROUPS: &[Row] = &[
    ("expert_group_count", "n_group"),
    ("expert_group_used_count", "topk_group"),
    ("expert_used_count", "num_experts_per_tok"),
];
const LEADING: &[Row] = &[("leading_dense_block_count", "first_k_dense_replace")];

const DELTA: &[Row] = &[
    ("attention.head_count_kv", "num_key_value_heads"),
    ("attention.key_length", "head_dim"),
    ("ssm.conv_kernel", "linear_conv_kernel_dim"),
    ("ssm.state_size", "linear_key_head_dim"),
    ("ssm.group_count", "linear_num_key_heads"),
    ("ssm.time_step_rank", "linear_num_value_heads"),
];
const QWENS_EXPERTS: &[Row] = &[
    ("expert_count", "num_experts"),
    ("expert_used_count", "num_experts_per_tok"),
    ("expert_feed_forward_length", "moe_intermediate_size"),
    ("expert_shared_feed_forward_length", "shared_expert_intermediate_size"),
];

const MAMBA: &[Row] = &[
    ("ssm.conv_kernel", "mamba_d_conv"),
    ("ssm.state_size", "mamba_d_state"),
    ("ssm.group_count", "mamba_n_groups"),
    ("ssm.time_step_rank", "mamba_n_heads"),
];

const CASES: &[(&str, &[&[Row]])] = &[
    ("qwen3_next", &[GROUPED, ROTATION, DELTA, QWENS_EXPERTS]),
    ("qwen3_5_text", &[GROUPED, ROTATION, DELTA]),
    ("qwen3_5_moe_text", &[ROTATION, DELTA, QWENS_EXPERTS]),
    ("llama", &[GROUPED, ROTATION]),
    ("mistral", &[GROUPED, ROTATION, &[("attention.sliding_window", "sliding_window")]]),
    (
        "mixtral",
        &[
            GROUPED,
            ROTATION,
            &[("expert_count", "num_local_experts"), ("expert_used_count", "num_experts_per_tok")],
        ],
    ),
    ("qwen2", &[GROUPED, ROTATION]),
    ("qwen3", &[GROUPED, ROTATION, &[("attention.key_length", "head_dim")]]),
    (
        "qwen2_moe",
        &[
            GROUPED,
            ROTATION,
            &[
                ("expert_count", "num_experts"),
                ("expert_used_count", "num_experts_per_tok"),
                ("expert_feed_forward_length", "moe_intermediate_size"),
                ("expert_shared_feed_forward_length", "shared_expert_intermediate_size"),
            ],
        ],
    ),
    (
        "qwen3_moe",
        &[
            GROUPED,
            ROTATION,
            &[
                ("expert_count", "num_experts"),
                ("expert_used_count", "num_experts_per_tok"),
                ("expert_feed_forward_length", "moe_intermediate_size"),
                ("expert_weights_norm", "norm_topk_prob"),
            ],
        ],
    ),
    (
        "olmoe",
        &[
            GROUPED,
            ROTATION,
            &[("expert_count", "num_experts"), ("expert_used_count", "num_experts_per_tok")],
        ],
    ),
    ("granitemoe", &[GROUPED, ROTATION, GRANITE]),
    ("granitemoehybrid", &[ROTATION, GRANITE, MAMBA]),
    ("granitemoeshared", &[GROUPED, ROTATION, GRANITE]),
    (
        "gpt_oss",
        &[
            GROUPED,
            ROTATION,
            &[
                ("expert_count", "num_local_experts"),
                ("expert_used_count", "num_experts_per_tok"),
                ("attention.key_length", "head_dim"),
                ("attention.sliding_window", "sliding_window"),
                ("rope.scaling.type", "rope_parameters.rope_type"),
                ("rope.scaling.factor", "rope_parameters.factor"),
                ("rope.scaling.yarn_beta_fast", "rope_parameters.beta_fast"),
                ("rope.scaling.yarn_beta_slow", "rope_parameters.beta_slow"),
                ("rope.scaling.original_context_length", "rope_parameters.original_max_position_embeddings"),
            ],
        ],
    ),
    (
        "gemma3_text",
        &[
            GROUPED,
            &[
                ("attention.key_length", "head_dim"),
                ("attention.head_count_kv", "num_key_value_heads"),
                ("attention.sliding_window", "sliding_window"),
                ("rope.freq_base", "rope_parameters.full_attention.rope_theta"),
                ("rope.freq_base_swa", "rope_parameters.sliding_attention.rope_theta"),
            ],
        ],
    ),
    (
        "gemma4_text",
        &[
            GROUPED,
            &[
                ("attention.key_length_swa", "head_dim"),
                ("attention.head_count_kv", "num_key_value_heads"),
                ("attention.sliding_window", "sliding_window"),
                ("rope.freq_base", "rope_parameters.full_attention.rope_theta"),
                ("rope.freq_base_swa", "rope_parameters.sliding_attention.rope_theta"),
            ],
        ],
    ),
    ("deepseek_v2", &[GROUPED, ROTATION, LATENT, SHARED]),
    ("deepseek_v3", &[GROUPED, ROTATION, LATENT, SHARED, GROUPS, LEADING]),
    ("kimi_k2", &[GROUPED, ROTATION, LATENT, SHARED, GROUPS, LEADING]),
    ("glm4_moe_lite", &[GROUPED, ROTATION, LATENT, SHARED, GROUPS]),
    ("glm4_moe", &[GROUPED, ROTATION, SHARED, GROUPS, LEADING]),
    (
        "minimax_m2",
        &[
            GROUPED,
            ROTATION,
            &[
                ("attention.key_length", "head_dim"),
                ("expert_count", "num_local_experts"),
                ("expert_used_count", "num_experts_per_tok"),
                ("expert_feed_forward_length", "intermediate_size"),
            ],
        ],
    ),
];

#[test]
fn metadata_of_an_empty_configuration_are_the_classs_values() {
    for (kind, rows) in CASES {
        // Numbers that a class leaves open, or that make a model which is refused.
        let given = match *kind {
            "deepseek_v2" => json!({ "num_experts_per_tok": 6 }),
            "glm4_moe" => json!({ "head_dim": 128 }),
            // Its class is the smallest model's, which is not converted.
            "gemma4_text" => json!({ "hidden_size_per_layer_input": 0 }),
            _ => json!({}),
        };
        let found = metadata(kind, given).unwrap_or_else(|error| panic!("{kind}: {error}"));
        let architecture = found.require_str("general.architecture").unwrap().to_owned();
        for (key, name) in rows.iter().copied().flatten() {
            let data = &Class::of(kind).unwrap().data;
            let path = |root: &str| name.split('.').try_fold(&data[root], |value, part| value.get(part));
            let expected = path("computed").or(path("defaults")).unwrap_or_else(|| panic!("{kind} {name}"));
            let found = found.get(&format!("{architecture}.{key}")).unwrap_or_else(|| panic!("{kind} {key}"));
            assert_eq!(plain(found), plain_json(expected), "{kind}: {key} from {name}");
        }
    }
}

const GRANITE: &[Row] = &[
    ("expert_count", "num_local_experts"),
    ("expert_used_count", "num_experts_per_tok"),
    ("attention.scale", "attention_multiplier"),
    ("embedding_scale", "embedding_multiplier"),
    ("residual_scale", "residual_multiplier"),
    ("logit_scale", "logits_scaling"),
];

fn plain(value: &moewe_engine::gguf::Value) -> String {
    use moewe_engine::gguf::Value as Gguf;
    match value {
        Gguf::U32(value) => (*value as f32).to_string(),
        Gguf::F32(value) => value.to_string(),
        Gguf::Bool(value) => value.to_string(),
        Gguf::String(value) => value.clone(),
        other => panic!("{other:?}"),
    }
}

fn plain_json(value: &Value) -> String {
    match value {
        Value::Number(number) => (number.as_f64().unwrap() as f32).to_string(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[test]
fn the_founding_systems_have_what_their_code_has() {
    let cases = [
        ("moe_gpt", "moe-gpt", "expert_used_count", "2"),
        ("moe_gpt", "moe-gpt", "expert_capacity_factor", "1.25"),
        ("moe_gpt", "moe-gpt", "feed_forward_length", "3072"),
        ("moe_124m", "moe-gpt2", "context_length", "1024"),
        ("moe_124m", "moe-gpt2", "expert_used_count", "2"),
        ("tachyon", "bailingmoe2", "attention.layer_norm_rms_epsilon", "0.000001"),
        ("tachyon", "bailingmoe2", "attention.head_count_kv", "4"),
        ("tachyon", "bailingmoe2", "expert_shared_feed_forward_length", "2816"),
    ];
    for (kind, architecture, key, expected) in cases {
        let metadata = metadata(kind, json!({})).unwrap();
        assert_eq!(plain(metadata.get(&format!("{architecture}.{key}")).unwrap()), expected, "{kind} {key}");
    }
    // Their other names hide a default.
    let metadata = metadata("moe_124m", json!({ "hidden_size": 64, "num_experts_per_tok": 1 })).unwrap();
    assert_eq!(metadata.u64("moe-gpt2.embedding_length").unwrap(), Some(64));
    assert_eq!(metadata.u64("moe-gpt2.expert_used_count").unwrap(), Some(1));
}

#[test]
fn keys_of_another_class_are_not_there() {
    let llama = metadata("llama", json!({ "sliding_window": 16, "num_local_experts": 8, "dim": 7 })).unwrap();
    for key in ["llama.attention.sliding_window", "llama.expert_count", "llama.expert_used_count"] {
        assert!(llama.get(key).is_none(), "{key}");
    }
    assert_eq!(llama.u64("llama.embedding_length").unwrap(), Some(4096));
    // A sampling default of old files is no number of experts.
    let mixtral = metadata("mixtral", json!({ "top_k": 7, "num_experts": 3 })).unwrap();
    assert_eq!(mixtral.u64("llama.expert_used_count").unwrap(), Some(2));
    assert_eq!(mixtral.u64("llama.expert_count").unwrap(), Some(3));
}

#[test]
fn numbers_that_no_model_has_are_refused() {
    let cases = [
        ("mixtral", json!({ "num_experts_per_tok": 9 }), "num_experts_per_tok"),
        ("mixtral", json!({ "num_experts_per_tok": 0 }), "num_experts_per_tok"),
        ("mixtral", json!({ "num_local_experts": 0 }), "num_local_experts"),
        ("qwen3_moe", json!({ "num_experts": 4 }), "num_experts_per_tok"),
        ("mixtral", json!({ "num_local_experts": 4, "num_experts": 8 }), "one num_local_experts"),
        ("mixtral", json!({ "num_key_value_heads": 64 }), "num_key_value_heads"),
        ("mixtral", json!({ "num_key_value_heads": 5 }), "num_key_value_heads"),
        ("mixtral", json!({ "num_key_value_heads": null }), "num_key_value_heads"),
        ("llama", json!({ "head_dim": 7 }), "even"),
        ("llama", json!({ "hidden_size": 100, "num_attention_heads": 3 }), "3 heads divide"),
        ("llama", json!({ "rms_norm_eps": null }), "rms_norm_eps"),
        ("llama", json!({ "rms_norm_eps": "NaN" }), "NaN"),
        ("llama", json!({ "hidden_act": "gelu" }), "gelu"),
        ("mistral", json!({ "sliding_window": 0 }), "sliding_window"),
        ("qwen2", json!({ "use_sliding_window": true }), "sliding window"),
        ("qwen3_moe", json!({ "use_sliding_window": true }), "sliding window"),
        ("gpt_oss", json!({ "swiglu_alpha": 1.5 }), "swiglu_alpha"),
        ("gpt_oss", json!({ "layer_types": ["sliding_attention"] }), "layer_types"),
        ("gpt_oss", json!({ "sliding_window": null }), "window"),
        ("gemma3_text", json!({ "layer_types": ["full_attention"] }), "layer_types"),
        ("gemma3_text", json!({ "use_bidirectional_attention": true }), "bidirectional"),
        ("gemma4_text", json!({}), "hidden_size_per_layer_input 256"),
        ("deepseek_v2", json!({}), "num_experts_per_tok"),
        ("deepseek_v2", json!({ "num_experts_per_tok": 6, "topk_method": "noaux_tc" }), "noaux_tc"),
        (
            "deepseek_v2",
            json!({ "num_experts_per_tok": 6, "topk_method": "group_limited_greedy" }),
            "n_group",
        ),
        ("deepseek_v2", json!({ "num_experts_per_tok": 6, "norm_topk_prob": true }), "norm_topk_prob"),
        ("deepseek_v2", json!({ "num_experts_per_tok": 6, "scoring_func": "sigmoid" }), "sigmoid"),
    ];
    for (kind, config, expected) in cases {
        let message = metadata(kind, config.clone()).expect_err(&config.to_string()).to_string();
        assert!(message.contains(expected), "{kind} {config}: {message}");
    }
    // Windows that hide nothing.
    for (kind, config) in [
        ("qwen2", json!({ "use_sliding_window": true, "max_window_layers": 32 })),
        ("qwen2", json!({ "use_sliding_window": true, "sliding_window": null })),
        ("qwen3_moe", json!({ "use_sliding_window": true, "sliding_window": 32768 })),
        ("mistral", json!({ "sliding_window": null })),
    ] {
        metadata(kind, config.clone()).unwrap_or_else(|error| panic!("{kind} {config}: {error}"));
    }
}

#[test]
fn the_class_is_that_of_the_model_type_or_the_model_class() {
    let cases = [
        (json!({ "model_type": "mistral", "architectures": ["LlamaForCausalLM"] }), "mistral"),
        (json!({ "architectures": ["MistralForCausalLM"] }), "mistral"),
        (json!({ "architectures": ["MixtralForCausalLM"] }), "mixtral"),
        (json!({ "architectures": ["GraniteMoeSharedForCausalLM"] }), "granitemoeshared"),
        (json!({ "architectures": ["GptOssForCausalLM"] }), "gpt_oss"),
        (json!({ "architectures": ["Gemma3ForCausalLM"] }), "gemma3_text"),
        (json!({ "model_type": "gemma3", "text_config": {} }), "gemma3_text"),
        (json!({ "text_config": { "architectures": ["LlamaForCausalLM"] } }), "llama"),
        (json!({ "text_config": { "model_type": "mistral" } }), "mistral"),
    ];
    for (config, expected) in cases {
        let architecture = Architecture::of(&config).unwrap_or_else(|error| panic!("{config}: {error}"));
        assert_eq!(architecture.params(&config).unwrap().class().unwrap().name, expected, "{config}");
    }
    let config = json!({ "model_type": "mixtral", "architectures": ["Qwen2ForCausalLM"] });
    let message = Architecture::of(&config).unwrap_err().to_string();
    assert!(message.contains("qwen2") && message.contains("llama"), "{message}");
}

#[test]
fn a_wrappers_text_model_has_its_own_keys_and_the_wrappers_ties() {
    let tied = |config: Value| {
        let params = Architecture::of(&config).unwrap().params(&config).unwrap();
        params.flag(&["tie_word_embeddings"], false).unwrap()
    };
    let of = |outer: Value, inner: Value| {
        let mut all = json!({ "model_type": "gemma3", "text_config": inner });
        all.as_object_mut().unwrap().extend(outer.as_object().unwrap().clone());
        all
    };
    assert!(tied(of(json!({}), json!({}))));
    assert!(tied(of(json!({}), json!({ "tie_word_embeddings": false }))));
    assert!(!tied(of(json!({ "tie_word_embeddings": false }), json!({}))));
    assert!(!tied(json!({ "text_config": { "model_type": "llama", "tie_word_embeddings": false } })));
    let config = of(json!({ "hidden_size": 7, "eos_token_id": [1, 106] }), json!({ "hidden_size": 64 }));
    let params = Architecture::of(&config).unwrap().params(&config).unwrap();
    assert_eq!(params.dim(Dim::Embedding).unwrap(), 64);
    assert!(params.get(&["eos_token_id"]).is_some());
}

#[test]
fn unknown_keys_are_named_and_harmless_ones_are_not() {
    let remarks = |config: Value| Architecture::of(&config).unwrap().remarks(&config).unwrap().join("; ");
    let config = json!({ "model_type": "llama", "sliding_window": 16, "attn_scale": 2.0, "torch_dtype": "bfloat16",
        "transformers_version": "4.40.0", "use_cache": true, "auto_map": {}, "rope_theta": 1e4, "do_sample": true,
        "attention_dropout": 0.0, "bos_token_id": 1, "pretraining_tp": 1, "architectures": ["LlamaForCausalLM"],
        "rope_scaling": { "type": "linear", "factor": 2.0, "mscale": 1.0 } });
    let said = remarks(config);
    assert_eq!(
        said,
        "config keys that nothing here knows, left out: attn_scale, sliding_window, mscale of the rotation"
    );
    let config = json!({ "model_type": "gemma3", "odd": 1, "mm_tokens_per_image": 256, "boi_token_index": 1,
        "vision_config": {}, "text_config": { "hidden_size": 64, "even": 2 } });
    let said = remarks(config);
    assert!(said.ends_with("left out: even, odd"), "{said}");
}
