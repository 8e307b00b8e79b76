//! The model that a training begins with: new, of a checkpoint of the same architecture, or a dense one whose network
//! becomes every expert ("sparse upcycling", Komatsuzaki et al. 2022).

use super::state::values;
use crate::model::{Config, Model, Piece, Spec};
use crate::settings::Run;
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// A model for `run`.
pub(super) fn model(run: &Run, config: Config, dtype: DType, device: &Device) -> Result<Model> {
    let seed = run.settings.seed;
    let Some(folder) = &run.init_from else { return Model::new(config, seed, dtype, device) };
    let tensors = load(folder)?;
    let rule = config.initialisation;
    let upcycled = config.architecture.dense_twin;
    let named = |error: Error| match error {
        Error::Common(error) => Error::request(format!("{}: {error}", folder.display())),
        other => other,
    };
    let mut index = 0;
    let values = |spec: &Spec| {
        index += 1;
        if spec.pieces.iter().all(|piece| tensors.contains_key(&piece.name)) {
            return values(spec, |piece: &Piece| Ok(tensors[&piece.name].clone())).map_err(named);
        }
        let fused = (config.architecture.fused)(spec.role, spec.layer, &spec.shape);
        if let Some(piece) = fused.filter(|piece| tensors.contains_key(&piece.name)) {
            let one = Spec { pieces: vec![piece], ..spec.clone() };
            return values(&one, |piece: &Piece| Ok(tensors[&piece.name].clone())).map_err(named);
        }
        match upcycled(spec.role, spec.layer) {
            Some(names) if names.iter().all(|name| tensors.contains_key(name)) => {
                repeated(spec, &names, &tensors).map_err(named)
            }
            _ if spec.role.is_router() => Ok(spec.initial(rule, seed, index)),
            _ => Err(missing(folder, spec, &tensors)),
        }
    };
    Model::with_values(config.clone(), dtype, device, values)
}

/// Says what to add where --init-from alone names the model, and that one has no experts.
pub(super) fn no_preset(run: &Run, error: Error) -> Error {
    let is_start = run.init_from.as_ref().is_some_and(|folder| folder.display().to_string() == run.preset);
    let text = error.to_string();
    if !is_start || !["model_type", "neither"].iter().any(|word| text.contains(word)) {
        return error;
    }
    Error::request(format!(
        "{text}; to begin from a dense model add --preset with a config.json that has its sizes and experts besides \
         (mixtral for a llama or mistral)"
    ))
}

/// The dense matrices `(out, in)`, one below the other, once for every expert.
fn repeated(spec: &Spec, names: &[String], tensors: &HashMap<String, Tensor>) -> Result<Vec<f32>> {
    let mut own = vec![];
    for name in names {
        own.extend(tensors[name].flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?);
    }
    if own.len() * spec.shape[0] != spec.count() {
        let message =
            format!("{}: {} numbers do not make experts of shape {:?}", names[0], own.len(), spec.shape);
        return Err(Error::request(message));
    }
    Ok(own.repeat(spec.shape[0]))
}

fn missing(folder: &Path, spec: &Spec, tensors: &HashMap<String, Tensor>) -> Error {
    let name = &spec.pieces[0].name;
    let mut known: Vec<&String> = tensors.keys().collect();
    known.sort();
    let like = known.first().map_or("no tensors", |name| name.as_str());
    Error::request(format!(
        "{}: no tensor {name} (there is {like}, …); --init-from takes a checkpoint of the same architecture or its \
         dense twin",
        folder.display()
    ))
}

/// All tensors of the safetensors files in a folder, or of one file.
fn load(path: &Path) -> Result<HashMap<String, Tensor>> {
    let mut all = HashMap::new();
    for file in files(path)? {
        let tensors = candle_core::safetensors::load(&file, &Device::Cpu);
        all.extend(tensors.map_err(|e| Error::malformed(&file, "", "safetensors", e))?);
    }
    Ok(all)
}

fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if super::is_file(path) {
        return Ok(vec![path.to_owned()]);
    }
    let entries = std::fs::read_dir(path).map_err(|e| Error::io(path, "list", e))?;
    let is_model = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.ends_with(".safetensors") && !name.starts_with("optimizer")
    };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_model).collect();
    files.sort();
    if files.is_empty() {
        let message =
            format!("{}: no .safetensors file; --init-from takes a folder that holds some", path.display());
        return Err(Error::request(message));
    }
    Ok(files)
}
