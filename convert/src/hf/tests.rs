//! Every fixture is planned completely: no tensor missing, unknown or of another shape, and what is dropped is known.

use super::*;
use crate::checkpoint::Checkpoint;
use moewe_engine::gguf::{Metadata, TensorName, Value as Gguf};
use std::collections::BTreeMap;
use std::path::Path;

pub(super) fn open(name: &str) -> Checkpoint {
    Checkpoint::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name)).unwrap()
}

/// Metadata, tensors with their shapes, dropped tensors.
pub(super) type Planned = (Metadata, Vec<(String, Vec<u64>)>, Vec<String>);

pub(super) fn planned(checkpoint: &Checkpoint) -> Result<Planned> {
    let architecture = Architecture::of(&checkpoint.config)?;
    let params = architecture.params(&checkpoint.config)?;
    let metadata = architecture.metadata(&params)?;
    let plan = plan::plan(architecture, &params, checkpoint)?;
    let tensors = plan.outputs.iter().map(|output| (output.name.clone(), output.shape.clone())).collect();
    Ok((metadata, tensors, plan.dropped))
}

/// Folder, architecture, tensors, dropped tensors, and a tensor whose shape tells that its rule was applied.
type Fixture = (&'static str, &'static str, usize, &'static [&'static str], &'static str, &'static [u64]);

const FIXTURES: &[Fixture] = &[
    ("bailingmoe2", "bailingmoe2", 40, &[], "blk.0.attn_qkv.weight", &[128, 64]),
    ("deepseek2", "deepseek2", 29, &[], "blk.1.attn_k_b.weight", &[4, 64, 64]),
    ("deepseek4", "deepseek4", 126, &[], "blk.1.indexer_compressor_ape.weight", &[4, 128]),
    ("kimi-k2-int4", "deepseek2", 34, &[], "blk.1.ffn_up_exps.weight", &[12, 32, 64]),
    ("deepseek32", "deepseek32", 67, &[], "blk.0.indexer.attn_q_b.weight", &[384, 32]),
    ("dots1", "dots1", 46, &[], "blk.0.attn_q_norm.weight", &[32]),
    ("ernie4-5-moe", "ernie4_5-moe", 39, &[], "blk.1.exp_probs_b.bias", &[8]),
    ("german-moe-bias", "moe-gpt", 53, &["w_noise", "w_noise"], "blk.0.ffn_up_exps.bias", &[4, 256]),
    ("german-moe-gelu", "moe-gpt", 20, &["w_noise"], "blk.0.ffn_up_exps.weight", &[4, 1024, 256]),
    (
        "german-moe-swiglu",
        "moe-gpt",
        23,
        &["w_noise", "w_noise"],
        "blk.1.ffn_gate_exps.weight",
        &[6, 384, 96],
    ),
    ("gpt-oss", "gpt-oss", 41, &[], "blk.0.ffn_down_exps.weight", &[4, 256, 256]),
    ("granitemoe", "granitemoe", 23, &[], "blk.0.ffn_gate_exps.weight", &[4, 256, 256]),
    ("granitehybrid", "granitehybrid", 49, &[], "blk.0.ssm_norm.weight", &[1, 128]),
    ("lfm2moe", "lfm2moe", 43, &[], "blk.0.shortconv.conv.weight", &[64, 3]),
    ("nemotron-h-moe", "nemotron_h_moe", 40, &[], "blk.0.ssm_norm.weight", &[2, 64]),
    ("llama-dense", "llama", 21, &[], "blk.1.ffn_down.weight", &[256, 512]),
    ("minimax-m2", "minimax-m2", 42, &[], "blk.0.attn_q_norm.weight", &[128]),
    ("mixtral", "llama", 23, &[], "blk.0.ffn_down_exps.weight", &[4, 256, 256]),
    ("moe-124m-checkpoint", "moe-gpt2", 31, &[], "blk.1.ffn_gate_exps.bias", &[4, 96]),
    ("moe-124m-top2", "moe-gpt2", 31, &[], "blk.0.ffn_up_exps.weight", &[4, 256, 192]),
    ("olmoe", "olmoe", 27, &[], "blk.0.attn_q_norm.weight", &[256]),
    ("qwen2moe", "qwen2moe", 37, &[], "blk.0.ffn_gate_inp_shexp.weight", &[256]),
    ("qwen3moe", "qwen3moe", 27, &[], "blk.0.attn_k_norm.weight", &[64]),
    ("tachyon-checkpoint", "bailingmoe2", 29, &["lm_head"], "blk.0.ffn_down_shexp.weight", &[64, 96]),
    ("tachyon-shared1", "bailingmoe2", 29, &[], "blk.1.attn_qkv.weight", &[512, 256]),
];

