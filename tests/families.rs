//! What each level of quantization costs in families with layers of other kinds than attention and SwiGLU, held to bounds as
//! `perplexity.rs` holds the model that ships.
//!
//! The reference checkpoints are too narrow for blocks of 256: their tensors are drawn anew here, four times as wide, with
//! the spread that they had. Nothing in them is trained, so only divergence means something. `--nocapture` prints it.

#![allow(clippy::print_stdout, reason = "the figures are for `--nocapture`")]

#[path = "support/fixtures.rs"]
#[allow(dead_code, reason = "nothing is rewritten here")]
mod fixtures;

use fixtures::{golden, options, tokens};
use moewe_convert::recipe::limit_of;
use moewe_convert::{Options as ConvertOptions, Recipe, convert};
use moewe_engine::quant::Format;
use moewe_engine::session::{Engine, Options};
use moewe_engine::simd::Isa;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Of the residual stream and of hidden layers.
const WIDTH: usize = 256;

/// A checkpoint, numbers of its configuration that widening changes beside [`WIDTHS`], tensors whose shapes no rule
/// gives, and the bounds of levels 2 to 8: mean KL divergence from F32 in nats, as measured plus ten percent.
struct Family {
    name: &'static str,
    numbers: &'static [(&'static str, usize)],
    shapes: &'static [(&'static str, &'static [usize])],
    bounds: [f64; 7],
}

/// Keys that are [`WIDTH`] then, where a configuration has them.
const WIDTHS: [&str; 6] = [
    "hidden_size",
    "intermediate_size",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
    "moe_shared_expert_intermediate_size",
    "shared_intermediate_size",
];

const FAMILIES: [Family; 6] = [
    Family {
        name: "qwen35moe",
        numbers: &[],
        shapes: &[],
        bounds: [0.674, 0.418, 0.162, 0.0758, 0.0456, 0.0367, 0.0376],
    },
    Family {
        name: "qwen3next",
        numbers: &[],
        shapes: &[],
        bounds: [0.727, 0.42, 0.128, 0.0674, 0.0316, 0.0247, 0.0232],
    },
    Family {
        name: "gemma4",
        numbers: &[],
        shapes: &[],
        bounds: [0.214, 0.146, 0.0907, 0.0538, 0.0519, 0.0463, 0.0474],
    },
    Family {
        name: "nemotron-h-moe",
        numbers: &[("mamba_num_heads", 32)],
        shapes: &[
            ("mixer.in_proj.weight", &[1120, WIDTH]),
            ("mixer.conv1d.weight", &[576, 1, 4]),
            ("mixer.conv1d.bias", &[576]),
            ("mixer.norm.weight", &[512]),
            ("mixer.out_proj.weight", &[WIDTH, 512]),
            ("mixer.A_log", &[32]),
            ("mixer.D", &[32]),
            ("mixer.dt_bias", &[32]),
        ],
        bounds: [0.558, 0.295, 0.123, 0.0597, 0.042, 0.0506, 0.05],
    },
    Family {
        name: "granitehybrid",
        numbers: &[("mamba_n_heads", 32)],
        shapes: &[
            ("mamba.in_proj.weight", &[1088, WIDTH]),
            ("mamba.conv1d.weight", &[544, 1, 4]),
            ("mamba.conv1d.bias", &[544]),
            ("mamba.norm.weight", &[512]),
            ("mamba.out_proj.weight", &[WIDTH, 512]),
            ("mamba.A_log", &[32]),
            ("mamba.D", &[32]),
            ("mamba.dt_bias", &[32]),
            ("q_proj.weight", &[WIDTH, WIDTH]),
            ("k_proj.weight", &[WIDTH / 2, WIDTH]),
            ("v_proj.weight", &[WIDTH / 2, WIDTH]),
            ("o_proj.weight", &[WIDTH, WIDTH]),
        ],
        bounds: [0.16, 0.0689, 0.0173, 0.0073, 0.00276, 0.00206, 0.00196],
    },
    Family {
        name: "lfm2moe",
        numbers: &[],
        shapes: &[
            ("conv.conv.weight", &[WIDTH, 1, 3]),
            ("conv.in_proj.weight", &[3 * WIDTH, WIDTH]),
            ("out_proj.weight", &[WIDTH, WIDTH]),
            ("q_proj.weight", &[WIDTH, WIDTH]),
            ("k_proj.weight", &[WIDTH / 2, WIDTH]),
            ("v_proj.weight", &[WIDTH / 2, WIDTH]),
            ("q_layernorm.weight", &[WIDTH / 4]),
            ("k_layernorm.weight", &[WIDTH / 4]),
        ],
        bounds: [0.221, 0.146, 0.0245, 0.0188, 0.00727, 0.00776, 0.00769],
    },
];

