//! Gradients of whole models against finite differences in f64, and what must hold for every architecture.

use super::*;
use crate::random::Random;
use candle_core::{DType, Device, Tensor};
use serde_json::json;

/// One small model of every kind, with everything that it can switch on.
fn configs() -> Vec<(&'static str, Config)> {
    let german = json!({"model_type": "moe_gpt", "vocab_size": 40, "n_positions": 16, "n_embd": 16, "n_layer": 3,
        "n_head": 2, "n_experts": 3, "n_experts_active": 2, "dropout": 0.2, "bias": true, "capacity_factor": 1.0,
        "aux_loss_alpha": 0.1, "router_z_loss_alpha": 0.05, "initializer_range": 2.0});
    let mut gated = german.clone();
    for (key, value) in
        [("bias", json!(false)), ("moe_layer_frequency", json!(1)), ("activation_function", json!("swiglu"))]
    {
        gated[key] = value;
    }
    let tachyon = json!({"model_type": "tachyon", "vocab_size": 40, "d_model": 16, "n_layers": 2, "n_heads": 4,
        "n_kv_heads": 2, "d_ff": 12, "d_shared_ff": 6, "n_routed_experts": 4, "n_shared_experts": 2, "top_k_experts": 2,
        "max_seq_len": 16, "balance_loss_coef": 0.1, "z_loss_coef": 0.05});
    let small = |top_k: usize| {
        json!({"model_type": "moe_124m", "vocab_size": 40, "dim": 16, "n_layers": 2, "n_heads": 2, "ff_dim": 12,
        "n_experts": 3, "top_k": top_k, "context_len": 16})
    };
    let mixtral = json!({"model_type": "mixtral", "vocab_size": 40, "hidden_size": 16, "intermediate_size": 12,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4,
        "num_experts_per_tok": 2, "max_position_embeddings": 16, "router_z_loss_coef": 0.01});
    let llama = |model_type: &str| {
        json!({"model_type": model_type, "vocab_size": 40, "hidden_size": 16, "intermediate_size": 12,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 16})
    };
    let mut qwen = llama("qwen3");
    qwen["head_dim"] = 6.into();
    let mut qwen_moe = llama("qwen3_moe");
    for (key, value) in
        [("num_experts", 4), ("num_experts_per_tok", 2), ("moe_intermediate_size", 6), ("head_dim", 6)]
    {
        qwen_moe[key] = value.into();
    }
    (qwen_moe["norm_topk_prob"], qwen_moe["num_hidden_layers"]) = (true.into(), 3.into());
    (qwen_moe["mlp_only_layers"], qwen_moe["router_aux_loss_coef"]) = (json!([1]), 0.2.into());
    let mut olmoe = llama("olmoe");
    (olmoe["num_experts"], olmoe["num_experts_per_tok"]) = (4.into(), 2.into());
    (olmoe["router_aux_loss_coef"], olmoe["router_z_loss_coef"]) = (0.1.into(), 0.02.into());
    [
        ("llama", llama("llama")),
        ("mistral", llama("mistral")),
        ("qwen3", qwen),
        ("qwen3_moe", qwen_moe),
        ("olmoe", olmoe),
        ("german", german),
        ("german swiglu", gated),
        ("tachyon", tachyon),
        ("124m top 2", small(2)),
        ("124m top 1", small(1)),
        ("mixtral", mixtral),
    ]
    .map(|(name, source)| (name, Config::from_json(source).expect(name)))
    .into()
}

const ROWS: usize = 2;
const LENGTH: usize = 9;

fn tokens() -> Vec<u32> {
    let mut random = Random::at(5, &[]);
    (0..ROWS * LENGTH).map(|_| random.below(40) as u32).collect()
}

fn pass(segment: usize) -> Pass<'static> {
    Pass { scale: 1.0, seed: Some(11), segment, average: None }
}

