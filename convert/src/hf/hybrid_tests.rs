//! Layers of several kinds, in every layout that checkpoints have them in: the same model must become the same tensors.
//! Read from plans, so that what is compared does not depend on formats.

use super::*;
use crate::checkpoint::Checkpoint;
use crate::layout_tests::{Tensors, load, take};
use moewe_engine::gguf::Metadata;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;
use std::collections::BTreeMap;

/// Shapes and weights by name.
type Weights = BTreeMap<String, (Vec<u64>, Vec<f32>)>;

/// What a checkpoint becomes.
struct Outcome {
    metadata: Metadata,
    weights: Weights,
    dropped: Vec<String>,
    remarks: Vec<String>,
}

fn outcome(config: &Value, tensors: &Tensors) -> Result<Outcome> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, &folder.path().join("model.safetensors")).unwrap();
    let checkpoint = Checkpoint::open(folder.path())?;
    let architecture = Architecture::of(&checkpoint.config)?;
    let params = architecture.params(&checkpoint.config)?;
    let metadata = architecture.metadata(&params)?;
    let plan = plan::plan(architecture, &params, &checkpoint)?;
    let read = |output: &plan::Output<'_>| {
        let mut weights = vec![0.0; output.shape.iter().product::<u64>() as usize];
        output.read(0..output.rows(), &mut weights);
        (output.name.clone(), (output.shape.clone(), weights))
    };
    let weights = plan.outputs.iter().map(read).collect();
    let remarks = architecture.remarks(&checkpoint.config)?;
    Ok(Outcome { metadata, weights, dropped: plan.dropped, remarks })
}

fn refusal(config: &Value, tensors: &Tensors) -> String {
    outcome(config, tensors).err().expect("a refusal").to_string()
}

fn assert_same(a: &Outcome, b: &Outcome) {
    assert!(a.weights.keys().eq(b.weights.keys()));
    for (name, weights) in &a.weights {
        assert!(b.weights[name] == *weights, "{name}");
    }
    let keys = |outcome: &Outcome| -> Vec<String> {
        outcome.metadata.iter().map(|(key, value)| format!("{key} {value:?}")).collect()
    };
    assert_eq!(keys(a), keys(b));
}

/// Stacks the matrices of a layer's experts: parts side by side in one tensor, which is called `to`.
fn fuse(tensors: &mut Tensors, experts: usize, from: [&str; 2], parts: &[&str], to: &str) {
    let (mut bytes, mut shape) = (vec![], vec![]);
    for expert in 0..experts {
        for part in parts {
            let name = format!("{}{expert}{}", from[0], from[1].replace('#', part));
            shape = tensors.iter().find(|tensor| tensor.0 == name).unwrap().2.clone();
            bytes.extend(take(tensors, &name));
        }
    }
    shape[0] *= parts.len();
    shape.insert(0, experts);
    tensors.push((to.into(), Dtype::BF16, shape, bytes));
}

/// Takes stacked experts apart; the reverse of [`fuse`].
fn part(tensors: &mut Tensors, name: &str, parts: &[&str]) {
    let shape = tensors.iter().find(|tensor| tensor.0 == name).unwrap().2.clone();
    let (bytes, rows) = (take(tensors, name), shape[1] / parts.len());
    let stem = name.rsplit_once('.').unwrap().0;
    for (i, bytes) in bytes.chunks_exact(rows * shape[2] * 2).enumerate() {
        let (expert, part) = (i / parts.len(), parts[i % parts.len()]);
        let name = format!("{stem}.{expert}.{part}.weight");
        tensors.push((name, Dtype::BF16, vec![rows, shape[2]], bytes.to_vec()));
    }
}

#[test]
fn qwens_experts_alone_are_those_in_stacks() {
    let (config, mut tensors) = load("qwen35moe");
    let fused = outcome(&config, &tensors).unwrap();
    for layer in 0..4 {
        let name = format!("model.language_model.layers.{layer}.mlp.experts");
        part(&mut tensors, &format!("{name}.gate_up_proj"), &["gate_proj", "up_proj"]);
        part(&mut tensors, &format!("{name}.down_proj"), &["down_proj"]);
    }
    assert_same(&fused, &outcome(&config, &tensors).unwrap());
    let (config, mut tensors) = load("qwen3next");
    let alone = outcome(&config, &tensors).unwrap();
    for layer in 0..4 {
        let name = format!("model.layers.{layer}.mlp.experts.");
        let from = [&*name, ".#.weight"];
        fuse(&mut tensors, 8, from, &["gate_proj", "up_proj"], &format!("{name}gate_up_proj"));
        fuse(&mut tensors, 8, from, &["down_proj"], &format!("{name}down_proj"));
    }
    assert_same(&alone, &outcome(&config, &tensors).unwrap());
}

