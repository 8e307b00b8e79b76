//! Reading an architecture's own metadata keys (`llama.block_count` …) with bounds on every number.
//!
//! A hyper-parameter sizes buffers, so none passes without an upper bound.

use crate::error::{Error, Result};
use crate::gguf::{Gguf, Metadata};

/// The keys of one file's architecture.
pub struct Keys<'a> {
    /// The file, for questions about its tensors.
    pub gguf: &'a Gguf,
    architecture: &'a str,
}

impl<'a> Keys<'a> {
    /// The keys that start with `architecture.`.
    pub fn new(gguf: &'a Gguf, architecture: &'a str) -> Self {
        Self { gguf, architecture }
    }

    fn metadata(&self) -> &'a Metadata {
        self.gguf.metadata()
    }

    fn full(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    /// A whole number of at most `limit`, where the file has it.
    pub fn number(&self, name: &str, limit: usize) -> Result<Option<usize>> {
        let key = self.full(name);
        let Some(value) = self.metadata().u64(&key)? else { return Ok(None) };
        bounded(&key, value, limit).map(Some)
    }

    /// A number that the file must have, from 1 to `limit`.
    pub fn require(&self, name: &str, limit: usize) -> Result<usize> {
        let key = self.full(name);
        match bounded(&key, self.metadata().require_u64(&key)?, limit)? {
            0 => Err(Error::malformed(format!("key `{key}`"), "at least 1", 0)),
            value => Ok(value),
        }
    }

    /// A number that may differ from layer to layer: one value for all, or an array with one per layer.
    pub fn per_layer(&self, name: &str, layer: usize, limit: usize) -> Result<Option<usize>> {
        let key = self.full(name);
        let array = self.metadata().get(&key).and_then(|value| value.as_array());
        let Some(array) = array else { return self.number(name, limit) };
        let numbers = array.as_u64s().ok_or_else(|| {
            Error::malformed(format!("key `{key}`"), "a number or an array of numbers", array.element_name())
        })?;
        match numbers.get(layer) {
            Some(&value) => bounded(&key, value, limit).map(Some),
            None => Err(Error::malformed(
                format!("key `{key}`"),
                format!("a value for layer {layer}"),
                numbers.len(),
            )),
        }
    }

    /// A finite number, where the file has it.
    pub fn float(&self, name: &str) -> Result<Option<f32>> {
        let key = self.full(name);
        match self.metadata().f32(&key)? {
            Some(value) if !value.is_finite() => {
                Err(Error::malformed(format!("key `{key}`"), "a finite number", value))
            }
            value => Ok(value),
        }
    }

    /// True or false, where the file has it.
    pub fn flag(&self, name: &str) -> Result<Option<bool>> {
        self.metadata().bool(&self.full(name))
    }

    /// A text, where the file has it.
    pub fn text(&self, name: &str) -> Result<Option<&'a str>> {
        self.metadata().str(&self.full(name))
    }

    /// An error about one of these keys.
    pub fn wrong(&self, name: &str, expected: impl Into<String>, found: impl ToString) -> Error {
        Error::malformed(format!("key `{}`", self.full(name)), expected, found)
    }
}

fn bounded(key: &str, value: u64, limit: usize) -> Result<usize> {
    if value > limit as u64 {
        return Err(Error::malformed(format!("key `{key}`"), format!("at most {limit}"), value));
    }
    Ok(value as usize)
}
