//! Layouts that no fixture has, made from fixtures or from counting numbers: fused Mixtral, MXFP4 and FP8 sources, tied
//! heads, Gemma's norms, models with several towers.

use super::*;
use crate::checkpoint::Checkpoint;
use moewe_engine::gguf::Gguf;
use moewe_engine::quant::Format;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::path::PathBuf;

pub(crate) type Tensors = Vec<(String, Dtype, Vec<usize>, Vec<u8>)>;

pub(super) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name)
}

/// A checkpoint on disk, to be changed and written again.
pub(crate) fn load(name: &str) -> (Value, Tensors) {
    let config = crate::json::read(&golden(name).join("config.json")).unwrap();
    let checkpoint = Checkpoint::open(&golden(name)).unwrap();
    let tensors = checkpoint.tensors().iter().map(|tensor| {
        let shape = tensor.shape.iter().map(|&n| n as usize).collect();
        let dtype = match tensor.dtype {
            crate::checkpoint::Dtype::Bf16 => Dtype::BF16,
            crate::checkpoint::Dtype::F32 => Dtype::F32,
            crate::checkpoint::Dtype::I32 => Dtype::I32,
            crate::checkpoint::Dtype::I64 => Dtype::I64,
            other => panic!("{other:?}"),
        };
        (tensor.name.clone(), dtype, shape, checkpoint.elements(tensor).to_vec())
    });
    (config, tensors.collect())
}

/// Writes the checkpoint and converts it.
pub(super) fn convert_as(config: &Value, tensors: &Tensors, format: &str) -> Result<(Gguf, Report)> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, &folder.path().join("model.safetensors")).unwrap();
    let out = folder.path().join("m.gguf");
    let report = convert(folder.path(), &out, &Options::new(Format::by_name(format).unwrap()), &())?;
    Ok((Gguf::open(&out).unwrap(), report))
}

pub(super) fn weights(gguf: &Gguf, name: &str) -> Vec<f32> {
    let tensor = gguf.tensor(name).unwrap_or_else(|| panic!("no {name}"));
    let mut weights = vec![0.0; tensor.elements() as usize];
    (tensor.format.dequantize)(&gguf.bytes(tensor), &mut weights);
    weights
}

pub(super) fn assert_same(a: &Gguf, b: &Gguf) {
    assert_eq!(a.tensors().len(), b.tensors().len());
    for tensor in a.tensors() {
        assert!(weights(a, &tensor.name) == weights(b, &tensor.name), "{}", tensor.name);
    }
}

pub(crate) fn take(tensors: &mut Tensors, name: &str) -> Vec<u8> {
    let at = tensors.iter().position(|tensor| tensor.0 == name).unwrap_or_else(|| panic!("no {name}"));
    tensors.remove(at).3
}

fn bf16(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&two| half::bf16::from_le_bytes(two).to_f32()).collect()
}

#[test]
fn fused_mixtral_equals_the_old_layout() {
    let (config, mut tensors) = load("mixtral");
    let (old, _) = convert_as(&config, &tensors, "F32").unwrap();
    for layer in 0..2 {
        let (mut gate_up, mut down) = (vec![], vec![]);
        for e in 0..4 {
            let mut part = |w: &str| {
                take(&mut tensors, &format!("model.layers.{layer}.block_sparse_moe.experts.{e}.{w}.weight"))
            };
            gate_up.extend(part("w1"));
            gate_up.extend(part("w3"));
            down.extend(part("w2"));
        }
        let router = take(&mut tensors, &format!("model.layers.{layer}.block_sparse_moe.gate.weight"));
        let name = |part: &str| format!("model.layers.{layer}.mlp.{part}");
        tensors.push((name("gate.weight"), Dtype::BF16, vec![4, 256], router));
        tensors.push((name("experts.gate_up_proj"), Dtype::BF16, vec![4, 512, 256], gate_up));
        tensors.push((name("experts.down_proj"), Dtype::BF16, vec![4, 256, 256], down));
    }
    let (new, _) = convert_as(&config, &tensors, "F32").unwrap();
    assert_same(&old, &new);
}

