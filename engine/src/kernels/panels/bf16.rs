//! Weights and inputs as BF16, laid out as the tile unit takes them.
//!
//! A tile is sixteen lines of 64 bytes. A line of inputs is 32 columns of one input; a line of weights is two
//! neighbouring columns of a panel's sixteen rows, and sixteen of them are 32 columns. Rounding is to the nearest. Inputs
//! are the bytes times their scale that the other kernels take, so that a long prompt computes what a token alone does.

use super::super::activations::Inputs;
use super::super::cache::grow;
use super::super::job::Pick;
use super::super::matrix::PANEL;
use super::codes::{PanelBlock, Scheme, each_step, open};
use super::packing::WORD;
use super::products::{Ahead, prefetch};
use super::steps::{PackedStep, Step};
use std::arch::x86_64::*;

/// Columns of a tile.
pub(super) const COLUMNS: usize = 32;

/// Lines of a tile.
pub(super) const LINES: usize = 16;

/// Tiles of inputs, and of weights, that meet each other in registers.
pub(super) const SIDE: usize = 2;

/// A line of a tile.
#[derive(Clone, Copy, Default)]
#[repr(C, align(64))]
pub(super) struct Line(pub(super) [u16; COLUMNS]);

/// What another unit does while weights are made.
pub(super) trait Meanwhile {
    /// A share of it, after every step of a format.
    ///
    /// # Safety
    /// There must be such a unit.
    unsafe fn go_on(&mut self);
}

/// Nothing.
impl Meanwhile for () {
    unsafe fn go_on(&mut self) {}
}

/// Some columns of neighbouring panels, `(columns / 32, SIDE, LINES)`.
#[derive(Default)]
pub(super) struct WeightTiles(pub(super) Vec<Line>);

/// All columns of some inputs: blocks of [`SIDE`] tiles, the last of which may have fewer, each
/// `(columns / 32, tiles, LINES)`.
#[derive(Default)]
pub(super) struct InputTiles(pub(super) Vec<Line>);

impl WeightTiles {
    /// Makes tiles of some blocks of a panel, which begin `offset` bytes behind their matrix.
    ///
    /// # Safety
    /// Needs AVX-512 (F, BW, DQ, VL), and what `meanwhile` needs.
    #[inline(always)]
    pub(super) unsafe fn fill<B: PanelBlock>(
        &mut self,
        panel: usize,
        (blocks, offset): (&[u8], usize),
        meanwhile: &mut impl Meanwhile,
    ) {
        let columns = blocks.len() / size_of::<B>() / PANEL * B::LEN;
        grow(&mut self.0, columns / COLUMNS * SIDE * LINES);
        let lines = &mut self.0[..columns / COLUMNS * SIDE * LINES];
        for (number, block) in blocks.chunks_exact(size_of::<B>() * PANEL).enumerate() {
            // SAFETY: a block has the bytes of sixteen; a group's lines are inside, for the columns are `number` blocks
            // and all before this step.
            unsafe {
                let (head, words) = open::<B, __m512i>(block.as_ptr(), offset + number * block.len());
                each_step!(B, __m512i, |step| {
                    prefetch::<B, __m512i>(block, step, Ahead::FAR);
                    let width = const { Scheme::of::<B, __m512i>().columns };
                    let column = number * B::LEN + step * width;
                    let tile = column / COLUMNS * SIDE + panel;
                    let out = lines.as_mut_ptr().add(tile * LINES + column % COLUMNS / 2);
                    let step = PackedStep::<B, __m512i> { words, head: &head, number: step };
                    for group in 0..width / B::GROUP {
                        let affine = Affine::of::<B>(step.scales(), step.mins(group));
                        for quad in group * B::GROUP / WORD..(group + 1) * B::GROUP / WORD {
                            let [a, b] = affine.lines(step.codes(quad));
                            _mm512_store_si512(out.add(quad * 2).cast(), a);
                            _mm512_store_si512(out.add(quad * 2 + 1).cast(), b);
                        }
                    }
                    meanwhile.go_on();
                });
            }
        }
    }
}

/// How codes become weights: `scale * (256 + code) + addend`, because a code of eight bits makes a float of 256 and more
/// without a conversion.
struct Affine {
    scale: __m512,
    addend: __m512,
}

impl Affine {
    #[inline(always)]
    unsafe fn of<B: PanelBlock>(scales: __m512, mins: __m512) -> Self {
        // SAFETY: callers are compiled for AVX-512, and there is no pointer.
        unsafe {
            let shift = _mm512_set1_ps((256 + B::BIAS) as f32);
            let addend = _mm512_fnmsub_ps(scales, shift, mins);
            Self { scale: plain_nan(scales), addend: plain_nan(addend) }
        }
    }

