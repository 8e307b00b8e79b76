//! What Hugging Face checkpoints call things and what GGUF calls them: one file of data per architecture and one line
//! in [`ARCHITECTURES`]. Names and keys are llama.cpp's wherever it knows the architecture, so that it loads the file.
//!
//! Nothing here touches weights: [`plan`](plan::plan) says which bytes make which tensor.

mod architecture;
mod checks;
mod class;
mod common;
mod compressed;
pub mod config;
mod delta;
mod keys;
mod kinds;
mod mamba;
mod names;
pub mod params;
pub(crate) mod places;
pub mod plan;
mod rope;
mod rotation;
mod router;
mod rules;
mod scales;
pub mod templates;
mod tied;
pub mod tokenizer;
pub mod view;
mod wide;
mod yarn;

mod bailingmoe2;
mod deepseek2;
mod deepseek32;
mod deepseek4;
mod dots1;
mod ernie4_5_moe;
mod gemma3;
mod gemma4;
mod glm4moe;
mod glm_dsa;
mod gpt_oss;
mod granitehybrid;
mod granitemoe;
mod lfm2moe;
mod llama;
mod minimax_m2;
mod moe_124m;
mod moe_gpt;
mod nemotron_h;
mod olmoe;
mod qwen2;
mod qwen2moe;
mod qwen3;
mod qwen35;
mod qwen35moe;
mod qwen3moe;
mod qwen3next;
mod tachyon;

pub use architecture::Architecture;
use architecture::named;
use moewe_engine::{Error, Result};
pub(crate) use scales::refuse_packed;
use serde_json::Value;

/// Every architecture that can be converted.
pub static ARCHITECTURES: &[&Architecture] = &[
    &bailingmoe2::ARCHITECTURE,
    &deepseek2::ARCHITECTURE,
    &deepseek32::ARCHITECTURE,
    &deepseek4::ARCHITECTURE,
    &gemma3::ARCHITECTURE,
    &gemma4::ARCHITECTURE,
    &glm4moe::ARCHITECTURE,
    &glm_dsa::ARCHITECTURE,
    &dots1::ARCHITECTURE,
    &ernie4_5_moe::ARCHITECTURE,
    &gpt_oss::ARCHITECTURE,
    &granitehybrid::ARCHITECTURE,
    &granitemoe::ARCHITECTURE,
    &lfm2moe::ARCHITECTURE,
    &llama::ARCHITECTURE,
    &minimax_m2::ARCHITECTURE,
    &moe_124m::ARCHITECTURE,
    &moe_gpt::ARCHITECTURE,
    &nemotron_h::ARCHITECTURE,
    &olmoe::ARCHITECTURE,
    &qwen2::ARCHITECTURE,
    &qwen2moe::ARCHITECTURE,
    &qwen3::ARCHITECTURE,
    &qwen35::ARCHITECTURE,
    &qwen35moe::ARCHITECTURE,
    &qwen3moe::ARCHITECTURE,
    &qwen3next::ARCHITECTURE,
    &tachyon::ARCHITECTURE,
];

impl Architecture {
    /// The architecture that a configuration names, by model class or by model type; that of a wrapper may name it in
    /// its `text_config` only.
    ///
    /// # Errors
    /// When none is named or known, or two are; the message lists what is.
    pub fn of(config: &Value) -> Result<&'static Self> {
        let (classes, kind) = named(config);
        if classes.is_empty() && kind.is_none() && config["text_config"].is_object() {
            return Self::of(&config["text_config"]);
        }
        let by_class =
            ARCHITECTURES.iter().find(|known| known.classes.iter().any(|name| classes.contains(name)));
        let by_type =
            ARCHITECTURES.iter().find(|known| kind.is_some_and(|kind| known.model_types.contains(&kind)));
        if let (Some(class), Some(kind)) = (by_class, by_type)
            && class.name != kind.name
        {
            let found = format!("classes of {} and {}", class.name, kind.name);
            return Err(Error::malformed("config, architectures and model_type", "one architecture", found));
        }
        if let (None, Some(_), Some(class)) = (by_class, by_type, classes.first()) {
            let kind = kind.unwrap_or_default();
            return Err(Error::unsupported(
                format!("config: the class {class:?} is not known here, only its model_type {kind:?}"),
                "if it computes what that type's own class computes, name that class in `architectures`",
            ));
        }
        by_class.or(by_type).copied().ok_or_else(|| {
            let found = classes.first().copied().or(kind).unwrap_or("nothing");
            let known: Vec<_> = ARCHITECTURES.iter().flat_map(|known| known.classes).copied().collect();
            Error::unsupported(
                format!("config: the architecture {found:?} is not known here"),
                format!("these are: {}", known.join(", ")),
            )
        })
    }
}

#[cfg(test)]
mod hybrid_tests;

#[cfg(test)]
mod tests;

#[cfg(test)]
mod variant_tests;
