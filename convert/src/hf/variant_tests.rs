//! What the families' configurations can say and their files cannot, or their code does not compute: refused by name.

use super::tests::{open, planned};
use serde_json::{Value, json};

/// A fixture, a key of its configuration, and what it says then.
type Variant = (&'static str, &'static str, Value);

/// Groups of experts, latent attention, and those built like them.
fn deepseeks_and_their_kin() -> Vec<Variant> {
    vec![
        ("deepseek3", "attention_bias", json!(true)),
        ("deepseek3", "rope_interleave", json!(false)),
        ("deepseek3", "scoring_func", json!("softmax")),
        ("deepseek3", "topk_method", json!("greedy")),
        ("deepseek3", "n_group", json!(3)),
        ("deepseek3", "n_group", json!(16)),
        ("deepseek3", "partial_rotary_factor", json!(0.5)),
        ("glm4-moe-lite", "first_k_dense_replace", json!(2)),
        ("glm4-moe-lite", "mlp_layer_types", json!(["dense", "sparse", "dense"])),
        ("glm-dsa", "indexer_types", json!(["shared", "full", "full", "full"])),
        ("glm-dsa", "indexer_types", json!(["full", "full"])),
        ("glm-dsa", "index_topk", json!(0)),
        ("deepseek32", "scoring_func", json!("softmax")),
        ("dots1", "layer_types", json!(["full_attention", "sliding_attention", "full_attention"])),
        ("dots1", "scoring_func", json!("softmax")),
        ("ernie4-5-moe", "use_bias", json!(true)),
        ("glm4moe", "partial_rotary_factor", json!(1.5)),
        ("glm4moe", "scoring_func", json!("softmax")),
        ("minimax-m2", "scoring_func", json!("softmax")),
        ("minimax-m2", "use_routing_bias", json!(false)),
        ("minimax-m2", "use_qk_norm", json!(false)),
        ("minimax-m2", "qk_norm_type", json!("per_head")),
        ("minimax-m2", "attn_type_list", json!([1, 0, 1])),
        ("minimax-m2", "shared_intermediate_size", json!(32)),
        ("bailingmoe2", "norm_head", json!(true)),
        ("bailingmoe2", "use_qkv_bias", json!(true)),
        ("bailingmoe2", "use_bias", json!(true)),
        ("bailingmoe2", "use_qk_norm", json!(false)),
        ("bailingmoe2", "norm_topk_prob", json!(false)),
        ("bailingmoe2", "rotary_dim", json!(16)),
        ("bailingmoe2", "score_function", json!("softmax")),
        ("bailingmoe2", "num_shared_experts", json!(0)),
    ]
}

/// The gated delta rule.
fn qwens() -> Vec<Variant> {
    vec![
        ("qwen3next", "attention_bias", json!(true)),
        ("qwen3next", "norm_topk_prob", json!(false)),
        ("qwen3next", "attn_output_gate", json!(false)),
        ("qwen3next", "hidden_act", json!("gelu")),
        ("qwen3next", "layer_types", json!(["linear_attention"])),
        ("qwen3next", "layer_types", json!(["linear_attention", "full_attention", "conv", "full_attention"])),
        ("qwen3next", "linear_num_value_heads", json!(3)),
        ("qwen3next", "full_attention_interval", json!(0)),
        ("qwen3next", "partial_rotary_factor", json!(1.5)),
    ]
}