impl Family {
    fn shape(&self, name: &str, old: &[usize]) -> Vec<usize> {
        let ends = |suffixes: &[&str]| {
            let name = name.strip_suffix(".weight").unwrap_or(name);
            suffixes.iter().any(|suffix| name.ends_with(suffix))
        };
        if let Some((_, shape)) = self.shapes.iter().find(|(suffix, _)| name.ends_with(suffix)) {
            return shape.to_vec();
        }
        let (mut shape, last) = (old.to_vec(), old.len() - 1);
        if last == 0 {
            // Norms of the residual stream; others are of a head, or by head.
            if old[0] == 64 {
                shape[0] = WIDTH;
            }
        } else if ends(&["down_proj", ".w2", "output_linear"]) {
            shape[last - 1..].fill(WIDTH);
        } else if ends(&["o_proj", "out_proj"]) {
            shape[last - 1] = WIDTH;
        } else if !name.contains("conv1d") {
            shape[last] = WIDTH;
            if ends(&["gate_up_proj", "input_linear"]) {
                shape[last - 1] = 2 * WIDTH;
            } else if ends(&["gate_proj", "up_proj", ".w1", ".w3"]) {
                shape[last - 1] = WIDTH;
            }
        }
        shape
    }

    /// Writes the wide checkpoint.
    fn write(&self, folder: &Path) {
        let source = golden().join(self.name);
        let text =
            std::fs::read_to_string(source.join("config.json")).unwrap().replace(" Infinity", " 1e300");
        let mut config: Value = serde_json::from_str(&text).unwrap();
        let inner = if config["text_config"].is_object() { &mut config["text_config"] } else { &mut config };
        for (key, value) in inner.as_object_mut().unwrap() {
            if WIDTHS.contains(&key.as_str()) {
                *value = WIDTH.into();
            }
            if let Some((_, number)) = self.numbers.iter().find(|(name, _)| name == key) {
                *value = (*number).into();
            }
        }
        std::fs::write(folder.join("config.json"), config.to_string().replace("1e+300", "Infinity")).unwrap();
        let bytes = std::fs::read(source.join("model.safetensors")).unwrap();
        let old = SafeTensors::deserialize(&bytes).unwrap();
        let mut names = old.names();
        names.retain(|name| !["visual", "mtp"].iter().any(|part| name.contains(part)));
        names.sort();
        let mut random = Random(1);
        let tensors: Vec<_> =
            names.iter().map(|name| self.drawn(name, &old.tensor(name).unwrap(), &mut random)).collect();
        let views = names.iter().zip(&tensors).map(|(name, (shape, bytes))| {
            (*name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
        });
        safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
    }

    /// A tensor of the wide checkpoint.
    fn drawn(&self, name: &str, old: &TensorView<'_>, random: &mut Random) -> (Vec<usize>, Vec<u8>) {
        let values = old
            .data()
            .as_chunks::<2>()
            .0
            .iter()
            .map(|&two| f32::from_bits(u32::from(u16::from_le_bytes(two)) << 16));
        let values: Vec<f32> = values.collect();
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        let spread = values.iter().map(|value| (value - mean).powi(2)).sum::<f32>() / values.len() as f32;
        let shape = self.shape(name, old.shape());
        let last = shape.len() - 1;
        let inputs = if last > 0 { old.shape()[last] as f32 / shape[last] as f32 } else { 1.0 };
        let spread = (spread * inputs).sqrt();
        let draw = |_| (mean * f32::from(last == 0) + spread * random.normal()).to_le_bytes();
        let bytes = (0..shape.iter().product()).flat_map(draw).collect();
        (shape, bytes)
    }

    /// The wide checkpoint in F32 and at every level.
    fn files(&self, folder: &Path) -> (PathBuf, Vec<PathBuf>) {
        let source = folder.join("source");
        std::fs::create_dir(&source).unwrap();
        self.write(&source);
        let base = folder.join("base.gguf");
        convert(&source, &base, &ConvertOptions::new(Format::by_name("F32").unwrap()), &()).unwrap();
        let level = |level: u32| {
            let out = folder.join(format!("{level}.gguf"));
            let limit = limit_of(level).unwrap();
            let report = convert(&base, &out, &ConvertOptions::with(Recipe::Bits(limit)), &()).unwrap();
            assert!(report.bits_per_weight <= limit, "{} {level}: {}", self.name, report.bits_per_weight);
            out
        };
        let levels = (2..=8).map(level).collect();
        (base, levels)
    }
}

/// Numbers that are always the same.
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 24) as f32
    }

    /// Close to a normal distribution of spread 1.
    fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.uniform()).sum::<f32>() - 6.0
    }
}

