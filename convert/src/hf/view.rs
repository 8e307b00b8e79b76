//! A tensor as it shall be, read from bytes as they lie: axes with strides, so that transposing, splitting and
//! permuting cost nothing and any run of rows can be read on its own. Weights come out as f32.

use super::params::{Dim, Params};
use super::rules::Op;
use crate::checkpoint::Dtype;
use moewe_engine::quant::INDICES;
use moewe_engine::{Error, Result};
use std::ops::Range;

/// How elements are stored.
#[derive(Clone, Copy, Debug)]
pub enum Elements<'c> {
    /// One by one.
    Plain(Dtype, &'c [u8]),
    /// 8-bit floats with a factor for each tile of a row-major matrix, which may be as wide or large as the matrix.
    Tiled {
        /// Which 8-bit floats.
        dtype: Dtype,
        /// The 8-bit floats.
        bytes: &'c [u8],
        /// The type of the factors.
        factor_dtype: Dtype,
        /// One per tile, row by row of tiles.
        factors: &'c [u8],
        /// Columns of the matrix.
        columns: u64,
        /// Height and width of a tile.
        tile: [u64; 2],
    },
    /// MXFP4 as OpenAI stores it: two codes per byte, the earlier one low; one exponent per 32.
    Mxfp4 {
        /// Codes.
        codes: &'c [u8],
        /// Exponents (E8M0).
        exponents: &'c [u8],
    },
    /// Whole numbers of 4 bits as compressed-tensors packs them: code minus 8, times the scale of its group.
    Int4 {
        /// Two codes per byte, the earlier one low.
        codes: &'c [u8],
        /// The type of the scales.
        scale_dtype: Dtype,
        /// One per group, row by row.
        scales: &'c [u8],
        /// Neighbours in a row that share a scale.
        group: u64,
    },
}

/// Elements of a block whose bits can be kept.
const BLOCK: u64 = 32;

/// A run of equal steps: length, and distance in elements.
type Steps = (u64, u64);

/// A tensor seen through axes; each axis may consist of several runs, slowest first.
#[derive(Clone, Debug)]
pub struct View<'c> {
    elements: Elements<'c>,
    offset: u64,
    axes: Vec<Vec<Steps>>,
}

impl<'c> View<'c> {
    /// A tensor as its shape and strides say; the caller has checked that they stay inside.
    pub(crate) fn new(elements: Elements<'c>, shape: &[u64], strides: &[u64]) -> Self {
        let axes = shape.iter().zip(strides).map(|(&len, &stride)| vec![(len, stride)]).collect();
        Self { elements, offset: 0, axes }
    }

    /// Lengths of the axes.
    pub fn shape(&self) -> Vec<u64> {
        self.axes.iter().map(|axis| axis.iter().map(|steps| steps.0).product()).collect()
    }

    /// Rows: all axes but the last.
    pub fn rows(&self) -> u64 {
        self.axes.iter().rev().skip(1).flatten().map(|steps| steps.0).product()
    }

    /// Elements per row.
    pub fn columns(&self) -> u64 {
        self.axes.last().map_or(1, |axis| axis.iter().map(|steps| steps.0).product())
    }

    /// The view after a change; `None` where it does not fit the shape.
    pub(super) fn apply(mut self, op: Op, params: &Params) -> Result<Option<Self>> {
        let last = self.axes.len().wrapping_sub(1);
        let rows = last.saturating_sub(1);
        match op {
            Op::Transpose if self.axes.len() >= 2 => self.axes.swap(rows, last),
            Op::Part(part, of) if !self.axes.is_empty() => {
                let Some((len, stride)) = self.single(rows).filter(|steps| steps.0 % of == 0) else {
                    return Ok(None);
                };
                self.offset += part * (len / of) * stride;
                self.axes[rows] = vec![(len / of, stride)];
            }
            Op::Every(part, of) if !self.axes.is_empty() => return Ok(self.every(rows, part, of)),
            Op::EveryLast(part, of) if !self.axes.is_empty() => return Ok(self.every(last, part, of)),
            Op::PairHalves(heads) => {
                let heads = params.dim(heads)?;
                let Some((len, stride)) = self.single(0).filter(|steps| steps.0 % (2 * heads) == 0) else {
                    return Ok(None);
                };
                let half = len / heads / 2;
                self.axes[0] = vec![(heads, 2 * half * stride), (half, stride), (2, half * stride)];
            }
            Op::SplitHeads(heads, at, first) => {
                let (heads, at) = (params.dim(heads)?, params.dim(at)?);
                let fits = |steps: &Steps| steps.0.is_multiple_of(heads) && steps.0 / heads > at;
                let Some((len, stride)) = self.single(0).filter(fits) else { return Ok(None) };
                let (skip, keep) = if first { (0, at) } else { (at, len / heads - at) };
                self.offset += skip * stride;
                self.axes[0] = vec![(heads, len / heads * stride)];
                self.axes.insert(1, vec![(keep, stride)]);
            }
            Op::Squeeze => self.axes.retain(|axis| axis.iter().any(|steps| steps.0 != 1)),
            Op::Unsqueeze => self.axes.push(vec![(1, 1)]),
            Op::Fold(rows) if self.axes.len() == 1 => {
                let rows = params.dim(rows)?;
                let Some((len, stride)) = self.single(0).filter(|steps| steps.0 % rows == 0) else {
                    return Ok(None);
                };
                self.axes = vec![vec![(rows, len / rows * stride)], vec![(len / rows, stride)]];
            }
            Op::Section(groups, sections, section) => {
                let lengths = sections.iter().map(|&dim| params.dim(dim)).collect::<Result<Vec<_>>>()?;
                return Ok(self.section(params.dim(groups)?, &lengths, section));
            }
            Op::TileRows => return self.tiled(0, params),
            Op::TileColumns => return self.tiled(last, params),
            _ => return Ok(None),
        }
        Ok(Some(self))
    }

