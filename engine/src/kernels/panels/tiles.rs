//! Tiles: a few inputs side by side, so that a kernel finds a place of all of them behind one pointer.
//!
//! Owns how a job's inputs are cut into tiles and copied; what is done with them is the kernels' matter. A tile has the
//! arrays of a [`QuantizedRow`], with `N` numbers (four codes being one, or those of a group) where a row has one.

use super::super::activations::QuantizedRow;
use super::super::{Inputs, Pick};
use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

/// How inputs are cut into tiles, and how their codes lie in one.
pub(super) struct Cut {
    /// How many inputs a tile may have, the most first.
    sizes: &'static [usize],
    /// Whether an input's codes of a whole group stay together, instead of four of them.
    whole_groups: bool,
}

/// For registers that hold four codes of each row: as many sums and products as fit into 32 registers.
pub(super) static FOURS: Cut = Cut { sizes: &[12, 8, 4, 2, 1], whole_groups: false };

/// For AMX's registers of up to sixteen lines.
pub(super) static GROUPS: Cut = Cut { sizes: &[16, 12, 8, 4, 2, 1], whole_groups: true };

/// Inputs whose tiles are made at once stay in the second-level cache, and the panels that they meet in the first.
const CODES: usize = 256 << 10;

impl Cut {
    /// The tiles that so many inputs are cut into.
    #[inline(always)]
    pub(super) fn tiles(&'static self, inputs: usize) -> impl Iterator<Item = Range<usize>> {
        let next = move |start: usize| {
            let fits = |tile: &usize| *tile <= inputs - start;
            self.sizes.iter().copied().find(fits).map(|tile| start..start + tile)
        };
        std::iter::successors(next(0), move |last| next(last.end))
    }

    /// The most inputs of a tile.
    pub(super) fn largest(&self) -> usize {
        self.sizes[0]
    }

    /// Inputs of `width` numbers that are cut into tiles together.
    pub(super) fn at_once(&self, width: usize) -> usize {
        (CODES / width.max(1) / self.largest()).max(1) * self.largest()
    }
}

/// Tiles of some inputs, one after the other. Input `i` begins at `i` times what an input needs.
#[derive(Default)]
pub(super) struct Tiles {
    codes: Vec<i8>,
    scales: Vec<f32>,
    sums: Vec<f32>,
    offsets: Vec<f32>,
}

thread_local! {
    /// Grows to the largest job once per thread.
    pub(super) static TILES: RefCell<Tiles> = RefCell::default();
}

impl Tiles {
    /// Copies the picked inputs, with offsets for codes that are `bias` too large. Of a tile of one there is nothing to
    /// lay side by side: only its offsets are copied.
    ///
    /// # Safety
    /// Needs AVX-512.
    #[target_feature(enable = "avx2,avx512f")]
    pub(super) unsafe fn fill(
        &mut self,
        cut: &'static Cut,
        inputs: &Inputs<'_>,
        picks: &[Pick],
        group: usize,
        bias: i32,
    ) {
        let (width, groups) = (inputs.width(), inputs.width() / group);
        grow(&mut self.codes, picks.len() * width);
        grow(&mut self.scales, picks.len() * (width / 32));
        grow(&mut self.sums, picks.len() * groups);
        grow(&mut self.offsets, picks.len() * groups);
        for tile in cut.tiles(picks.len()) {
            let first = tile.start;
            // SAFETY: compiled for the instructions.
            unsafe {
                match tile.len() {
                    16 => self.copy::<16>(cut, inputs, picks, first, group),
                    12 => self.copy::<12>(cut, inputs, picks, first, group),
                    8 => self.copy::<8>(cut, inputs, picks, first, group),
                    4 => self.copy::<4>(cut, inputs, picks, first, group),
                    2 => self.copy::<2>(cut, inputs, picks, first, group),
                    _ => {
                        let offsets = inputs.quantized(picks[first].input, group).offsets;
                        self.offsets[first * groups..][..groups].copy_from_slice(offsets);
                    }
                }
            }
        }
        // Offsets come for a bias of 128.
        let shift = 7 - bias.max(1).ilog2();
        for offset in &mut self.offsets[..picks.len() * groups] {
            *offset = f32::from_bits((offset.to_bits() as i32 >> shift) as u32);
        }
    }