#[test]
fn fixtures_are_planned_completely() {
    let mut failures = Vec::new();
    for &(folder, gguf, count, dropped, name, shape) in FIXTURES {
        let checkpoint = open(folder);
        let (metadata, tensors, found_dropped) = match planned(&checkpoint) {
            Ok(planned) => planned,
            Err(error) => {
                failures.push(format!("{folder}: {error}"));
                continue;
            }
        };
        let found = tensors.iter().find(|(found, _)| found == name).map(|(_, shape)| &shape[..]);
        let fits = found_dropped.len() == dropped.len()
            && found_dropped.iter().zip(dropped).all(|(found, expected)| found.contains(expected));
        if tensors.len() != count || !fits || found != Some(shape) {
            failures.push(format!(
                "{folder}: {} tensors, dropped {found_dropped:?}, {name} {found:?}",
                tensors.len()
            ));
        }
        if metadata.require_str("general.architecture").unwrap() != gguf {
            failures.push(format!("{folder}: wrong architecture"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// A layer after the last that predicts further tokens is left out, and nothing else.
#[test]
fn layers_that_predict_further_tokens_are_left_out() {
    for (folder, layers, count) in [
        ("deepseek3", 3, 52),
        ("deepseek3-fp8", 2, 34),
        ("glm4moe", 3, 55),
        ("glm4-moe-lite", 3, 52),
        ("glm-dsa", 4, 85),
    ] {
        let mut checkpoint = open(folder);
        let (_, tensors, dropped) = planned(&checkpoint).unwrap_or_else(|e| panic!("{folder}: {e}"));
        assert_eq!(tensors.len(), count, "{folder}");
        let prefix = format!("model.layers.{layers}.");
        assert!(dropped.len() > 10 && dropped.iter().all(|name| name.starts_with(&prefix)), "{dropped:?}");
        // Fewer layers than there are is an error all the same.
        checkpoint.config.as_object_mut().unwrap().remove("mlp_layer_types");
        checkpoint.config["num_hidden_layers"] = (layers - 1).into();
        let message = planned(&checkpoint).unwrap_err().to_string();
        assert!(message.contains(&format!("unknown model.layers.{}.", layers - 1)), "{message}");
    }
}

/// Qwen's predictions have names of their own, and a tower for images stands beside some text models.
#[test]
fn predictions_and_towers_by_name_are_left_out() {
    for (folder, count, dropped) in [("gemma4", 89, 16), ("qwen35moe", 76, 62), ("qwen3next", 73, 41)] {
        let (_, tensors, found) = planned(&open(folder)).unwrap_or_else(|e| panic!("{folder}: {e}"));
        let known = ["mtp.", "model.visual.", "model.vision_tower.", "model.embed_vision."];
        let is_known = |name: &String| known.iter().any(|start| name.starts_with(start));
        assert!(found.iter().all(is_known), "{found:?}");
        assert_eq!((tensors.len(), found.len()), (count, dropped), "{folder}");
    }
}

#[test]
fn keys_that_only_one_architecture_has() {
    let cases: &[(&str, &str, Gguf)] = &[
        ("german-moe-swiglu", "moe-gpt.feed_forward_activation", "swiglu".into()),
        ("german-moe-gelu", "moe-gpt.feed_forward_length", 1024u32.into()),
        ("german-moe-gelu", "moe-gpt.expert_capacity_factor", 1.25f32.into()),
        ("german-moe-gelu", "moe-gpt.rope.dimension_count", 64u32.into()),
        ("moe-124m-top2", "moe-gpt2.expert_used_count", 2u32.into()),
        ("tachyon-checkpoint", "bailingmoe2.expert_shared_feed_forward_length", 96u32.into()),
        ("tachyon-checkpoint", "bailingmoe2.attention.layer_norm_rms_epsilon", 1e-6f32.into()),
        ("deepseek2", "deepseek2.attention.key_length", 96u32.into()),
        ("deepseek2", "deepseek2.attention.key_length_mla", 96u32.into()),
        ("deepseek2", "deepseek2.attention.value_length_mla", 64u32.into()),
        ("deepseek2", "deepseek2.rope.dimension_count", 32u32.into()),
        ("deepseek3", "deepseek2.expert_gating_func", 2u32.into()),
        ("deepseek3", "deepseek2.expert_group_count", 4u32.into()),
        ("deepseek3", "deepseek2.expert_group_used_count", 2u32.into()),
        ("deepseek3", "deepseek2.rope.scaling.yarn_log_multiplier", 0.1f32.into()),
        ("glm4-moe-lite", "deepseek2.expert_weights_norm", true.into()),
        ("glm4-moe-lite", "deepseek2.leading_dense_block_count", 1u32.into()),
        ("ernie4-5-moe", "ernie4_5-moe.expert_gating_func", 1u32.into()),
        ("ernie4-5-moe", "ernie4_5-moe.leading_dense_block_count", 1u32.into()),
        ("glm4moe", "glm4moe.rope.dimension_count", 16u32.into()),
        ("glm-dsa", "glm-dsa.attention.indexer.types", vec![true, true, false, true].into()),
        ("deepseek32", "deepseek32.attention.indexer.top_k", 10u32.into()),
        ("minimax-m2", "minimax-m2.rope.dimension_count", 16u32.into()),
        ("minimax-m2", "minimax-m2.expert_feed_forward_length", 32u32.into()),
        ("bailingmoe2", "bailingmoe2.rope.dimension_count", 8u32.into()),
        ("bailingmoe2", "bailingmoe2.expert_shared_feed_forward_length", 32u32.into()),
        ("gpt-oss", "gpt-oss.rope.scaling.type", "yarn".into()),
        ("gpt-oss", "gpt-oss.attention.sliding_window", 16u32.into()),
        ("granitemoe", "granitemoe.logit_scale", 1.5f32.into()),
        ("qwen3moe", "qwen3moe.expert_weights_norm", true.into()),
        ("mixtral", "llama.rope.freq_base", 1e6f32.into()),
        ("llama-dense", "llama.attention.key_length", 64u32.into()),
    ];
    for (folder, key, expected) in cases {
        let (metadata, ..) = planned(&open(folder)).unwrap();
        assert_eq!(metadata.get(key), Some(expected), "{folder} {key}");
    }
}

#[test]
fn what_is_not_there_or_not_known_is_named() {
    let mut checkpoint = open("mixtral");
    checkpoint.config["num_hidden_layers"] = 3.into();
    let message = planned(&checkpoint).unwrap_err().to_string();
    assert!(message.contains("missing model.layers.2.input_layernorm.weight"), "{message}");
    checkpoint.config["num_hidden_layers"] = 2.into();
    checkpoint.config["num_local_experts"] = 3.into();
    let message = planned(&checkpoint).unwrap_err().to_string();
    assert!(message.contains("[4, 256]"), "{message}");
    checkpoint.config["num_local_experts"] = 4.into();
    checkpoint.config["num_hidden_layers"] = 1.into();
    let message = planned(&checkpoint).unwrap_err().to_string();
    assert!(message.contains("unknown model.layers.1."), "{message}");
    checkpoint.config["architectures"][0] = "Nonsense".into();
    checkpoint.config["model_type"] = "nonsense".into();
    let message = planned(&checkpoint).unwrap_err().to_string();
    assert!(message.contains("Nonsense") && message.contains("MixtralForCausalLM"), "{message}");
}

/// What can be converted can be run, and the other way round; both sides call the file the same.
#[test]
fn the_engine_knows_the_same_architectures() {
    use std::collections::BTreeSet;
    let here: BTreeSet<&str> = ARCHITECTURES.iter().map(|known| known.gguf).collect();
    let there: BTreeSet<&str> = moewe_engine::model::ARCHITECTURES.iter().map(|known| known.name).collect();
    assert_eq!(here, there);
    let names: BTreeSet<&str> = ARCHITECTURES.iter().map(|known| known.name).collect();
    assert_eq!(names.len(), ARCHITECTURES.len(), "one file per architecture");
    // Tachyon has a file of its own and Ling's name in GGUF.
    assert_eq!(here.len() + 1, ARCHITECTURES.len());
}

/// Keys that stock llama.cpp's converter writes and we do not, or the other way round.
const OURS: &[(&str, &str)] = &[
    ("glm4-moe-lite", "expert_gating_func"), // it leaves out what these models need, and tells them by their size
];
const STOCKS: &[&str] = &["nextn_predict_layers"];

/// `gguf.txt` of a folder is what stock llama.cpp's converter makes of it: names, shapes and keys are the same, but for
/// layers that predict further tokens, which it keeps in some families.
#[test]
fn names_and_keys_are_llama_cpps() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    let mut compared = 0;
    for folder in std::fs::read_dir(&golden).unwrap().map(|entry| entry.unwrap().path()) {
        let Ok(text) = std::fs::read_to_string(folder.join("gguf.txt")) else { continue };
        let name = folder.file_name().unwrap().to_str().unwrap();
        let (metadata, tensors, _) = planned(&open(name)).unwrap();
        let theirs = Stock::parse(&text);
        let shapes: BTreeMap<&str, Vec<u64>> = tensors
            .iter()
            .map(|(name, shape)| (name.as_str(), shape.iter().rev().copied().collect()))
            .collect();
        assert_eq!(shapes, theirs.tensors, "{name}");
        let known = |key: &&str| !STOCKS.contains(key) && !OURS.contains(&(name, key));
        let ours: BTreeMap<&str, &Gguf> =
            metadata.iter().filter_map(|(key, value)| Some((key.split_once('.')?.1, value))).collect();
        let ours_only: Vec<_> = ours
            .keys()
            .copied()
            .filter(known)
            .filter(|key| !theirs.keys.contains_key(key) && *key != "architecture")
            .collect();
        assert!(ours_only.is_empty(), "{name}: {ours_only:?}");
        for (key, value) in theirs.keys.iter().filter(|(key, _)| known(key)) {
            let found = ours.get(key).unwrap_or_else(|| panic!("{name} lacks {key}"));
            match value.parse::<f64>() {
                Ok(value) => {
                    let found = found.as_f32().map(f64::from).or_else(|| found.as_i64().map(|n| n as f64));
                    assert!((found.unwrap() - value).abs() <= 1e-6 * value.abs(), "{name} {key}")
                }
                Err(_) => assert_eq!(as_python(found), *value, "{name} {key}"),
            }
        }
        compared += 1;
    }
    assert_eq!(compared, 15);
}

/// A value as a `gguf.txt` has it.
fn as_python(value: &Gguf) -> String {
    let word = |flag: bool| if flag { "True" } else { "False" }.to_owned();
    let Some(array) = value.as_array() else {
        return value.as_bool().map_or_else(|| value.as_str().unwrap().to_owned(), word);
    };
    let items: Vec<String> = match (array.as_bools(), array.as_i32s(), array.as_f32s()) {
        (Some(flags), ..) => flags.iter().copied().map(word).collect(),
        (_, Some(numbers), _) => numbers.iter().map(i32::to_string).collect(),
        (.., Some(numbers)) => numbers.iter().map(|number| format!("{number:?}")).collect(),
        _ => panic!("{array:?}"),
    };
    format!("[{}]", items.join(", "))
}

/// What a `gguf.txt` says, without layers that predict further tokens.
struct Stock<'t> {
    keys: BTreeMap<&'t str, String>,
    tensors: BTreeMap<&'t str, Vec<u64>>,
}

impl<'t> Stock<'t> {
    fn parse(text: &'t str) -> Self {
        let lines = || text.lines().filter(|line| !line.starts_with('#'));
        let key = |line: &'t str| {
            let (name, value) = line.split_once(" = ")?;
            let value = value.split_once("  (ARRAY").map_or(value, |array| array.0);
            Some((name.split_once('.')?.1, value.trim().to_owned()))
        };
        let mut keys: BTreeMap<&str, String> = lines().filter_map(key).collect();
        let count = |name: &str| keys.get(name).map_or(0, |value| value.parse::<u64>().unwrap());
        let layers = count("block_count") - count("nextn_predict_layers");
        let tensor = |line: &'t str| {
            let (name, rest) = line.split_once(" [").filter(|_| !line.contains(" = "))?;
            let shape = rest.split_once(']')?.0.split(", ").map(|length| length.parse().unwrap());
            let layer = TensorName::of(name).layer.map(|layer| layer as u64);
            layer.is_none_or(|layer| layer < layers).then(|| (name, shape.collect()))
        };
        let tensors = lines().filter_map(tensor).collect();
        if count("nextn_predict_layers") > 0 {
            let lists = keys.values_mut().filter(|value| value.starts_with('['));
            let cut = |list: &mut String| {
                let items: Vec<&str> =
                    list.trim_matches(['[', ']']).split(", ").take(layers as usize).collect();
                *list = format!("[{}]", items.join(", "));
            };
            lists.for_each(cut);
        }
        keys.insert("block_count", layers.to_string());
        Self { keys, tensors }
    }
}

#[test]
fn a_window_is_written_where_it_is_narrower_than_the_context() {
    for (window, expected) in [(16, Some(16)), (256, None)] {
        let mut checkpoint = open("mixtral");
        checkpoint.config["sliding_window"] = window.into();
        let (metadata, ..) = planned(&checkpoint).unwrap();
        assert_eq!(metadata.u64("llama.attention.sliding_window").unwrap(), expected, "{window}");
    }
}

/// Hyper-parameters of any size end in an error, not in memory or time.
#[test]
fn hostile_configurations_are_refused() {
    for key in ["num_hidden_layers", "num_local_experts", "num_attention_heads", "hidden_size", "vocab_size"]
    {
        for value in [0u64, 3, 1 << 31, u64::MAX] {
            let mut checkpoint = open("mixtral");
            checkpoint.config[key] = value.into();
            assert!(planned(&checkpoint).is_err(), "{key} = {value}");
        }
    }
}
