//! A fine-tuning goes on to the bit, keeps only what it trains, and writes what peft writes.

use super::*;
use crate::checkpoint::{TensorFile, Weights};
use crate::distributed::Collective;
use crate::model::{Lora, Target, Trained};
use crate::monitor::Sink;
use candle_core::{DType, Tensor};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/lora").join(name)
}

fn json_of(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

struct Text {
    tokens: Vec<u32>,
    trained: Vec<bool>,
    segments: Vec<usize>,
}

/// The conversations of the fixture, one a row, and one of them held out.
struct Chats(Vec<Text>);

impl Chats {
    fn new() -> Self {
        let all = json_of(&golden("chat/expected.json"));
        let numbers =
            |value: &Value| value.as_array().unwrap().iter().map(|x| x.as_u64().unwrap()).collect::<Vec<_>>();
        let text = |chat: &Value| {
            let tokens: Vec<u32> = numbers(&chat["tokens"]).into_iter().map(|id| id as u32).collect();
            let trained = numbers(&chat["mask"]).into_iter().map(|mark| mark == 1).collect();
            Text { segments: vec![tokens.len()], tokens, trained }
        };
        Self(all["chats"].as_array().unwrap().iter().map(text).collect())
    }

    fn get(&self, index: usize) -> PackedRow<'_> {
        let Text { tokens, trained, segments } = &self.0[index];
        PackedRow { tokens, trained, segments }
    }
}

impl Examples for Chats {
    fn rows(&self) -> u64 {
        self.0.len() as u64
    }

    fn row(&self, seed: u64, index: u64) -> PackedRow<'_> {
        self.get(((index + seed) % self.rows()) as usize)
    }

    fn held_out(&self) -> Vec<PackedRow<'_>> {
        vec![self.get(0)]
    }

    fn digest(&self) -> String {
        format!("{} rows", self.0.len())
    }
}

fn lora(targets: &[Target]) -> Lora {
    Lora { targets: targets.to_vec(), rank: 4, alpha: 8.0, rslora: false, dora: false, dropout: 0.0 }
}

/// Six steps of two rows.
fn tuning(base: &str, out: &Path, trained: Trained) -> Tuning {
    let own = Tuning::new(golden(base), out.to_owned(), trained);
    Tuning {
        learning_rate: 1e-2,
        context: 96,
        epochs: 4,
        batch: 2,
        micro_batch: 1,
        device: "cpu".into(),
        ..own
    }
}

/// Raises a flag after so many steps.
struct Stop(u64, Arc<AtomicBool>);