    #[inline(always)]
    unsafe fn copy<const N: usize>(
        &mut self,
        cut: &Cut,
        inputs: &Inputs<'_>,
        picks: &[Pick],
        first: usize,
        group: usize,
    ) {
        let (width, groups) = (inputs.width(), inputs.width() / group);
        let mut rows = [inputs.quantized(picks[first].input, group); N];
        for (row, pick) in rows.iter_mut().zip(&picks[first..]) {
            *row = inputs.quantized(pick.input, group);
        }
        let Self { codes, scales, sums, offsets } = self;
        // SAFETY: the caller's promise.
        unsafe {
            let all = rows.map(|row| row.codes);
            match (cut.whole_groups, group) {
                (false, _) => interleave(&all, &mut codes[first * width..]),
                (true, 16) => lay_groups::<N, 16>(&all, &mut codes[first * width..]),
                (true, _) => lay_groups::<N, 32>(&all, &mut codes[first * width..]),
            }
            interleave(&rows.map(|row| bytes(row.scales)), bytes_mut(&mut scales[first * (width / 32)..]));
            interleave(&rows.map(|row| bytes(row.sums)), bytes_mut(&mut sums[first * groups..]));
            interleave(&rows.map(|row| bytes(row.offsets)), bytes_mut(&mut offsets[first * groups..]));
        }
    }

    /// A tile whose first input is `input`; a tile of one is that, but for its offsets.
    pub(super) fn get<'a>(&'a self, tile: Range<usize>, input: QuantizedRow<'a>) -> QuantizedRow<'a> {
        let per_input = |numbers: usize| tile.start * numbers..tile.end * numbers;
        let offsets = &self.offsets[per_input(input.offsets.len())];
        if tile.len() == 1 {
            return QuantizedRow { offsets, ..input };
        }
        QuantizedRow {
            codes: &self.codes[per_input(input.codes.len())],
            scales: &self.scales[per_input(input.scales.len())],
            sums: &self.sums[per_input(input.sums.len())],
            offsets,
        }
    }
}

fn grow<T: Clone + Default>(buffer: &mut Vec<T>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, T::default());
    }
}

fn bytes(values: &[f32]) -> &[i8] {
    bytemuck::cast_slice(values)
}

fn bytes_mut(values: &mut [f32]) -> &mut [i8] {
    bytemuck::cast_slice_mut(values)
}

/// A group of each row in turn.
fn lay_groups<const N: usize, const GROUP: usize>(rows: &[&[i8]; N], out: &mut [i8]) {
    for (n, row) in rows.iter().enumerate() {
        for (group, out) in
            row.as_chunks::<GROUP>().0.iter().zip(out.as_chunks_mut::<GROUP>().0[n..].iter_mut().step_by(N))
        {
            *out = *group;
        }
    }
}

/// A word of each row in turn: four codes or a float.
///
/// # Safety
/// Needs AVX-512.
#[inline(always)]
unsafe fn interleave<const N: usize>(rows: &[&[i8]; N], out: &mut [i8]) {
    let len = rows[0].len();
    assert!(rows.iter().all(|row| row.len() == len) && out.len() >= N * len);
    let whole = if N.is_multiple_of(4) { len / 64 * 64 } else { 0 };
    for start in (0..whole).step_by(64) {
        for n in (0..N).step_by(4) {
            // SAFETY: 64 bytes of each row lie below `whole`, and the destination is as long as all rows.
            unsafe {
                let mut four = [_mm512_setzero_si512(); 4];
                for (register, row) in four.iter_mut().zip(&rows[n..]) {
                    *register = _mm512_loadu_si512(row.as_ptr().add(start).cast());
                }
                let out = out.as_mut_ptr().add((start * N) + n * 4);
                for (k, words) in transposed(four).into_iter().enumerate() {
                    let place = |quarter: usize| out.add((4 * quarter + k) * 4 * N).cast();
                    _mm_storeu_si128(place(0), _mm512_castsi512_si128(words));
                    _mm_storeu_si128(place(1), _mm512_extracti32x4_epi32::<1>(words));
                    _mm_storeu_si128(place(2), _mm512_extracti32x4_epi32::<2>(words));
                    _mm_storeu_si128(place(3), _mm512_extracti32x4_epi32::<3>(words));
                }
            }
        }
    }
    for at in (whole..len).step_by(4) {
        for (n, row) in rows.iter().enumerate() {
            out[at * N + n * 4..][..4].copy_from_slice(&row[at..at + 4]);
        }
    }
}

/// Four registers' words by turns: the first result holds every fourth word of all, from the first on, the second those
/// from the second on.
#[inline(always)]
unsafe fn transposed([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    // SAFETY: the caller is compiled for AVX-512.
    unsafe {
        let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
        let (ab_high, cd_high) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
        [
            _mm512_unpacklo_epi64(ab, cd),
            _mm512_unpackhi_epi64(ab, cd),
            _mm512_unpacklo_epi64(ab_high, cd_high),
            _mm512_unpackhi_epi64(ab_high, cd_high),
        ]
    }
}