/// Log probabilities of all positions.
fn odds(file: &Path, text: &[u32]) -> Vec<Vec<f64>> {
    // AMX rounds products to BF16, which is as much as level 8 differs.
    let isa = Isa::available().filter(|isa| *isa < Isa::Amx).last();
    let engine = Engine::open(file, Options { isa, ..options("f32") }).unwrap();
    let mut all = vec![];
    let mut keep = |_: usize, logits: &[f32]| {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max) as f64;
        let sum: f64 = logits.iter().map(|logit| (*logit as f64 - largest).exp()).sum();
        all.push(logits.iter().map(|logit| *logit as f64 - largest - sum.ln()).collect());
        Ok(())
    };
    engine.session().unwrap().extend_with_logits(text, &mut keep).unwrap();
    all
}

fn divergence(base: &[Vec<f64>], other: &[Vec<f64>]) -> f64 {
    let of = |(base, other): (&Vec<f64>, &Vec<f64>)| -> f64 {
        base.iter().zip(other).map(|(base, other)| base.exp() * (base - other)).sum()
    };
    base.iter().zip(other).map(of).sum::<f64>() / base.len() as f64
}

/// Levels of the family with this name.
fn hold(name: &str) {
    let family = FAMILIES.iter().find(|family| family.name == name).unwrap();
    let (text, folder) = (tokens(250, 7), tempfile::tempdir().unwrap());
    let (base, levels) = family.files(folder.path());
    let base = odds(&base, &text);
    let found: Vec<f64> = levels.iter().map(|level| divergence(&base, &odds(level, &text))).collect();
    let line = format!("{name}: {found:.5?} of {:.4?}", family.bounds);
    println!("{line}");
    // Where bits are many, what is left is rounding of inputs, which sends tokens to other experts at any level.
    let falls = |pair: &[f64]| pair[1] < 1.05 * pair[0] || pair[1] < 1.1 * found[6];
    assert!(found.windows(2).all(falls), "does not fall with bits: {line}");
    for (found, bound) in found.iter().zip(&family.bounds) {
        assert!(found <= bound, "{line}");
        assert!(*found > bound / 1.3, "got better: lower the bound: {line}");
    }
}

#[test]
fn qwen35moe() {
    hold("qwen35moe");
}

#[test]
fn qwen3next() {
    hold("qwen3next");
}

#[test]
fn gemma4() {
    hold("gemma4");
}

#[test]
fn nemotron_h_moe() {
    hold("nemotron-h-moe");
}

#[test]
fn granitehybrid() {
    hold("granitehybrid");
}

#[test]
fn lfm2moe() {
    hold("lfm2moe");
}
