//! The weights of a peft folder, by module: pairs of matrices, magnitudes, whole tensors.

use super::settings::Settings;
use crate::checkpoint::{Checkpoint, Tensor};
use crate::hf::view::{Elements, View};
use moewe_engine::{Error, Result};
use std::collections::BTreeMap;
use std::path::Path;

/// Files that hold an adapter's weights, in the order in which they are looked for.
const FILES: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];
/// What peft puts before the names of a model.
const FRONT: &str = "base_model.model.";

/// A matrix or vector.
#[derive(Clone, Debug)]
pub(super) struct Array {
    pub(super) shape: Vec<usize>,
    pub(super) values: Vec<f32>,
}

/// What a folder holds of a module.
#[derive(Clone, Debug, Default)]
pub(super) struct Module {
    pub(super) a: Option<Array>,
    pub(super) b: Option<Array>,
    /// Whether both are of an embedding, whose pair stands the other way round.
    pub(super) is_embedding: bool,
    pub(super) magnitude: Option<Array>,
    pub(super) whole: Option<Array>,
}

/// By module, such as `model.layers.0.self_attn.q_proj`.
pub(super) type Weights = BTreeMap<String, Module>;

/// Opens a folder that peft wrote.
///
/// # Errors
/// No such folder, settings that are not computed here, names that nothing knows.
pub(super) fn open(folder: &Path) -> Result<(Settings, Weights)> {
    if !folder.join("adapter_config.json").is_file() {
        let what = format!("{}: no adapter (no adapter_config.json)", folder.display());
        return Err(Error::unsupported(what, "name the folder that peft's save_pretrained wrote"));
    }
    let settings = Settings::read(folder)?;
    let file = FILES.iter().map(|name| folder.join(name)).find(|path| path.is_file());
    let file = file.ok_or_else(|| {
        let what = format!("{}: no weights ({})", folder.display(), FILES.join(", "));
        Error::unsupported(what, "fetch the whole adapter")
    })?;
    let checkpoint = Checkpoint::weights(&file)?;
    let mut weights = Weights::new();
    for tensor in checkpoint.tensors() {
        take(&mut weights, tensor, &checkpoint).map_err(|error| error.in_file(&file))?;
    }
    if weights.is_empty() {
        return Err(Error::malformed("tensors", "pairs of lora_A and lora_B", "none").in_file(file));
    }
    Ok((settings, weights))
}

/// Puts an array where it belongs.
type Put = fn(&mut Module, Array);

fn take(weights: &mut Weights, tensor: &Tensor, checkpoint: &Checkpoint) -> Result<()> {
    let name = tensor.name.strip_prefix(FRONT).unwrap_or(&tensor.name);
    if name.ends_with(".base_layer.weight") || name.ends_with(".base_layer.bias") {
        return Ok(()); // the base's own, once more
    }
    let array = || read(tensor, checkpoint);
    let module = |module: &str| module.to_owned();
    let ends: [(&[&str], Put); 5] = [
        (&[".lora_A.weight", ".lora_A.default.weight"], |module, array| module.a = Some(array)),
        (&[".lora_B.weight", ".lora_B.default.weight"], |module, array| module.b = Some(array)),
        (&[".lora_embedding_A"], |module, array| (module.a, module.is_embedding) = (Some(array), true)),
        (&[".lora_embedding_B"], |module, array| (module.b, module.is_embedding) = (Some(array), true)),
        (&[".lora_magnitude_vector", ".lora_magnitude_vector.weight"], |module, array| {
            module.magnitude = Some(array);
        }),
    ];
    for (endings, put) in ends {
        if let Some(front) = endings.iter().find_map(|ending| name.strip_suffix(ending)) {
            put(weights.entry(module(front)).or_default(), array()?);
            return Ok(());
        }
    }
    match name.strip_suffix(".weight").filter(|name| !name.contains("lora_")) {
        Some(front) => weights.entry(module(front)).or_default().whole = Some(array()?),
        None => {
            let hint = "merge it with peft (merge_and_unload)";
            return Err(Error::unsupported(
                format!("tensor {} is no part of a LoRA adapter", tensor.name),
                hint,
            ));
        }
    }
    Ok(())
}

fn read(tensor: &Tensor, checkpoint: &Checkpoint) -> Result<Array> {
    let elements = Elements::plain(tensor.dtype, checkpoint.elements(tensor), &tensor.name)?;
    let view = View::new(elements, &tensor.shape, &tensor.strides);
    let mut values = vec![0f32; tensor.shape.iter().product::<u64>() as usize];
    view.read(0..view.rows(), &mut values, view.columns() as usize);
    if !values.iter().all(|value| value.is_finite()) {
        return Err(Error::malformed(format!("tensor {}", tensor.name), "finite numbers", "others"));
    }
    Ok(Array { shape: tensor.shape.iter().map(|&length| length as usize).collect(), values })
}