/// Replaces gpt-oss's experts by MXFP4 blocks, and by the bfloat16 weights that these blocks mean.
#[test]
fn mxfp4_experts_equal_their_values_and_keep_their_bits() {
    let (config, mut blocks) = load("gpt-oss");
    let mut values = blocks.clone();
    for layer in 0..2 {
        for (part, outs) in [("gate_up_proj", 512usize), ("down_proj", 256)] {
            let name = format!("model.layers.{layer}.mlp.experts.{part}");
            let count = take(&mut blocks, &name).len() / 2;
            take(&mut values, &name);
            let codes: Vec<u8> = (0..count / 2).map(|i| ((i * 2_654_435_761) >> 7) as u8).collect();
            let exponents: Vec<u8> = (0..count / 32).map(|i| 118 + ((i * 40_503) >> 3) as u8 % 6).collect();
            values.push((
                name.clone(),
                Dtype::BF16,
                vec![4, 256, outs],
                transposed(&codes, &exponents, outs),
            ));
            blocks.push((format!("{name}_blocks"), Dtype::U8, vec![4, outs, 8, 16], codes));
            blocks.push((format!("{name}_scales"), Dtype::U8, vec![4, outs, 8], exponents));
        }
    }
    let (expected, _) = convert_as(&config, &values, "F32").unwrap();
    let (floats, _) = convert_as(&config, &blocks, "F32").unwrap();
    assert_same(&expected, &floats);
    let (kept, report) = convert_as(&config, &blocks, "Q8_0").unwrap();
    let name = "blk.1.ffn_gate_exps.weight";
    assert_eq!(kept.tensor(name).unwrap().format.name, "MXFP4");
    assert_eq!(weights(&kept, name), weights(&expected, name));
    assert_eq!(report.substitutions.len(), 6);
}

/// MXFP4 `(expert, out, in)` as bfloat16 `(expert, in, out)`; exact, because codes have two bits of mantissa.
fn transposed(codes: &[u8], exponents: &[u8], outs: usize) -> Vec<u8> {
    const MAGNITUDES: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let mut bytes = vec![0; codes.len() * 4];
    for i in 0..codes.len() * 2 {
        let code = codes[i / 2] >> (i % 2 * 4) & 15;
        let sign = if code & 8 != 0 { -1.0 } else { 1.0 };
        let value = sign * MAGNITUDES[(code & 7) as usize] * 2f32.powi(exponents[i / 32] as i32 - 127);
        let (e, out, column) = (i / (outs * 256), i / 256 % outs, i % 256);
        let at = (e * 256 * outs + column * outs + out) * 2;
        bytes[at..at + 2].copy_from_slice(&half::bf16::from_f32(value).to_le_bytes());
    }
    bytes
}

/// Packs whole numbers as compressed-tensors does, into the four tensors' places of one.
fn packed_in_groups(tensors: &mut Tensors, name: &str, scale: f32) {
    let at = tensors.iter().position(|tensor| tensor.0 == format!("{name}_packed")).unwrap();
    let rows = tensors[at].2[0];
    let groups = tensors[at].2[1] / 4;
    let scales = half::bf16::from_f32(scale).to_le_bytes().repeat(rows * groups);
    let of_scales = tensors.iter_mut().find(|tensor| tensor.0 == format!("{name}_scale")).unwrap();
    assert_eq!(of_scales.3.len(), scales.len(), "groups of 32");
    of_scales.3 = scales;
}

