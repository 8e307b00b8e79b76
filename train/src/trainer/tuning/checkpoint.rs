//! What a checkpoint of a fine-tuning holds: what is trained, the optimizer's moments, and where it stands. The model that
//! it began from is named, not copied.

use super::super::state::{State, json, read_json, write_text};
use super::base::Identity;
use super::settings::Tuning;
use crate::checkpoint::{TensorFile, write_tensors};
use crate::model::{Model, Parameter};
use crate::optimizer::AdamW;
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

const TRAINED: &str = "trained.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const RECORD: &str = "finetune.json";

/// Everything beside tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) state: State,
    pub(super) base: Identity,
    pub(super) data: String, // the digest of all rows
    pub(super) tuning: Tuning,
}

/// The tensors of what is trained under the names that other programs have for them.
pub(super) fn trained_tensors(model: &Model, dtype: DType) -> Result<BTreeMap<String, Tensor>> {
    let mut tensors = BTreeMap::new();
    for parameter in model.trained() {
        pieces_of(parameter, &parameter.master, dtype, &mut tensors)?;
    }
    Ok(tensors)
}

/// The pieces of `values`, which have the shape of `parameter`.
pub(super) fn pieces_of(
    parameter: &Parameter,
    values: &Tensor,
    dtype: DType,
    tensors: &mut BTreeMap<String, Tensor>,
) -> Result<()> {
    let values: Vec<f32> = values.flatten_all()?.to_dtype(DType::F32)?.to_vec1()?;
    for piece in &parameter.spec.pieces {
        let own = piece.take(&values, &parameter.spec.shape);
        let tensor = Tensor::from_vec(own, piece.shape.clone(), &Device::Cpu)?;
        tensors.insert(piece.name.clone(), tensor.to_dtype(dtype)?);
    }
    Ok(())
}

/// Writes all files of a checkpoint.
///
/// # Errors
/// The disk refuses.
pub(super) fn write(folder: &Path, model: &Model, optimizer: &AdamW, record: &Record) -> Result<()> {
    write_tensors(&folder.join(TRAINED), &trained_tensors(model, DType::F32)?)?;
    let mut moments = BTreeMap::new();
    for (index, (first, second)) in optimizer.moments().enumerate() {
        let [first_name, second_name] = moment_names(index);
        moments.insert(first_name, first.clone());
        moments.insert(second_name, second.clone());
    }
    write_tensors(&folder.join(OPTIMIZER), &moments)?;
    write_text(&folder.join(RECORD), &json(record)?)
}

/// Moments are numbered in the order of what is trained, which follows from the record.
fn moment_names(index: usize) -> [String; 2] {
    ["first", "second"].map(|moment| format!("{index:05}.{moment}"))
}

/// The record of the checkpoint in `folder`.
///
/// # Errors
/// It is no checkpoint of a fine-tuning.
pub(super) fn record(folder: &Path) -> Result<Record> {
    read_json(&folder.join(RECORD))
}

impl Record {
    /// Refuses to go on with what `other` says otherwise, where that is another training; returns what else differs.
    ///
    /// # Errors
    /// Another base, other data, another seed, or another choice of what is trained.
    pub(super) fn compare(&self, other: &Self, folder: &Path) -> Result<Vec<String>> {
        let refuse = |what: &str, own: &str, given: &str| {
            let message = format!(
                "{}: trained with {what} {own}, not {given}; name another folder with -o",
                folder.display()
            );
            Err(Error::request(message))
        };
        let (own, given) = (&self.base, &other.base);
        if own != given {
            let text = |base: &Identity| {
                format!(
                    "{} (config.json {})",
                    base.name,
                    &base.config_sha256[..12.min(base.config_sha256.len())]
                )
            };
            return refuse("the base", &text(own), &text(given));
        }
        if self.data != other.data {
            return refuse("other data or another template, digest", &self.data, &other.data);
        }
        let (own, given) = (serde_json::to_value(&self.tuning), serde_json::to_value(&other.tuning));
        let (own, given) = (own.unwrap_or_default(), given.unwrap_or_default());
        for key in ["trained", "seed", "vocabulary"] {
            if own[key] != given[key] {
                return refuse(&format!("\"{key}\""), &own[key].to_string(), &given[key].to_string());
            }
        }
        let keys = given.as_object().into_iter().flatten().map(|(key, _)| key);
        let told = keys.filter(|key| *key != "out" && own[key.as_str()] != given[key.as_str()]);
        Ok(told
            .map(|key| format!("--{key} was {}, now it is {}", own[key.as_str()], given[key.as_str()]))
            .collect())
    }
}

/// Puts what the checkpoint in `folder` has trained into `model`, and returns the optimizer as it was.
///
/// # Errors
/// Files that do not fit together.
pub(super) fn restore(folder: &Path, model: &mut Model, tuning: &Tuning, step: u64) -> Result<AdamW> {
    let (file, device) = (TensorFile::open(&folder.join(TRAINED))?, model.device().clone());
    for parameter in model.trained_mut() {
        let mut values = vec![0.0; parameter.spec.count()];
        for piece in &parameter.spec.pieces {
            let tensor = file.read(&piece.name, &piece.shape, DType::F32, &Device::Cpu)?;
            let own: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
            piece.put((&own, &piece.shape), &mut values, &parameter.spec.shape)?;
        }
        let values = Tensor::from_vec(values, parameter.master.shape(), &Device::Cpu)?;
        parameter.master = values.to_dtype(parameter.master.dtype())?.to_device(&device)?;
    }
    model.refresh()?;
    let file = TensorFile::open(&folder.join(OPTIMIZER))?;
    let mut moments = vec![];
    for (index, parameter) in model.trained().enumerate() {
        let [first, second] = moment_names(index);
        let read = |name: &str| file.read(name, &parameter.spec.shape, DType::F32, &device);
        moments.push((read(&first)?, read(&second)?));
    }
    let mut optimizer = AdamW::new(tuning.optimizer(), model)?;
    optimizer.restore(step, moments);
    Ok(optimizer)
}