/// Mamba-2 beside attention.
fn mambas() -> Vec<Variant> {
    vec![
        ("nemotron-h-moe", "hybrid_override_pattern", json!("MEM*")),
        ("nemotron-h-moe", "hybrid_override_pattern", json!("MEM*X")),
        ("nemotron-h-moe", "hybrid_override_pattern", json!("MMM*-")),
        ("nemotron-h-moe", "hybrid_override_pattern", json!(null)),
        ("nemotron-h-moe", "layers_block_type", json!(["mamba", "moe", "mamba", "attention", "mlp"])),
        ("nemotron-h-moe", "attention_bias", json!(true)),
        ("nemotron-h-moe", "mlp_bias", json!(true)),
        ("nemotron-h-moe", "use_bias", json!(true)),
        ("nemotron-h-moe", "mamba_proj_bias", json!(true)),
        ("nemotron-h-moe", "use_conv_bias", json!(false)),
        ("nemotron-h-moe", "mlp_hidden_act", json!("silu")),
        ("nemotron-h-moe", "mamba_hidden_act", json!("gelu")),
        ("nemotron-h-moe", "sliding_window", json!(64)),
        ("nemotron-h-moe", "time_step_limit", json!([0.0, 0.1])),
        ("nemotron-h-moe", "time_step_limit", json!([0.001, "Infinity"])),
        ("nemotron-h-moe", "n_groups", json!(3)),
        ("nemotron-h-moe", "n_group", json!(3)),
        ("nemotron-h-moe", "n_shared_experts", json!(2)),
        ("granitehybrid", "layer_types", json!(["mamba", "conv", "mamba"])),
        ("granitehybrid", "position_embedding_type", json!("alibi")),
        ("granitehybrid", "attention_bias", json!(true)),
        ("granitehybrid", "mamba_conv_bias", json!(false)),
        ("granitehybrid", "mamba_proj_bias", json!(true)),
        ("granitehybrid", "mamba_expand", json!(3)),
        ("granitehybrid", "mamba_d_head", json!(32)),
        ("granitehybrid", "head_dim", json!(32)),
        ("granitehybrid", "hidden_act", json!("gelu")),
    ]
}

/// Short convolutions beside attention.
fn convolutions() -> Vec<Variant> {
    vec![
        ("lfm2moe", "layer_types", json!(null)),
        ("lfm2moe", "layer_types", json!(["conv", "conv", "sliding_attention", "conv"])),
        ("lfm2moe", "conv_bias", json!(true)),
        ("lfm2moe", "norm_topk_prob", json!(false)),
        ("lfm2moe", "tie_embedding", json!(false)),
        ("lfm2moe", "routed_scaling_factor", json!(2.0)),
        ("lfm2moe", "head_dim", json!(32)),
    ]
}