/// The checkpoint's codes and scales are the file's, where the file may have as many bits.
#[test]
fn int4_experts_keep_their_bits() {
    let (config, mut tensors) = load("kimi-k2-int4");
    let (name, from) = ("blk.1.ffn_gate_exps.weight", "model.layers.1.mlp.experts.0.gate_proj.weight");
    let (exact, _) = convert_as(&config, &tensors, "F32").unwrap();
    // Q2_K's blocks do not divide these rows, so Q4_0 takes its place.
    for format in ["Q4_0", "Q6_K", "Q8_0", "Q2_K"] {
        let (gguf, report) = convert_as(&config, &tensors, format).unwrap();
        let found = gguf.tensor(name).unwrap().format.name;
        assert_eq!((found, report.suspicious.len()), ("Q4_0", 0), "{format}");
        assert_eq!(weights(&gguf, name), weights(&exact, name), "{format}");
    }
    // Scales that F16 does not hold exactly are told; what is lost is a quarter of a thousandth of such a weight.
    packed_in_groups(&mut tensors, from, 1.5 * 2f32.powi(-30));
    let (_, report) = convert_as(&config, &tensors, "Q4_0").unwrap();
    let lost = &report.suspicious[0];
    assert_eq!((&*lost.tensor, lost.not_finite), (name, 0));
    assert!(lost.out_of_range > 1000 && lost.out_of_range <= 32 * 64, "{}", lost.out_of_range);
    let (floats, report) = convert_as(&config, &tensors, "BF16").unwrap();
    assert!(report.suspicious.is_empty() && weights(&floats, name)[..64].iter().any(|weight| *weight != 0.0));
    for (end, change) in [("_shape", 1), ("_scale", 0)] {
        let (config, mut broken) = load("kimi-k2-int4");
        let at = broken.iter().position(|tensor| tensor.0 == format!("{from}{end}")).unwrap();
        if change == 0 {
            broken.remove(at);
        } else {
            broken[at].3[0] ^= change;
        }
        let message = convert_as(&config, &broken, "F32").unwrap_err().to_string();
        assert!(message.contains(&format!("{from}_packed")) && message.contains(end), "{message}");
    }
}

/// Kimi K2.5 and later: the text model within one that sees, its configuration within another.
#[test]
fn a_text_model_with_a_tower_for_images_is_the_text_model() {
    let (text, mut tensors) = load("kimi-k2-int4");
    let (plain, _) = convert_as(&text, &tensors, "Q8_0").unwrap();
    tensors.iter_mut().for_each(|tensor| tensor.0 = format!("language_model.{}", tensor.0));
    for name in ["vision_tower.encoder.blocks.0.wqkv.weight", "mm_projector.pre_norm.weight"] {
        tensors.push((name.into(), Dtype::BF16, vec![2], vec![0; 4]));
    }
    let mut inner = text.clone();
    for class in ["KimiK25ForConditionalGeneration", "Kimi_K25ForConditionalGeneration"] {
        let config = json!({ "architectures": [class], "model_type": "kimi_k25", "text_config": inner,
            "tie_word_embeddings": false, "vision_config": {}, "use_unified_vision_chunk": true });
        let (gguf, report) = convert_as(&config, &tensors, "Q8_0").unwrap();
        assert_same(&plain, &gguf);
        assert_eq!(report.dropped.len(), 2, "{:?}", report.dropped);
        assert!(report.remarks[0].contains("use_unified_vision_chunk"), "{:?}", report.remarks);
        inner["model_type"] = "deepseek_v3".into();
    }
}

/// MiniMax M2 as transformers 5 names and fuses it.
#[test]
fn minimax_in_both_layouts() {
    let (config, mut tensors) = load("minimax-m2");
    let (old, _) = convert_as(&config, &tensors, "F32").unwrap();
    for layer in 0..3 {
        let (mut gate_up, mut down) = (vec![], vec![]);
        let from = format!("model.layers.{layer}.block_sparse_moe");
        for e in 0..8 {
            let mut part = |w: &str| take(&mut tensors, &format!("{from}.experts.{e}.{w}.weight"));
            gate_up.extend([part("w1"), part("w3")].concat());
            down.extend(part("w2"));
        }
        let to = |part: &str| format!("model.layers.{layer}.mlp.{part}");
        tensors.push((to("experts.gate_up_proj"), Dtype::BF16, vec![8, 64, 64], gate_up));
        tensors.push((to("experts.down_proj"), Dtype::BF16, vec![8, 64, 32], down));
        for part in ["gate.weight", "e_score_correction_bias"] {
            let tensor = tensors.iter_mut().find(|tensor| tensor.0 == format!("{from}.{part}")).unwrap();
            tensor.0 = to(part);
        }
    }
    let (new, _) = convert_as(&config, &tensors, "F32").unwrap();
    assert_same(&old, &new);
}

