//! config.json with its keys read by name and checked: a wrong value is refused with its key, a missing one has the
//! architecture's own default.

use crate::{Error, Result};
use serde_json::Value;

/// The largest count a key may hold: 16 million of anything is a mistake, and products of three stay exact.
const LARGEST: u64 = 1 << 24;

/// The keys of a config.json.
pub struct Keys {
    source: Value,
}

impl Keys {
    /// Keys of a JSON object.
    pub fn new(source: Value) -> Self {
        Self { source }
    }

    /// The object itself.
    pub fn source(&self) -> &Value {
        &self.source
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.source.get(key).filter(|value| !value.is_null())
    }

    /// An error about `key`.
    pub fn wrong(&self, key: &str, expected: &str, found: impl ToString) -> Error {
        moewe_engine::Error::malformed(key, expected, found).into()
    }

    /// A whole number, 0 included.
    ///
    /// # Errors
    /// Something else stands there.
    pub fn whole_or(&self, key: &str, default: usize) -> Result<usize> {
        let Some(value) = self.get(key) else { return Ok(default) };
        match value.as_u64() {
            Some(count) if count <= LARGEST => Ok(count as usize),
            _ => Err(self.wrong(key, "a whole number below 16777216", value)),
        }
    }

    /// A whole number from 1.
    ///
    /// # Errors
    /// Something else stands there.
    pub fn count_or(&self, key: &str, default: usize) -> Result<usize> {
        match self.whole_or(key, default)? {
            0 => Err(self.wrong(key, "a number from 1", 0)),
            count => Ok(count),
        }
    }

    /// A number that is not negative.
    ///
    /// # Errors
    /// Something else stands there.
    pub fn number_or(&self, key: &str, default: f64) -> Result<f64> {
        let Some(value) = self.get(key) else { return Ok(default) };
        let number = value.as_f64().filter(|number| number.is_finite() && *number >= 0.0);
        number.ok_or_else(|| self.wrong(key, "a number from 0", value))
    }

    /// true or false.
    ///
    /// # Errors
    /// Something else stands there.
    pub fn flag_or(&self, key: &str, default: bool) -> Result<bool> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.wrong(key, "true or false", value))
    }

    /// A text.
    ///
    /// # Errors
    /// Something else stands there.
    pub fn text_or(&self, key: &str, default: &str) -> Result<String> {
        let Some(value) = self.get(key) else { return Ok(default.to_owned()) };
        value.as_str().map(str::to_owned).ok_or_else(|| self.wrong(key, "a text", value))
    }

    /// `whole / parts`, which must be even for the rotation of pairs.
    ///
    /// # Errors
    /// It is not a whole even number.
    pub fn quotient(&self, key: &str, whole: usize, parts: usize) -> Result<usize> {
        if whole.is_multiple_of(parts) && (whole / parts).is_multiple_of(2) {
            return Ok(whole / parts);
        }
        Err(self.wrong(key, &format!("an even multiple of the {parts} heads"), whole))
    }

    /// The base of the rotation, at the top level or in `rope_parameters`.
    ///
    /// # Errors
    /// Something else than a number stands there.
    pub fn rope_theta(&self, default: f64) -> Result<f64> {
        match self.get("rope_parameters") {
            Some(inner) => Keys::new(inner.clone()).number_or("rope_theta", default),
            None => self.number_or("rope_theta", default),
        }
    }
}
