//! What Hugging Face checkpoints call things and what GGUF calls them: one file of data per architecture and one line
//! in [`ARCHITECTURES`]. Names and keys are llama.cpp's wherever it knows the architecture, so that it loads the file.
//!
//! Nothing here touches weights: [`plan`](plan::plan) says which bytes make which tensor.

mod common;
mod keys;
pub mod params;
pub mod plan;
mod rope;
mod rules;
pub mod tokenizer;
pub mod view;

mod deepseek2;
mod gemma3;
mod gpt_oss;
mod granitemoe;
mod llama;
mod moe_124m;
mod moe_gpt;
mod olmoe;
mod qwen2;
mod qwen2moe;
mod qwen3;
mod qwen3moe;
mod tachyon;

use keys::Key;
use moewe_engine::gguf::Metadata;
use moewe_engine::{Error, Result};
use params::Params;
use rules::Rule;
use serde_json::Value;

/// A tensor that no checkpoint holds, computed from the configuration; `None` where the model does without.
type Computed = (&'static str, fn(&Params) -> Result<Option<Vec<f32>>>);

/// The Hugging Face side of an architecture.
pub struct Architecture {
    /// The name of its file, here and in the engine.
    pub name: &'static str,
    /// `general.architecture` of the GGUF files.
    pub gguf: &'static str,
    /// Class names in `architectures` of config.json.
    pub classes: &'static [&'static str],
    /// Values of `model_type`.
    pub model_types: &'static [&'static str],
    defaults: &'static [(&'static str, u64)],
    keys: &'static [&'static [Key]],
    rules: fn() -> Vec<Rule>,
    computed: &'static [Computed],
    ignored: &'static [&'static [&'static str]],
    expert_layer: fn(&Params, u64) -> bool,
}

impl std::fmt::Debug for Architecture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// Every architecture that can be converted.
pub static ARCHITECTURES: &[&Architecture] = &[
    &deepseek2::ARCHITECTURE,
    &gemma3::ARCHITECTURE,
    &gpt_oss::ARCHITECTURE,
    &granitemoe::ARCHITECTURE,
    &llama::ARCHITECTURE,
    &moe_124m::ARCHITECTURE,
    &moe_gpt::ARCHITECTURE,
    &olmoe::ARCHITECTURE,
    &qwen2::ARCHITECTURE,
    &qwen2moe::ARCHITECTURE,
    &qwen3::ARCHITECTURE,
    &qwen3moe::ARCHITECTURE,
    &tachyon::ARCHITECTURE,
];

impl Architecture {
    /// The architecture that a configuration names, by class first and by model type second.
    ///
    /// # Errors
    /// When none is named or known; the message lists what is.
    pub fn of(config: &Value) -> Result<&'static Self> {
        let classes: Vec<&str> =
            config["architectures"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let kind = config["model_type"].as_str();
        let by_class =
            ARCHITECTURES.iter().find(|known| known.classes.iter().any(|name| classes.contains(name)));
        let by_type =
            || ARCHITECTURES.iter().find(|known| kind.is_some_and(|kind| known.model_types.contains(&kind)));
        by_class.or_else(by_type).copied().ok_or_else(|| {
            let found = classes.first().copied().or(kind).unwrap_or("nothing");
            let known: Vec<_> = ARCHITECTURES.iter().flat_map(|known| known.classes).copied().collect();
            Error::unsupported(
                format!("config: the architecture {found:?} is not known here"),
                format!("these are: {}", known.join(", ")),
            )
        })
    }

    /// The numbers of a configuration, as this architecture understands what is left out.
    pub fn params(&self, config: &Value) -> Params {
        Params::new(config, self.defaults)
    }

    /// `general.architecture` and the keys of the architecture.
    ///
    /// # Errors
    /// When the configuration lacks a number, or asks for what is not carried over.
    pub fn metadata(&self, params: &Params) -> Result<Metadata> {
        let mut metadata = Metadata::new();
        metadata.set("general.architecture", self.gguf);
        for key in self.keys.iter().copied().flatten() {
            key.add(self.gguf, params, &mut metadata)?;
        }
        Ok(metadata)
    }
}

#[cfg(test)]
mod tests;