    /// The weights of four codes of each row: two lines.
    #[inline(always)]
    unsafe fn lines(&self, codes: __m512i) -> [__m512i; 2] {
        // SAFETY: callers are compiled for AVX-512, and there is no pointer.
        unsafe {
            let [a, b, c, d] = [
                self.weight(_mm512_slli_epi32::<15>(codes)),
                self.weight(_mm512_slli_epi32::<7>(codes)),
                self.weight(_mm512_srli_epi32::<1>(codes)),
                self.weight(_mm512_srli_epi32::<9>(codes)),
            ];
            [pairs(a, b), pairs(c, d)]
        }
    }

    /// The weights of the codes in bits 15 to 22.
    #[inline(always)]
    unsafe fn weight(&self, moved: __m512i) -> __m512 {
        // SAFETY: callers are compiled for AVX-512, and there is no pointer.
        unsafe {
            // moved & mask | 256.0
            let (mask, float) = (_mm512_set1_epi32(0x7f_8000), _mm512_set1_epi32(0x4380_0000));
            let float = _mm512_ternarylogic_epi32::<0xea>(moved, mask, float);
            _mm512_fmadd_ps(self.scale, _mm512_castsi512_ps(float), self.addend)
        }
    }
}

/// NaN of every kind as one that stays NaN when half a unit is added to its bits.
#[inline(always)]
unsafe fn plain_nan(values: __m512) -> __m512 {
    // SAFETY: callers are compiled for AVX-512, and there is no pointer.
    unsafe {
        let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(values, values);
        _mm512_mask_mov_ps(values, is_nan, _mm512_set1_ps(f32::NAN))
    }
}

/// The bits of floats, half a unit of BF16 added: its upper half is the rounded number.
#[inline(always)]
unsafe fn half_more(values: __m512) -> __m512i {
    // SAFETY: callers are compiled for AVX-512, and there is no pointer.
    unsafe { _mm512_add_epi32(_mm512_castps_si512(values), _mm512_set1_epi32(0x8000)) }
}

/// Both numbers of each lane as BF16, the first one lower.
#[inline(always)]
unsafe fn pairs(first: __m512, second: __m512) -> __m512i {
    // SAFETY: callers are compiled for AVX-512, and there is no pointer.
    unsafe {
        let first = _mm512_srli_epi32::<16>(half_more(first));
        // first | second & mask
        _mm512_ternarylogic_epi32::<0xf8>(first, half_more(second), _mm512_set1_epi32(0xffff_0000u32 as i32))
    }
}

impl InputTiles {
    /// Makes tiles of the picked inputs.
    ///
    /// # Safety
    /// Needs AVX-512 (F, BW, DQ, VL).
    #[inline(always)]
    pub(super) unsafe fn fill<B: PanelBlock>(&mut self, inputs: &Inputs<'_>, picks: &[Pick]) {
        let steps = inputs.width() / COLUMNS;
        grow(&mut self.0, picks.len().div_ceil(LINES) * LINES * steps);
        for (block, picks) in picks.chunks(SIDE * LINES).enumerate() {
            let tiles = picks.len().div_ceil(LINES);
            let lines = &mut self.0[block * SIDE * LINES * steps..][..tiles * LINES * steps];
            for (number, pick) in picks.iter().enumerate() {
                let row = inputs.quantized::<B>(pick.input);
                let columns = row.codes.as_chunks::<COLUMNS>().0.iter().zip(row.scales);
                for (line, (codes, scale)) in lines[number..].iter_mut().step_by(tiles * LINES).zip(columns) {
                    // SAFETY: the caller has the instructions.
                    unsafe { round(codes, *scale, line) };
                }
            }
        }
    }
}

/// 32 columns of an input: a group of activations.
#[inline(always)]
unsafe fn round(codes: &[i8; COLUMNS], scale: f32, line: &mut Line) {
    /// The upper half of every number, of one register and then of the other.
    static UPPER: [u16; COLUMNS] = {
        let mut upper = [0; COLUMNS];
        let mut i = 0;
        while i < COLUMNS {
            upper[i] = 2 * i as u16 + 1;
            i += 1;
        }
        upper
    };
    // SAFETY: callers are compiled for AVX-512; a line is one register, and half of the codes are sixteen bytes.
    unsafe {
        let scale = _mm512_set1_ps(scale);
        let (a, b) = (numbers(codes.as_ptr()), numbers(codes.as_ptr().add(COLUMNS / 2)));
        let (a, b) = (half_more(_mm512_mul_ps(a, scale)), half_more(_mm512_mul_ps(b, scale)));
        let line_of = _mm512_permutex2var_epi16(a, _mm512_loadu_si512(UPPER.as_ptr().cast()), b);
        _mm512_store_si512(line.0.as_mut_ptr().cast(), line_of);
    }
}

/// Sixteen bytes as floats.
#[inline(always)]
unsafe fn numbers(codes: *const i8) -> __m512 {
    // SAFETY: callers are compiled for AVX-512, and have sixteen bytes at the address.
    unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(codes.cast()))) }
}