    fn section(mut self, groups: u64, lengths: &[u64], section: usize) -> Option<Self> {
        let (len, stride) = self.single(0)?;
        let (group, keep) = (lengths.iter().sum::<u64>(), *lengths.get(section)?);
        if groups.checked_mul(group) != Some(len) {
            return None;
        }
        self.offset += lengths[..section].iter().sum::<u64>() * stride;
        self.axes[0] = match groups {
            1 => vec![(keep, stride)],
            _ => vec![(groups, group * stride), (keep, stride)],
        };
        Some(self)
    }

    fn tiled(mut self, axis: usize, params: &Params) -> Result<Option<Self>> {
        let (of_keys, of_values) = (params.dim(Dim::KeyHeads)?, params.dim(Dim::ValueHeads)?);
        let fits = |steps: &Steps| steps.0.is_multiple_of(of_values) && of_values.is_multiple_of(of_keys);
        let Some((len, stride)) = self.single(axis).filter(fits) else { return Ok(None) };
        let (each, width) = (of_values / of_keys, len / of_values);
        if each > 1 && of_keys > 1 {
            self.axes[axis] = vec![(each, width * stride), (of_keys, each * width * stride), (width, stride)];
        }
        Ok(Some(self))
    }

    fn every(mut self, axis: usize, part: u64, of: u64) -> Option<Self> {
        let (len, stride) = self.single(axis).filter(|steps| steps.0 % of == 0)?;
        self.offset += part * stride;
        self.axes[axis] = vec![(len / of, stride * of)];
        Some(self)
    }

    /// The steps of an axis that is one run.
    fn single(&self, axis: usize) -> Option<Steps> {
        if let [steps] = self.axes.get(axis)?[..] { Some(steps) } else { None }
    }

    /// Writes rows as f32 into `out`, `pitch` elements from one row to the next.
    pub fn read(&self, rows: Range<u64>, out: &mut [f32], pitch: usize) {
        let columns = self.columns();
        if let (Some((_, step)), Some((first, distance))) =
            (self.axes.last().and_then(|a| one(a)), self.run(&rows))
            && step > distance
        {
            // A transposed source: along its own rows memory is read in order.
            for column in 0..columns {
                for i in 0..rows.end - rows.start {
                    let index = first + i * distance + column * step;
                    out[i as usize * pitch + column as usize] = self.elements.get(index);
                }
            }
            return;
        }
        for (i, row) in rows.enumerate() {
            let out = &mut out[i * pitch..][..columns as usize];
            match self.axes.last().and_then(|axis| one(axis)) {
                Some((_, step)) => self.elements.run(self.row_start(row), step, out),
                None => {
                    for (column, out) in out.iter_mut().enumerate() {
                        let within =
                            self.axes.last().map_or(0, |axis| locate(axis.iter().rev(), column as u64));
                        *out = self.elements.get(self.row_start(row) + within);
                    }
                }
            }
        }
    }

    /// Start and distance of these rows, where they are equally far apart.
    fn run(&self, rows: &Range<u64>) -> Option<Steps> {
        let &(len, stride) = self.axes.iter().rev().skip(1).flat_map(|axis| axis.iter().rev()).next()?;
        let inside = rows.end > rows.start && rows.start / len == (rows.end - 1) / len;
        inside.then(|| (self.row_start(rows.start), stride))
    }

