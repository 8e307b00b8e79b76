//! What a checkpoint holds, and how a training goes on from one. A folder in the layout of Hugging Face (config.json,
//! model.safetensors, tokenizer.json) with the optimizer's moments and a few numbers beside it.

use crate::checkpoint::{TensorFile, write_tensors};
use crate::model::{Config, Model, Piece, Spec};
use crate::optimizer::AdamW;
use crate::settings::Run;
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;

const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";
const DTYPE_KEYS: [&str; 2] = ["dtype", "torch_dtype"]; // of transformers 5 and 4
const TOKENIZER_FILES: [&str; 2] = ["tokenizer.json", "tokenizer_config.json"];

/// Where a training stands. Everything random follows from this and the seed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) step: u64,              // finished
    pub(super) tokens: u64,            // trained on, over all ranks
    pub(super) position: u64,          // next row of the stream
    pub(super) best: Option<f64>,      // smallest validation loss
    pub(super) best_step: Option<u64>, // where it was
    pub(super) seed: u64,
}

impl State {
    /// Remembers the smallest validation loss, rounded: JSON may change the last bit of a number with all its digits.
    pub(super) fn note(&mut self, loss: f64) {
        let loss = (loss * 1e9).round() / 1e9;
        if self.best.is_none_or(|best| loss < best) {
            (self.best, self.best_step) = (Some(loss), Some(self.step));
        }
    }
}

/// What is saved.
pub(super) struct Parts<'a> {
    pub(super) model: &'a Model,
    pub(super) optimizer: &'a AdamW,
    pub(super) state: &'a State,
}

impl Parts<'_> {
    /// Writes all files of a checkpoint.
    pub(super) fn write(&self, folder: &Path, run: &Run, tokenizer: Option<&Path>) -> Result<()> {
        write_model(folder, self.model, tokenizer, DType::F32)?;
        let mut moments = BTreeMap::new();
        for (parameter, (first, second)) in self.model.parameters.iter().zip(self.optimizer.moments()) {
            let [first_name, second_name] = moment_names(&parameter.spec);
            moments.insert(first_name, first.clone());
            moments.insert(second_name, second.clone());
        }
        write_tensors(&folder.join(OPTIMIZER), &moments)?;
        let state = State { seed: run.settings.seed, ..self.state.clone() };
        write_text(&folder.join(STATE), &json(&state)?)?;
        write_text(
            &folder.join("run.toml"),
            &toml::to_string(run).map_err(|e| Error::request(e.to_string()))?,
        )
    }
}

/// Writes what other programs read: config, weights in `dtype`, tokenizer.
///
/// # Errors
/// The disk refuses.
pub(super) fn write_model(
    folder: &Path,
    model: &Model,
    tokenizer: Option<&Path>,
    dtype: DType,
) -> Result<()> {
    let mut tensors = BTreeMap::new();
    for parameter in &model.parameters {
        let values: Vec<f32> = parameter.master.flatten_all()?.to_dtype(DType::F32)?.to_vec1()?;
        for piece in &parameter.spec.pieces {
            let own = piece.take(&values, &parameter.spec.shape);
            let tensor = Tensor::from_vec(own, piece.shape.clone(), &Device::Cpu)?;
            tensors.insert(piece.name.clone(), tensor.to_dtype(dtype)?);
        }
    }
    write_tensors(&folder.join(MODEL), &tensors)?;
    let mut config = model.config.source.clone();
    if let (Some(object), Some(name)) = (config.as_object_mut(), dtype_name(dtype)) {
        let [newer, older] = DTYPE_KEYS;
        let key = if object.contains_key(newer) { newer } else { older };
        object.insert(key.into(), name.into());
    }
    write_text(&folder.join("config.json"), &json(&config)?)?;
    for name in TOKENIZER_FILES {
        let Some(from) = tokenizer.map(|path| path.with_file_name(name)).filter(|path| super::is_file(path))
        else {
            continue;
        };
        std::fs::copy(&from, folder.join(name)).map_err(|e| Error::io(&from, "copy", e))?;
    }
    Ok(())
}

fn dtype_name(dtype: DType) -> Option<&'static str> {
    match dtype {
        DType::F32 => Some("float32"),
        DType::BF16 => Some("bfloat16"),
        _ => None,
    }
}

