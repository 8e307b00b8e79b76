//! The key-value part of a file: ordered, unique keys, getters whose errors name key, expectation and finding.
//!
//! It does not know which keys a model needs; `model/` does.

use super::bytes::Bytes;
use super::cursor::{Cursor, Place};
use super::value::{Array, Value, write_string};
use super::{MAX_NAME, quoted};
use crate::error::{Error, Result};
use std::collections::HashMap;

/// Keys and values in the order of the file.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
    index: HashMap<String, usize>, // key -> position in `entries`
}

/// A getter that may find nothing and its twin that may not.
macro_rules! getters {
    ($($get:ident $require:ident -> $type:ty, $as:ident, $expected:literal;)*) => {
        $(#[doc = concat!("The value of `key` as ", $expected, "; `None` without the key.")]
        ///
        /// # Errors
        /// When the value is of another type.
        pub fn $get(&self, key: &str) -> Result<Option<$type>> {
            self.typed(key, Value::$as, $expected)
        }

        #[doc = concat!("The value of `key` as ", $expected, ".")]
        ///
        /// # Errors
        /// Without the key, or when its value is of another type.
        pub fn $require(&self, key: &str) -> Result<$type> {
            self.$get(key)?.ok_or_else(|| missing(key, $expected))
        })*
    };
}

impl Metadata {
    /// No entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.index.get(key).map(|&i| &self.entries[i].1)
    }

    /// Replaces the value of `key` where it stands, or adds it at the end.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<Value>) {
        let key = key.into();
        match self.index.get(&key) {
            Some(&i) => self.entries[i].1 = value.into(),
            None => {
                self.index.insert(key.clone(), self.entries.len());
                self.entries.push((key, value.into()));
            }
        }
    }

    /// Takes `key` out; the order of the others stays.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let removed = self.index.remove(key)?;
        self.index.values_mut().filter(|i| **i > removed).for_each(|i| *i -= 1);
        Some(self.entries.remove(removed).1)
    }

    /// Entries in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    getters! {
        u64 require_u64 -> u64, as_u64, "an unsigned integer";
        i64 require_i64 -> i64, as_i64, "an integer";
        f32 require_f32 -> f32, as_f32, "a float";
        bool require_bool -> bool, as_bool, "a bool";
        str require_str -> &str, as_str, "a string";
        array require_array -> &Array, as_array, "an array";
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        convert: impl Fn(&'a Value) -> Option<T>,
        expected: &str,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        convert(value)
            .map(Some)
            .ok_or_else(|| Error::malformed(format!("key {}", quoted(key)), expected, value.describe()))
    }

    /// Reads `count` entries at the cursor.
    pub(super) fn read(cursor: &mut Cursor, file: &Bytes, count: u64) -> Result<Self> {
        let mut metadata = Self::new();
        for i in 0..count {
            cursor.place = Place::NthKey(i);
            let key = cursor.string(MAX_NAME, "a key")?;
            if key.is_empty() {
                return Err(cursor.malformed("a key", "an empty one"));
            }
            cursor.place = Place::Key(key);
            if metadata.get(key).is_some() {
                return Err(cursor.malformed("unique keys", "a second one of this name"));
            }
            metadata.set(key, Value::read(cursor, file)?);
        }
        Ok(metadata)
    }

    /// Appends all entries.
    pub(super) fn write(&self, out: &mut Vec<u8>) -> Result<()> {
        for (key, value) in self.iter() {
            if key.is_empty() || key.len() as u64 > MAX_NAME {
                return Err(Error::malformed("key", format!("1 to {MAX_NAME} bytes"), key.len()));
            }
            write_string(key, out);
            value.write(out);
        }
        Ok(())
    }
}

impl PartialEq for Metadata {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

impl<K: Into<String>, V: Into<Value>> FromIterator<(K, V)> for Metadata {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut metadata = Self::new();
        for (key, value) in entries {
            metadata.set(key, value);
        }
        metadata
    }
}

fn missing(key: &str, expected: &str) -> Error {
    Error::malformed(format!("key {}", quoted(key)), expected, "no such key")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::Strings;

    #[test]
    fn set_remove_and_order() {
        let mut metadata: Metadata = [("a", 1u32), ("b", 2), ("c", 3), ("d", 4)].into_iter().collect();
        metadata.set("b", "two");
        assert_eq!(metadata.remove("a"), Some(Value::U32(1)));
        assert_eq!(metadata.remove("a"), None);
        metadata.set("a", 5i8);
        let keys: Vec<_> = metadata.iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["b", "c", "d", "a"]);
        assert_eq!(metadata.get("c"), Some(&Value::U32(3)));
        assert_eq!(metadata.str("b").unwrap(), Some("two"));
    }

    #[test]
    fn typed_getters_accept_and_refuse() {
        let metadata: Metadata = [
            ("i8", Value::I8(5)),
            ("negative", Value::I64(-5)),
            ("f64", Value::F64(0.5)),
            ("text", Value::from("x\u{1b}[31m")),
            ("list", Value::from(vec![1i32, 2])),
        ]
        .into_iter()
        .collect();
        assert_eq!(metadata.u64("i8").unwrap(), Some(5));
        assert_eq!(metadata.u64("absent").unwrap(), None);
        assert_eq!(metadata.i64("negative").unwrap(), Some(-5));
        assert_eq!(metadata.f32("f64").unwrap(), Some(0.5));
        assert_eq!(metadata.require_array("list").unwrap().as_u64s().unwrap(), [1, 2].as_slice());
        for (error, message) in [
            (
                metadata.u64("negative").unwrap_err(),
                "key `negative`: expected an unsigned integer, found -5 (i64)",
            ),
            (
                metadata.u64("text").unwrap_err(),
                r"key `text`: expected an unsigned integer, found the string `x\u{1b}[31m`",
            ),
            (
                metadata.str("list").map(|_| ()).unwrap_err(),
                "key `list`: expected a string, found an array of 2 i32 numbers",
            ),
            (
                metadata.require_f32("absent").unwrap_err(),
                "key `absent`: expected a float, found no such key",
            ),
        ] {
            assert_eq!(error.to_string(), message);
        }
    }

    #[test]
    fn integer_arrays_convert_only_without_loss() {
        let array = Array::I64(vec![1, 2, 3_000_000_000]);
        assert_eq!(array.as_u32s().unwrap(), [1, 2, 3_000_000_000].as_slice());
        assert_eq!(array.as_i32s(), None);
        assert_eq!(Array::I8(vec![-1]).as_u32s(), None);
        assert_eq!(Array::I8(vec![-1]).as_i32s().unwrap(), [-1].as_slice());
        assert_eq!(Array::F32(vec![1.0]).as_i32s(), None);
        let strings = Array::Strings(Strings::new(["", "ä", "ccc"]));
        assert_eq!(strings.as_strings().unwrap().collect::<Vec<_>>(), ["", "ä", "ccc"]);
        assert_eq!((strings.string(2), strings.string(3)), (Some("ccc"), None));
    }
}