    fn row_start(&self, row: u64) -> u64 {
        self.offset + locate(self.axes.iter().rev().skip(1).flat_map(|axis| axis.iter().rev()), row)
    }

    /// The floats that they are stored as, by GGUF's name.
    pub fn float(&self) -> Option<&'static str> {
        match self.elements {
            Elements::Plain(Dtype::F32, _) => Some("F32"),
            Elements::Plain(Dtype::F16, _) => Some("F16"),
            Elements::Plain(Dtype::Bf16, _) => Some("BF16"),
            _ => None,
        }
    }

    /// The block format that rows are made of as they are stored, so that bits only have to move.
    pub fn stored(&self) -> Option<&'static str> {
        let name = match self.elements {
            Elements::Mxfp4 { .. } => "MXFP4",
            Elements::Int4 { group, .. } if group.is_multiple_of(BLOCK) => "Q4_0",
            Elements::Plain(Dtype::I64 | Dtype::I32, _) => return Some(INDICES.name),
            _ => return None,
        };
        let whole = |&(len, step): &Steps| step == 1 && len % BLOCK == 0;
        let is_whole = self.axes.last().and_then(|axis| one(axis)).as_ref().is_some_and(whole)
            && self.axes.iter().rev().skip(1).flatten().all(|steps| steps.1 % BLOCK == 0)
            && self.offset.is_multiple_of(BLOCK);
        is_whole.then_some(name)
    }

    /// Writes rows as blocks of the format that [`Self::stored`] names.
    pub fn copy(&self, rows: Range<u64>, out: &mut [u8]) {
        match self.elements {
            Elements::Mxfp4 { codes, exponents } => {
                self.blocks(rows, out, codes, |block| [exponents[block]]);
            }
            Elements::Int4 { codes, scale_dtype, scales, group } => {
                self.blocks(rows, out, codes, |block| {
                    let scale = element(scale_dtype, scales, block / (group / BLOCK) as usize);
                    half::f16::from_f32(scale).to_le_bytes()
                });
            }
            Elements::Plain(Dtype::I64 | Dtype::I32, _) => {
                let columns = self.columns() as usize;
                let mut numbers = vec![0f32; columns];
                for (row, out) in rows.zip(out.chunks_exact_mut(columns * INDICES.block_bytes)) {
                    self.read(row..row + 1, &mut numbers, columns);
                    out.as_chunks_mut().0.iter_mut().zip(&numbers).for_each(|(out, number)| {
                        *out = (*number as i32).to_le_bytes();
                    });
                }
            }
            Elements::Plain(..) | Elements::Tiled { .. } => {}
        }
    }

    /// GGUF's blocks of 32 codes: the head, then 16 bytes of which byte j holds code j in its low and code j + 16 in its
    /// high half.
    fn blocks<const HEAD: usize>(
        &self,
        rows: Range<u64>,
        out: &mut [u8],
        codes: &[u8],
        head: impl Fn(usize) -> [u8; HEAD],
    ) {
        let blocks = (self.columns() / BLOCK) as usize;
        for (row, out) in rows.zip(out.chunks_exact_mut(blocks * (HEAD + 16))) {
            let first = (self.row_start(row) / BLOCK) as usize;
            for (block, out) in (first..first + blocks).zip(out.chunks_exact_mut(HEAD + 16)) {
                let codes = &codes[block * 16..][..16];
                let code = |i: usize| codes[i / 2] >> (i % 2 * 4) & 15;
                let (place, packed) = out.split_at_mut(HEAD);
                place.copy_from_slice(&head(block));
                packed.iter_mut().enumerate().for_each(|(j, byte)| *byte = code(j) | code(j + 16) << 4);
            }
        }
    }
}

fn one(axis: &[Steps]) -> Option<Steps> {
    if let [steps] = axis { Some(*steps) } else { None }
}

/// Distance of element `index` of nested runs, fastest first.
fn locate<'s>(runs: impl Iterator<Item = &'s Steps>, mut index: u64) -> u64 {
    let mut distance = 0;
    for &(len, stride) in runs {
        distance += index % len * stride;
        index /= len;
    }
    distance
}

impl<'c> Elements<'c> {
    /// Elements of a type that holds weights.
    pub(crate) fn plain(dtype: Dtype, bytes: &'c [u8], name: &str) -> Result<Self> {
        if dtype.is_float() {
            return Ok(Self::Plain(dtype, bytes));
        }
        let hint = "weights packed as integers (GPTQ, AWQ, bitsandbytes) are not read, but for compressed-tensors' \
                    of 4 bits: convert the original checkpoint";
        Err(Error::unsupported(format!("tensor {name} has elements of type {dtype:?}"), hint))
    }

