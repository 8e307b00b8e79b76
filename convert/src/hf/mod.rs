//! What Hugging Face checkpoints call things and what GGUF calls them: one file of data per architecture and one line
//! in [`ARCHITECTURES`]. Names and keys are llama.cpp's wherever it knows the architecture, so that it loads the file.
//!
//! Nothing here touches weights: [`plan`](plan::plan) says which bytes make which tensor.

mod checks;
mod class;
mod common;
mod delta;
mod keys;
mod kinds;
mod mamba;
mod names;
pub mod params;
pub mod plan;
mod rope;
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
mod gemma3;
mod gemma4;
mod glm4moe;
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

use class::Class;
use keys::Key;
use moewe_engine::gguf::Metadata;
use moewe_engine::{Error, Result};
use params::Params;
use rules::Rule;
pub(crate) use scales::refuse_packed;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::sync::LazyLock;

/// A tensor that no checkpoint holds, computed from the configuration; `None` where the model does without.
type Computed = (&'static str, fn(&Params) -> Result<Option<Vec<f32>>>);

/// The classes known here that wrap a text model; they have no numbers of their own.
const WRAPPERS: &[&str] = &["gemma3", "gemma4", "kimi_k25", "qwen3_5", "qwen3_5_moe"];

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
    &bailingmoe2::ARCHITECTURE,
    &deepseek2::ARCHITECTURE,
    &gemma3::ARCHITECTURE,
    &gemma4::ARCHITECTURE,
    &glm4moe::ARCHITECTURE,
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

    /// The numbers of a configuration, as this architecture's class understands what is left out.
    ///
    /// # Errors
    /// Nulls where the class wants a value, numbers that contradict each other.
    pub fn params(&self, config: &Value) -> Result<Params> {
        let text = text_of(config);
        checks::causal(&text)?;
        Params::new(&text, Class::of(self.model_type(config)))
    }

    /// What a person should know about the keys of a configuration: those that nothing here knows.
    ///
    /// # Errors
    /// As [`Self::params`], and a rotation that cannot be understood.
    pub fn remarks(&self, config: &Value) -> Result<Vec<String>> {
        let Some(class) = Class::of(self.model_type(config)) else { return Ok(vec![]) };
        let text = text_of(config);
        let mut unknown: Vec<String> = class.unknown(&text).into_iter().map(str::to_owned).collect();
        if let (Some(outer), Cow::Owned(_)) = (config.as_object(), &text) {
            let known = |key: &&String| !text.contains_key(*key) && *key != "text_config";
            let wrapper = wrapper_of(config).or(Class::of(WRAPPERS[0]));
            let wrapper = wrapper.map_or_else(Vec::new, |wrapper| wrapper.unknown(outer));
            unknown.extend(outer.keys().filter(known).filter(|key| wrapper.contains(&key.as_str())).cloned());
        }
        unknown.sort();
        unknown.extend(rope::unread(&self.params(config)?)?);
        let line = format!("config keys that nothing here knows, left out: {}", unknown.join(", "));
        Ok(if unknown.is_empty() { vec![] } else { vec![line] })
    }

    /// The `model_type` whose class counts: the one that is named, else that of the model class.
    fn model_type(&self, config: &Value) -> &'static str {
        let text = &config["text_config"];
        let (classes, kind) = named(if text.is_object() { text } else { config });
        let plain = |name: &str| name.to_lowercase().replace('_', "");
        let of_class = |kind: &&&str| {
            classes.iter().any(|class| plain(class).trim_end_matches("forcausallm") == plain(kind))
        };
        let known = || self.model_types.iter().filter(|known| !WRAPPERS.contains(known));
        let stated = known().find(|known| kind == Some(known));
        stated.or_else(|| known().find(of_class)).copied().unwrap_or(self.model_types[0])
    }

    /// `general.architecture` and the keys of the architecture.
    ///
    /// # Errors
    /// When the configuration lacks a number, or asks for what is not carried over.
    pub fn metadata(&self, params: &Params) -> Result<Metadata> {
        checks::possible(params)?;
        let mut metadata = Metadata::new();
        metadata.set("general.architecture", self.gguf);
        for key in self.keys.iter().copied().flatten() {
            key.add(self.gguf, params, &mut metadata)?;
        }
        Ok(metadata)
    }
}

/// Model classes and model type that a configuration names.
fn named(config: &Value) -> (Vec<&str>, Option<&str>) {
    let classes =
        config["architectures"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    (classes, config["model_type"].as_str())
}

/// The class of a configuration that wraps another.
fn wrapper_of(config: &Value) -> Option<Class> {
    WRAPPERS.iter().find(|known| config["model_type"] == **known).and_then(|known| Class::of(known))
}

/// What a configuration says about the text model. A wrapper's own keys count only where they are about the whole:
/// tied embeddings, which its class decides, how weights are stored, and token ids.
fn text_of(config: &Value) -> Cow<'_, Map<String, Value>> {
    static NONE: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);
    let outer = config.as_object().unwrap_or(&NONE);
    let Some(inner) = config["text_config"].as_object() else { return Cow::Borrowed(outer) };
    let mut text = inner.clone();
    let whole = wrapper_of(config).and_then(|wrapper| wrapper.default("tie_word_embeddings"));
    for (key, value) in outer {
        if matches!(&**key, "quantization_config" | "transformers_weights") {
            text.insert(key.clone(), value.clone());
        } else if key.ends_with("_token_id") {
            text.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    let tied = outer.get("tie_word_embeddings").or(whole);
    text.extend(tied.map(|tied| ("tie_word_embeddings".to_owned(), tied.clone())));
    Cow::Owned(text)
}

#[cfg(test)]
mod hybrid_tests;

#[cfg(test)]
mod tests;

#[cfg(test)]
mod variant_tests;
