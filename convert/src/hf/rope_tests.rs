//! Rotations against transformers' own numbers, in both spellings, and what is refused or named.

use super::*;
use crate::hf::class::Class;
use serde_json::{Value as Json, json};

fn params(kind: &'static str, config: Json) -> Result<Params> {
    let mut all = json!({ "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4 });
    all.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
    Params::new(all.as_object().unwrap(), Class::of(kind))
}

fn keys_of(kind: &'static str, config: Json) -> Result<Pairs> {
    keys(&params(kind, config)?)
}

fn value(pairs: &Pairs, name: &str) -> Option<Value> {
    pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone())
}

fn float(pairs: &Pairs, name: &str) -> Option<f32> {
    value(pairs, name)
        .map(|value| if let Value::F32(value) = value { value } else { panic!("{name}: {value:?}") })
}

#[test]
fn both_spellings_say_the_same() {
    let spellings = [
        json!({ "rope_parameters": { "rope_type": "yarn", "factor": 32.0, "rope_theta": 150000.0,
                "original_max_position_embeddings": 4096 } }),
        json!({ "rope_theta": 150000, "rope_scaling": { "type": "yarn", "factor": 32,
                "original_max_position_embeddings": 4096 } }),
        json!({ "rope_theta": 150000, "rope_scaling": { "type": "yarn", "factor": 32 },
                "original_max_position_embeddings": 4096 }),
        // What stands beside goes before what stands within, and rope_scaling before rope_parameters.
        json!({ "rope_parameters": { "rope_theta": 7.0 }, "original_max_position_embeddings": 4096,
                "rope_scaling": { "type": "yarn", "factor": 32, "rope_theta": 150000,
                "original_max_position_embeddings": 7 } }),
    ];
    for config in spellings {
        let pairs = keys_of(
            "qwen3",
            json!({ "head_dim": 16 })
                .as_object()
                .cloned()
                .map(|mut all| {
                    all.extend(config.as_object().unwrap().clone());
                    Json::Object(all)
                })
                .unwrap(),
        )
        .unwrap();
        for (name, expected) in [
            ("rope.freq_base", Value::from(150000f32)),
            ("rope.dimension_count", Value::from(16u32)),
            ("rope.scaling.type", Value::from("yarn")),
            ("rope.scaling.factor", Value::from(32f32)),
            ("rope.scaling.original_context_length", Value::from(4096u32)),
        ] {
            assert_eq!(value(&pairs, name), Some(expected), "{name} of {config}");
        }
        assert_eq!(value(&pairs, "rope.scaling.attn_factor"), None, "{config}");
    }
}

#[test]
fn layer_types_with_their_own_base() {
    let config = json!({ "head_dim": 16, "rope_parameters": {
        "full_attention": { "rope_type": "linear", "factor": 8.0, "rope_theta": 5e6 },
        "sliding_attention": { "rope_type": "default", "rope_theta": 2e4 } } });
    let pairs = keys_of("gemma3_text", config).unwrap();
    assert_eq!(float(&pairs, "rope.freq_base"), Some(5e6));
    assert_eq!(float(&pairs, "rope.freq_base_swa"), Some(2e4));
    assert_eq!(float(&pairs, "rope.scaling.factor"), Some(8.0));
    // The spelling of the published models: what is left out is the class's.
    let pairs =
        keys_of("gemma3_text", json!({ "rope_scaling": { "rope_type": "linear", "factor": 8.0 } })).unwrap();
    assert_eq!(
        (float(&pairs, "rope.freq_base"), float(&pairs, "rope.freq_base_swa")),
        (Some(1e6), Some(1e4))
    );
    assert_eq!(float(&pairs, "rope.scaling.factor"), Some(8.0));
}

/// First, a blended and the last value of Llama 3.2's 32 divisors, from transformers.
#[test]
fn llama3_divisors() {
    let scaling = json!({ "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192 });
    let config = json!({ "head_dim": 64, "rope_theta": 500000.0, "rope_scaling": scaling });
    let factors = factors(&params("llama", config.clone()).unwrap()).unwrap().unwrap();
    assert_eq!((factors.len(), factors[0], factors[31]), (32, 1.0, 32.0));
    assert!(factors.is_sorted());
    let blended: Vec<f32> = factors.iter().copied().filter(|&f| f > 1.0 && f < 32.0).collect();
    assert!(!blended.is_empty() && blended.len() < 6, "{factors:?}");
    // No other architecture's files have the tensor.
    let message = keys_of("qwen3", config).unwrap_err().to_string();
    assert!(message.contains("llama3"), "{message}");
}

/// `get_mscale(40, 0.8) / get_mscale(40, 1.0)` and its kin, against the factor that readers make of the keys.
#[test]
fn the_factor_on_cosines_is_that_of_transformers() {
    let cases = [
        (json!({}), 1.0 + 0.1 * 40f64.ln()),
        (json!({ "mscale": 0.8 }), 1.0 + 0.1 * 40f64.ln()),
        (json!({ "mscale": 0.8, "mscale_all_dim": 0.0 }), 1.0 + 0.1 * 40f64.ln()),
        (
            json!({ "mscale": 0.8, "mscale_all_dim": 1.0 }),
            (1.0 + 0.08 * 40f64.ln()) / (1.0 + 0.1 * 40f64.ln()),
        ),
        (json!({ "attention_factor": 0.5, "mscale": 0.8, "mscale_all_dim": 1.0 }), 0.5),
        (json!({ "attn_factor": 0.5 }), 1.0 + 0.1 * 40f64.ln()), // no field of transformers
    ];
    for (fields, expected) in cases {
        let mut scaling =
            json!({ "rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 64 });
        scaling.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let pairs = keys_of("qwen2", json!({ "rope_scaling": scaling })).unwrap();
        let factor = float(&pairs, "rope.scaling.attn_factor").unwrap_or(1.0) as f64;
        assert!((factor * (1.0 + 0.1 * 40f64.ln()) - expected).abs() < 1e-6, "{fields}: {factor}");
        assert_eq!(value(&pairs, "rope.scaling.yarn_log_multiplier"), None, "{fields}");
    }
}

#[test]
fn frequencies_that_are_not_truncated_become_a_tensor_or_an_error() {
    let scaled = |truncate: bool| {
        json!({ "head_dim": 16, "rope_parameters": { "rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0,
                "original_max_position_embeddings": 64, "truncate": truncate } })
    };
    let llama = params("llama", scaled(false)).unwrap();
    let pairs = keys(&llama).unwrap();
    assert_eq!(value(&pairs, "rope.scaling.type"), None);
    let attention = float(&pairs, "rope.scaling.attn_factor").unwrap() as f64;
    assert!((attention - 1.0 - 0.1 * 4f64.ln()).abs() < 1e-6);
    // `find_correction_range` of transformers: the lower end is -0.99, so 0, the upper one 2.016.
    let high = 16.0 * (64.0 / std::f64::consts::TAU).ln() / (2.0 * 1e4f64.ln());
    let found = factors(&llama).unwrap().unwrap();
    for (pair, found) in found.into_iter().enumerate() {
        let ramp = (pair as f64 / high).min(1.0);
        let expected = 1.0 / (ramp / 4.0 + 1.0 - ramp);
        assert!((found as f64 - expected).abs() < 1e-5, "{pair}: {found} {expected}");
    }
    for (kind, truncate, fits) in [
        ("llama", true, true),
        ("qwen3", true, true),
        ("qwen3", false, false),
        ("gpt_oss", true, false),
        ("gpt_oss", false, true),
    ] {
        let params = params(kind, scaled(truncate)).unwrap();
        assert_eq!(keys(&params).is_ok(), fits, "{kind} {truncate}");
        assert!(!fits || factors(&params).unwrap().is_none(), "{kind} {truncate}");
    }
}

#[test]
fn what_gguf_cannot_say_or_makes_no_sense_is_refused() {
    let cases = [
        ("llama", json!({ "rope_scaling": { "rope_type": "longrope" } }), "longrope"),
        ("llama", json!({ "rope_scaling": { "rope_type": "dynamic", "factor": 2.0 } }), "dynamic"),
        ("llama", json!({ "rope_scaling": "linear" }), "an object"),
        ("llama", json!({ "rope_scaling": { "type": "linear" } }), "factor of the rotation"),
        ("llama", json!({ "rope_scaling": { "type": "linear", "factor": "4.0" } }), "\"4.0\""),
        ("llama", json!({ "rope_scaling": { "type": 4, "factor": 4.0 } }), "a text"),
        ("llama", json!({ "rope_scaling": { "type": "llama3", "factor": 8.0 } }), ""),
        ("llama", json!({ "rope_theta": null }), "rope_theta"),
        ("llama", json!({ "rope_theta": "10000" }), "rope_theta"),
        ("llama", json!({ "rope_parameters": { "full_attention": {} } }), "per layer type"),
        (
            "llama",
            json!({ "rope_scaling": { "type": "linear", "factor": 4.0 }, "partial_rotary_factor": 0.5 }),
            "partial",
        ),
        ("gemma3_text", json!({ "rope_scaling": { "type": "linear", "factor": 8.0 } }), "rope_type"),
        (
            "gemma3_text",
            json!({ "rope_parameters": { "rope_type": "linear", "factor": 8.0 } }),
            "layer types",
        ),
        (
            "gemma3_text",
            json!({ "rope_parameters": { "sliding_attention": { "rope_type": "linear", "factor": 8.0 } } }),
            "sliding layers",
        ),
        (
            "deepseek_v2",
            json!({ "rope_scaling": { "type": "yarn", "factor": 40.0, "mscale": 0.7, "mscale_all_dim": 1.0 } }),
            "cosines",
        ),
        ("deepseek_v2", json!({ "rope_scaling": { "type": "yarn", "factor": 40.0 } }), "cosines"),
        (
            "deepseek_v2",
            json!({ "rope_scaling": { "type": "linear", "factor": 40.0, "mscale_all_dim": 1.0 } }),
            "mscale_all_dim",
        ),
    ];
    for (kind, config, expected) in cases {
        let result = params(kind, config.clone()).and_then(|params| keys(&params).and(factors(&params)));
        let message = result.expect_err(&config.to_string()).to_string();
        assert!(message.contains(expected), "{config}: {message}");
    }
}

#[test]
fn fields_that_nothing_reads_are_named() {
    let config =
        json!({ "rope_scaling": { "type": "linear", "factor": 4.0, "mscale": 1.0, "attn_factor": 2.0 } });
    let unread = unread(&params("llama", config).unwrap()).unwrap();
    assert_eq!(unread, ["attn_factor of the rotation", "mscale of the rotation"]);
}

/// What transformers' classes make of every place that the share of a head may stand in.
#[test]
fn a_part_of_a_head_turns_where_the_class_says_so() {
    let default = |more: Json| {
        let mut fields = json!({ "rope_type": "default", "rope_theta": 7.0 });
        fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        fields
    };
    let yarn = json!({ "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64 });
    let cases = [
        ("glm4_moe", json!({}), 64),
        ("glm4_moe", json!({ "partial_rotary_factor": 0.25 }), 32),
        ("glm4_moe", json!({ "rope_parameters": default(json!({})) }), 64),
        (
            "glm4_moe",
            json!({ "rope_parameters": default(json!({ "partial_rotary_factor": 0.75 })),
                    "partial_rotary_factor": 0.25 }),
            96,
        ),
        ("glm4_moe", json!({ "rope_scaling": yarn }), 64),
        ("glm4_moe", json!({ "rope_scaling": yarn, "partial_rotary_factor": 0.25 }), 32),
        ("minimax_m2", json!({}), 128),
        ("minimax_m2", json!({ "rotary_dim": 64 }), 64),
        ("minimax_m2", json!({ "rotary_dim": 64, "partial_rotary_factor": 0.25 }), 32),
        ("minimax_m2", json!({ "rotary_dim": 32, "rope_scaling": yarn }), 32),
        ("bailing_moe_v2", json!({ "rope_theta": 6e5 }), 128),
        ("bailing_moe_v2", json!({ "rope_theta": 6e5, "partial_rotary_factor": 0.5 }), 64),
        // All other classes turn heads whole.
        ("qwen3_moe", json!({ "partial_rotary_factor": 0.5 }), 128),
    ];
    for (kind, mut config, turned) in cases {
        config["head_dim"] = 128.into();
        config["max_position_embeddings"] = 256.into();
        let pairs = keys_of(kind, config.clone()).unwrap();
        assert_eq!(
            value(&pairs, "rope.dimension_count"),
            Some(Value::from(turned as u32)),
            "{kind} {config}"
        );
    }
}
