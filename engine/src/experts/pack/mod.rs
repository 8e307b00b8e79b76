//! A side file `MODEL.experts`: a model's experts as the kernels want them, the three matrices of each side by side, so
//! that one read fills a slot. It says nothing that the model does not; without it everything works as well.
//!
//! `head.rs` is how the file begins, `write.rs` makes one. It is used only where it was made of these very files for the
//! layouts that are wanted.

mod head;
mod probe;
mod write;

pub use head::Head;
pub use probe::{Probed, probe};
pub use write::{Written, pack, verify};

use super::Layers;
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::os::mapping::Mapping;
use crate::simd::Isa;
use head::{Origin, Packed};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a side file's name has more than the model's.
const SUFFIX: &str = ".experts";

/// A side file with a head that is whole.
#[derive(Clone)]
pub struct SideFile {
    mapping: Arc<Mapping>,
    head: Head,
}

impl SideFile {
    /// What the side file of a model is called, whether there is one or not; `None` for a model in memory.
    pub fn path(gguf: &Gguf) -> Option<PathBuf> {
        gguf.path().map(|path| with_suffix(path, SUFFIX))
    }

    /// Opens the side file of a model, if there is one.
    ///
    /// # Errors
    /// When it cannot be read, or its head is damaged.
    pub fn beside(gguf: &Gguf) -> Result<Option<Self>> {
        let Some(path) = Self::path(gguf).filter(|path| path.exists()) else { return Ok(None) };
        let mapping = Arc::new(Mapping::open(&path)?);
        let head = Head::parse(&mapping).map_err(|error| error.in_file(&path))?;
        Ok(Some(Self { mapping, head }))
    }

    /// Whether it was made of these files as they are now.
    pub fn is_of(&self, gguf: &Gguf) -> bool {
        Origin::of(gguf).is_ok_and(|origin| origin == self.head.origin)
    }

    /// Bytes of it.
    pub fn file_len(&self) -> u64 {
        self.mapping.len() as u64
    }

    /// Why it cannot be used for a model on this instruction set, if it cannot.
    pub(super) fn why_not(&self, gguf: &Gguf, layers: &Layers, isa: Isa) -> Option<String> {
        let wanted = match Head::of(gguf, layers, isa) {
            Ok(wanted) => wanted,
            Err(error) => return Some(error.to_string()),
        };
        if self.head.origin != wanted.origin {
            return Some("it was made of another model file, or of this one before it was changed".into());
        }
        let has =
            |lies: fn(&Packed) -> _| self.head.layers.iter().map(lies).eq(wanted.layers.iter().map(lies));
        if !has(|layer| (layer.experts, layer.start, layer.stride, [head::Lies::Missing; 3])) {
            return Some("it has other experts than the model".into());
        }
        (self.head != wanted).then(|| format!("its experts do not lie as {isa} wants them"))
    }

    /// Where an expert begins.
    pub(super) fn position(&self, layer: usize, expert: u32) -> u64 {
        let Packed { start, stride, .. } = self.head.layers[layer];
        start + u64::from(expert) * stride
    }

    pub(super) fn mapping(&self) -> &Mapping {
        &self.mapping
    }
}

/// A file's name with something behind it.
fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// Bytes that the side file of a model takes.
///
/// # Errors
/// When the model is in memory or the system does not tell when its file was changed.
pub fn packed_bytes(gguf: &Gguf, layers: &Layers, isa: Isa) -> Result<u64> {
    Head::of(gguf, layers, isa).map(|head| head.file_len())
}

/// Experts are what a side file is about.
fn no_experts() -> Error {
    Error::request("this model has no experts to pack")
}
