//! From text to logits through every part: tokenizer, shards, training, export, `moewe convert`, the runtime. What the
//! runtime computes from the files is what the trainer computes from its own weights.

#![allow(clippy::print_stdout, reason = "the errors are for `--nocapture`")]

mod support;

use candle_core::{DType, Device};
use moewe_engine::session::{CapacityMode, Engine};
use moewe_engine::tokenizer::Special;
use moewe_train::distributed::World;
use moewe_train::model::{Batch, Model};
use moewe_train::settings::Run;
use moewe_train::trainer::Trainer;
use serde_json::Value;
use std::path::{Path, PathBuf};
use support::process::{column, names, trainer};
use support::{
    Dataset, config, difference, engine, mixtral, model, moe_124m, moe_gpt, numbers, tachyon, tensors,
};

/// Largest difference between runtime and trainer, relative to the largest logit.
const TOLERANCE: f32 = 1e-4;
const LENGTHS: [usize; 5] = [1, 2, 7, 19, 32]; // of texts that logits are compared after

/// A training of 20 steps with its export.
struct Trained<'a> {
    dataset: &'a Dataset,
    name: &'a str,
    out: PathBuf,
    export: PathBuf,
    dropless: bool,
}

impl<'a> Trained<'a> {
    fn new(dataset: &'a Dataset, name: &'a str, preset: &Value, dropless: bool) -> Self {
        let [out, export] = [name.to_owned(), format!("{name}-export")].map(|name| dataset.path(&name));
        let preset = dataset.preset(name, preset);
        let settings = "--max-steps 20 --batch 4 --warmup-steps 2 --learning-rate 0.01 --log-every 1 --eval-every 10 \
                        --eval-rows 4 --sample-every 10 --sample-tokens 6 --save-every 20 --prompt möwe";
        let mut call = trainer(settings.split_whitespace());
        if dropless {
            call = call.args(["--dropless"]);
        }
        let data = ["--data", &dataset.text("shards"), "--tokenizer", &dataset.text("tokenizer.json")];
        call = call.args(["--preset", &preset]).args(data);
        call.args(["--out".as_ref(), out.as_os_str(), "--export".as_ref(), export.as_os_str()]).succeed();
        Self { dataset, name, out, export, dropless }
    }

    fn learned_and_wrote(&self) {
        let losses = column(&self.out, "cross_entropy");
        let (first, last) = (losses[0], losses[19]);
        assert!(last < first - 0.3, "{}: the loss went from {first} to {last}", self.name);
        let samples = std::fs::read_to_string(self.out.join("samples.txt")).unwrap();
        let headings = samples.lines().filter(|line| line.starts_with("=== step")).collect::<Vec<_>>();
        assert_eq!(headings, ["=== step 10 === \"möwe\"", "=== step 20 === \"möwe\""], "{}", self.name);
    }

    /// The model of the trainer, as a start with the run's own settings opens it.
    fn own_model(&self) -> Trainer {
        let text = std::fs::read_to_string(self.out.join("run.toml")).unwrap();
        let run: Run = toml::from_str(&text).unwrap();
        let trainer = Trainer::open(run, World::single(), &Device::Cpu).unwrap();
        assert_eq!(trainer.step(), 20);
        trainer
    }

    /// A checkpoint gives the same files later.
    fn exports_again(&self) {
        let again = self.dataset.text(&format!("{}-again", self.name));
        for place in [&self.out, &self.out.join("checkpoint-20")] {
            let place = place.to_str().unwrap();
            trainer(["export", place, "-o", &again, "--force"]).succeed();
            for name in names(&self.export) {
                let read = |folder: &Path| std::fs::read(folder.join(&name)).unwrap();
                assert!(read(&self.export) == read(again.as_ref()), "{} {name}", self.name);
            }
        }
        let error = trainer(["export", self.out.to_str().unwrap(), "-o", &again]).refused();
        assert!(error.contains("--force"), "{error}");
    }

