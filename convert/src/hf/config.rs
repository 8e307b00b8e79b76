//! Lookups in a config.json under the many names that one value has. What lengths follow from them is known to
//! `params.rs`.

use super::class::Class;
use moewe_engine::{Error, Result};
use serde_json::{Map, Value};

#[path = "../../../models/names.rs"]
mod names;

pub(super) use names::names_of;

/// A configuration as its class understands it.
#[derive(Clone, Debug)]
pub struct Config {
    pub(super) json: Value,
    class: Option<Class>,
}

impl Config {
    /// Takes a configuration as it stands.
    #[cfg(test)]
    pub(super) fn plain(config: &Value) -> Self {
        Self { json: config.clone(), class: None }
    }

    /// Takes a configuration as its class understands it: keys that the class does not know are not there, those left
    /// out have the class's values.
    pub(super) fn new(config: &Map<String, Value>, class: Option<Class>) -> Result<Self> {
        let Some(known) = class else { return Ok(Self { json: Value::Object(config.clone()), class }) };
        let alike = |key: &str| names_of(key).to_vec();
        Ok(Self { json: Value::Object(known.fill(config, alike)?), class })
    }

    /// Whether the class is that of a `model_type`.
    pub(super) fn is(&self, model_type: &str) -> bool {
        self.class.is_some_and(|class| class.name == model_type)
    }

    /// Whether attention is latent: keys and values of all heads come from one short vector.
    pub(super) fn is_latent(&self) -> bool {
        self.get(names_of("kv_lora_rank")).is_some()
    }

    /// The configuration class.
    pub(super) fn class(&self) -> Option<Class> {
        self.class
    }

    /// The value of a key, null included.
    pub(super) fn raw(&self, key: &str) -> Option<&Value> {
        self.json.get(key)
    }

    /// The first of `names` that the configuration has (null counts as absent). A dot descends.
    pub fn get(&self, names: &[&str]) -> Option<(String, &Value)> {
        names.iter().find_map(|name| {
            let value = name.split('.').try_fold(&self.json, |value, part| value.get(part))?;
            (!value.is_null()).then(|| (name.to_string(), value))
        })
    }

    fn typed<T>(
        &self,
        names: &[&str],
        expected: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some((name, value)) = self.get(names) else { return Ok(None) };
        let read = read(value).ok_or_else(|| Error::malformed(format!("config, {name}"), expected, value))?;
        Ok(Some(read))
    }

    /// An unsigned integer.
    ///
    /// # Errors
    /// When what stands there is no whole number, or negative.
    pub fn uint(&self, names: &[&str]) -> Result<Option<u64>> {
        self.typed(names, "a whole number", |value| {
            // 8.0 is a whole number too: some tools write all numbers as floats.
            value.as_u64().or_else(|| {
                value.as_f64().filter(|f| f.fract() == 0.0 && *f >= 0.0 && *f < 1e15).map(|f| f as u64)
            })
        })
    }

    /// A finite number.
    ///
    /// # Errors
    /// When what stands there is no number, or not finite.
    pub fn float(&self, names: &[&str]) -> Result<Option<f32>> {
        self.typed(names, "a number", |value| value.as_f64().map(|f| f as f32).filter(|f| f.is_finite()))
    }

    /// A flag.
    ///
    /// # Errors
    /// When what stands there is neither true nor false.
    pub fn flag(&self, names: &[&str], default: bool) -> Result<bool> {
        Ok(self.typed(names, "true or false", Value::as_bool)?.unwrap_or(default))
    }

    /// A text.
    ///
    /// # Errors
    /// When what stands there is no text.
    pub fn text(&self, names: &[&str]) -> Result<Option<&str>> {
        let Some((name, value)) = self.get(names) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| Error::malformed(format!("config, {name}"), "a text", value))
    }

    /// Refuses a model that asks for more than conversion carries over.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the condition holds.
    pub fn refuse(&self, condition: bool, what: &str) -> Result<()> {
        if condition {
            Err(Error::unsupported(format!("config: {what}"), "convert a model without it"))
        } else {
            Ok(())
        }
    }
}
