//! Metadata as data: which GGUF key comes from which number of the configuration.

use super::params::{Dim, Params};
use moewe_engine::gguf::{Metadata, Value};
use moewe_engine::{Error, Result};

/// Key-value pairs that one row of a table yields, keys without the architecture in front.
pub(super) type Pairs = Vec<(&'static str, Value)>;

/// One row of a table: `{architecture}.{name}` and where its value comes from.
#[derive(Clone, Copy)]
pub(super) struct Key(pub(super) &'static str, pub(super) From);

/// Where a value comes from.
#[derive(Clone, Copy)]
pub(super) enum From {
    /// A length that must be known.
    Dim(Dim),
    /// A length, left out where it is not known or zero.
    MaybeDim(Dim),
    /// A number that must be known.
    Float(&'static [&'static str]),
    /// A whole number under one of these names, left out without one.
    MaybeUint(&'static [&'static str]),
    /// A flag that must be known.
    Flag(&'static [&'static str]),
    /// Always this.
    Uint(u32),
    /// Always this.
    Number(f32),
    /// Always this.
    Bool(bool),
    /// Always this.
    Text(&'static str),
    /// Whatever the function finds; it names its keys itself.
    Computed(fn(&Params) -> Result<Pairs>),
}

impl Key {
    /// Adds what this row yields.
    pub(super) fn add(self, architecture: &str, params: &Params, metadata: &mut Metadata) -> Result<()> {
        let Self(name, from) = self;
        let value = match from {
            From::Dim(dim) => Some(uint(name, params.dim(dim)?)?),
            From::MaybeDim(dim) => {
                params.maybe(dim)?.filter(|&n| n > 0).map(|n| uint(name, n)).transpose()?
            }
            From::Float(names) => {
                Some(params.float(names)?.ok_or_else(|| missing(names, "a number"))?.into())
            }
            From::MaybeUint(names) => params.uint(names)?.map(|n| uint(name, n)).transpose()?,
            From::Flag(names) => {
                params.get(names).ok_or_else(|| missing(names, "true or false"))?;
                Some(params.flag(names, false)?.into())
            }
            From::Uint(value) => Some(value.into()),
            From::Number(value) => Some(value.into()),
            From::Bool(value) => Some(value.into()),
            From::Text(value) => Some(value.into()),
            From::Computed(compute) => {
                for (name, value) in compute(params)? {
                    metadata.set(format!("{architecture}.{name}"), value);
                }
                None
            }
        };
        if let Some(value) = value {
            metadata.set(format!("{architecture}.{name}"), value);
        }
        Ok(())
    }
}

fn missing(names: &[&str], expected: &str) -> Error {
    Error::malformed(format!("config, {}", names[0]), expected, "none")
}

fn uint(name: &str, value: u64) -> Result<Value> {
    u32::try_from(value)
        .map(Value::from)
        .map_err(|_| Error::malformed(format!("config, for {name}"), "less than 2^32", value))
}