/// Two kinds of heads; keys of the text model within the wrapper's.
fn gemmas() -> Vec<Variant> {
    let rotation =
        |full: Value, sliding: Value| json!({ "full_attention": full, "sliding_attention": sliding });
    let (usual, plain) =
        (json!({ "rope_type": "proportional", "rope_theta": 1e6 }), json!({ "rope_theta": 1e4 }));
    let by_half = json!({ "rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5 });
    vec![
        ("gemma4", "num_kv_shared_layers", json!(2)),
        ("gemma4", "hidden_size_per_layer_input", json!(16)),
        ("gemma4", "use_double_wide_mlp", json!(true)),
        ("gemma4", "attention_bias", json!(true)),
        ("gemma4", "use_bidirectional_attention", json!("all")),
        ("gemma4", "hidden_activation", json!("silu")),
        ("gemma4", "sliding_window", json!(0)),
        ("gemma4", "layer_types", json!(["sliding_attention", "conv", "conv", "conv"])),
        ("gemma4", "per_layer_config", json!({ "1": { "head_dim": 64 } })),
        ("gemma4", "per_layer_config", json!({ "0": { "head_dim": 64 } })),
        ("gemma4", "per_layer_config", json!({ "1": { "sliding_window": 64 } })),
        ("gemma4", "rope_parameters", rotation(plain.clone(), plain)),
        ("gemma4", "rope_parameters", rotation(usual.clone(), by_half)),
        ("gemma4", "rope_parameters", json!({ "full_attention": usual })),
    ]
}

#[test]
fn variants_are_refused_by_name() {
    let cases = [deepseeks_and_their_kin(), qwens(), mambas(), convolutions(), gemmas()];
    for (folder, key, value) in cases.into_iter().flatten() {
        let mut checkpoint = open(folder);
        let is_within = checkpoint.config["text_config"].is_object();
        let text = if is_within { &mut checkpoint.config["text_config"] } else { &mut checkpoint.config };
        text[key] = value.clone();
        let message = planned(&checkpoint).err().map(|error| error.to_string()).unwrap_or_default();
        let named = match key {
            "scoring_func" | "score_function" => "scores of experts",
            "num_shared_experts" => "shared experts",
            "attn_type_list" => "linear attention",
            "hidden_act" | "hidden_activation" => "activation",
            "rope_parameters" => "layers",
            "n_groups" => "heads of states",
            "mamba_expand" => "mamba_d_head",
            // The letters of Nemotron's last case are known, but none is an expert.
            "hybrid_override_pattern" if value == "MMM*-" => "no layer with experts",
            "layers_block_type" => "hybrid_override_pattern",
            _ => key,
        };
        assert!(message.contains(named), "{folder}: {key} {value}: {message:?}");
    }
}

/// Sizes of states, convolutions and wide heads of any size end in an error, not in memory or time.
#[test]
fn hostile_sizes_are_refused() {
    let delta = ["linear_conv_kernel_dim", "linear_num_key_heads", "linear_num_value_heads"];
    let of_delta = ["linear_key_head_dim", "linear_value_head_dim", "num_hidden_layers"];
    let cases: [(&str, &[&str]); 8] = [
        ("qwen3next", &delta),
        ("qwen35moe", &delta),
        ("qwen3next", &of_delta),
        ("qwen35moe", &of_delta),
        (
            "nemotron-h-moe",
            &["mamba_num_heads", "mamba_head_dim", "n_groups", "ssm_state_size", "moe_latent_size"],
        ),
        (
            "granitehybrid",
            &["mamba_n_heads", "mamba_d_head", "mamba_n_groups", "mamba_d_state", "mamba_expand"],
        ),
        ("lfm2moe", &["conv_L_cache", "num_hidden_layers"]),
        ("gemma4", &["sliding_window", "head_dim", "num_hidden_layers", "moe_intermediate_size"]),
    ];
    for (folder, keys) in cases {
        for (key, value) in keys.iter().flat_map(|key| [0, 1 << 31, u64::MAX].map(|value| (key, value))) {
            let mut checkpoint = open(folder);
            let text = checkpoint.config.as_object_mut().unwrap();
            let text = text.get_mut("text_config").and_then(Value::as_object_mut);
            match text {
                Some(text) => text[*key] = value.into(),
                None => checkpoint.config[*key] = value.into(),
            }
            let error = planned(&checkpoint).expect_err(&format!("{folder}: {key} = {value}"));
            assert!(!error.to_string().contains('\n'));
        }
    }
    // Numbers that stand elsewhere.
    for wide in [json!({ "head_dim": u64::MAX }), json!({ "num_key_value_heads": 0 }), json!([]), json!(null)]
    {
        let mut checkpoint = open("gemma4");
        let text = &mut checkpoint.config["text_config"];
        text["per_layer_config"] = json!({ "1": wide, "3": wide });
        assert!(planned(&checkpoint).is_err(), "{wide}");
    }
    for (key, value) in
        [("global_head_dim", u64::MAX), ("global_head_dim", 0), ("num_global_key_value_heads", 0)]
    {
        let mut checkpoint = open("gemma4");
        let text = checkpoint.config["text_config"].as_object_mut().unwrap();
        text.remove("per_layer_config");
        text.insert(key.into(), value.into());
        assert!(planned(&checkpoint).is_err(), "{key} {value}");
    }
    let mut checkpoint = open("nemotron-h-moe");
    checkpoint.config["hybrid_override_pattern"] = "M".repeat(1 << 20).into();
    checkpoint.config.as_object_mut().unwrap().remove("num_hidden_layers");
    let message = planned(&checkpoint).unwrap_err().to_string();
    assert!(message.contains("at most 4096 layers") && message.len() < 200, "{message}");
}
