//! Metadata values: thirteen types, kept as the file has them so that a copy equals the original bit for bit.
//!
//! String arrays stay encoded, in the file's own mapping, with a table of positions: a vocabulary of 128,256
//! tokens opens in milliseconds. Reading and writing values is here; keys and typed access are in `metadata.rs`.

use super::MAX_DEPTH;
use super::bytes::Bytes;
use super::cursor::Cursor;
use crate::error::Result;
use std::borrow::Cow;

/// One metadata value.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // the names say it
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// An array, typed by its elements.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    Strings(Strings),
    Arrays(Vec<Array>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// A number as it lies in a file.
trait Number: Copy {
    const BYTES: usize;
    fn read(bytes: &[u8]) -> Self;
    fn write(self, out: &mut Vec<u8>);
}

/// Everything that treats the number types alike: `Variant type id article`.
macro_rules! numbers {
    ($($variant:ident $number:ident $id:literal $name:literal;)*) => {
        $(impl Number for $number {
            const BYTES: usize = size_of::<$number>();
            fn read(bytes: &[u8]) -> Self {
                let mut array = [0; size_of::<$number>()];
                array.copy_from_slice(bytes);
                Self::from_le_bytes(array)
            }
            fn write(self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
        }
        impl From<$number> for Value {
            fn from(number: $number) -> Self {
                Self::$variant(number)
            }
        }
        impl From<Vec<$number>> for Value {
            fn from(numbers: Vec<$number>) -> Self {
                Self::Array(Array::$variant(numbers))
            }
        })*

        impl Value {
            /// GGUF's type number.
            pub fn type_id(&self) -> u32 {
                match self {
                    $(Self::$variant(_) => $id,)*
                    Self::Bool(_) => BOOL,
                    Self::String(_) => STRING,
                    Self::Array(_) => ARRAY,
                }
            }

            pub(super) fn read(cursor: &mut Cursor, file: &Bytes) -> Result<Self> {
                Ok(match cursor.u32("a value type")? {
                    $($id => Self::$variant(Number::read(cursor.take($number::BYTES as u64, $name)?)),)*
                    BOOL => Self::Bool(read_bool(cursor.array::<1>("a bool")?[0], cursor)?),
                    STRING => Self::String(cursor.string(u64::MAX, "a string")?.to_owned()),
                    ARRAY => Self::Array(Array::read(cursor, file, 1)?),
                    other => return Err(cursor.malformed("a value type of 0 to 12", other)),
                })
            }

            /// Appends type and value.
            pub(super) fn write(&self, out: &mut Vec<u8>) {
                self.type_id().write(out);
                match self {
                    $(Self::$variant(number) => number.write(out),)*
                    Self::Bool(bool) => out.push(*bool as u8),
                    Self::String(string) => write_string(string, out),
                    Self::Array(array) => array.write(out),
                }
            }

            /// What this is, for "expected …, found …".
            pub(crate) fn describe(&self) -> String {
                match self {
                    $(Self::$variant(number) => format!("{number} ({})", stringify!($number)),)*
                    Self::Bool(bool) => format!("the bool {bool}"),
                    Self::String(string) => format!("the string {}", super::quoted(string)),
                    Self::Array(array) => format!("an array of {} {}", array.len(), array.element_name()),
                }
            }
        }

        impl Array {
            /// Number of elements.
            pub fn len(&self) -> usize {
                match self {
                    $(Self::$variant(numbers) => numbers.len(),)*
                    Self::Bool(bools) => bools.len(),
                    Self::Strings(strings) => strings.len(),
                    Self::Arrays(arrays) => arrays.len(),
                }
            }

            /// GGUF's type number of the elements.
            pub fn element_type_id(&self) -> u32 {
                match self {
                    $(Self::$variant(_) => $id,)*
                    Self::Bool(_) => BOOL,
                    Self::Strings(_) => STRING,
                    Self::Arrays(_) => ARRAY,
                }
            }

            /// What the elements are, in the plural: "u32 numbers", "strings".
            pub fn element_name(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => concat!(stringify!($number), " numbers"),)*
                    Self::Bool(_) => "bools",
                    Self::Strings(_) => "strings",
                    Self::Arrays(_) => "arrays",
                }
            }

            fn read(cursor: &mut Cursor, file: &Bytes, depth: usize) -> Result<Self> {
                if depth > MAX_DEPTH {
                    return Err(cursor.malformed(format!("arrays nested at most {MAX_DEPTH} deep"), "a deeper one"));
                }
                let element = cursor.u32("an element type")?;
                Ok(match element {
                    $($id => Self::$variant(read_numbers(cursor, $name)?),)*
                    BOOL => Self::Bool(read_bools(cursor)?),
                    STRING => Self::Strings(Strings::read(cursor, file)?),
                    ARRAY => Self::Arrays(read_arrays(cursor, file, depth)?),
                    other => return Err(cursor.malformed("an element type of 0 to 12", other)),
                })
            }

            fn write(&self, out: &mut Vec<u8>) {
                self.element_type_id().write(out);
                (self.len() as u64).write(out);
                match self {
                    $(Self::$variant(numbers) => numbers.iter().for_each(|number| number.write(out)),)*
                    Self::Bool(bools) => out.extend(bools.iter().map(|&bool| bool as u8)),
                    Self::Strings(strings) => out.extend_from_slice(&strings.encoded),
                    Self::Arrays(arrays) => arrays.iter().for_each(|array| array.write(out)),
                }
            }
        }
    };
}

