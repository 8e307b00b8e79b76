//! The Hugging Face side of an architecture: how its file says what it is, and what that makes of a configuration.

use super::class::Class;
use super::keys::Key;
use super::params::Params;
use super::rules::Rule;
use super::{checks, rope};
use moewe_engine::Result;
use moewe_engine::gguf::Metadata;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::sync::LazyLock;

/// A tensor that no checkpoint holds, computed from the configuration; `None` where the model does without.
pub(super) type Computed = (&'static str, fn(&Params) -> Result<Option<Vec<f32>>>);

/// The classes known here that wrap a text model; they have no numbers of their own.
pub(super) const WRAPPERS: &[&str] = &["gemma3", "gemma4", "kimi_k25", "qwen3_5", "qwen3_5_moe"];

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
    pub(super) keys: &'static [&'static [Key]],
    pub(super) rules: fn() -> Vec<Rule>,
    pub(super) computed: &'static [Computed],
    pub(super) ignored: &'static [&'static [&'static str]],
    pub(super) expert_layer: fn(&Params, u64) -> bool,
}

impl std::fmt::Debug for Architecture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Architecture {
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
pub(super) fn named(config: &Value) -> (Vec<&str>, Option<&str>) {
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