/// The text model saved alone, and the layers of a configuration that names only how often one attends.
#[test]
fn qwens_text_model_alone_is_the_one_with_a_tower() {
    let (config, tensors) = load("qwen35moe");
    let whole = outcome(&config, &tensors).unwrap();
    let mut alone: Tensors = tensors.clone();
    alone.retain(|tensor| !tensor.0.starts_with("mtp.") && !tensor.0.starts_with("model.visual."));
    let prefix = "model.language_model.";
    alone.iter_mut().for_each(|tensor| tensor.0 = tensor.0.replace(prefix, "model."));
    let mut text = config["text_config"].clone();
    text["architectures"] = json!(["Qwen3_5MoeForCausalLM"]);
    text.as_object_mut().unwrap().remove("layer_types");
    let found = outcome(&text, &alone).unwrap();
    assert_same(&whole, &found);
    assert!(found.dropped.is_empty() && found.remarks.is_empty(), "{:?}", found.remarks);
    text["full_attention_interval"] = 2.into();
    let message = refusal(&text, &alone);
    assert!(message.contains("missing model.layers.1.self_attn.q_proj.weight"), "{message}");
    // llama.cpp wants to know which pairs turn with images; where nothing says so, the class's.
    text["full_attention_interval"] = 4.into();
    text["rope_parameters"] = json!({ "rope_theta": 1e7, "partial_rotary_factor": 0.5 });
    let found = outcome(&text, &alone).unwrap();
    let sections = found.metadata.require_array("qwen35moe.rope.dimension_sections").unwrap();
    assert_eq!(sections.as_i32s().unwrap()[..], [11, 11, 10, 0]);
}

/// The same layers with a dense network.
#[test]
fn qwen_without_experts() {
    let (mut config, mut tensors) = load("qwen35moe");
    let expected = outcome(&config, &tensors).unwrap();
    tensors.retain(|tensor| !tensor.0.contains(".mlp.") && !tensor.0.starts_with("mtp."));
    for layer in 0..4 {
        for (part, shape) in [("gate", [96, 64]), ("up", [96, 64]), ("down", [64, 96])] {
            let name = format!("model.language_model.layers.{layer}.mlp.{part}_proj.weight");
            tensors.push((name, Dtype::BF16, shape.to_vec(), vec![0; 2 * 96 * 64]));
        }
    }
    config["architectures"] = json!(["Qwen3_5ForConditionalGeneration"]);
    config["model_type"] = "qwen3_5".into();
    config["text_config"]["model_type"] = "qwen3_5_text".into();
    config["text_config"]["intermediate_size"] = 96.into();
    let found = outcome(&config, &tensors).unwrap();
    assert_eq!(found.metadata.require_str("general.architecture").unwrap(), "qwen35");
    assert_eq!(found.metadata.u64("qwen35.feed_forward_length").unwrap(), Some(96));
    assert_eq!(found.metadata.get("qwen35.expert_used_count"), None);
    let is_ffn = |name: &str| name.contains(".ffn_");
    let others = |outcome: &Outcome| -> Weights {
        let kept = outcome.weights.iter().filter(|(name, _)| !is_ffn(name));
        kept.map(|(name, weights)| (name.clone(), weights.clone())).collect()
    };
    assert_eq!(others(&found), others(&expected));
    assert_eq!(found.weights.keys().filter(|name| is_ffn(name)).count(), 12);
}

/// Rows of values change places with the factors of their tiles.
#[test]
fn eight_bit_floats_keep_their_factors_in_another_order() {
    let (mut config, mut tensors) = load("qwen35moe");
    config["quantization_config"] = json!({ "quant_method": "fp8", "weight_block_size": [32, 64] });
    let name = "model.language_model.layers.0.linear_attn.in_proj_qkv.weight";
    take(&mut tensors, name);
    tensors.push((name.into(), Dtype::F8_E4M3, vec![256, 64], vec![0x38; 256 * 64])); // ones
    let factors = (1..=8).flat_map(|i| (i as f32).to_le_bytes()).collect();
    tensors.push((format!("{name}_scale_inv"), Dtype::F32, vec![8, 1], factors));
    let found = outcome(&config, &tensors).unwrap();
    let heads: Vec<f32> =
        found.weights["blk.0.attn_qkv.weight"].1.chunks(32 * 64).map(|head| head[0]).collect();
    assert_eq!(heads, [1., 2., 3., 4., 5., 7., 6., 8.]);
}

