//! The model that a training begins with: new, of a checkpoint of the same architecture, or a dense one whose network
//! becomes every expert ("sparse upcycling", Komatsuzaki et al. 2022).

use super::state::values;
use crate::checkpoint::Weights;
use crate::model::{Config, Model, Piece, Spec, Values};
use crate::settings::Run;
use crate::{Error, Result};
use candle_core::{DType, Device};
use std::path::Path;

/// A model for `run`.
pub(super) fn model(run: &Run, config: Config, dtype: DType, device: &Device) -> Result<Model> {
    let seed = run.settings.seed;
    let Some(folder) = &run.init_from else { return Model::new(config, seed, dtype, device) };
    let weights = Weights::open(folder)?;
    let rule = config.initialisation;
    let named = |error: Error| match error {
        Error::Common(error) => Error::request(format!("{}: {error}", folder.display())),
        other => other,
    };
    let mut index = 0;
    let values = |spec: &Spec| {
        index += 1;
        if let Some(values) = stored(&weights, &config, spec).map_err(named)? {
            return Ok(values.numbers);
        }
        match (config.architecture.dense_twin)(spec.role, spec.layer) {
            Some(names) if names.iter().all(|name| weights.contains(name)) => {
                repeated(spec, &names, &weights).map_err(named)
            }
            _ if spec.role.is_router() => Ok(spec.initial(rule, seed, index)),
            _ => Err(missing(folder, spec, &weights)),
        }
    };
    Model::with_values(config.clone(), dtype, device, values)
}

/// The values of a parameter, under the names of its architecture or under those of newer releases; `None` where one of
/// them is missing.
pub(super) fn stored(weights: &Weights, config: &Config, spec: &Spec) -> Result<Option<Values>> {
    let fused = (config.architecture.fused)(spec.role, spec.layer, &spec.shape);
    let own = match spec.pieces.iter().all(|piece| weights.contains(&piece.name)) {
        true => spec.clone(),
        false => match fused.filter(|piece| weights.contains(&piece.name)) {
            Some(piece) => Spec { pieces: vec![piece], ..spec.clone() },
            None => return Ok(None),
        },
    };
    let mut dtypes = own.pieces.iter().map(|piece| weights.dtype(&piece.name));
    let is_narrow = dtypes.all(|dtype| dtype.is_ok_and(|dtype| dtype == DType::BF16));
    let numbers = values(&own, |piece: &Piece| weights.read(&piece.name))?;
    Ok(Some(Values { numbers, stored: if is_narrow { DType::BF16 } else { DType::F32 } }))
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
fn repeated(spec: &Spec, names: &[String], weights: &Weights) -> Result<Vec<f32>> {
    let mut own = vec![];
    for name in names {
        own.extend(weights.read(name)?.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?);
    }
    if own.len() * spec.shape[0] != spec.count() {
        let message =
            format!("{}: {} numbers do not make experts of shape {:?}", names[0], own.len(), spec.shape);
        return Err(Error::request(message));
    }
    Ok(own.repeat(spec.shape[0]))
}

pub(super) fn missing(folder: &Path, spec: &Spec, weights: &Weights) -> Error {
    let name = &spec.pieces[0].name;
    let like = weights.names().first().copied().unwrap_or("no tensors");
    Error::request(format!(
        "{}: no tensor {name} (there is {like}, …); --init-from takes a checkpoint of the same architecture or its \
         dense twin",
        folder.display()
    ))
}