#[test]
fn fp8_with_tile_factors() {
    let (config, mut tensors) = load("llama-dense");
    let name = "model.layers.0.mlp.down_proj.weight"; // [256, 512]: 2 x 4 tiles of 128
    take(&mut tensors, name);
    tensors.push((name.into(), Dtype::F8_E4M3, vec![256, 512], vec![0x38; 256 * 512])); // ones
    let factors: Vec<u8> = (1..=8).flat_map(|i| (i as f32).to_le_bytes()).collect();
    tensors.push((format!("{name}_scale_inv"), Dtype::F32, vec![2, 4], factors));
    let (gguf, _) = convert_as(&config, &tensors, "F32").unwrap();
    let down = weights(&gguf, "blk.0.ffn_down.weight");
    for (row, column, factor) in [(0, 0, 1.0), (127, 128, 2.0), (128, 0, 5.0), (255, 511, 8.0)] {
        assert_eq!(down[row * 512 + column], factor, "row {row}, column {column}");
    }
    tensors.last_mut().unwrap().2 = vec![4, 2];
    let message = convert_as(&config, &tensors, "F32").unwrap_err().to_string();
    assert!(message.contains("per tile of [128, 128]"), "{message}");
}

#[test]
fn a_tied_head_is_left_out_or_repeated() {
    for (folder, expected) in
        [("llama-dense", false), ("qwen3moe", false), ("olmoe", true), ("gpt-oss", true)]
    {
        let (mut config, mut tensors) = load(folder);
        config["tie_word_embeddings"] = true.into();
        let table = tensors.iter().find(|tensor| tensor.0 == "model.embed_tokens.weight").unwrap().clone();
        take(&mut tensors, "lm_head.weight");
        tensors.push(("lm_head.weight".into(), table.1, table.2, table.3));
        let (gguf, report) = convert_as(&config, &tensors, "F32").unwrap();
        assert_eq!(gguf.tensor("output.weight").is_some(), expected, "{folder}");
        assert_eq!(report.dropped, ["lm_head.weight"], "{folder}");
        take(&mut tensors, "lm_head.weight");
        let (gguf, _) = convert_as(&config, &tensors, "F32").unwrap();
        if expected {
            assert!(weights(&gguf, "output.weight") == weights(&gguf, "token_embd.weight"), "{folder}");
        }
    }
}

/// A Gemma 3 with all its tensors, named with `prefix` before the model's own names.
fn gemma(prefix: &str) -> (Value, Tensors) {
    let config = json!({
        "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
        "text_config": { "model_type": "gemma3_text", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 40, "sliding_window": 16,
            "max_position_embeddings": 128, "query_pre_attn_scalar": 32, "rope_theta": 1000000.0,
            "rope_local_base_freq": 10000.0, "rms_norm_eps": 1e-6, "rope_scaling": { "rope_type": "linear", "factor": 8.0 } }
    });
    let layer = |part: &str| format!("{prefix}layers.0.{part}.weight");
    let mut shapes = vec![
        (format!("{prefix}embed_tokens.weight"), vec![40, 64]),
        (format!("{prefix}norm.weight"), vec![64]),
    ];
    for norm in ["input", "post_attention", "pre_feedforward", "post_feedforward"] {
        shapes.push((layer(&format!("{norm}_layernorm")), vec![64]));
    }
    for (part, shape) in [
        ("self_attn.q_proj", vec![128, 64]),
        ("self_attn.k_proj", vec![64, 64]),
        ("self_attn.v_proj", vec![64, 64]),
        ("self_attn.o_proj", vec![64, 128]),
        ("self_attn.q_norm", vec![32]),
        ("self_attn.k_norm", vec![32]),
        ("mlp.gate_proj", vec![96, 64]),
        ("mlp.up_proj", vec![96, 64]),
        ("mlp.down_proj", vec![64, 96]),
    ] {
        shapes.push((layer(part), shape));
    }
    shapes.push(("vision_tower.encoder.weight".into(), vec![4]));
    let quarter = half::bf16::from_f32(0.25).to_le_bytes();
    let filled = |(name, shape): (String, Vec<usize>)| {
        let bytes = quarter.repeat(shape.iter().product());
        (name, Dtype::BF16, shape, bytes)
    };
    (config, shapes.into_iter().map(filled).collect())
}

