//! One entry of the tensor directory: name, format, shape and where its bytes are. Checked before it exists.

use super::cursor::{Cursor, Place};
use super::value::write_string;
use super::{MAX_DIMENSIONS, MAX_NAME, quoted};
use crate::error::{Error, Result};
use crate::quant::{FORMATS, Format};

/// A tensor of a file. Element count and bytes are known not to overflow, rows are whole blocks.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// Unique within the model.
    pub name: String,
    /// How its weights are stored.
    pub format: &'static Format,
    /// 1 to 4 sizes, none 0; `shape[0]` is the row length, the reverse of PyTorch's order.
    pub shape: Vec<u64>,
    pub(super) part: usize, // which file of a split model
    pub(super) offset: u64, // from the start of the data section; after loading, from the start of the file
    pub(super) bytes: u64,
}

impl TensorInfo {
    /// Checks name, shape and format against each other.
    pub(super) fn new(name: String, format: &'static Format, shape: Vec<u64>) -> Result<Self> {
        let place = || format!("tensor {}", quoted(&name));
        if name.is_empty() || name.len() as u64 > MAX_NAME {
            return Err(Error::malformed("tensor name", format!("1 to {MAX_NAME} bytes"), name.len()));
        }
        let dimensions = shape.len() as u64;
        if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
            return Err(Error::malformed(place(), format!("1 to {MAX_DIMENSIONS} dimensions"), dimensions));
        }
        if shape.contains(&0) {
            return Err(Error::malformed(place(), "sizes of at least 1", format!("{shape:?}")));
        }
        if !shape[0].is_multiple_of(format.block_len as u64) {
            let expected = format!("rows in whole blocks of {} ({format})", format.block_len);
            return Err(Error::malformed(place(), expected, format!("rows of {}", shape[0])));
        }
        let elements = shape.iter().try_fold(1u64, |product, &size| product.checked_mul(size));
        let bytes =
            elements.and_then(|elements| format.bytes_for(elements)).filter(|&b| b <= i64::MAX as u64);
        let Some(bytes) = bytes else {
            return Err(Error::malformed(place(), "a size below 2^63 bytes", format!("the shape {shape:?}")));
        };
        Ok(Self { name, format, shape, part: 0, offset: 0, bytes })
    }

    /// Number of weights.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Weights per row.
    pub fn row_len(&self) -> u64 {
        self.shape[0]
    }

    /// Bytes in the file.
    pub fn byte_len(&self) -> u64 {
        self.bytes
    }

    /// Reads entry `i` of the directory.
    pub(super) fn read(cursor: &mut Cursor, i: u64) -> Result<Self> {
        cursor.place = Place::NthTensor(i);
        let name = cursor.string(MAX_NAME, "a tensor name")?;
        cursor.place = Place::Tensor(name);
        let dimensions = cursor.u32("a number of dimensions")? as u64;
        if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
            return Err(cursor.malformed(format!("1 to {MAX_DIMENSIONS} dimensions"), dimensions));
        }
        let shape = (0..dimensions).map(|_| cursor.u64("a size")).collect::<Result<Vec<_>>>()?;
        let id = cursor.u32("a tensor type")?;
        let format = Format::by_id(id).ok_or_else(|| unknown_type(name, id))?;
        let offset = cursor.u64("an offset")?;
        Ok(Self { offset, ..Self::new(name.to_owned(), format, shape)? })
    }

    /// Appends the entry.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        write_string(&self.name, out);
        out.extend_from_slice(&(self.shape.len() as u32).to_le_bytes());
        for size in &self.shape {
            out.extend_from_slice(&size.to_le_bytes());
        }
        out.extend_from_slice(&self.format.id.to_le_bytes());
        out.extend_from_slice(&self.offset.to_le_bytes());
    }
}

/// Names of type numbers that files use and [`FORMATS`] may lack; source: `enum ggml_type` in ggml.h.
const TYPE_NAMES: &[(u32, &str)] = &[
    (2, "Q4_0"),
    (3, "Q4_1"),
    (4, "Q4_2, removed from ggml in 2023"),
    (5, "Q4_3, removed from ggml in 2023"),
    (6, "Q5_0"),
    (7, "Q5_1"),
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (12, "Q4_K"),
    (13, "Q5_K"),
    (14, "Q6_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (31, "Q4_0_4_4, removed from ggml in 2024"),
    (32, "Q4_0_4_8, removed from ggml in 2024"),
    (33, "Q4_0_8_8, removed from ggml in 2024"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (36, "IQ4_NL_4_4, removed from ggml in 2024"),
    (37, "IQ4_NL_4_8, removed from ggml in 2024"),
    (38, "IQ4_NL_8_8, removed from ggml in 2024"),
    (39, "MXFP4"),
    (40, "NVFP4"),
    (41, "Q1_0"),
    (42, "Q2_0"),
];

fn unknown_type(name: &str, id: u32) -> Error {
    let type_name = match TYPE_NAMES.iter().find(|(known, _)| *known == id) {
        Some((_, type_name)) => format!("type {id} ({type_name})"),
        None => format!("the unknown type {id}"),
    };
    let formats: Vec<_> = FORMATS.iter().map(|format| format.name).collect();
    Error::unsupported(
        format!("tensor {} has {type_name}", quoted(name)),
        format!("supported are {}", formats.join(", ")),
    )
}
