//! Adapters as peft has them, on models as transformers computes them: one step of training each, and packed texts.
//!
//! The data and their origin: `tests/golden/lora`.

mod support;

use candle_core::{DType, Device, Tensor};
use moewe_train::model::{
    Batch, Config, Lora, Losses, Model, PackedRow, Packing, Pass, Spec, Target, Trained, Values,
};
use moewe_train::optimizer::{AdamW, AdamWSettings};
use serde_json::Value;
use std::collections::HashMap;
use std::path::PathBuf;
use support::{difference, golden, numbers, tensors};

struct Fixture {
    expected: HashMap<String, Tensor>,
    adapter: HashMap<String, Tensor>,
    model: Model,
}

fn json(path: PathBuf) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn base(name: &str, trained: &Trained) -> Model {
    let folder = golden("lora").join(name);
    let weights = tensors(&folder.join("model.safetensors"));
    let values = |spec: &Spec| {
        let mut out = vec![f32::NAN; spec.count()];
        for piece in &spec.pieces {
            let tensor = &weights[&piece.name];
            piece.put((&numbers(tensor), tensor.dims()), &mut out, &spec.shape)?;
        }
        Ok(Values { numbers: out, stored: DType::BF16 })
    };
    let config = Config::named(folder.to_str().unwrap()).unwrap();
    Model::of(config, trained, (DType::F32, &Device::Cpu), values).unwrap()
}

impl Fixture {
    fn open(name: &str, targets: &[Target]) -> Self {
        let folder = golden("lora").join(name);
        let config = json(folder.join("adapter_config.json"));
        let lora = Lora {
            targets: targets.to_vec(),
            rank: config["r"].as_u64().unwrap() as usize,
            alpha: config["lora_alpha"].as_f64().unwrap(),
            rslora: config["use_rslora"].as_bool().unwrap(),
            dora: config["use_dora"].as_bool().unwrap(),
            dropout: config["lora_dropout"].as_f64().unwrap(),
        };
        let mut model = base(name.split_once('-').unwrap().0, &Trained::Lora(lora));
        let mut adapter = tensors(&folder.join("adapter_model.safetensors"));
        adapter.retain(|name, _| !name.contains("base_layer.weight")); // the base's own copy of its head
        let mut used = 0;
        for parameter in model.trained_mut() {
            let mut values = vec![f32::NAN; parameter.spec.count()];
            for piece in &parameter.spec.pieces {
                let tensor = &adapter[&piece.name];
                piece.put((&numbers(tensor), tensor.dims()), &mut values, &parameter.spec.shape).unwrap();
                used += 1;
            }
            parameter.master = Tensor::from_vec(values, parameter.master.shape(), &Device::Cpu).unwrap();
        }
        model.refresh().unwrap();
        assert_eq!(used, adapter.len(), "{name}: every tensor of the adapter has a place");
        Self { expected: tensors(&folder.join("expected.safetensors")), adapter, model }
    }

    fn rows(&self) -> (Vec<Vec<u32>>, Vec<Vec<bool>>) {
        let [tokens, labels, attend] = ["tokens", "labels", "attend"].map(|name| {
            let tensor = self.expected[&format!("step.{name}")].to_dtype(DType::F64).unwrap();
            tensor.to_vec2::<f64>().unwrap()
        });
        let length = |row: &[f64]| row.iter().filter(|&&real| real > 0.0).count();
        let lengths: Vec<usize> = attend.iter().map(|row| length(row)).collect();
        let cut = |rows: Vec<Vec<f64>>| rows.into_iter().zip(&lengths).map(|(row, &n)| row[..n].to_vec());
        (
            cut(tokens).map(|row| row.into_iter().map(|id| id as u32).collect()).collect(),
            cut(labels).map(|row| row.into_iter().map(|label| label >= 0.0).collect()).collect(),
        )
    }

    fn step(&self) -> Losses {
        let (tokens, trained) = self.rows();
        let lengths: Vec<[usize; 1]> = tokens.iter().map(|row| [row.len()]).collect();
        let row = |((tokens, trained), segments)| PackedRow { tokens, trained, segments };
        let both: Vec<(&Vec<u32>, &Vec<bool>)> = tokens.iter().zip(&trained).collect();
        let rows: Vec<PackedRow> =
            both.into_iter().zip(&lengths).map(|((t, l), n)| row(((&t[..], &l[..]), &n[..]))).collect();
        let packing = Packing::new(&rows).unwrap();
        self.model.clear_gradients().unwrap();
        self.model.forward_backward(packing.batch(), &Pass::evaluation()).unwrap()
    }

    fn scalar(&self, name: &str) -> f64 {
        f64::from(numbers(&self.expected[name])[0])
    }

