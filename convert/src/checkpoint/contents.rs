//! What an opened checkpoint holds: tensors, checked as they are taken in, and the bytes that they are made of.

use super::memory::Bytes;
use moewe_engine::{Error, Result};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Most axes a tensor may have.
pub(super) const MAX_AXES: usize = 8;
/// Longest name of a tensor.
const MAX_NAME: usize = 1024;

/// How a checkpoint stores an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Dtype {
    F64,
    F32,
    F16,
    Bf16,
    F8E4M3,
    F8E5M2,
    F8E8M0,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
}

impl Dtype {
    /// Bytes per element.
    pub fn bytes(self) -> u64 {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::Bf16 | Self::I16 => 2,
            Self::F8E4M3 | Self::F8E5M2 | Self::F8E8M0 | Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// Whether elements are weights as they stand.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::Bf16 | Self::F8E4M3 | Self::F8E5M2)
    }
}

/// One tensor of a checkpoint. Element `(i, j, …)` is number `i * strides[0] + j * strides[1] + …` of
/// [`Checkpoint::elements`]; that every such number is inside was checked when the file was opened.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Name without the prefixes that wrappers add (`module.`, `_orig_mod.`).
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Lengths of the axes, slowest first.
    pub shape: Vec<u64>,
    /// Distance between neighbours along each axis, in elements.
    pub strides: Vec<u64>,
    file: usize,
    start: usize, // byte of element 0 in the file
    end: usize,   // byte after the last element
}

/// An opened checkpoint.
pub struct Checkpoint {
    /// The folder that may hold tokenizer files beside the weights.
    pub folder: PathBuf,
    /// config.json, or what the pickle says in its place; an object.
    pub config: serde_json::Value,
    /// Weight files of the folder that were not read, with the reason; a line each.
    pub leftovers: Vec<String>,
    pub(super) files: Vec<(PathBuf, Bytes)>,
    tensors: Vec<Tensor>,
    index: HashMap<String, usize>,
}

impl std::fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let files: Vec<_> = self.files.iter().map(|(path, _)| path).collect();
        f.debug_struct("Checkpoint").field("files", &files).field("tensors", &self.tensors.len()).finish()
    }
}

impl Checkpoint {
    /// All tensors, in the order of the files.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The tensor of a name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.index.get(name).map(|&i| &self.tensors[i])
    }

    /// The bytes of a tensor from element 0 to the last one that its shape and strides reach.
    pub fn elements(&self, tensor: &Tensor) -> &[u8] {
        &self.files[tensor.file].1[tensor.start..tensor.end]
    }

    /// The weight files that are read, in their order.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(path, _)| path.as_path())
    }

    /// Lets go of memory that reading has filled; what is needed again is read again.
    pub fn release(&self) {
        self.files.iter().for_each(|(_, bytes)| bytes.release());
    }

    /// The file that holds a tensor, for messages.
    pub fn file_of(&self, tensor: &Tensor) -> &Path {
        &self.files[tensor.file].0
    }

    pub(super) fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            config: serde_json::Value::Null,
            leftovers: Vec::new(),
            files: Vec::new(),
            tensors: Vec::new(),
            index: HashMap::new(),
        }
    }

    pub(super) fn add_file(&mut self, path: &Path, bytes: Bytes) -> usize {
        self.files.push((path.to_owned(), bytes));
        self.files.len() - 1
    }

    /// Takes in a tensor whose element 0 is at byte `start` of `file` and which may reach up to byte `end`.
    pub(super) fn add_tensor(&mut self, found: Found) -> Result<()> {
        let Found { name, dtype, shape, strides, file, start, end } = found;
        let name = strip_prefixes(name);
        if name.len() > MAX_NAME || name.contains(char::is_control) {
            let found = format!("{:?}", name.chars().take(80).collect::<String>());
            return Err(Error::malformed(
                "name of a tensor",
                format!("at most {MAX_NAME} printable bytes"),
                found,
            ));
        }
        let place = || format!("tensor {name}");
        if shape.len() > MAX_AXES || shape.len() != strides.len() {
            return Err(Error::malformed(place(), format!("at most {MAX_AXES} axes"), shape.len()));
        }
        let bytes = reach(&shape, &strides)
            .and_then(|elements| elements.checked_mul(dtype.bytes()))
            .and_then(|bytes| usize::try_from(bytes).ok())
            .filter(|&bytes| bytes <= end.saturating_sub(start));
        let Some(bytes) = bytes else {
            let expected = format!("{dtype:?} {shape:?} within {} bytes", end.saturating_sub(start));
            return Err(Error::malformed(
                place(),
                expected,
                format!("strides {strides:?} that reach beyond"),
            ));
        };
        if elements(&shape).is_none_or(|elements| elements > (bytes as u64) / dtype.bytes()) {
            // One stored number for many weights: no trainer writes that, and a few bytes would fill a disk.
            return Err(Error::malformed(
                place(),
                "weights of their own",
                format!("strides {strides:?} that overlap"),
            ));
        }
        if self.index.insert(name.clone(), self.tensors.len()).is_some() {
            return Err(Error::malformed(place(), "one tensor of this name", "two"));
        }
        self.tensors.push(Tensor { name, dtype, shape, strides, file, start, end: start + bytes });
        Ok(())
    }
}

