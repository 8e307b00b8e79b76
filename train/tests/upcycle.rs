//! `--init-from`: a dense Llama becomes a Mixtral that computes the same, a checkpoint of the same architecture goes on
//! from its loss, and any other is refused.

mod support;

use candle_core::Tensor;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use support::process::{Call, column, events_of, trainer};
use support::{cases, cross_entropy, golden, numbers, tensors, write_rows};

/// Llama's own numbers, as experts.
fn mixtral() -> Value {
    json!({"model_type": "mixtral", "vocab_size": 320, "hidden_size": 256, "intermediate_size": 512,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4,
        "num_experts_per_tok": 2, "max_position_embeddings": 256, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "router_aux_loss_coef": 0.01, "initializer_range": 0.02})
}

/// A folder in which every row is the text of the fixture, so that every step sees the same.
struct Work {
    folder: tempfile::TempDir,
    rows: Vec<u32>,
    logits: Vec<f32>,
}

impl Work {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let case = cases(&golden("llama-dense")).into_iter().find(|case| case.tokens.len() == 48).unwrap();
        write_rows(&folder.path().join("data"), &vec![case.tokens.clone(); 3]);
        std::fs::write(folder.path().join("mixtral.json"), mixtral().to_string()).unwrap();
        Self { folder, rows: case.tokens, logits: case.logits }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn call(&self, from: &Path, out: &str, settings: &str) -> Call {
        let common = "--batch 2 --warmup-steps 0 --eval-every 0 --sample-every 0 --log-every 1 --context 48";
        let call = trainer(common.split_whitespace()).args(settings.split_whitespace());
        let paths = [("--data", self.path("data")), ("--out", self.path(out)), ("--init-from", from.into())];
        call.args(paths.iter().flat_map(|(flag, path)| [flag.as_ref(), path.as_os_str()]))
    }

    fn mixtral(&self, from: &Path, out: &str, settings: &str) -> Call {
        self.call(from, out, settings).args(["--preset".as_ref(), self.path("mixtral.json").as_os_str()])
    }
}

#[test]
fn a_dense_model_becomes_experts_that_compute_the_same() {
    let work = Work::new();
    let dense = golden("llama-dense");
    // A rate that changes no weight.
    work.mixtral(&dense, "out", "--max-steps 1 --learning-rate 1e-30").succeed();
    let found = column(&work.path("out"), "cross_entropy")[0];
    let expected = cross_entropy(&work.logits, &work.rows);
    assert!((found - expected).abs() < 1e-5 * expected, "{found} instead of the dense model's {expected}");
    let (own, dense) = (
        tensors(&work.path("out/checkpoint-1/model.safetensors")),
        tensors(&dense.join("model.safetensors")),
    );
    let mut left: Vec<&String> = own.keys().collect();
    for layer in 0..2 {
        for (theirs, ours) in [("gate", "w1"), ("up", "w3"), ("down", "w2")] {
            let expected = numbers(&dense[&format!("model.layers.{layer}.mlp.{theirs}_proj.weight")]);
            for expert in 0..4 {
                let name = format!("model.layers.{layer}.block_sparse_moe.experts.{expert}.{ours}.weight");
                assert!(numbers(&own[&name]) == expected, "{name}");
                left.retain(|other| **other != name);
            }
        }
        let name = format!("model.layers.{layer}.block_sparse_moe.gate.weight");
        let router = numbers(&own[&name]);
        let deviation = (router.iter().map(|x| x * x).sum::<f32>() / router.len() as f32).sqrt();
        assert!((deviation - 0.02).abs() < 0.002, "the router is new: deviation {deviation}");
        left.retain(|other| **other != name);
    }
    for name in left {
        assert!(numbers(&own[name]) == numbers(&dense[name]), "{name} is the dense model's");
    }
}