    /// Calls `check` with each tensor of the adapter: name, numbers here, and those expected under `prefix`.
    fn compare(
        &self,
        prefix: &str,
        values: impl Fn(&moewe_train::model::Parameter) -> Tensor,
        mut check: impl FnMut(&str, &[f32], &[f32]),
    ) {
        let mut compared = 0;
        for parameter in self.model.trained() {
            let own = numbers(&values(parameter));
            for piece in &parameter.spec.pieces {
                // peft keeps magnitudes in modules of their own, which its files leave out of the names.
                let names = ["", ".weight"].map(|end| format!("{prefix}.{}{end}", piece.name));
                let expected = numbers(names.iter().find_map(|name| self.expected.get(name)).unwrap());
                check(&piece.name, &piece.take(&own, &parameter.spec.shape), &expected);
                compared += 1;
            }
        }
        assert_eq!(compared, self.adapter.len());
    }
}

fn close(what: &str, own: f64, expected: f64, tolerance: f64) {
    assert!((own - expected).abs() <= tolerance, "{what}: {own} instead of {expected}");
}

#[test]
fn a_step_of_each_adapter_agrees() {
    use Target::{Attention, Experts, Head, Router};
    for (name, targets) in [
        ("mixtral-dora", &[Attention][..]),
        ("mixtral-experts", &[Attention, Experts]),
        ("qwen3moe-all", &[Attention, Experts, Router, Head]),
    ] {
        let mut fixture = Fixture::open(name, targets);
        let tokens: Vec<u32> = numbers(&fixture.expected["tokens"]).iter().map(|&id| id as u32).collect();
        let batch = Batch { tokens: &tokens, rows: 1, packing: None };
        let (own, all) =
            (numbers(&fixture.model.logits(batch).unwrap()), numbers(&fixture.expected["logits"]));
        let error = difference(&own, &all[all.len() - own.len()..]);
        assert!(error < 2e-5, "{name}: the last logits differ by {error:.1e}");
        let losses = fixture.step();
        close(&format!("{name}: cross entropy"), losses.cross_entropy, fixture.scalar("step.ce"), 1e-5);
        close(&format!("{name}: load balance"), losses.load_balance, fixture.scalar("step.aux"), 1e-5);
        fixture.compare(
            "grad",
            |parameter| parameter.gradient.total().unwrap(),
            |tensor, own, expected| {
                let largest = expected.iter().fold(0f32, |a, x| a.max(x.abs()));
                let worst = own.iter().zip(expected).fold(0f32, |a, (x, y)| a.max((x - y).abs()));
                assert!(
                    worst <= 1e-4 * largest,
                    "{name}: gradient of {tensor}: {:.1e} of its largest",
                    worst / largest
                );
            },
        );
        let settings =
            AdamWSettings { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01, clip: 0.0 };
        let mut optimizer = AdamW::new(settings, &fixture.model).unwrap();
        optimizer.step(&mut fixture.model, 1e-3).unwrap();
        let expected = &fixture.expected;
        fixture.compare(
            "after",
            |parameter| parameter.master.clone(),
            |tensor, own, after| {
                // The first step of AdamW is the sign of the gradient: where that is nothing, so is its sign.
                let names = ["", ".weight"].map(|end| format!("grad.{tensor}{end}"));
                let gradient = numbers(names.iter().find_map(|name| expected.get(name)).unwrap());
                for ((own, after), gradient) in own.iter().zip(after).zip(gradient) {
                    let tolerance = if gradient.abs() < 1e-6 { 2e-3 } else { 2e-6 };
                    assert!(
                        (own - after).abs() <= tolerance,
                        "{name}: {tensor} after the step: {own} instead of {after}"
                    );
                }
            },
        );
        close(
            &format!("{name}: loss after the step"),
            fixture.step().loss,
            fixture.scalar("after.loss"),
            1e-5,
        );
    }
}

#[test]
fn packed_conversations_do_not_see_each_other() {
    let model = base("mixtral", &Trained::Router);
    let expected = json(golden("lora").join("chat/expected.json"));
    let packed = &expected["packed"];
    let list =
        |key: &str| packed[key].as_array().unwrap().iter().map(|x| x.as_i64().unwrap()).collect::<Vec<_>>();
    let tokens: Vec<u32> = list("tokens").into_iter().map(|id| id as u32).collect();
    let trained: Vec<bool> = list("labels").into_iter().map(|label| label >= 0).collect();
    let first = list("segments").into_iter().filter(|&segment| segment == 0).count();
    let lengths = [first, tokens.len() - first];
    let loss = |rows: &[PackedRow]| {
        let packing = Packing::new(rows).unwrap();
        model.evaluate(packing.batch(), &Pass::evaluation()).unwrap().cross_entropy
    };
    let row = |range: std::ops::Range<usize>, segments| PackedRow {
        tokens: &tokens[range.clone()],
        trained: &trained[range],
        segments,
    };
    let all = 0..tokens.len();
    let number = |key: &str| expected[key].as_f64().unwrap();
    close("packed", loss(&[row(all.clone(), &lengths)]), number("packed_loss"), 1e-5);
    let alone = [row(0..first, &lengths[..1]), row(first..tokens.len(), &lengths[1..])];
    close("alone", loss(&alone), number("unpacked_loss"), 1e-5);
    let one_text = loss(&[row(all.clone(), &[all.len()])]);
    close("as one text", one_text, number("contaminated_loss"), 1e-5);
}
