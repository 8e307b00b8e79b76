//! The result of a fine-tuning as other programs read it: an adapter as peft writes one, or the whole model.

use super::super::state::{json, read_json, write_text};
use super::base::copy_companions;
use super::checkpoint::{pieces_of, trained_tensors};
use super::settings::Tuning;
use crate::checkpoint::write_tensors;
use crate::model::{Lora, Model, Role, Target};
use crate::{Error, Result};
use candle_core::DType;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const ADAPTER: &str = "adapter_model.safetensors";
const MODEL: &str = "model.safetensors";

/// The release of peft whose layout we write: its files have fused experts as (in, out) and not the other way round.
const PEFT: &str = "0.21.2";

/// The file that says a result is there.
pub(super) fn result_name(tuning: &Tuning) -> &'static str {
    if tuning.lora().is_some() { ADAPTER } else { MODEL }
}

/// Writes the result to `folder`, with the tokenizer and `companions` (names and contents) beside it.
///
/// # Errors
/// The disk refuses.
pub(super) fn write(
    folder: &Path,
    model: &Model,
    tuning: &Tuning,
    companions: &[(String, String)],
) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, "create", e))?;
    copy_companions(&tuning.base, folder, companions)?;
    match tuning.lora() {
        Some(lora) => {
            let config = adapter_config(model, lora, &tuning.base.to_string_lossy());
            write_text(&folder.join("adapter_config.json"), &json(&config)?)?;
            replace(folder, ADAPTER, &trained_tensors(model, DType::F32)?)
        }
        None => write_model(folder, model, tuning),
    }
}

/// Writes tensors under a hidden name and renames them, since a whole file is what says that there is a result.
fn replace(folder: &Path, name: &str, tensors: &BTreeMap<String, candle_core::Tensor>) -> Result<()> {
    let (partial, path) = (folder.join(format!(".{name}.partial")), folder.join(name));
    write_tensors(&partial, tensors)?;
    std::fs::rename(&partial, &path)
        .map_err(|e| Error::io(&partial, format!("rename to {}", path.display()), e))
}

/// The whole model in the precision that its large matrices are stored in, with the config.json that it came with.
fn write_model(folder: &Path, model: &Model, tuning: &Tuning) -> Result<()> {
    let mut config: Value = read_json(&tuning.base.join("config.json"))?;
    let stored = config["dtype"].as_str().or(config["torch_dtype"].as_str());
    let dtype = if stored == Some("float32") { DType::F32 } else { DType::BF16 };
    let mut tensors = BTreeMap::new();
    for parameter in model.parameters.iter().filter(|parameter| !parameter.spec.role.is_adapter()) {
        pieces_of(parameter, &parameter.master, dtype, &mut tensors)?;
    }
    let key = if config.get("torch_dtype").is_some() { "torch_dtype" } else { "dtype" };
    config[key] = if dtype == DType::F32 { "float32" } else { "bfloat16" }.into();
    if tuning.vocabulary > 0 {
        config[model.config.architecture.vocabulary_key] = tuning.vocabulary.into();
    }
    write_text(&folder.join("config.json"), &json(&config)?)?;
    replace(folder, MODEL, &tensors)
}

/// What peft reads beside the tensors. Patterns are empty: every adapter has the same rank and alpha.
fn adapter_config(model: &Model, lora: &Lora, base: &str) -> Value {
    let (mut modules, mut parameters) = (BTreeSet::new(), BTreeSet::new());
    let fused = model.config.architecture.fused;
    for parameter in &model.parameters {
        let spec = &parameter.spec;
        let Some(target) = Target::of(spec.role).filter(|target| lora.targets.contains(target)) else {
            continue;
        };
        match (fused)(spec.role, spec.layer, &spec.shape) {
            // transformers has these as parameters and not as layers.
            Some(piece) if matches!(target, Target::Experts | Target::Router) => {
                let own = piece
                    .name
                    .split_once(".mlp.")
                    .map_or(piece.name.clone(), |(_, own)| format!("mlp.{own}"));
                parameters.insert((spec.role != Role::ExpertsUp, own));
            }
            _ => modules.extend(spec.pieces.iter().map(|piece| {
                let name = piece.name.strip_suffix(".weight").unwrap_or(&piece.name);
                name.rsplit('.').next().unwrap_or(name).to_owned()
            })),
        }
    }
    let parameters: Vec<String> = parameters.into_iter().map(|(_, name)| name).collect();
    let whole = lora.alpha.fract() == 0.0;
    json!({
        "alpha_pattern": {},
        "auto_mapping": null,
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "layers_pattern": null,
        "layers_to_transform": null,
        "lora_alpha": if whole { json!(lora.alpha as u64) } else { json!(lora.alpha) },
        "lora_bias": false,
        "lora_dropout": lora.dropout,
        "modules_to_save": null,
        "peft_type": "LORA",
        "peft_version": PEFT,
        "r": lora.rank,
        "rank_pattern": {},
        "revision": null,
        "target_modules": modules,
        "target_parameters": parameters,
        "task_type": "CAUSAL_LM",
        "use_dora": lora.dora,
        "use_rslora": lora.rslora,
    })
}