numbers! {
    U8 u8 0 "a u8"; I8 i8 1 "an i8"; U16 u16 2 "a u16"; I16 i16 3 "an i16"; U32 u32 4 "a u32"; I32 i32 5 "an i32";
    F32 f32 6 "an f32"; U64 u64 10 "a u64"; I64 i64 11 "an i64"; F64 f64 12 "an f64";
}

impl From<bool> for Value {
    fn from(bool: bool) -> Self {
        Self::Bool(bool)
    }
}
impl From<&str> for Value {
    fn from(string: &str) -> Self {
        Self::String(string.to_owned())
    }
}
impl From<String> for Value {
    fn from(string: String) -> Self {
        Self::String(string)
    }
}
impl From<Array> for Value {
    fn from(array: Array) -> Self {
        Self::Array(array)
    }
}
impl From<Strings> for Value {
    fn from(strings: Strings) -> Self {
        Self::Array(Array::Strings(strings))
    }
}
impl From<Vec<bool>> for Value {
    fn from(bools: Vec<bool>) -> Self {
        Self::Array(Array::Bool(bools))
    }
}
impl From<Vec<String>> for Value {
    fn from(strings: Vec<String>) -> Self {
        Strings::new(strings).into()
    }
}

/// A value on one line; of an array its length only.
impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::String(string) => write!(f, "{string:?}"),
            Self::Array(array) => write!(f, "{} {}", array.len(), array.element_name()),
            Self::Bool(bool) => write!(f, "{bool}"),
            Self::F32(number) => write!(f, "{number}"),
            Self::F64(number) => write!(f, "{number}"),
            other => write!(f, "{}", other.as_i128().unwrap_or_default()),
        }
    }
}

impl Value {
    /// Any integer type, exactly.
    pub(super) fn as_i128(&self) -> Option<i128> {
        Some(match *self {
            Self::U8(number) => number.into(),
            Self::I8(number) => number.into(),
            Self::U16(number) => number.into(),
            Self::I16(number) => number.into(),
            Self::U32(number) => number.into(),
            Self::I32(number) => number.into(),
            Self::U64(number) => number.into(),
            Self::I64(number) => number.into(),
            _ => return None,
        })
    }

    /// Any non-negative integer.
    pub fn as_u64(&self) -> Option<u64> {
        self.as_i128()?.try_into().ok()
    }

    /// Any integer that fits.
    pub fn as_i64(&self) -> Option<i64> {
        self.as_i128()?.try_into().ok()
    }

    /// A float; f64 is rounded.
    pub fn as_f32(&self) -> Option<f32> {
        match *self {
            Self::F32(number) => Some(number),
            Self::F64(number) => Some(number as f32),
            _ => None,
        }
    }

    /// A bool.
    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(bool) = *self { Some(bool) } else { None }
    }

    /// A string.
    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(string) = self { Some(string) } else { None }
    }

    /// An array.
    pub fn as_array(&self) -> Option<&Array> {
        if let Self::Array(array) = self { Some(array) } else { None }
    }
}

impl Array {
    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements, if they are strings.
    pub fn as_strings(&self) -> Option<impl ExactSizeIterator<Item = &str> + Clone> {
        if let Self::Strings(strings) = self { Some(strings.iter()) } else { None }
    }

    /// String `i`, if the elements are strings and there are so many.
    pub fn string(&self, i: usize) -> Option<&str> {
        if let Self::Strings(strings) = self { strings.get(i) } else { None }
    }

    /// The elements, if they are bools.
    pub fn as_bools(&self) -> Option<&[bool]> {
        if let Self::Bool(bools) = self { Some(bools) } else { None }
    }