/// Decay, norms, and the order of value heads, number by number.
#[test]
fn states_of_the_delta_rule_are_as_llama_cpp_computes_them() {
    let f32s = |numbers: &[f32]| numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
    for (fixture, prefix, decay, norm) in [
        ("qwen35moe", "model.language_model.", [-1.0, -4.0, -2.0, -0.5], 1.25),
        ("qwen3next", "model.", [-1.0, -2.0, -4.0, -0.5], 1.25),
    ] {
        let (config, mut tensors) = load(fixture);
        let name = |part: &str| format!("{prefix}layers.0.{part}");
        let logs = [0.0, 2f32.ln(), 4f32.ln(), 0.5f32.ln()];
        take(&mut tensors, &name("linear_attn.A_log"));
        tensors.push((name("linear_attn.A_log"), Dtype::F32, vec![4], f32s(&logs)));
        for part in ["linear_attn.norm.weight", "input_layernorm.weight"] {
            let len = if part.starts_with("linear") { 32 } else { 64 };
            take(&mut tensors, &name(part));
            tensors.push((name(part), Dtype::F32, vec![len], f32s(&vec![0.25; len])));
        }
        let found = outcome(&config, &tensors).unwrap();
        let first = |name: &str| found.weights[name].1[0];
        for (found, expected) in found.weights["blk.0.ssm_a"].1.iter().zip(decay) {
            assert!((found - expected).abs() < 1e-6, "{fixture}: {found} {expected}");
        }
        assert_eq!((first("blk.0.ssm_norm.weight"), first("blk.0.attn_norm.weight")), (0.25, norm));
    }
}

/// Renames what a checkpoint's names begin with.
fn renamed(mut tensors: Tensors, from: &str, to: &str) -> Tensors {
    tensors.iter_mut().for_each(|tensor| tensor.0 = tensor.0.replace(from, to));
    tensors
}

/// Nemotron as its publisher has it and as transformers 5 saves it, layers as letters and as a list in either spelling.
#[test]
fn nemotron_in_every_layout() {
    let (config, tensors) = load("nemotron-h-moe");
    let published = outcome(&config, &tensors).unwrap();
    assert!(published.remarks.is_empty(), "{:?}", published.remarks);
    let mut fused = renamed(tensors.clone(), "backbone.", "model.");
    for layer in [1, 4] {
        for part in ["up_proj", "down_proj"] {
            let name = format!("model.layers.{layer}.mixer.experts.");
            fuse(&mut fused, 8, [&name, ".#.weight"], &[part], &format!("{name}{part}"));
        }
    }
    for key in ["layers_block_type", "layer_types"] {
        for (state, attention) in [("mamba", "attention"), ("linear_attention", "full_attention")] {
            let mut saved = config.clone();
            let keys = saved.as_object_mut().unwrap();
            keys.retain(|key, _| key != "hybrid_override_pattern" && key != "num_hidden_layers");
            keys.insert(key.into(), json!([state, "moe", state, attention, "moe"]));
            keys["time_step_limit"] = json!([0.0, { "__float__": "Infinity" }]);
            assert_same(&published, &outcome(&saved, &fused).unwrap());
        }
    }
}