#[test]
fn gemma_norms_gain_one_under_every_prefix() {
    for prefix in ["model.", "language_model.model.", "model.language_model."] {
        let (config, tensors) = gemma(prefix);
        let (gguf, report) = convert_as(&config, &tensors, "F32").unwrap();
        assert_eq!((report.tensors, report.dropped.len()), (15, 1), "{prefix}");
        for norm in
            ["attn_norm", "attn_q_norm", "attn_k_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"]
        {
            let name = format!("blk.0.{norm}.weight");
            assert!(weights(&gguf, &name).iter().all(|&weight| weight == 1.25), "{name}");
        }
        assert_eq!(weights(&gguf, "output_norm.weight")[0], 1.25);
        assert_eq!(weights(&gguf, "blk.0.attn_q.weight")[0], 0.25);
        let metadata = gguf.metadata();
        assert_eq!(metadata.f32("gemma3.rope.freq_base_swa").unwrap(), Some(10_000.0));
        assert_eq!(metadata.f32("gemma3.rope.scaling.factor").unwrap(), Some(8.0));
        assert_eq!(metadata.u64("gemma3.attention.sliding_window").unwrap(), Some(16));
        assert_eq!(metadata.get("gemma3.attention.sliding_window_pattern"), None);
    }
}

#[test]
fn biases_and_shared_experts_are_taken_where_they_are() {
    let (config, mut tensors) = load("granitemoe");
    let mut config = config;
    config["model_type"] = "granitemoeshared".into();
    config["shared_intermediate_size"] = 32.into();
    let message = convert_as(&config, &tensors, "F32").unwrap_err().to_string();
    assert!(message.contains("missing model.layers.0.shared_mlp.input_linear.weight"), "{message}");
    for layer in 0..2 {
        let input: Vec<u8> =
            (0..64 * 256).flat_map(|i| half::bf16::from_f32((i / 256) as f32).to_le_bytes()).collect();
        let name = |part: &str| format!("model.layers.{layer}.shared_mlp.{part}_linear.weight");
        tensors.push((name("input"), Dtype::BF16, vec![64, 256], input));
        tensors.push((name("output"), Dtype::BF16, vec![256, 32], vec![0; 256 * 64]));
    }
    let (gguf, _) = convert_as(&config, &tensors, "F32").unwrap();
    assert_eq!(weights(&gguf, "blk.1.ffn_gate_shexp.weight")[31 * 256], 31.0);
    assert_eq!(weights(&gguf, "blk.1.ffn_up_shexp.weight")[0], 32.0);
    // Llama's permutation moves biases as it moves rows.
    let (mut config, mut tensors) = load("llama-dense");
    config["attention_bias"] = true.into();
    for layer in 0..2 {
        for (part, len) in [("q", 256), ("k", 128), ("v", 128), ("o", 256)] {
            let counting: Vec<u8> =
                (0..len).flat_map(|i| half::bf16::from_f32(i as f32).to_le_bytes()).collect();
            assert_eq!(bf16(&counting)[5], 5.0);
            tensors.push((
                format!("model.layers.{layer}.self_attn.{part}_proj.bias"),
                Dtype::BF16,
                vec![len],
                counting,
            ));
        }
    }
    let (gguf, _) = convert_as(&config, &tensors, "F32").unwrap();
    assert_eq!(weights(&gguf, "blk.0.attn_q.bias")[..4], [0.0, 32.0, 1.0, 33.0]);
    assert_eq!(weights(&gguf, "blk.0.attn_v.bias")[..4], [0.0, 1.0, 2.0, 3.0]);
    // What the class does not compute is not computed, and said.
    config["attention_bias"] = false.into();
    let message = convert_as(&config, &tensors, "F32").unwrap_err().to_string();
    assert!(message.contains("unknown model.layers.0.self_attn.k_proj.bias"), "{message}");
}

/// Llama 3's scaling becomes a tensor of divisors.
#[test]
fn llama3_scaling_becomes_rope_freqs() {
    let (mut config, tensors) = load("llama-dense");
    config["rope_parameters"] = json!({ "rope_theta": 500000.0, "rope_type": "llama3", "factor": 32.0,
        "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192 });
    let (gguf, _) = convert_as(&config, &tensors, "Q8_0").unwrap();
    let factors = weights(&gguf, "rope_freqs.weight");
    assert_eq!((factors.len(), factors[0], factors[31]), (32, 1.0, 32.0));
    assert_eq!(gguf.tensor("rope_freqs.weight").unwrap().format.name, "F32");
}
