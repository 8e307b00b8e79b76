//! config.json with its keys read by name and checked: a wrong value is refused with its key, and so are a size that is
//! missing and a key that nobody reads, which else would train another model than was meant.
//!
//! Sizes are found under every name that `moewe convert` takes (`models/names.rs`). What was read, defaults included,
//! goes into the config.json of checkpoints under the architecture's own names.

use crate::{Error, Result};
use names::names_of;
use serde_json::{Map, Value};
use std::cell::RefCell;

#[path = "../../../models/names.rs"]
mod names;

/// The largest count a key may hold: 16 million of anything is a mistake, and products of three stay exact.
const LARGEST: u64 = 1 << 24;

/// Keys that transformers writes and that change nothing about the model that is trained.
const HARMLESS: &[&str] = &[
    "_attn_implementation",
    "_commit_hash",
    "_name_or_path",
    "add_cross_attention",
    "architectures",
    "attn_implementation",
    "auto_map",
    "bos_token_id",
    "chunk_size_feed_forward",
    "dtype",
    "eos_token_id",
    "finetuning_task",
    "id2label",
    "initializer_range",
    "is_decoder",
    "is_encoder_decoder",
    "label2id",
    "model_type",
    "name_or_path",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "pad_token_id",
    "problem_type",
    "pruned_heads",
    "return_dict",
    "sep_token_id",
    "tie_encoder_decoder",
    "tokenizer_class",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "unk_token_id",
    "use_cache",
];

/// Keys of other models that no model here can follow, with the reason.
const REFUSED: &[(&str, &str)] = &[
    ("rope_scaling", "positions are not scaled in training"),
    ("quantization_config", "training begins from weights that are not quantized"),
    ("text_config", "only models of text alone are trained; use the part under text_config"),
];

/// The keys of a config.json.
pub struct Keys {
    source: Map<String, Value>,
    read: RefCell<Vec<(String, Value)>>, // in the architecture's order, with the value that counts
    known: RefCell<Vec<String>>,         // others that the architecture has looked at
}

impl Keys {
    /// Keys of a JSON object; anything else has none.
    pub fn new(source: &Value) -> Self {
        let source = source.as_object().cloned().unwrap_or_default();
        Self { source, read: RefCell::default(), known: RefCell::default() }
    }

    /// The same with another value for the size `key`, whatever it is called.
    #[must_use]
    pub fn with(mut self, key: &str, value: usize) -> Self {
        names_of(key).iter().for_each(|name| drop(self.source.shift_remove(*name)));
        self.source.insert(key.to_owned(), value.into());
        self
    }