/// A dense layer, and experts that see a shorter vector.
#[test]
fn nemotron_with_a_dense_layer_and_a_latent() {
    let (mut config, mut tensors) = load("nemotron-h-moe");
    tensors.retain(|tensor| {
        !tensor.0.contains("layers.4.mixer.") && !tensor.0.contains("layers.1.mixer.experts.")
    });
    let mut add = |name: &str, shape: [usize; 2]| {
        tensors.push((
            format!("backbone.layers.{name}.weight"),
            Dtype::BF16,
            shape.to_vec(),
            vec![0; 2 * shape[0] * shape[1]],
        ));
    };
    for expert in 0..8 {
        add(&format!("1.mixer.experts.{expert}.up_proj"), [32, 16]);
        add(&format!("1.mixer.experts.{expert}.down_proj"), [16, 32]);
    }
    add("1.mixer.fc1_latent_proj", [16, 64]);
    add("1.mixer.fc2_latent_proj", [64, 16]);
    add("4.mixer.up_proj", [40, 64]);
    add("4.mixer.down_proj", [64, 40]);
    config["hybrid_override_pattern"] = "MEM*-".into();
    config["intermediate_size"] = 40.into();
    config["moe_latent_size"] = 16.into();
    let found = outcome(&config, &tensors).unwrap();
    let shape = |name: &str| found.weights[name].0.clone();
    assert_eq!(shape("blk.1.ffn_up_exps.weight"), [8, 32, 16]);
    assert_eq!(shape("blk.1.ffn_down_exps.weight"), [8, 16, 32]);
    assert_eq!(
        (shape("blk.1.ffn_latent_down.weight"), shape("blk.1.ffn_latent_up.weight")),
        (vec![16, 64], vec![64, 16])
    );
    assert_eq!((shape("blk.4.ffn_up.weight"), shape("blk.4.ffn_down.weight")), (vec![40, 64], vec![64, 40]));
    assert_eq!(found.metadata.u64("nemotron_h_moe.moe_latent_size").unwrap(), Some(16));
    let widths = found.metadata.require_array("nemotron_h_moe.feed_forward_length").unwrap();
    assert_eq!(widths.as_i32s().unwrap()[..], [0, 32, 0, 0, 40]);
    // Predictions of further tokens have a place of their own.
    tensors.push(("mtp.layers.0.eh_proj.weight".into(), Dtype::BF16, vec![2], vec![0; 4]));
    assert_eq!(outcome(&config, &tensors).unwrap().dropped, ["mtp.layers.0.eh_proj.weight"]);
}

#[test]
fn granites_layers_and_experts_go_by_two_names() {
    let (config, tensors) = load("granitehybrid");
    let published = outcome(&config, &tensors).unwrap();
    assert!(published.remarks.is_empty(), "{:?}", published.remarks);
    let mut saved = config.clone();
    saved["layer_types"] = json!(["linear_attention", "full_attention", "linear_attention"]);
    saved["mamba_d_head"] = "auto".into();
    let mut new = renamed(tensors.clone(), "block_sparse_moe.router.layer.", "block_sparse_moe.router.");
    new = renamed(new, "block_sparse_moe.input_linear.weight", "block_sparse_moe.experts.gate_up_proj");
    new = renamed(new, "block_sparse_moe.output_linear.weight", "block_sparse_moe.experts.down_proj");
    assert_same(&published, &outcome(&saved, &new).unwrap());
    // Its smallest models have the shared network alone, and some know positions.
    let mut dense = config.clone();
    dense["num_local_experts"] = 0.into();
    dense["num_experts_per_tok"] = 0.into();
    dense["position_embedding_type"] = "rope".into();
    let mut fewer = tensors.clone();
    fewer.retain(|tensor| !tensor.0.contains("block_sparse_moe"));
    let found = outcome(&dense, &fewer).unwrap();
    for part in ["gate", "up", "down"] {
        let (own, shared) = (format!("blk.1.ffn_{part}.weight"), format!("blk.1.ffn_{part}_shexp.weight"));
        assert_eq!(found.weights[&own], published.weights[&shared], "{part}");
        assert!(!found.weights.contains_key(&shared));
    }
    let of = |outcome: &Outcome, key: &str| outcome.metadata.get(&format!("granitehybrid.{key}")).cloned();
    assert_eq!(of(&found, "feed_forward_length"), Some(48u32.into()));
    assert_eq!(of(&found, "expert_count"), None);
    assert_eq!(of(&found, "context_length"), Some(256u32.into()));
    assert_eq!(of(&found, "rope.scaling.finetuned"), Some(true.into()));
    assert_eq!(of(&published, "rope.scaling.finetuned"), Some(false.into()));
    assert!(refusal(&dense, &tensors).contains("unknown model.layers.0.block_sparse_moe"));
    // Where every layer attends there are no states to describe.
    dense["layer_types"] = json!(["attention"]);
    dense["num_hidden_layers"] = 1.into();
    let of_second =
        |tensor: &(String, _, _, _)| tensor.0.contains("layers.1.") || !tensor.0.contains("layers.");
    let only: Tensors = fewer.into_iter().filter(of_second).collect();
    let found = outcome(&dense, &renamed(only, "layers.1.", "layers.0.")).unwrap();
    assert!(found.metadata.iter().all(|(key, _)| !key.contains(".ssm.")) && found.weights.len() == 11);
}