impl Sink for Stop {
    fn record(&mut self, event: &Event) -> Result<()> {
        if let Event::Step(report) = event {
            self.1.fetch_or(report.step == self.0, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Trains up to step `last`, and writes the result where all is done.
fn run(tuning: &Tuning, chats: &Chats, last: u64) -> Outcome {
    let mut tuner = Tuner::open(tuning.clone(), chats, World::single(), &Device::Cpu).unwrap();
    let (mut monitor, stop) = (Monitor::default(), Arc::new(AtomicBool::new(false)));
    monitor.add("stop", Box::new(Stop(last, stop.clone())));
    let outcome = tuner.train(&mut monitor, &stop).unwrap();
    if outcome.finished {
        tuner.export(&[]).unwrap();
    }
    outcome
}

fn kinds() -> Vec<(&'static str, Trained)> {
    let dropped =
        Lora { dropout: 0.3, rslora: true, ..lora(&[Target::Attention, Target::Router, Target::Head]) };
    let dora = Lora { dora: true, ..lora(&[Target::Attention]) };
    vec![
        ("all", Trained::All),
        ("router", Trained::Router),
        ("experts", Trained::Lora(lora(&[Target::Attention, Target::Experts]))),
        ("dropout", Trained::Lora(dropped)),
        ("dora", Trained::Lora(dora)),
    ]
}

#[test]
fn a_training_that_stopped_goes_on_to_the_bit() {
    let chats = Chats::new();
    for (name, trained) in kinds() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| tuning("mixtral", &folder.path().join(name), trained.clone());
        let (whole, parts) = (at("whole"), at("parts"));
        let expected = run(&whole, &chats, 0);
        assert!(!run(&parts, &chats, 2).finished, "{name}");
        assert!(!run(&parts, &chats, 5).finished, "{name}");
        let found = run(&parts, &chats, 0);
        assert_eq!((found.step, found.finished), (6, true), "{name}");
        assert_eq!((found.loss, found.validation), (expected.loss, expected.validation), "{name}");
        for file in [export::result_name(&whole), "checkpoint-6/optimizer.safetensors"] {
            let read = |tuning: &Tuning| std::fs::read(tuning.out.join(file)).unwrap();
            assert!(read(&whole) == read(&parts), "{name}: {file} has the same bytes");
        }
    }
}

#[test]
fn held_out_answers_become_likelier() {
    let chats = Chats::new();
    for (name, trained) in kinds() {
        let folder = tempfile::tempdir().unwrap();
        let own = Tuning { epochs: 12, ..tuning("mixtral", folder.path(), trained) };
        let first = Tuner::open(own.clone(), &chats, World::single(), &Device::Cpu).unwrap();
        let before = first.measure().unwrap().unwrap();
        drop(first); // a folder is for one training at a time
        assert!(before.tokens > 0);
        let after = run(&own, &chats, 0).validation.unwrap();
        assert!(after < before.loss - 0.01, "{name}: {} to {after}", before.loss);
    }
}

#[test]
fn checkpoints_hold_what_is_trained_and_name_the_rest() {
    let chats = Chats::new();
    let folder = tempfile::tempdir().unwrap();
    let own = tuning("mixtral", folder.path(), Trained::Router);
    run(&own, &chats, 2);
    let checkpoint = folder.path().join("checkpoint-2");
    let names: BTreeSet<String> = std::fs::read_dir(&checkpoint)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    let expected = ["finetune.json", "manifest.json", "optimizer.safetensors", "trained.safetensors"];
    assert_eq!(names, expected.map(String::from).into());
    let trained = TensorFile::open(&checkpoint.join("trained.safetensors")).unwrap();
    assert_eq!(trained.names(), [0, 1].map(|l| format!("model.layers.{l}.block_sparse_moe.gate.weight")));
    let record = json_of(&checkpoint.join("finetune.json"));
    // What sha256sum says.
    let expected = "3afaca5f208aea2621469b593a46bee54dedf91365ac55e96911a6795e0c0df6";
    assert_eq!(record["base"]["config_sha256"], expected);
    assert_eq!(record["base"]["name"], "mixtral");
}

#[test]
fn only_what_is_trained_changes() {
    let chats = Chats::new();
    let before = Weights::open(&golden("mixtral")).unwrap();
    for (trained, changes) in [(Trained::Router, "gate.weight"), (Trained::All, "")] {
        let folder = tempfile::tempdir().unwrap();
        run(&tuning("mixtral", folder.path(), trained), &chats, 0);
        let after = Weights::open(&folder.path().join("model.safetensors")).unwrap();
        assert_eq!(before.names(), after.names());
        for name in after.names() {
            let numbers = |weights: &Weights| {
                let tensor = weights.read(name).unwrap();
                assert_eq!(tensor.dtype(), DType::BF16, "{name}");
                tensor.flatten_all().unwrap().to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap()
            };
            assert_eq!(numbers(&before) != numbers(&after), name.ends_with(changes), "{name}");
        }
        for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
            let read = |folder: &Path| std::fs::read(folder.join(name)).unwrap();
            assert!(read(folder.path()) == read(&golden("mixtral")), "{name}");
        }
        let (own, theirs) =
            (json_of(&folder.path().join("config.json")), json_of(&golden("mixtral/config.json")));
        assert_eq!(own, theirs, "the config.json that came with the model");
    }
}

/// The micro-batches of a step have other numbers of trained tokens, so means of their means would differ.
#[test]
fn a_step_counts_tokens_and_not_micro_batches() {
    let chats = Chats::new();
    let result = |micro_batch: usize| {
        let folder = tempfile::tempdir().unwrap();
        let trained = Trained::Lora(lora(&[Target::Attention, Target::Experts]));
        let own = Tuning { micro_batch, batch: 3, epochs: 1, ..tuning("mixtral", folder.path(), trained) };
        let mut tuner = Tuner::open(own, &chats, World::single(), &Device::Cpu).unwrap();
        let step = tuner.optimizer_step(1).unwrap();
        let gradients: Vec<Tensor> = tuner.model.trained().map(|p| p.gradient.total().unwrap()).collect();
        let numbers = gradients.iter().flat_map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        (step.losses.loss, numbers.collect::<Vec<_>>())
    };
    let (loss, gradients) = result(3);
    let largest = gradients.iter().fold(0f32, |a, g| a.max(g.abs()));
    for micro_batch in [1, 2] {
        let (own, slopes) = result(micro_batch);
        assert!((own - loss).abs() < 1e-6, "{own} and {loss}");
        let worst = slopes.iter().zip(&gradients).fold(0f32, |a, (x, y)| a.max((x - y).abs()));
        assert!(worst <= 1e-5 * largest, "{worst:.1e} of {largest:.1e}");
    }
}

/// One of two ranks, which exchange their values; a rank that is left alone fails and does not wait for ever.
struct Pair {
    to: Mutex<Sender<Vec<f64>>>,
    from: Mutex<Receiver<Vec<f64>>>,
}

impl Collective for Pair {
    fn sum_f32(&self, values: &mut [f32]) -> Result<()> {
        let mut wide: Vec<f64> = values.iter().map(|&x| f64::from(x)).collect();
        self.sum_f64(&mut wide)?;
        values.iter_mut().zip(wide).for_each(|(value, sum)| *value = sum as f32);
        Ok(())
    }

    fn sum_f64(&self, values: &mut [f64]) -> Result<()> {
        self.to.lock().unwrap().send(values.to_vec()).unwrap();
        let theirs = self.from.lock().unwrap().recv_timeout(Duration::from_secs(60)).unwrap();
        assert_eq!(values.len(), theirs.len(), "both ranks add up the same");
        values.iter_mut().zip(theirs).for_each(|(value, other)| *value += other);
        Ok(())
    }

    fn broadcast_bytes(&self, _: &mut Vec<u8>) -> Result<()> {
        Ok(())
    }

    fn barrier(&self) -> Result<()> {
        self.sum_f64(&mut [])
    }
}

/// Two ranks with one and two of three rows, and with one and none, have the gradients of one rank with all rows.
#[test]
fn ranks_count_the_tokens_of_all() {
    let chats = Chats::new();
    let folder = tempfile::tempdir().unwrap();
    let step = |name: &str, batch: usize, world: World| {
        let trained = Trained::Lora(lora(&[Target::Attention, Target::Experts]));
        let own = tuning("mixtral", &folder.path().join(format!("{name}{batch}")), trained);
        let own = Tuning { batch, epochs: 1, aux: Some(0.1), ..own };
        let mut tuner = Tuner::open(own, &chats, world, &Device::Cpu).unwrap();
        let step = tuner.optimizer_step(1).unwrap();
        let gradients: Vec<Tensor> = tuner.model.trained().map(|p| p.gradient.total().unwrap()).collect();
        let numbers = gradients.iter().flat_map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        (step.losses.loss, numbers.collect::<Vec<_>>())
    };
    for batch in [3, 1] {
        let (loss, gradients) = step("one", batch, World::single());
        let largest = gradients.iter().fold(0f32, |a, g| a.max(g.abs()));
        let ((to_first, from_second), (to_second, from_first)) = (channel(), channel());
        let world = |rank, to, from| {
            World::with_backend(rank, 2, Box::new(Pair { to: Mutex::new(to), from: Mutex::new(from) }))
        };
        let worlds = [world(0, to_second, from_second), world(1, to_first, from_first)];
        let found: Vec<_> = std::thread::scope(|scope| {
            let run = |world| scope.spawn(|| step("two", batch, world));
            let ranks = worlds.map(run);
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        });
        for (own, slopes) in found {
            assert!((own - loss).abs() < 1e-6, "{own} and {loss}");
            let worst = slopes.iter().zip(&gradients).fold(0f32, |a, (x, y)| a.max((x - y).abs()));
            assert!(worst <= 1e-5 * largest, "{worst:.1e} of {largest:.1e}");
        }
    }
}

/// The fixture's adapters, read and written again, are the files of peft.
#[test]
fn adapters_are_written_as_peft_writes_them() {
    use Target::{Attention, Experts, Head, Router};
    let chats = Chats::new();
    for (name, targets) in [
        ("mixtral-experts", &[Attention, Experts][..]),
        ("mixtral-dora", &[Attention]),
        ("qwen3moe-all", &[Attention, Experts, Router, Head]),
    ] {
        let expected = json_of(&golden(name).join("adapter_config.json"));
        let own = Lora {
            rank: expected["r"].as_u64().unwrap() as usize,
            alpha: expected["lora_alpha"].as_f64().unwrap(),
            rslora: expected["use_rslora"].as_bool().unwrap(),
            dora: expected["use_dora"].as_bool().unwrap(),
            ..lora(targets)
        };
        let folder = tempfile::tempdir().unwrap();
        let own = tuning(name.split_once('-').unwrap().0, folder.path(), Trained::Lora(own));
        let mut tuner = Tuner::open(own, &chats, World::single(), &Device::Cpu).unwrap();
        let theirs = TensorFile::open(&golden(name).join("adapter_model.safetensors")).unwrap();
        let read = |file: &TensorFile, tensor: &str| -> Vec<f32> {
            let tensor = file.read(tensor, file.shape(tensor).unwrap(), DType::F32, &Device::Cpu).unwrap();
            tensor.flatten_all().unwrap().to_vec1().unwrap()
        };
        for parameter in tuner.model.trained_mut() {
            let mut values = vec![f32::NAN; parameter.spec.count()];
            for piece in &parameter.spec.pieces {
                piece
                    .put((&read(&theirs, &piece.name), &piece.shape), &mut values, &parameter.spec.shape)
                    .unwrap();
            }
            parameter.master = Tensor::from_vec(values, parameter.master.shape(), &Device::Cpu).unwrap();
        }
        tuner.export(&[]).unwrap();
        let ours = TensorFile::open(&folder.path().join("adapter_model.safetensors")).unwrap();
        let kept: Vec<String> =
            theirs.names().into_iter().filter(|name| !name.contains("base_layer.weight")).collect();
        assert_eq!(ours.names(), kept, "{name}");
        for tensor in &kept {
            assert_eq!(ours.shape(tensor).unwrap(), theirs.shape(tensor).unwrap(), "{name}: {tensor}");
            assert!(read(&ours, tensor) == read(&theirs, tensor), "{name}: {tensor}");
        }
        let found = json_of(&folder.path().join("adapter_config.json"));
        let set = |config: &Value, key: &str| -> BTreeSet<String> {
            config[key].as_array().unwrap().iter().map(|value| value.as_str().unwrap().to_owned()).collect()
        };
        for key in ["target_modules", "target_parameters"] {
            assert_eq!(set(&found, key), set(&expected, key), "{name}: {key}");
        }
        for (key, value) in found.as_object().unwrap() {
            if !key.starts_with("target_") && key != "base_model_name_or_path" {
                assert_eq!(*value, expected[key], "{name}: {key}");
            }
        }
    }
}

#[test]
fn another_training_is_refused_and_no_result_is_replaced() {
    let chats = Chats::new();
    let folder = tempfile::tempdir().unwrap();
    let own = tuning("mixtral", folder.path(), Trained::Lora(lora(&[Target::Attention])));
    run(&own, &chats, 2);
    let refused = |tuning: Tuning, chats: &Chats| {
        Tuner::open(tuning, chats, World::single(), &Device::Cpu).err().unwrap().to_string()
    };
    let base = Tuning { base: golden("qwen3moe"), ..own.clone() };
    let error = refused(base, &chats);
    assert!(error.contains("the base mixtral") && error.contains("not qwen3moe"), "{error}");
    let error = refused(own.clone(), &Chats(Chats::new().0.into_iter().take(2).collect()));
    assert!(error.contains("other data"), "{error}");
    let trained = Trained::Lora(lora(&[Target::Router]));
    let error = refused(Tuning { trained, ..own.clone() }, &chats);
    assert!(error.contains("\"trained\"") && error.contains("attention"), "{error}");
    let slower = Tuning { learning_rate: 1e-3, ..own.clone() };
    let tuner = Tuner::open(slower, &chats, World::single(), &Device::Cpu).unwrap();
    assert_eq!(tuner.changes(), ["--learning-rate was 0.01, now it is 0.001"]);
    drop(tuner);
    assert!(Tuner::check_free(&own).is_ok(), "its own checkpoints");
    let other = tempfile::tempdir().unwrap();
    std::fs::write(other.path().join("adapter_model.safetensors"), "x").unwrap();
    let error =
        Tuner::check_free(&Tuning { out: other.path().into(), ..own.clone() }).unwrap_err().to_string();
    assert!(error.contains("exists already"), "{error}");
    let inside = Tuning { out: golden("mixtral"), ..own };
    let error = refused(inside, &chats);
    assert!(error.contains("mixtral") && error.contains("would change the model"), "{error}");
}

#[test]
fn adapters_that_no_model_can_have_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |lora: Lora| {
        tuning("mixtral", folder.path(), Trained::Lora(lora)).config().err().unwrap().to_string()
    };
    use Target::{Attention, Dense, Experts};
    for (lora, expected) in [
        (lora(&[Dense]), "mixtral has no matrices that are dense"),
        (lora(&[]), "an adapter needs"),
        (Lora { rank: 0, ..lora(&[Attention]) }, "a rank of at least 1"),
        (Lora { alpha: f64::NAN, ..lora(&[Attention]) }, "alpha must lie above 0"),
        (Lora { dropout: 1.0, ..lora(&[Attention]) }, "dropout"),
        (Lora { dropout: 0.1, ..lora(&[Experts]) }, "experts have no dropout"),
        (Lora { dora: true, ..lora(&[Attention, Experts]) }, "DoRA is for attention alone"),
        (Lora { dora: true, dropout: 0.1, ..lora(&[Attention]) }, "DoRA has no dropout"),
    ] {
        let error = refused(lora);
        assert!(error.contains(expected), "{expected}: {error}");
    }
    let dense = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/train-step/llama");
    let routers = Tuning { base: dense, ..tuning("mixtral", folder.path(), Trained::Router) };
    let error = routers.config().err().unwrap().to_string();
    assert!(error.contains("a llama has no routers"), "{error}");
}

#[test]
fn new_tokens_begin_as_the_mean_of_all() {
    let (chats, folder) = (Chats::new(), tempfile::tempdir().unwrap());
    let own = Tuning { vocabulary: 322, ..tuning("mixtral", folder.path(), Trained::All) };
    let tuner = Tuner::open(own, &chats, World::single(), &Device::Cpu).unwrap();
    for parameter in tuner.model.parameters.iter().filter(|p| p.spec.shape[0] == 322) {
        let rows: Vec<Vec<f32>> = parameter.master.to_vec2().unwrap();
        let mean: Vec<f32> =
            (0..64).map(|i| rows[..320].iter().map(|row| row[i]).sum::<f32>() / 320.0).collect();
        for row in &rows[320..] {
            assert!(row.iter().zip(&mean).all(|(a, b)| (a - b).abs() < 1e-5), "{:?}", parameter.spec.role);
        }
    }
    tuner.export(&[("tokenizer.json".into(), "{}".into())]).unwrap();
    assert_eq!(json_of(&folder.path().join("config.json"))["vocab_size"], 322);
    assert_eq!(std::fs::read_to_string(folder.path().join("tokenizer.json")).unwrap(), "{}");
    let weights = Weights::open(&folder.path().join("model.safetensors")).unwrap();
    assert_eq!(weights.read("lm_head.weight").unwrap().dims(), [322, 64]);
}

#[test]
fn what_is_trained_is_counted_by_kind() {
    let folder = tempfile::tempdir().unwrap();
    let counts = |trained: Trained| {
        let own = tuning("mixtral", folder.path(), trained);
        own.trained.counts(&own.config().unwrap())
    };
    // Two layers of width 64, 4 experts of 96; q and o 64, k and v 32; rank 4.
    let attention = 2 * 4 * ((64 + 64) * 2 + (64 + 32) * 2);
    let experts = 2 * 4 * 4 * ((64 + 192) + (96 + 64));
    let both = Trained::Lora(lora(&[Target::Experts, Target::Attention]));
    assert_eq!(counts(both), [("attention", attention), ("experts", experts)]);
    assert_eq!(counts(Trained::Router), [("router", 2 * 4 * 64)]);
    let all: u64 = counts(Trained::All).iter().map(|(_, count)| count).sum();
    assert_eq!(all, tuning("mixtral", folder.path(), Trained::All).config().unwrap().counts().0);
}
