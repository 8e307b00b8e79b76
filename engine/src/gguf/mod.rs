//! The GGUF container: reader and writer, metadata and tensor directory. No tensor maths, no model knowledge.
//!
//! Source of the layout: the GGUF specification in ggml's docs/gguf.md, versions 2 and 3, little endian. A file is
//! a stranger: every count is bounded by the bytes that remain, all arithmetic is checked, and what breaks a rule
//! ends in an error that names the place. Strings, keys and names must be UTF-8.

mod bytes;
mod cursor;
mod destination;
mod metadata;
mod mistaken;
mod name;
mod part;
mod read;
mod split;
mod tensor;
mod value;
mod write;

pub use bytes::{Bytes, Source};
pub use destination::{Destination, Existing, Hidden};
pub use metadata::Metadata;
pub use mistaken::mistaken;
pub use name::TensorName;
pub use read::Gguf;
pub use tensor::TensorInfo;
pub use value::{Array, Strings, Value};
pub use write::{FileWriter, TensorWriter, Writer};

/// The first four bytes of every file.
pub const MAGIC: [u8; 4] = *b"GGUF";
/// Where the next tensor starts: at a multiple of this, unless `general.alignment` says otherwise.
pub const DEFAULT_ALIGNMENT: u64 = 32;
/// The key that changes the alignment.
pub const ALIGNMENT_KEY: &str = "general.alignment";

const VERSION: u32 = 3; // what we write; 2 differs only in the number
const MAX_NAME: u64 = 65_535; // bytes of a key or a tensor name
const MAX_DIMENSIONS: u64 = 4;
const MAX_DEPTH: usize = 8; // arrays in arrays
const MAX_ALIGNMENT: u64 = 1 << 20;
const MIN_ALIGNMENT: u64 = 8; // lets blocks be used where they lie

/// A name from a file, fit for a message: control characters escaped, length bounded.
fn quoted(name: &str) -> String {
    const SHOWN: usize = 80;
    let mut text: String = name.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if name.chars().nth(SHOWN).is_some() {
        text.push('…');
    }
    format!("`{text}`")
}

#[cfg(test)]
mod tests;