/// What states are left with of each step, number by number; columns in GGUF.
#[test]
fn decays_of_mamba_are_as_llama_cpp_computes_them() {
    let (config, mut tensors) = load("granitehybrid");
    let logs: Vec<u8> = (1..=8).flat_map(|i| (i as f32).ln().to_le_bytes()).collect();
    take(&mut tensors, "model.layers.0.mamba.A_log");
    tensors.push(("model.layers.0.mamba.A_log".into(), Dtype::F32, vec![8], logs));
    let found = outcome(&config, &tensors).unwrap();
    let (shape, decays) = &found.weights["blk.0.ssm_a"];
    assert_eq!(*shape, [8, 1]);
    assert!(decays.iter().zip(1..).all(|(found, i)| (found + i as f32).abs() < 1e-5), "{decays:?}");
    assert_eq!(found.weights["blk.0.ssm_d"].0, [8, 1]);
}

#[test]
fn lfm2s_experts_alone_are_those_in_stacks() {
    let (config, tensors) = load("lfm2moe");
    let alone = outcome(&config, &tensors).unwrap();
    assert!(alone.remarks.is_empty(), "{:?}", alone.remarks);
    let mut fused = tensors.clone();
    for layer in 1..4 {
        let name = format!("model.layers.{layer}.feed_forward.experts.");
        let from = [&*name, ".#.weight"];
        fuse(&mut fused, 8, from, &["w1", "w3"], &format!("{name}gate_up_proj"));
        fuse(&mut fused, 8, from, &["w2"], &format!("{name}down_proj"));
    }
    assert_same(&alone, &outcome(&config, &fused).unwrap());
    let mut unbiased = config.clone();
    unbiased["use_expert_bias"] = false.into();
    let message = refusal(&unbiased, &tensors);
    assert!(message.contains("unknown model.layers.1.feed_forward.expert_bias"), "{message}");
}

/// Gemma 4 as published (two numbers for layers that see everything) and as transformers 5 writes it (layer by layer).
#[test]
fn gemmas_wide_heads_go_by_two_spellings() {
    let (config, tensors) = load("gemma4");
    let written = outcome(&config, &tensors).unwrap();
    assert!(written.remarks.is_empty(), "{:?}", written.remarks);
    let mut published = config.clone();
    let text = published["text_config"].as_object_mut().unwrap();
    text.remove("per_layer_config");
    text.insert("global_head_dim".into(), 32.into());
    text.insert("num_global_key_value_heads".into(), 1.into());
    assert_same(&written, &outcome(&published, &tensors).unwrap());
    // The last layer sees everything, whatever the list says.
    published["text_config"]["layer_types"][3] = "sliding_attention".into();
    assert_same(&written, &outcome(&published, &tensors).unwrap());
    // The class heeds its own keys only where keys are values.
    published["text_config"]["attention_k_eq_v"] = false.into();
    let message = refusal(&published, &tensors);
    assert!(
        message.contains("layers.1.self_attn.k_proj.weight") && message.contains("[64, 64]"),
        "{message}"
    );
    let (shape, factors) = &written.weights["rope_freqs.weight"];
    assert_eq!((shape[0], &factors[3..5]), (16, &[1.0, 1e30][..]));
}

#[test]
fn gemma_without_experts() {
    let (mut config, mut tensors) = load("gemma4");
    let whole = outcome(&config, &tensors).unwrap();
    let of_experts = [".experts.", ".router.", "layernorm_1.", "layernorm_2."];
    tensors.retain(|tensor| !of_experts.iter().any(|part| tensor.0.contains(part)));
    assert!(refusal(&config, &tensors).contains("router.scale"));
    let text = config["text_config"].as_object_mut().unwrap();
    text["enable_moe_block"] = false.into();
    for key in ["num_experts", "top_k_experts", "moe_intermediate_size"] {
        text[key] = Value::Null;
    }
    let found = outcome(&config, &tensors).unwrap();
    assert_eq!(found.weights.len(), 89 - 4 * 8);
    assert!(found.weights.iter().all(|(name, weights)| whole.weights[name] == *weights));
    assert!(found.metadata.iter().all(|(key, _)| !key.contains("expert")));
}
