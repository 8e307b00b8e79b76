//! The table of architectures, and a config.json's way to its row.

use super::config::{Architecture, Config};
use super::keys::Keys;
use super::{llama, mistral, mixtral, moe_124m, moe_gpt, olmoe, qwen3, qwen3_moe, tachyon};
use crate::Result;
use serde_json::Value;

/// All of them.
pub static ARCHITECTURES: &[&Architecture] = &[
    &moe_gpt::ARCHITECTURE,
    &tachyon::ARCHITECTURE,
    &moe_124m::ARCHITECTURE,
    &mixtral::ARCHITECTURE,
    &llama::ARCHITECTURE,
    &mistral::ARCHITECTURE,
    &qwen3::ARCHITECTURE,
    &qwen3_moe::ARCHITECTURE,
    &olmoe::ARCHITECTURE,
];

impl Config {
    /// The model that a config.json describes.
    ///
    /// # Errors
    /// An unknown `model_type`, or a key with a value that no model can have.
    pub fn from_json(source: Value) -> Result<Self> {
        Self::sized(&source, None, None)
    }

    /// The model that a config.json describes, with another vocabulary and context where these are known.
    ///
    /// # Errors
    /// As [`Config::from_json`]; sizes that are given may be missing.
    pub(super) fn sized(source: &Value, vocabulary: Option<usize>, context: Option<usize>) -> Result<Self> {
        let mut keys = Keys::new(source);
        let architecture = architecture(&keys)?;
        for (key, value) in [(architecture.vocabulary_key, vocabulary), (architecture.context_key, context)] {
            keys = match value {
                Some(value) => keys.with(key, value),
                None => keys,
            };
        }
        let mut config = (architecture.read)(&keys)?;
        config.check(&keys)?;
        keys.all_known(architecture.model_type)?;
        config.source = keys.effective();
        config.source["architectures"] = vec![architecture.class].into();
        Ok(config)
    }

    fn check(&self, keys: &Keys) -> Result<()> {
        let experts = &self.experts;
        if experts.used > experts.count {
            let expected = format!("at most {} experts used", experts.count);
            return Err(keys.wrong("experts", &expected, experts.used));
        }
        if !self.head_count.is_multiple_of(self.head_count_kv) {
            let expected = format!("a divisor of the {} query heads", self.head_count);
            return Err(keys.wrong("key and value heads", &expected, self.head_count_kv));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(keys.wrong("dropout", "a share below 1", self.dropout));
        }
        Ok(())
    }

    /// The same model for a tokenizer of `vocabulary` tokens and a context of `context_length`.
    ///
    /// # Errors
    /// No model has these lengths.
    pub fn resized(&self, vocabulary: usize, context_length: usize) -> Result<Self> {
        Self::sized(&self.source, Some(vocabulary), Some(context_length))
    }
}

/// The row of `model_type`.
fn architecture(keys: &Keys) -> Result<&'static Architecture> {
    let model_type = keys.text_or("model_type", "")?;
    let known = ARCHITECTURES.iter().find(|architecture| architecture.model_type == model_type);
    known.copied().ok_or_else(|| {
        let names: Vec<&str> = ARCHITECTURES.iter().map(|a| a.model_type).collect();
        keys.wrong("model_type", &names.join(", "), format!("{model_type:?}"))
    })
}