/// A training as the checkpoint in `folder` left it.
///
/// # Errors
/// The checkpoint is of another model or another seed, or its files do not fit together.
pub(super) fn restore(
    folder: &Path,
    run: &Run,
    config: &Config,
    dtype: DType,
    device: &Device,
) -> Result<(Model, AdamW, State)> {
    let state: State = read_json(&folder.join(STATE))?;
    if state.seed != run.settings.seed {
        let (own, seed) = (state.seed, run.settings.seed);
        let message =
            format!("{}: trained with --seed {own}, not {seed}; name another --out", folder.display());
        return Err(Error::request(message));
    }
    let model = load_model(folder, config.clone(), dtype, device)?;
    check_config(folder, config)?;
    let file = TensorFile::open(&folder.join(OPTIMIZER))?;
    let mut moments = vec![];
    for parameter in &model.parameters {
        let [first, second] = moment_names(&parameter.spec);
        let read = |name: &str| file.read(name, &parameter.spec.shape, DType::F32, device);
        moments.push((read(&first)?, read(&second)?));
    }
    let mut optimizer = AdamW::new(run.settings.optimizer(), &model)?;
    optimizer.restore(state.step, moments);
    Ok((model, optimizer, state))
}

/// The model of a checkpoint of ours, whose weights are F32.
pub(super) fn load_model(folder: &Path, config: Config, dtype: DType, device: &Device) -> Result<Model> {
    let file = TensorFile::open(&folder.join(MODEL))?;
    let read = |piece: &Piece| file.read(&piece.name, &piece.shape, DType::F32, &Device::Cpu);
    Model::with_values(config, dtype, device, |spec| values(spec, read)).map_err(|error| match error {
        Error::Common(error) => another_model(folder, error),
        other => other,
    })
}

fn another_model(folder: &Path, difference: impl std::fmt::Display) -> Error {
    Error::request(format!(
        "{}: {difference}; it is of another model: name another --out, or use it with --init-from",
        folder.display()
    ))
}

/// Refuses a checkpoint whose tensors would fit but whose config.json has other rules.
fn check_config(folder: &Path, config: &Config) -> Result<()> {
    let path = folder.join("config.json");
    // What an older version left out, or called otherwise, counts as it does today.
    let saved = Config::from_json(read_json(&path)?).map_err(|error| match error {
        Error::Common(error) => error.in_file(&path).into(),
        other => other,
    })?;
    let (saved, own) = (rules(&saved.source), rules(&config.source));
    match saved.keys().chain(own.keys()).find(|key| !are_equal(saved.get(*key), own.get(*key))) {
        None => Ok(()),
        Some(key) => {
            let text = |value: Option<&Value>| value.map_or("none".into(), Value::to_string);
            let (saved, own) = (text(saved.get(key)), text(own.get(key)));
            Err(another_model(folder, format!("config.json has {key} {saved}, this run {own}")))
        }
    }
}

/// Reading numbers from JSON may round their last bit.
fn are_equal(a: Option<&Value>, b: Option<&Value>) -> bool {
    let number = |value: Option<&Value>| value.and_then(Value::as_f64);
    match (number(a), number(b)) {
        (Some(a), Some(b)) => (a - b).abs() <= 1e-14 * a.abs(),
        _ => a == b,
    }
}

/// All keys but those of the element type, which a checkpoint sets itself.
fn rules(config: &Value) -> Map<String, Value> {
    let mut rules = config.as_object().cloned().unwrap_or_default();
    DTYPE_KEYS.iter().for_each(|key| drop(rules.remove(*key)));
    rules
}

/// The values of a parameter from its pieces.
pub(super) fn values(spec: &Spec, read: impl Fn(&Piece) -> Result<Tensor>) -> Result<Vec<f32>> {
    let mut out = vec![0.0; spec.count()];
    for piece in &spec.pieces {
        let tensor = read(piece)?;
        let numbers: Vec<f32> = tensor.flatten_all()?.to_dtype(DType::F32)?.to_vec1()?;
        piece.put((&numbers, tensor.dims()), &mut out, &spec.shape)?;
    }
    Ok(out)
}

fn moment_names(spec: &Spec) -> [String; 2] {
    ["first", "second"].map(|moment| format!("{:?}.{}.{moment}", spec.role, spec.layer))
}

pub(super) fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string_pretty(value).map_err(|e| Error::request(e.to_string()))
}

pub(super) fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, "read", e))?;
    serde_json::from_str(&text).map_err(|e| Error::malformed(path, "", "the state of a training", e))
}

pub(super) fn write_text(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(|e| Error::io(path, "write", e))
}