    /// The elements, if they are floats; f64 is rounded.
    pub fn as_f32s(&self) -> Option<Cow<'_, [f32]>> {
        match self {
            Self::F32(numbers) => Some(Cow::Borrowed(numbers)),
            Self::F64(numbers) => Some(numbers.iter().map(|&number| number as f32).collect()),
            _ => None,
        }
    }

    /// The elements, if they are integers of any type that all fit.
    pub fn as_u32s(&self) -> Option<Cow<'_, [u32]>> {
        if let Self::U32(numbers) = self {
            Some(Cow::Borrowed(numbers))
        } else {
            self.integers().map(Cow::Owned)
        }
    }

    /// The elements, if they are integers of any type that all fit.
    pub fn as_i32s(&self) -> Option<Cow<'_, [i32]>> {
        if let Self::I32(numbers) = self {
            Some(Cow::Borrowed(numbers))
        } else {
            self.integers().map(Cow::Owned)
        }
    }

    /// The elements, if they are integers of any type that all fit.
    pub fn as_u64s(&self) -> Option<Cow<'_, [u64]>> {
        if let Self::U64(numbers) = self {
            Some(Cow::Borrowed(numbers))
        } else {
            self.integers().map(Cow::Owned)
        }
    }

    fn integers<T: TryFrom<i128>>(&self) -> Option<Vec<T>> {
        fn convert<N: Copy + Into<i128>, T: TryFrom<i128>>(numbers: &[N]) -> Option<Vec<T>> {
            numbers.iter().map(|&number| number.into().try_into().ok()).collect()
        }
        match self {
            Self::U8(numbers) => convert(numbers),
            Self::I8(numbers) => convert(numbers),
            Self::U16(numbers) => convert(numbers),
            Self::I16(numbers) => convert(numbers),
            Self::U32(numbers) => convert(numbers),
            Self::I32(numbers) => convert(numbers),
            Self::U64(numbers) => convert(numbers),
            Self::I64(numbers) => convert(numbers),
            _ => None,
        }
    }
}

/// An array of strings, each with its length before it, as in the file.
#[derive(Clone, Debug)]
pub struct Strings {
    encoded: Bytes,     // u64 length and UTF-8 text, again and again
    starts: Vec<usize>, // of each length in `encoded`; all ends were checked
}

impl Strings {
    /// An array in memory.
    pub fn new(strings: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let (mut encoded, mut starts) = (Vec::new(), Vec::new());
        for string in strings {
            starts.push(encoded.len());
            write_string(string.as_ref(), &mut encoded);
        }
        Self { encoded: encoded.into(), starts }
    }

    fn read(cursor: &mut Cursor, file: &Bytes) -> Result<Self> {
        let count = cursor.count(8, "a number of strings")?;
        let first = cursor.position();
        let mut starts = Vec::with_capacity(count as usize);
        for _ in 0..count {
            starts.push(cursor.position() - first);
            cursor.string(u64::MAX, "a string")?;
        }
        Ok(Self { encoded: file.slice(first..cursor.position()), starts })
    }

    /// Number of strings.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// String `i`.
    pub fn get(&self, i: usize) -> Option<&str> {
        (i < self.len()).then(|| self.nth(&self.encoded, i))
    }

    /// All strings in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> + Clone {
        let encoded: &[u8] = &self.encoded;
        (0..self.len()).map(move |i| self.nth(encoded, i))
    }

    fn nth<'a>(&self, encoded: &'a [u8], i: usize) -> &'a str {
        let end = self.starts.get(i + 1).copied().unwrap_or(encoded.len());
        // UTF-8 was checked at load; only a file that changes under its mapping gets the empty string.
        std::str::from_utf8(&encoded[self.starts[i] + 8..end]).unwrap_or_default()
    }
}

impl PartialEq for Strings {
    fn eq(&self, other: &Self) -> bool {
        *self.encoded == *other.encoded
    }
}

pub(super) fn write_string(string: &str, out: &mut Vec<u8>) {
    (string.len() as u64).write(out);
    out.extend_from_slice(string.as_bytes());
}

fn read_numbers<T: Number>(cursor: &mut Cursor, name: &str) -> Result<Vec<T>> {
    let count = cursor.count(T::BYTES as u64, "a number of elements")?;
    let bytes = cursor.take(count * T::BYTES as u64, name)?;
    Ok(bytes.chunks_exact(T::BYTES).map(T::read).collect())
}

fn read_bool(byte: u8, cursor: &Cursor) -> Result<bool> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(cursor.malformed("a bool of 0 or 1", other)),
    }
}

fn read_bools(cursor: &mut Cursor) -> Result<Vec<bool>> {
    let count = cursor.count(1, "a number of bools")?;
    cursor.take(count, "an array of bools")?.iter().map(|&byte| read_bool(byte, cursor)).collect()
}

fn read_arrays(cursor: &mut Cursor, file: &Bytes, depth: usize) -> Result<Vec<Array>> {
    const SMALLEST: u64 = 12; // type and count of an empty array
    let count = cursor.count(SMALLEST, "a number of arrays")?;
    (0..count).map(|_| Array::read(cursor, file, depth + 1)).collect()
}