    /// What stands under `key` or another name of it, with that name; null counts as absent.
    fn get<'a>(&'a self, key: &'a str) -> Result<Option<(&'a str, &'a Value)>> {
        self.known.borrow_mut().push(key.to_owned());
        let present = |name: &&str| self.source.get(*name).filter(|value| !value.is_null());
        let own = self.source.get(key).filter(|value| !value.is_null()).map(|value| (key, value));
        let mut found = own;
        for name in names_of(key) {
            match (found, present(name)) {
                (None, Some(value)) => found = Some((name, value)),
                (Some((other, first)), Some(value)) if !are_equal(first, value) => {
                    let expected = format!("{first}, as {other} has it, which is another name for it");
                    return Err(self.wrong(name, &expected, value));
                }
                _ => {}
            }
        }
        Ok(found)
    }

    /// Remembers what counts.
    fn note<T: Into<Value> + Clone>(&self, key: &str, value: &T) {
        self.read.borrow_mut().push((key.to_owned(), value.clone().into()));
    }

    /// An error about `key`.
    pub fn wrong(&self, key: &str, expected: &str, found: impl ToString) -> Error {
        moewe_engine::Error::malformed(key, expected, found).into()
    }

    /// A whole number, where one stands there; some tools write it as 8.0.
    ///
    /// # Errors
    /// Something else stands there.
    pub fn maybe(&self, key: &str) -> Result<Option<usize>> {
        let Some((name, value)) = self.get(key)? else { return Ok(None) };
        let float = || value.as_f64().filter(|f| f.fract() == 0.0 && *f >= 0.0).map(|f| f as u64);
        match value.as_u64().or_else(float) {
            Some(count) if count <= LARGEST => Ok(Some(count as usize)),
            _ => Err(self.wrong(name, "a whole number up to 16777216", value)),
        }
    }

    /// A size that must be there: no default would be the model that was meant. 0 is one.
    ///
    /// # Errors
    /// Nothing or something else stands there.
    pub fn whole(&self, key: &str) -> Result<usize> {
        let Some(count) = self.maybe(key)? else {
            let others: Vec<&str> = names_of(key).iter().copied().filter(|name| *name != key).collect();
            let found = match others.is_empty() {
                true => "nothing".to_owned(),
                false => format!("nothing, nor under {}", others.join(", ")),
            };
            return Err(self.wrong(key, "a number: this size has no default", found));
        };
        self.note(key, &count);
        Ok(count)
    }

    /// A size from 1 that must be there.
    ///
    /// # Errors
    /// Nothing or something else stands there.
    pub fn count(&self, key: &str) -> Result<usize> {
        self.at_least_1(key, self.whole(key)?)
    }

    /// A whole number from 1, with the default of the architecture's own code.
    ///
    /// # Errors
    /// Something else stands there.
    pub fn count_or(&self, key: &str, default: usize) -> Result<usize> {
        let count = self.maybe(key)?.unwrap_or(default);
        self.note(key, &count);
        self.at_least_1(key, count)
    }

    fn at_least_1(&self, key: &str, count: usize) -> Result<usize> {
        if count == 0 { Err(self.wrong(key, "a number from 1", 0)) } else { Ok(count) }
    }

    /// A number that is not negative.
    ///
    /// # Errors
    /// Something else stands there.
    pub fn number_or(&self, key: &str, default: f64) -> Result<f64> {
        let value = self.get(key)?.map_or_else(|| default.into(), |(_, value)| value.clone());
        let number = value.as_f64().filter(|number| number.is_finite() && *number >= 0.0);
        self.note(key, &value);
        number.ok_or_else(|| self.wrong(key, "a number from 0", value))
    }

    /// true or false.
    ///
    /// # Errors
    /// Something else stands there.
    pub fn flag_or(&self, key: &str, default: bool) -> Result<bool> {
        let flag = match self.get(key)? {
            Some((_, value)) => value.as_bool().ok_or_else(|| self.wrong(key, "true or false", value))?,
            None => default,
        };
        self.note(key, &flag);
        Ok(flag)
    }

    /// A text.
    ///
    /// # Errors
    /// Something else stands there.
    pub fn text_or(&self, key: &str, default: &str) -> Result<String> {
        let text = match self.get(key)? {
            Some((_, value)) => value.as_str().ok_or_else(|| self.wrong(key, "a text", value))?.to_owned(),
            None => default.to_owned(),
        };
        self.note(key, &text);
        Ok(text)
    }

    /// Refuses another value than the one that this architecture always has. `key` need not be there.
    ///
    /// # Errors
    /// Another value stands there.
    pub fn always(&self, key: &str, value: impl Into<Value>) -> Result<()> {
        let value = value.into();
        match self.get(key)? {
            Some((name, found)) if !are_equal(found, &value) => {
                Err(self.wrong(name, &format!("{value}, the only value that is trained"), found))
            }
            _ => Ok(()),
        }
    }

    /// Whether `key` is not there at all; null is a value.
    pub(super) fn is_missing(&self, key: &str) -> bool {
        !self.source.contains_key(key)
    }

    /// A list of texts; none where the key is missing.
    ///
    /// # Errors
    /// Something else stands there.
    pub(super) fn texts(&self, key: &str) -> Result<Vec<String>> {
        self.list(key, "a list of texts", |value| value.as_str().map(str::to_owned))
    }

    /// A list of whole numbers; none where the key is missing.
    ///
    /// # Errors
    /// Something else stands there.
    pub(super) fn wholes(&self, key: &str) -> Result<Vec<usize>> {
        self.list(key, "a list of whole numbers", |value| Some(value.as_u64()? as usize))
    }

    fn list<T>(&self, key: &str, expected: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Vec<T>> {
        let Some((name, value)) = self.get(key)? else { return Ok(vec![]) };
        let all = value.as_array().and_then(|all| all.iter().map(read).collect());
        all.ok_or_else(|| self.wrong(name, expected, value))
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
    /// Something else than a number stands there, or the rotation is scaled.
    pub fn rope_theta(&self, default: f64) -> Result<f64> {
        let Some((_, inner)) = self.get("rope_parameters")? else {
            return self.number_or("rope_theta", default);
        };
        self.known.borrow_mut().push("rope_theta".to_owned());
        let inner = Self::new(inner);
        inner.always("rope_type", "default")?;
        let theta = inner.number_or("rope_theta", default)?;
        inner.all_known("rope_parameters")?;
        Ok(theta)
    }

    /// Refuses keys that were never asked for, as misspelt ones would be; `what` is the kind of configuration.
    ///
    /// # Errors
    /// There is one, with the nearest that is known.
    pub(super) fn all_known(&self, what: &str) -> Result<()> {
        let known = self.known.borrow();
        let known: Vec<&str> = known
            .iter()
            .flat_map(|key| std::iter::once(key.as_str()).chain(names_of(key).iter().copied()))
            .collect();
        let is_unknown = |(key, value): &(&String, &Value)| {
            !value.is_null() && !known.contains(&key.as_str()) && !HARMLESS.contains(&key.as_str())
        };
        let Some((key, value)) = self.source.iter().find(is_unknown) else { return Ok(()) };
        if let Some((_, reason)) = REFUSED.iter().find(|(refused, _)| refused == key) {
            return Err(moewe_engine::Error::unsupported(format!("config, {key}"), *reason).into());
        }
        let nearest = known.iter().min_by_key(|known| strsim::damerau_levenshtein(known, key));
        let expected = format!("a key of {what}; the nearest is {}", nearest.copied().unwrap_or_default());
        Err(self.wrong(key, &expected, format!("{value}, which nothing would read")))
    }

    /// Accepts `key` without reading it: the architecture's own code stores it and makes no use of it.
    pub fn unused(&self, key: &str) {
        self.known.borrow_mut().push(key.to_owned());
    }

    /// The object with everything that was read under the architecture's own names.
    pub(super) fn effective(&self) -> Value {
        let mut all = self.source.clone();
        for (key, value) in self.read.borrow().iter() {
            names_of(key).iter().filter(|name| *name != key).for_each(|name| drop(all.shift_remove(*name)));
            all.insert(key.clone(), value.clone());
        }
        all.into()
    }
}

/// Whether two values are the same; 8 and 8.0 are.
fn are_equal(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a.total_cmp(&b).is_eq(),
        _ => a == b,
    }
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
