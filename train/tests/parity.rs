//! One training step of the originals, as their PyTorch code or transformers computes it: losses, every gradient, six optimizer steps.
//!
//! The data and their origin: `tests/golden/train-step`.

use candle_core::{DType, Device, Tensor, safetensors::load};
use moewe_train::model::{Batch, Config, Losses, Model, Parameter, Pass, Spec};
use moewe_train::optimizer::{AdamW, AdamWSettings};
use std::collections::HashMap;
use std::path::PathBuf;

struct Fixture {
    folder: PathBuf,
    expected: HashMap<String, Tensor>,
    model: Model,
    tokens: Vec<u32>,
}

const ROWS: usize = 2;

fn numbers(tensor: &Tensor) -> Vec<f64> {
    tensor.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

impl Fixture {
    fn open(name: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/train-step").join(name);
        let config = Config::named(folder.join("config.json").to_str().unwrap()).unwrap();
        let weights = load(folder.join("model.safetensors"), &Device::Cpu).unwrap();
        let mut unused: Vec<&String> = weights.keys().collect();
        let values = |spec: &Spec| {
            let mut out = vec![f32::NAN; spec.count()];
            for piece in &spec.pieces {
                unused.retain(|name| **name != piece.name);
                let tensor = &weights[&piece.name];
                let numbers: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
                piece.put((&numbers, tensor.dims()), &mut out, &spec.shape)?;
            }
            Ok(out)
        };
        let model = Model::with_values(config, DType::F32, &Device::Cpu, values).unwrap();
        assert!(unused.is_empty(), "{name}: tensors without a place: {unused:?}");
        let expected = load(folder.join("expected.safetensors"), &Device::Cpu).unwrap();
        let tokens = numbers(&expected["tokens"]).iter().map(|&id| id as u32).collect();
        Self { folder, expected, model, tokens }
    }

    fn step(&self) -> Losses {
        let pass =
            Pass { scale: 1.0, token_scale: None, seed: None, adapter_seed: None, segment: 0, average: None };
        self.model.clear_gradients().unwrap();
        self.model.forward_backward(Batch { tokens: &self.tokens, rows: ROWS, packing: None }, &pass).unwrap()
    }

    fn scalar(&self, name: &str) -> f64 {
        numbers(&self.expected[name])[0]
    }

    fn settings(&self) -> (AdamWSettings, f64) {
        let text = std::fs::read_to_string(self.folder.join("optimizer.json")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let number = |key: &str| json[key].as_f64().unwrap();
        let settings = AdamWSettings {
            beta1: json["betas"][0].as_f64().unwrap(),
            beta2: json["betas"][1].as_f64().unwrap(),
            epsilon: number("eps"),
            weight_decay: number("weight_decay"),
            clip: number("clip"),
        };
        (settings, number("lr"))
    }

    /// Calls `check` with each exported tensor's name, its numbers here and those expected under `prefix`.
    fn compare(
        &self,
        prefix: &str,
        values: impl Fn(&Parameter) -> Tensor,
        mut check: impl FnMut(&str, &[f64], &[f64]),
    ) {
        let mut compared = 0;
        for parameter in &self.model.parameters {
            let own = numbers(&values(parameter));
            for piece in &parameter.spec.pieces {
                let expected = &self.expected[&format!("{prefix}.{}", piece.name)];
                assert_eq!(expected.dims(), piece.shape, "{}", piece.name);
                check(&piece.name, &piece.take(&own, &parameter.spec.shape), &numbers(expected));
                compared += 1;
            }
        }
        let known = self.expected.keys().filter(|name| name.starts_with(&format!("{prefix}."))).count();
        assert_eq!(compared, known, "tensors under {prefix}");
    }
}

fn close(what: &str, own: f64, expected: f64, tolerance: f64) {
    assert!((own - expected).abs() <= tolerance * expected.abs(), "{what}: {own} instead of {expected}");
}

fn gradients_agree(fixture: &Fixture) {
    fixture.compare(
        "grad",
        |parameter| parameter.gradient.total().unwrap(),
        |name, own, expected| {
            let largest = expected.iter().fold(0.0, |a: f64, x| a.max(x.abs()));
            let error = own.iter().zip(expected).fold(0.0, |a: f64, (x, y)| a.max((x - y).abs())) / largest;
            assert!(error <= 1e-5, "gradient of {name}: {error:.1e} of its largest");
        },
    );
}

fn six_steps_agree(mut fixture: Fixture) {
    let before: HashMap<String, Vec<f64>> = fixture
        .model
        .parameters
        .iter()
        .flat_map(|parameter| {
            let own = numbers(&parameter.master);
            let take = move |piece: &moewe_train::model::Piece| {
                (piece.name.clone(), piece.take(&own, &parameter.spec.shape))
            };
            parameter.spec.pieces.iter().map(take).collect::<Vec<_>>()
        })
        .collect();
    let (settings, rate) = fixture.settings();
    let mut optimizer = AdamW::new(settings, &fixture.model).unwrap();
    for (i, expected) in numbers(&fixture.expected["losses"]).into_iter().enumerate() {
        close(&format!("loss of step {i}"), fixture.step().loss, expected, 1e-5);
        let norm = optimizer.step(&mut fixture.model, rate).unwrap();
        if i == 0 && fixture.expected.contains_key("grad_norm") {
            close("gradient norm", norm, fixture.scalar("grad_norm"), 1e-5);
        }
    }
    fixture.compare(
        "after",
        |parameter| parameter.master.clone(),
        |name, own, expected| {
            let length = |f: &dyn Fn(usize) -> f64| (0..own.len()).map(|i| f(i).powi(2)).sum::<f64>().sqrt();
            let change = length(&|i| expected[i] - before[name][i]);
            let error = length(&|i| expected[i] - own[i]) / change;
            assert!(error < 1e-3, "{name} after six steps: {error:.1e} of the change");
        },
    );
}

#[test]
fn a_step_of_german_moe_agrees() {
    let fixture = Fixture::open("german-moe");
    let losses = fixture.step();
    for (name, own) in [
        ("loss", losses.loss),
        ("cross_entropy", losses.cross_entropy),
        ("load_balance", losses.load_balance),
        ("router_z", losses.router_z),
    ] {
        close(name, own, fixture.scalar(&format!("step0.{name}")), 1e-6);
    }
    gradients_agree(&fixture);
    six_steps_agree(fixture);
}

/// What transformers computes; dense models have no load balance.
#[test]
fn a_step_of_each_of_transformers_models_agrees() {
    for name in ["llama", "mistral", "qwen3", "qwen3_moe", "olmoe", "mixtral"] {
        let fixture = Fixture::open(name);
        let losses = fixture.step();
        for (part, own) in [
            ("loss", losses.loss),
            ("cross_entropy", losses.cross_entropy),
            ("load_balance", losses.load_balance),
        ] {
            close(&format!("{name}: {part}"), own, fixture.scalar(&format!("step0.{part}")), 2e-6);
        }
        gradients_agree(&fixture);
        six_steps_agree(fixture);
    }
}

#[test]
fn a_step_of_tachyon_agrees() {
    let fixture = Fixture::open("tachyon");
    let losses = fixture.step();
    close("loss", losses.loss, fixture.scalar("step0.loss"), 1e-6);
    close("aux", losses.loss - losses.cross_entropy, fixture.scalar("step0.aux"), 1e-6);
    gradients_agree(&fixture);
    six_steps_agree(fixture);
}