fn gradients(model: &Model, pass: &Pass) -> Vec<Tensor> {
    model.clear_gradients().unwrap();
    model.forward_backward(Batch { tokens: &tokens(), rows: ROWS }, pass).unwrap();
    model.parameters.iter().map(|parameter| parameter.gradient.total().copy().unwrap()).collect()
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

/// The loss with one number of one parameter moved.
fn moved_loss(model: &mut Model, parameter: usize, place: usize, by: f64) -> f64 {
    let (original, compute) =
        (model.parameters[parameter].master.clone(), model.parameters[parameter].compute.clone());
    let mut moved = values(&original);
    moved[place] += by;
    let moved = Tensor::from_vec(moved, original.shape(), &Device::Cpu).unwrap();
    model.parameters[parameter].master = moved.clone();
    model.parameters[parameter].compute = moved;
    let loss = model.evaluate(Batch { tokens: &tokens(), rows: ROWS }, &pass(0)).unwrap().loss;
    model.parameters[parameter].master = original;
    model.parameters[parameter].compute = compute;
    loss
}

#[test]
fn gradients_are_the_slopes_of_the_loss() {
    for (name, config) in configs() {
        let mut model = Model::new(config, 3, DType::F64, &Device::Cpu).unwrap();
        let gradients = gradients(&model, &pass(0));
        let mut random = Random::at(9, &[]);
        for (i, gradient) in gradients.iter().enumerate() {
            let gradient = values(gradient);
            let largest = gradient.iter().fold(0.0, |a: f64, g| a.max(g.abs()));
            for _ in 0..6 {
                let place = random.below(gradient.len() as u64) as usize;
                let step = 1e-5;
                let slope = (moved_loss(&mut model, i, place, step)
                    - moved_loss(&mut model, i, place, -step))
                    / (2.0 * step);
                let spec = &model.parameters[i].spec;
                let error = (slope - gradient[place]).abs();
                assert!(
                    error <= 1e-6 * largest.max(1e-3),
                    "{name}: {:?} of layer {} at {place}: {} against {slope}",
                    spec.role,
                    spec.layer,
                    gradient[place]
                );
            }
        }
    }
}

#[test]
fn every_parameter_receives_a_gradient() {
    for (name, config) in configs() {
        let model = Model::new(config, 3, DType::F32, &Device::Cpu).unwrap();
        for (parameter, gradient) in model.parameters.iter().zip(gradients(&model, &pass(0))) {
            let gradient = values(&gradient);
            let (role, layer) = (parameter.spec.role, parameter.spec.layer);
            assert!(
                gradient.iter().all(|g| g.is_finite()),
                "{name}: {role:?} of layer {layer} is not finite"
            );
            assert!(gradient.iter().any(|&g| g != 0.0), "{name}: {role:?} of layer {layer} has no gradient");
        }
    }
}

#[test]
fn checkpointed_segments_give_the_same_bits() {
    for (name, config) in configs() {
        let model = Model::new(config, 3, DType::F32, &Device::Cpu).unwrap();
        let kept = gradients(&model, &pass(0));
        for segment in 1..=3 {
            for (a, b) in kept.iter().zip(gradients(&model, &pass(segment))) {
                let bits = |t: &Tensor| -> Vec<u64> { values(t).iter().map(|x| x.to_bits()).collect() };
                assert_eq!(bits(a), bits(&b), "{name}, segments of {segment}");
            }
        }
    }
}

#[test]
fn bf16_follows_f32() {
    for (name, config) in configs() {
        let loss = |dtype| {
            let model = Model::new(config.clone(), 3, dtype, &Device::Cpu).unwrap();
            let gradients: f64 = gradients(&model, &pass(0)).iter().flat_map(values).map(|g| g * g).sum();
            (
                model.evaluate(Batch { tokens: &tokens(), rows: ROWS }, &Pass::evaluation()).unwrap().loss,
                gradients.sqrt(),
            )
        };
        let ((wide, wide_norm), (narrow, narrow_norm)) = (loss(DType::F32), loss(DType::BF16));
        assert!((wide - narrow).abs() < 0.01 * wide, "{name}: {wide} and {narrow}");
        assert!((wide_norm - narrow_norm).abs() < 0.1 * wide_norm, "{name}: {wide_norm} and {narrow_norm}");
    }
}

#[test]
fn pieces_cover_each_parameter_once() {
    for (name, config) in configs() {
        for spec in parameters::specs(&config) {
            let numbers: Vec<f32> = (0..spec.count()).map(|i| i as f32).collect();
            let mut back = vec![-1.0; spec.count()];
            assert!(!spec.pieces.is_empty(), "{name}: {:?} is not exported", spec.role);
            for piece in &spec.pieces {
                let taken = piece.take(&numbers, &spec.shape);
                piece.put((&taken, &piece.shape), &mut back, &spec.shape).unwrap();
            }
            assert_eq!(numbers, back, "{name}: {:?}", spec.role);
        }
    }
}