    /// Whole numbers from 0 on, small enough for f32.
    pub(super) fn indices(dtype: Dtype, bytes: &'c [u8], name: &str) -> Result<Self> {
        const MOST: i64 = 1 << 24;
        let broken = |found: String| {
            let expected = format!("indices from 0 to {MOST}, as I64 or I32");
            Error::malformed(format!("tensor {name}"), expected, found)
        };
        let wrong = match dtype {
            Dtype::I64 => {
                bytes.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b)).find(|n| !(0..=MOST).contains(n))
            }
            Dtype::I32 => {
                let all = bytes.as_chunks().0.iter().map(|&b| i64::from(i32::from_le_bytes(b)));
                all.into_iter().find(|n| !(0..=MOST).contains(n))
            }
            other => return Err(broken(format!("{other:?}"))),
        };
        wrong.map_or(Ok(Self::Plain(dtype, bytes)), |number| Err(broken(number.to_string())))
    }

    fn get(&self, index: u64) -> f32 {
        match *self {
            Self::Plain(dtype, bytes) => element(dtype, bytes, index as usize),
            Self::Tiled { dtype, bytes, factor_dtype, factors, columns, tile } => {
                let across = columns.div_ceil(tile[1]);
                let at = index / columns / tile[0] * across + index % columns / tile[1];
                element(dtype, bytes, index as usize) * element(factor_dtype, factors, at as usize)
            }
            Self::Mxfp4 { codes, exponents } => {
                let code = codes[index as usize / 2] >> (index % 2 * 4) & 15;
                e2m1(code) * power_of_two(exponents[index as usize / 32])
            }
            Self::Int4 { codes, scale_dtype, scales, group } => {
                let code = codes[index as usize / 2] >> (index % 2 * 4) & 15;
                (f32::from(code) - 8.0) * element(scale_dtype, scales, (index / group) as usize)
            }
        }
    }

    /// Elements `first`, `first + step`, ….
    fn run(&self, first: u64, step: u64, out: &mut [f32]) {
        if let (Self::Plain(dtype, bytes), 1) = (*self, step) {
            let size = dtype.bytes() as usize;
            let bytes = &bytes[first as usize * size..][..out.len() * size];
            out.iter_mut().enumerate().for_each(|(i, out)| *out = element(dtype, bytes, i));
            return;
        }
        out.iter_mut().enumerate().for_each(|(i, out)| *out = self.get(first + i as u64 * step));
    }
}

/// Element `index`. Out of range would be a bug of the views, not of a file.
#[inline(always)]
fn element(dtype: Dtype, bytes: &[u8], index: usize) -> f32 {
    match dtype {
        Dtype::F32 => f32::from_le_bytes(bytes.as_chunks().0[index]),
        Dtype::Bf16 => half::bf16::from_le_bytes(bytes.as_chunks().0[index]).to_f32(),
        Dtype::F16 => half::f16::from_le_bytes(bytes.as_chunks().0[index]).to_f32(),
        Dtype::F64 => f64::from_le_bytes(bytes.as_chunks().0[index]) as f32,
        Dtype::F8E4M3 => e4m3(bytes[index]),
        Dtype::F8E5M2 => half::f16::from_bits((bytes[index] as u16) << 8).to_f32(),
        Dtype::F8E8M0 => power_of_two(bytes[index]),
        Dtype::I64 => i64::from_le_bytes(bytes.as_chunks().0[index]) as f32,
        Dtype::I32 => i32::from_le_bytes(bytes.as_chunks().0[index]) as f32,
        Dtype::I16 | Dtype::I8 | Dtype::U8 | Dtype::Bool => {
            unreachable!("Elements::plain and Elements::indices let others pass only")
        }
    }
}

/// OCP 8-bit float, 4 bits of exponent (bias 7) and 3 of mantissa; no infinities, 0x7f and 0xff are NaN.
fn e4m3(byte: u8) -> f32 {
    let (exponent, mantissa) = ((byte >> 3 & 15) as i32, (byte & 7) as f32);
    let magnitude = match (exponent, byte & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa / 512.0,
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
    };
    if byte & 0x80 != 0 { -magnitude } else { magnitude }
}

/// OCP 4-bit float.
fn e2m1(code: u8) -> f32 {
    const MAGNITUDES: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let magnitude = MAGNITUDES[(code & 7) as usize];
    if code & 8 != 0 { -magnitude } else { magnitude }
}

/// `2^(exponent - 127)`, exact also where it is subnormal.
fn power_of_two(exponent: u8) -> f32 {
    f32::from_bits(if exponent == 0 { 0x0040_0000 } else { (exponent as u32) << 23 })
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
