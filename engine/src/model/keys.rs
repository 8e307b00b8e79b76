//! Reading an architecture's own metadata keys (`llama.block_count` …) with bounds on every number.
//!
//! A hyper-parameter sizes buffers, so none passes without an upper bound.

use crate::error::{Error, Result};
use crate::gguf::{Gguf, Metadata, TensorName, Value};
use std::cell::RefCell;
use std::collections::HashSet;

/// The keys of one file's architecture.
pub struct Keys<'a> {
    /// The file, for questions about its tensors.
    pub gguf: &'a Gguf,
    architecture: &'a str,
    read: RefCell<HashSet<String>>, // full names
}

impl<'a> Keys<'a> {
    /// The keys that start with `architecture.`.
    pub fn new(gguf: &'a Gguf, architecture: &'a str) -> Self {
        Self { gguf, architecture, read: RefCell::default() }
    }

    fn metadata(&self) -> &'a Metadata {
        self.gguf.metadata()
    }

    /// Whether a layer has this tensor.
    pub(super) fn has(&self, layer: usize, part: &str) -> bool {
        self.gguf.tensor(&TensorName::in_layer(layer, part).to_string()).is_some()
    }

    /// The name as it stands in the file.
    pub(super) fn full(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    /// The same of a key that is being read.
    fn reading(&self, name: &str) -> String {
        let key = self.full(name);
        self.read.borrow_mut().insert(key.clone());
        key
    }

    /// A value as it stands in the file; does not count as read.
    pub(super) fn value(&self, name: &str) -> Option<&'a Value> {
        self.metadata().get(&self.full(name))
    }

    /// Keys of the architecture that nobody has asked for.
    pub(super) fn unread(&self) -> impl Iterator<Item = (&'a str, &'a Value)> {
        let own = |key: &'a str| key.strip_prefix(self.architecture)?.strip_prefix('.');
        let unread = self.metadata().iter().filter(|(key, _)| !self.read.borrow().contains(*key));
        unread.filter_map(move |(key, value)| Some((own(key)?, value)))
    }

    /// A whole number of at most `limit`, where the file has it.
    ///
    /// # Errors
    /// When it is no whole number, or above `limit`.
    pub fn number(&self, name: &str, limit: usize) -> Result<Option<usize>> {
        let key = self.reading(name);
        let Some(value) = self.metadata().u64(&key)? else { return Ok(None) };
        bounded(&key, value, limit).map(Some)
    }

    /// A number that the file must have, from 1 to `limit`.
    ///
    /// # Errors
    /// When it is missing, no whole number, 0 or above `limit`.
    pub fn require(&self, name: &str, limit: usize) -> Result<usize> {
        let key = self.reading(name);
        match bounded(&key, self.metadata().require_u64(&key)?, limit)? {
            0 => Err(Error::malformed(format!("key `{key}`"), "at least 1", 0)),
            value => Ok(value),
        }
    }

    /// A number that may differ from layer to layer: one value for all, or an array with one per layer.
    ///
    /// # Errors
    /// When it is neither, has not one value for each layer, or one above `limit`.
    pub fn per_layer(&self, name: &str, layer: usize, limit: usize) -> Result<Option<usize>> {
        let key = self.reading(name);
        let array = self.metadata().get(&key).and_then(|value| value.as_array());
        let Some(array) = array else { return self.number(name, limit) };
        let numbers = array.as_u64s().ok_or_else(|| {
            Error::malformed(format!("key `{key}`"), "a number or an array of numbers", array.element_name())
        })?;
        bounded(&key, self.of_layer(&key, &numbers, layer)?, limit).map(Some)
    }

    /// Numbers of an array, where the file has it.
    ///
    /// # Errors
    /// When it is no array of whole numbers, or one is above `limit`.
    pub fn numbers(&self, name: &str, limit: usize) -> Result<Option<Vec<usize>>> {
        let key = self.reading(name);
        let Some(value) = self.metadata().get(&key) else { return Ok(None) };
        let numbers = value.as_array().and_then(|array| array.as_u64s()).ok_or_else(|| {
            Error::malformed(format!("key `{key}`"), "an array of numbers from 0 on", value.describe())
        })?;
        numbers.iter().map(|&number| bounded(&key, number, limit)).collect::<Result<_>>().map(Some)
    }

    /// A finite number that may differ from layer to layer: one value for all, or an array with one per layer.
    ///
    /// # Errors
    /// When it is neither, has not one value for each layer, or one that is not finite.
    pub fn float_per_layer(&self, name: &str, layer: usize) -> Result<Option<f32>> {
        let key = self.reading(name);
        let array = self.metadata().get(&key).and_then(|value| value.as_array());
        let Some(array) = array else { return self.float(name) };
        let numbers = array.as_f32s().ok_or_else(|| {
            Error::malformed(format!("key `{key}`"), "a number or an array of numbers", array.element_name())
        })?;
        match self.of_layer(&key, &numbers, layer)? {
            number if number.is_finite() => Ok(Some(number)),
            number => Err(Error::malformed(format!("key `{key}`"), "finite numbers", number)),
        }
    }

    /// True or false of a layer, where the file has an array of that.
    ///
    /// # Errors
    /// When it is no such array, or has not one value for each layer.
    pub fn flag_per_layer(&self, name: &str, layer: usize) -> Result<Option<bool>> {
        let key = self.reading(name);
        let Some(value) = self.metadata().get(&key) else { return Ok(None) };
        let flags = value.as_array().and_then(|array| array.as_bools()).ok_or_else(|| {
            Error::malformed(format!("key `{key}`"), "an array of true and false", value.describe())
        })?;
        self.of_layer(&key, flags, layer).map(Some)
    }

    fn of_layer<T: Copy>(&self, key: &str, values: &[T], layer: usize) -> Result<T> {
        let layers = self.require("block_count", usize::MAX)?;
        let predicting = self.number("nextn_predict_layers", usize::MAX)?.unwrap_or(0).min(layers);
        match values.get(layer) {
            // Layers at the end that predict further tokens need not be counted.
            Some(&value) if values.len() == layers || values.len() == layers - predicting => Ok(value),
            _ => {
                let place = format!("key `{key}`");
                Err(Error::malformed(place, format!("a value for each of {layers} layers"), values.len()))
            }
        }
    }

    /// A finite number, where the file has it.
    ///
    /// # Errors
    /// When it is no number, or not finite.
    pub fn float(&self, name: &str) -> Result<Option<f32>> {
        let key = self.reading(name);
        match self.metadata().f32(&key)? {
            Some(value) if !value.is_finite() => {
                Err(Error::malformed(format!("key `{key}`"), "a finite number", value))
            }
            value => Ok(value),
        }
    }

    /// True or false, where the file has it.
    ///
    /// # Errors
    /// When it is neither.
    pub fn flag(&self, name: &str) -> Result<Option<bool>> {
        self.metadata().bool(&self.reading(name))
    }

    /// A text, where the file has it.
    ///
    /// # Errors
    /// When it is something else.
    pub fn text(&self, name: &str) -> Result<Option<&'a str>> {
        self.metadata().str(&self.reading(name))
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