    /// The model of the export, which is the trainer's rounded to BF16.
    fn exported_model(&self, own: &Model) -> Model {
        let weights = tensors(&self.export.join("model.safetensors"));
        for parameter in &own.parameters {
            let values = numbers(&parameter.master);
            for piece in &parameter.spec.pieces {
                let tensor = &weights[&piece.name];
                assert_eq!((tensor.dtype(), tensor.dims()), (DType::BF16, &*piece.shape), "{}", piece.name);
                let rounded = piece.take(&values, &parameter.spec.shape).into_iter();
                let rounded: Vec<f32> = rounded.map(|x| half::bf16::from_f32(x).to_f32()).collect();
                assert!(
                    rounded == numbers(tensor),
                    "{}: {} is not rounded to nearest",
                    self.name,
                    piece.name
                );
            }
        }
        let mut config = config(&self.export);
        config.experts.capacity = own.config.experts.capacity;
        model(config, &weights)
    }

    /// The same for the runtime, from a folder of the trainer converted to F32.
    fn engine(&self, folder: &Path) -> Engine {
        let has_capacity = self.name.starts_with("moe_gpt") && !self.dropless;
        let capacity = if has_capacity { CapacityMode::Reference } else { CapacityMode::Dropless };
        engine(folder, capacity)
    }

    fn agree(&self, what: &str, engine: &Engine, model: &Model) {
        let tokens = tokens(model);
        let mut worst = 0f32;
        for length in LENGTHS {
            let tokens = &tokens[..length];
            let expected = numbers(&model.logits(Batch { tokens, rows: 1, packing: None }).unwrap());
            let mut session = engine.session().unwrap();
            session.extend(tokens).unwrap();
            worst = worst.max(difference(session.logits(), &expected));
        }
        assert!(worst <= TOLERANCE, "{} {what}: {worst:.1e} of the largest logit", self.name);
        println!("{:18} {what:14} {worst:.1e}", self.name);
    }

    /// The tokenizer of the converted file speaks as the one that was trained.
    fn speaks_alike(&self, engine: &Engine) {
        let path = self.dataset.path("tokenizer.json");
        let tokenizer = tokenizers::Tokenizer::from_file(path).unwrap();
        let text = "Am Abend ruft die Möwe, 12 Fische warten!";
        let expected = tokenizer.encode_fast(text, false).unwrap().get_ids().to_vec();
        assert_eq!(
            engine.tokenizer().unwrap().encode(text, Special::Plain).unwrap(),
            expected,
            "{}",
            self.name
        );
    }
}

fn tokens(model: &Model) -> Vec<u32> {
    (0..32).map(|i| (i * i * 7 + 3) % model.config.vocabulary as u32).collect()
}

fn prove(name: &str, preset: &Value, dropless: bool) {
    let dataset = Dataset::new();
    let trained = Trained::new(&dataset, name, preset, dropless);
    trained.learned_and_wrote();
    trained.exports_again();
    let own = trained.own_model();
    let engine = trained.engine(&trained.out.join("checkpoint-20"));
    trained.agree("F32 checkpoint", &engine, own.model());
    trained.speaks_alike(&engine);
    let mut exported = trained.exported_model(own.model());
    trained.agree("BF16 export", &trained.engine(&trained.export), &exported);
    if exported.config.experts.capacity.is_some() {
        let batch = |model: &Model| {
            numbers(&model.logits(Batch { tokens: &tokens(model), rows: 1, packing: None }).unwrap())
        };
        let with_capacity = batch(&exported);
        exported.config.experts.capacity = None;
        let off = difference(&batch(&exported), &with_capacity);
        assert!(off > 10.0 * TOLERANCE, "no token was dropped: {off:.1e}");
    }
}

#[test]
fn moe_gpt_with_capacity_runs_as_it_was_trained() {
    prove("moe_gpt", &moe_gpt(), false);
}

#[test]
fn moe_gpt_without_dropping_runs_as_it_was_trained() {
    prove("moe_gpt_dropless", &moe_gpt(), true);
}

#[test]
fn tachyon_runs_as_it_was_trained() {
    prove("tachyon", &tachyon(), false);
}

#[test]
fn moe_124m_runs_as_it_was_trained() {
    prove("moe_124m_top1", &moe_124m(1), false);
    prove("moe_124m_top2", &moe_124m(2), false);
}

#[test]
fn mixtral_runs_as_it_was_trained() {
    prove("mixtral", &mixtral(), false);
}