/// A tensor as a reader found it, nothing checked.
pub(super) struct Found {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<u64>,
    pub(super) strides: Vec<u64>,
    pub(super) file: usize,
    pub(super) start: usize, // byte of element 0
    pub(super) end: usize,   // first byte that is not the tensor's any more
}

/// Number of weights; `None` where that overflows.
fn elements(shape: &[u64]) -> Option<u64> {
    shape.iter().try_fold(1u64, |product, &len| product.checked_mul(len))
}

/// Elements from the first to the last that shape and strides reach; `None` where that overflows.
fn reach(shape: &[u64], strides: &[u64]) -> Option<u64> {
    if shape.contains(&0) {
        return Some(0);
    }
    let mut last = 0u64;
    for (&len, &stride) in shape.iter().zip(strides) {
        last = last.checked_add((len - 1).checked_mul(stride)?)?;
    }
    last.checked_add(1)
}

/// Strides of a row-major tensor; `None` where the number of elements overflows.
pub(crate) fn row_major(shape: &[u64]) -> Option<Vec<u64>> {
    let mut strides = vec![1u64; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis].checked_mul(shape[axis])?;
    }
    Some(strides)
}

/// Data-parallel wrappers and torch.compile put their own names in front of or into a tensor's name.
fn strip_prefixes(name: String) -> String {
    let mut rest = name.as_str();
    while let Some(inner) = rest.strip_prefix("_orig_mod.").or_else(|| rest.strip_prefix("module.")) {
        rest = inner;
    }
    rest.replace("._orig_mod.", ".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes() {
        let cases = [
            ("a.b", "a.b"),
            ("module.a", "a"),
            ("_orig_mod.module.a", "a"),
            ("model._orig_mod.a", "model.a"),
            ("modules.a", "modules.a"),
        ];
        for (name, expected) in cases {
            assert_eq!(strip_prefixes(name.into()), expected);
        }
    }

    #[test]
    fn reach_counts_elements_and_refuses_overflow() {
        let cases: [(&[u64], &[u64], Option<u64>); 6] = [
            (&[], &[], Some(1)),
            (&[2, 3], &[3, 1], Some(6)),
            (&[2, 3], &[1, 2], Some(6)),
            (&[2, 0], &[u64::MAX, 1], Some(0)),
            (&[u64::MAX, 3], &[0, 0], Some(1)),
            (&[3, 2], &[u64::MAX / 2, 1], None),
        ];
        for (shape, strides, expected) in cases {
            assert_eq!(reach(shape, strides), expected, "{shape:?} {strides:?}");
        }
    }
}
