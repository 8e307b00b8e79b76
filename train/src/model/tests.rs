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
    let mut one_shared = tachyon.clone();
    one_shared["n_shared_experts"] = 1.into();
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
        ("tachyon with one shared", one_shared),
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
    Pass { scale: 1.0, token_scale: None, seed: Some(11), adapter_seed: Some(12), segment, average: None }
}

fn batch(tokens: &[u32]) -> Batch<'_> {
    Batch { tokens, rows: ROWS, packing: None }
}

fn gradients(model: &Model, pass: &Pass) -> Vec<Tensor> {
    gradients_of(model, batch(&tokens()), pass)
}

/// Of what is trained.
fn gradients_of(model: &Model, batch: Batch, pass: &Pass) -> Vec<Tensor> {
    model.clear_gradients().unwrap();
    model.forward_backward(batch, pass).unwrap();
    model.trained().map(|parameter| parameter.gradient.total().unwrap().copy().unwrap()).collect()
}

/// Rows of several texts and one that is filled up, of which some tokens are learned.
fn packing() -> Packing {
    let (tokens, mut random) = (tokens(), Random::at(6, &[]));
    let trained: Vec<bool> = tokens.iter().map(|_| random.below(3) > 0).collect();
    let (first, second) = (0..LENGTH, LENGTH..LENGTH + 7);
    let row = |range: std::ops::Range<usize>, segments| PackedRow {
        tokens: &tokens[range.clone()],
        trained: &trained[range],
        segments,
    };
    Packing::new(&[row(first, &[4, 3, 2]), row(second, &[1, 6])]).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

/// Takes the place of a parameter's numbers; what stood there.
fn replace(model: &mut Model, parameter: usize, numbers: Vec<f64>) -> Vec<f64> {
    let parameter = &mut model.parameters[parameter];
    let new = Tensor::from_vec(numbers, parameter.master.shape(), &Device::Cpu).unwrap();
    let old = values(&parameter.master);
    (parameter.master, parameter.compute) = (new.clone(), new);
    old
}

/// The magnitude of DoRA beside this parameter, and the lengths of the rows that it is divided by.
fn lengths(model: &Model, parameter: usize) -> Option<(usize, Vec<f64>)> {
    let is_beside = |adapter: &&adapter::Adapter| [adapter.a, adapter.b].contains(&parameter);
    let adapter = model.adapters.values().flatten().find(is_beside)?;
    let magnitude = adapter.magnitude?;
    let [a, b] = [adapter.a, adapter.b].map(|index| model.parameters[index].master.clone());
    let own = (b.matmul(&a).unwrap() * model.lora.as_ref()?.scale()).unwrap();
    let weight = &model.get(adapter.role, adapter.layer).master;
    let weight = weight.narrow(0, adapter.first, own.dim(0).unwrap()).unwrap();
    let squares = (weight + own).unwrap().sqr().unwrap().sum(1).unwrap();
    Some((magnitude, values(&squares.sqrt().unwrap())))
}

/// The loss with one number of one parameter moved. DoRA's backward takes the lengths that it divides by for constants
/// (Liu et al. 2024, section 4.3): here the magnitude grows with them, which comes to the same.
fn moved_loss(model: &mut Model, batch: Batch, (parameter, place): (usize, usize), by: f64) -> f64 {
    let before = lengths(model, parameter);
    let mut moved = values(&model.parameters[parameter].master);
    moved[place] += by;
    let original = replace(model, parameter, moved);
    let magnitude = before.zip(lengths(model, parameter)).map(|((index, before), (_, after))| {
        let own = values(&model.parameters[index].master);
        let held =
            own.iter().zip(after.iter().zip(&before)).map(|(own, (after, before))| own * after / before);
        (index, replace(model, index, held.collect()))
    });
    let loss = model.evaluate(batch, &pass(0)).unwrap().loss;
    for (index, numbers) in [(parameter, original)].into_iter().chain(magnitude) {
        replace(model, index, numbers);
    }
    loss
}

/// Compares gradients of what is trained with slopes of the loss, six of each parameter.
fn slopes_agree(name: &str, model: &mut Model, batch: Batch) {
    let gradients = gradients_of(model, batch, &pass(0));
    let trained: Vec<usize> =
        (0..model.parameters.len()).filter(|&i| model.parameters[i].is_trained()).collect();
    let mut random = Random::at(9, &[]);
    for (i, gradient) in trained.into_iter().zip(&gradients) {
        let gradient = values(gradient);
        let largest = gradient.iter().fold(0.0, |a: f64, g| a.max(g.abs()));
        for _ in 0..6 {
            let place = random.below(gradient.len() as u64) as usize;
            let step = 2e-6; // small: norms of short vectors are far from straight
            let mut loss = |by| moved_loss(model, batch, (i, place), by);
            let slope = (loss(step) - loss(-step)) / (2.0 * step);
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

#[test]
fn gradients_are_the_slopes_of_the_loss() {
    for (name, config) in configs() {
        let mut model = Model::new(config, 3, DType::F64, &Device::Cpu).unwrap();
        slopes_agree(name, &mut model, batch(&tokens()));
        slopes_agree(&format!("{name}, packed"), &mut model, packing().batch());
    }
}

fn lora(targets: &[Target]) -> Lora {
    Lora { targets: targets.to_vec(), rank: 3, alpha: 5.0, rslora: false, dora: false, dropout: 0.0 }
}

/// A model with adapters that are not zero.
fn adapted(config: &Config, lora: &Lora, dtype: DType) -> Model {
    let (rule, mut index) = (config.initialisation, 0);
    let first = |spec: &Spec| {
        index += 1;
        Ok(Values { numbers: spec.initial(rule, 3, index), stored: DType::F32 })
    };
    let mut model =
        Model::of(config.clone(), &Trained::Lora(lora.clone()), (dtype, &Device::Cpu), first).unwrap();
    model.begin_adapters(4).unwrap();
    let mut random = Random::at(8, &[]);
    for parameter in model.trained_mut().filter(|parameter| parameter.spec.role != Role::AdapterMagnitude) {
        let numbers: Vec<f64> = (0..parameter.spec.count()).map(|_| 0.1 * random.normal()).collect();
        let own = Tensor::from_vec(numbers, parameter.master.shape(), &Device::Cpu).unwrap();
        parameter.master = own.to_dtype(parameter.master.dtype()).unwrap();
    }
    model.refresh().unwrap();
    model
}

/// The kinds of matrices that adapters of a model can be beside.
fn targets(config: &Config) -> Vec<Target> {
    let can = |target: &Target| lora(&[*target]).check(config).is_ok();
    Target::EVERY.into_iter().filter(can).collect()
}

#[test]
fn gradients_of_adapters_are_the_slopes_of_the_loss() {
    let mut kinds = std::collections::BTreeSet::new();
    for (name, config) in configs() {
        let targets = targets(&config);
        kinds.extend(targets.clone());
        let mut model = adapted(&config, &lora(&targets), DType::F64);
        slopes_agree(name, &mut model, packing().batch());
        let dropped = targets.into_iter().filter(|&target| target != Target::Experts).collect();
        let settings = Lora { targets: dropped, dropout: 0.4, rslora: true, ..lora(&[]) };
        slopes_agree(
            &format!("{name}, dropout"),
            &mut adapted(&config, &settings, DType::F64),
            packing().batch(),
        );
        let settings = Lora { dora: true, ..lora(&[Target::Attention]) };
        let mut model = adapted(&config, &settings, DType::F64);
        slopes_agree(&format!("{name}, DoRA"), &mut model, batch(&tokens()));
    }
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), Target::EVERY);
}

/// Adapters that begin change nothing, and so do their parts where nothing is trained.
#[test]
fn new_adapters_change_nothing() {
    for (name, config) in configs() {
        let whole = Model::new(config.clone(), 3, DType::F64, &Device::Cpu).unwrap();
        let own = Lora { dora: true, ..lora(&[Target::Attention]) };
        for lora in [lora(&targets(&config)), own] {
            let mut model = adapted(&config, &lora, DType::F64);
            model.begin_adapters(4).unwrap();
            let loss = |model: &Model| model.evaluate(batch(&tokens()), &Pass::evaluation()).unwrap().loss;
            assert!((loss(&model) - loss(&whole)).abs() < 1e-9, "{name}");
            let own: Vec<_> = model.parameters.iter().filter(|p| p.spec.role.is_adapter()).collect();
            let zeros = own.iter().filter(|p| values(&p.master).iter().all(|&x| x == 0.0));
            assert_eq!(zeros.count(), own.iter().filter(|p| p.spec.role == Role::AdapterB).count(), "{name}");
        }
    }
}

/// Texts alone, in rows of their own, and packed have the same loss and the same gradients, whatever fills them up.
#[test]
fn packed_texts_are_those_alone() {
    for (name, mut config) in configs() {
        // A capacity counts the tokens of a batch, and a load balance is no sum over texts.
        (config.experts.capacity, config.dropout, config.experts.noise) = (None, 0.0, false);
        let model = Model::new(config, 3, DType::F64, &Device::Cpu).unwrap();
        let pass = Pass { token_scale: Some(0.1), ..Pass::evaluation() };
        let tokens = tokens();
        let trained: Vec<bool> = (0..tokens.len()).map(|i| i % 3 != 1).collect();
        let lengths = [4usize, 3, 2, 5, 4];
        let texts: Vec<std::ops::Range<usize>> = lengths
            .iter()
            .scan(0, |start, length| {
                *start += length;
                Some(*start - length..*start)
            })
            .collect();
        let row = |range: std::ops::Range<usize>, segments| PackedRow {
            tokens: &tokens[range.clone()],
            trained: &trained[range],
            segments,
        };
        let packed = Packing::new(&[row(0..9, &lengths[..3]), row(9..18, &lengths[3..])]).unwrap();
        let alone: Vec<PackedRow> =
            texts.iter().zip(lengths.chunks(1)).map(|(range, own)| row(range.clone(), own)).collect();
        let alone = Packing::new(&alone).unwrap();
        assert_eq!((packed.targets(), packed.tokens()), (alone.targets(), alone.tokens()));
        let (a, b) =
            (model.evaluate(packed.batch(), &pass).unwrap(), model.evaluate(alone.batch(), &pass).unwrap());
        assert!((a.loss - b.loss).abs() < 1e-9, "{name}: {} and {}", a.loss, b.loss);
        let loads =
            |losses: &Losses| losses.experts.iter().map(|load| load.counts.clone()).collect::<Vec<_>>();
        assert_eq!(loads(&a), loads(&b), "{name}");
        let pairs = gradients_of(&model, packed.batch(), &pass);
        for (i, (a, b)) in pairs.iter().zip(gradients_of(&model, alone.batch(), &pass)).enumerate() {
            let worst = values(a).iter().zip(values(&b)).fold(0f64, |worst, (a, b)| worst.max((a - b).abs()));
            assert!(worst < 1e-9, "{name}: {:?} differs by {worst:.1e}", model.parameters[i].spec.role);
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
            (model.evaluate(batch(&tokens()), &Pass::evaluation()).unwrap().loss, gradients.sqrt())
        };
        let ((wide, wide_norm), (narrow, narrow_norm)) = (loss(DType::F32), loss(DType::BF16));
        assert!((wide - narrow).abs() < 0.01 * wide, "{name}: {wide} and {narrow}");
        assert!((wide_norm - narrow_norm).abs() < 0.1 * wide_norm, "{name}: {wide_norm} and {narrow_norm}");
    }
}

#[test]
fn adapters_in_bf16_follow_f32() {
    for (name, config) in configs() {
        let own = Lora { dora: true, ..lora(&[Target::Attention]) };
        for lora in [lora(&targets(&config)), own] {
            let (packing, pass) = (packing(), Pass { adapter_seed: Some(1), ..Pass::evaluation() });
            let measured = |dtype| {
                let model = adapted(&config, &lora, dtype);
                let gradients = gradients_of(&model, packing.batch(), &pass);
                let norm: f64 = gradients.iter().flat_map(values).map(|g| g * g).sum();
                (model.evaluate(packing.batch(), &pass).unwrap().loss, norm.sqrt())
            };
            let ((wide, wide_norm), (narrow, narrow_norm)) = (measured(DType::F32), measured(DType::BF16));
            assert!((wide - narrow).abs() < 0.02 * wide, "{name}: {wide} and {narrow}");
            assert!(
                (wide_norm - narrow_norm).abs() < 0.2 * wide_norm,
                "{name}: {wide_norm} and {narrow_norm}"
            );
        }
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