#[test]
fn a_checkpoint_of_the_same_architecture_goes_on_from_its_loss() {
    let work = Work::new();
    let settings = "--learning-rate 0.001 --save-every 4 --max-steps 5";
    work.mixtral(&golden("llama-dense"), "first", settings).succeed();
    let losses = column(&work.path("first"), "loss");
    assert!(losses[4] < losses[0] - 0.3, "{losses:?}");
    let from = work.path("first/checkpoint-4");
    work.mixtral(&from, "second", "--learning-rate 0.001 --max-steps 1").succeed();
    assert_eq!(column(&work.path("second"), "loss"), [losses[4]], "the loss after the four steps");
    // Once a run has checkpoints of its own, it goes on from those.
    work.mixtral(&from, "second", "--learning-rate 0.001 --max-steps 2").succeed();
    assert_eq!(events_of(&work.path("second"), "start").last().unwrap()["step"], 1);
    assert_eq!(column(&work.path("second"), "step"), [1.0, 2.0]);
}

/// Newer releases, and what merges checkpoints, write the experts of a layer as one tensor.
#[test]
fn experts_in_one_tensor_are_those_one_by_one() {
    let cases = [
        ("mixtral", "block_sparse_moe", ["w1", "w3", "w2"]),
        ("qwen3moe", "mlp", ["gate_proj", "up_proj", "down_proj"]),
    ];
    for (name, block, [gate, up, down]) in cases {
        let work = Work::new();
        let mut all = tensors(&golden(name).join("model.safetensors"));
        for layer in 0..2 {
            let prefix = format!("model.layers.{layer}.{block}");
            let mut take =
                |e: usize, part: &str| all.remove(&format!("{prefix}.experts.{e}.{part}.weight")).unwrap();
            let (mut first, mut second) = (vec![], vec![]);
            for e in 0..4 {
                first.push(Tensor::cat(&[take(e, gate), take(e, up)], 0).unwrap());
                second.push(take(e, down));
            }
            let router = all.remove(&format!("{prefix}.gate.weight")).unwrap();
            for (own, tensor) in [
                ("gate.weight", router),
                ("experts.gate_up_proj", Tensor::stack(&first, 0).unwrap()),
                ("experts.down_proj", Tensor::stack(&second, 0).unwrap()),
            ] {
                all.insert(format!("model.layers.{layer}.mlp.{own}"), tensor);
            }
        }
        std::fs::create_dir(work.path("fused")).unwrap();
        candle_core::safetensors::save(&all, work.path("fused/model.safetensors")).unwrap();
        std::fs::copy(golden(name).join("config.json"), work.path("fused/config.json")).unwrap();
        let loss = |from: &Path, out: &str| {
            work.call(from, out, "--max-steps 1 --learning-rate 1e-30").succeed();
            column(&work.path(out), "cross_entropy")[0]
        };
        assert_eq!(loss(&work.path("fused"), "one"), loss(&golden(name), "each"), "{name}");
    }
}

#[test]
fn other_models_are_refused() {
    let work = Work::new();
    let dense = golden("llama-dense");
    let mut narrow = mixtral();
    narrow["intermediate_size"] = 256.into();
    let mut wide = mixtral();
    wide["hidden_size"] = 128.into();
    for (name, preset, expected) in [
        ("tachyon.json", support::tachyon(), ["embed.weight", "llama-dense"]),
        ("gpt.json", support::moe_gpt(), ["transformer.wte.weight", "llama-dense"]),
        ("narrow.json", narrow, ["mlp.gate_proj.weight", "llama-dense"]),
        ("wide.json", wide, ["model.embed_tokens.weight", "llama-dense"]),
    ] {
        let mut preset = preset;
        preset["vocab_size"] = 320.into();
        std::fs::write(work.path(name), preset.to_string()).unwrap();
        let call = work.call(&dense, "none", "--max-steps 1");
        let error = call.args(["--preset".as_ref(), work.path(name).as_os_str()]).refused();
        assert!(expected.iter().all(|text| error.contains(text)), "{name}: {error}");
    }
    let error = work.mixtral(&work.path("nowhere"), "none", "--max-steps 1").refused();
    assert!(error.contains("nowhere"), "{error}");
}
