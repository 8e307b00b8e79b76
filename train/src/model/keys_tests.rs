//! What a config.json may leave out, call otherwise or misspell, for every architecture.

use super::super::{ARCHITECTURES, Config, PRESETS};
use super::*;
use serde_json::json;

/// The config.json of a preset of every architecture, or that of a reference where there is none.
fn configs() -> Vec<Value> {
    let of = |model_type: &str| {
        let configs = PRESETS.iter().map(|preset| serde_json::from_str::<Value>(preset.config).unwrap());
        configs.into_iter().find(|config| config["model_type"] == model_type).unwrap_or_else(|| {
            let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/train-step");
            let text = std::fs::read_to_string(folder.join(model_type).join("config.json")).unwrap();
            serde_json::from_str(&text).unwrap()
        })
    };
    ARCHITECTURES.iter().map(|architecture| of(architecture.model_type)).collect()
}

fn refused(config: &Value) -> String {
    Config::from_json(config.clone()).err().unwrap_or_else(|| panic!("{config} is taken")).to_string()
}

/// The founding systems' spellings, as converters and people mix them.
#[test]
fn every_name_that_the_converter_takes_is_the_same_size() {
    for config in configs() {
        let expected = Config::from_json(config.clone()).unwrap();
        for key in config.as_object().unwrap().keys() {
            for name in names_of(key).iter().filter(|name| *name != key) {
                let mut renamed = config.clone();
                let value = renamed.as_object_mut().unwrap().shift_remove(key).unwrap();
                renamed[*name] = value.clone();
                let found = Config::from_json(renamed.clone()).unwrap();
                assert_eq!(found.counts(), expected.counts(), "{name} for {key}");
                assert_eq!(found.source[key], value, "the exported config.json says {key}");
                assert_eq!(found.source.get(name), None, "and says it once");
                renamed[key] = json!(value.as_u64().unwrap() + 1);
                let error = refused(&renamed);
                assert!(
                    error.contains(key) && error.contains(name) && error.contains("another name"),
                    "{error}"
                );
            }
        }
    }
}

#[test]
fn a_size_has_no_default() {
    let sizes = [
        "d_model",
        "d_ff",
        "d_shared_ff",
        "n_shared_experts",
        "n_routed_experts",
        "top_k_experts",
        "vocab_size",
    ];
    let mut missing = 0;
    for config in configs() {
        for key in config.as_object().unwrap().keys().filter(|key| !names_of(key).is_empty()) {
            let mut without = config.clone();
            without[key] = Value::Null;
            match key.as_str() {
                "top_k" => assert!(Config::from_json(without).is_ok(), "two in the original's code"),
                "head_dim" => assert!(Config::from_json(without).is_ok(), "a share of the width"),
                _ => assert!(
                    refused(&without).contains(key) && refused(&without).contains("no default"),
                    "{key}"
                ),
            }
            missing += 1;
        }
        for key in sizes.iter().filter(|key| config.get(**key).is_some()) {
            let mut without = config.clone();
            without.as_object_mut().unwrap().shift_remove(*key);
            assert!(refused(&without).contains(key), "{key}");
        }
    }
    assert!(missing > 25, "{missing}");
}

#[test]
fn a_misspelt_key_names_the_nearest() {
    for config in configs() {
        for key in config.as_object().unwrap().keys().filter(|key| !HARMLESS.contains(&key.as_str())) {
            let mut wrong = config.clone();
            let typed = format!("{}{}", &key[..1], &key[2..]);
            wrong[&typed] = json!(8);
            let error = refused(&wrong);
            assert!(error.starts_with(&format!("{typed}: ")) && error.contains("the nearest is "), "{error}");
        }
    }
    let mut wrong = configs().remove(1);
    wrong["n_layer_s"] = json!(3);
    assert!(
        refused(&wrong).contains("a key of tachyon; the nearest is n_layers, found 3"),
        "{}",
        refused(&wrong)
    );
}

#[test]
fn what_transformers_writes_besides_is_taken() {
    for config in configs() {
        let expected = Config::from_json(config.clone()).unwrap();
        let mut more = config.clone();
        for (key, value) in [
            ("torch_dtype", json!("bfloat16")),
            ("transformers_version", json!("5.23.0")),
            ("_name_or_path", json!("x")),
            ("bos_token_id", json!(1)),
            ("use_cache", json!(true)),
            ("quantization_config", Value::Null),
            ("a_key_of_next_year", Value::Null),
        ] {
            more[key] = value;
        }
        let found = Config::from_json(more).unwrap();
        assert_eq!((found.counts(), &found.source["torch_dtype"]), (expected.counts(), &json!("bfloat16")));
    }
    let floats = json!({"model_type": "moe_124m", "vocab_size": 40.0, "dim": 16.0, "n_layers": 2, "n_heads": 2,
        "ff_dim": 12, "n_experts": 3, "context_len": 16});
    assert_eq!(Config::from_json(floats).unwrap().source["dim"], json!(16));
}

#[test]
fn what_cannot_be_trained_is_refused_by_key() {
    let [gpt, tachyon, small, mixtral] = [0, 1, 2, 3].map(|i| configs().remove(i));
    for (config, key, value) in [
        (&mixtral, "sliding_window", json!(64)),
        (&mixtral, "hidden_act", json!("gelu")),
        (&mixtral, "attention_dropout", json!(0.1)),
        (&mixtral, "rope_scaling", json!({"type": "linear", "factor": 2.0})),
        (&mixtral, "rope_parameters", json!({"rope_theta": 1e6, "rope_type": "yarn", "factor": 4.0})),
        (&mixtral, "rope_parameters", json!({"rope_theta": 1e6, "factor": 4.0})),
        (&mixtral, "head_dim", json!(33)),
        (&mixtral, "quantization_config", json!({"bits": 4})),
        (&gpt, "tie_word_embeddings", json!(false)),
        (&gpt, "intermediate_size", json!(100)),
        (&tachyon, "tie_word_embeddings", json!(false)),
        (&tachyon, "head_dim", json!(8)),
        (&small, "tie_word_embeddings", json!(true)),
        (&small, "n_kv_heads", json!(1)),
    ] {
        let mut wrong = config.clone();
        wrong[key] = value;
        let error = refused(&wrong);
        let inner = if key == "rope_parameters" { "rope_type" } else { key };
        assert!(error.contains(key) || error.contains(inner), "{key}: {error}");
    }
    let mut wide = mixtral.clone();
    wide["sliding_window"] = json!(4096);
    assert!(Config::from_json(wide).is_ok(), "a window beyond the context hides nothing");
}

#[test]
fn defaults_of_the_original_code_are_written_out() {
    let sizes = json!({"model_type": "moe_gpt", "vocab_size": 40, "n_positions": 16, "n_embd": 16, "n_layer": 2,
        "n_head": 2, "n_experts": 3, "n_experts_active": 2});
    let source = Config::from_json(sizes).unwrap().source;
    for (key, value) in [
        ("moe_layer_frequency", json!(2)),
        ("capacity_factor", json!(1.25)),
        ("dropout", json!(0.1)),
        ("rope_theta", json!(10000.0)),
        ("architectures", json!(["MoEGPTForCausalLM"])),
    ] {
        assert_eq!(source[key], value, "{key}");
    }
    let again = Config::from_json(source.clone()).unwrap().source;
    assert_eq!(again, source, "reading it changes nothing");
}
