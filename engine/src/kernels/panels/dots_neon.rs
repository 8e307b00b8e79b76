//! Products of words with inputs on NEON, bytes one by one or as small matrices.
//!
//! What each function means is said in `dots.rs`.

use super::super::activations::QuantizedRow;
use super::super::neon::add_dots;
use super::codes::{PanelBlock, unrolled};
use super::dots::{self, BlockDots, Dots, QUADS, TURNS, UnpackedDots};
use super::steps::{Step, UnpackedStep};
use super::words::{Words, instructions};
use super::words_neon::{Floats, Quad, four, settle, splat};
use std::arch::aarch64::*;
use std::arch::asm;

impl<const I8MM: bool> Dots for Quad<I8MM> {
    type Products = Self;

    instructions! {
        fn begin(offset: Option<*const i32>) -> Self {
            match offset {
                Some(offset) => Self::splat(offset.read()),
                None => Self::splat(0),
            }
        }
        fn multiply<B: PanelBlock>(products: Self, _quad: usize, codes: Self, inputs: *const i32) -> Self {
            let inputs = vdupq_n_s32(inputs.read_unaligned());
            four!(Self, add_words, products, codes, Self(inputs, inputs, inputs, inputs))
        }
        fn end(products: Self, _offset: Option<*const i32>) -> Self { products }
    }

    #[inline(always)]
    unsafe fn add_products<B: PanelBlock, S: Step<Self>, const N: usize>(
        products: &mut [Self; N],
        step: &S,
        quads: usize,
        inputs: *const i32,
    ) {
        // SAFETY: the caller has the instructions, with `i8mm` where `I8MM` says so, a whole step, and `quads * N`
        // words of inputs.
        unsafe {
            match I8MM && N > 1 {
                true => add_matrices(products, step, quads, inputs),
                false => add_by_lane(products, step, quads, inputs),
            }
        }
    }
}

impl<const I8MM: bool> UnpackedDots for Quad<I8MM> {
    #[inline(always)]
    unsafe fn dots<B: PanelBlock, const N: usize>(
        step: UnpackedStep,
        number: usize,
        inputs: &QuantizedRow<'_>,
    ) -> [Self; N] {
        // SAFETY: the caller has the instructions, and the step's pointers lead to all of its numbers.
        unsafe { dots::dots::<B, Self, N>(&step, number, inputs) }
    }
}

impl<const I8MM: bool> BlockDots for Quad<I8MM> {
    instructions! {
        fn add_pairs(sums: Self, halves: Self, pair: *const i32) -> Self {
            let pair = vreinterpret_s16_s32(vld1_dup_s32(pair));
            let (a, b) = (vreinterpretq_s16_s32(halves.0), vreinterpretq_s16_s32(halves.1));
            let (c, d) = (vreinterpretq_s16_s32(halves.2), vreinterpretq_s16_s32(halves.3));
            let (low, high) = (vuzp1q_s16(a, b), vuzp2q_s16(a, b));
            let (next_low, next_high) = (vuzp1q_s16(c, d), vuzp2q_s16(c, d));
            let sums = Self(
                vmlal_lane_s16::<0>(sums.0, vget_low_s16(low), pair),
                vmlal_high_lane_s16::<0>(sums.1, low, pair),
                vmlal_lane_s16::<0>(sums.2, vget_low_s16(next_low), pair),
                vmlal_high_lane_s16::<0>(sums.3, next_low, pair),
            );
            Self(
                vmlal_lane_s16::<1>(sums.0, vget_low_s16(high), pair),
                vmlal_high_lane_s16::<1>(sums.1, high, pair),
                vmlal_lane_s16::<1>(sums.2, vget_low_s16(next_high), pair),
                vmlal_high_lane_s16::<1>(sums.3, next_high, pair),
            )
        }
        fn subtract_product(sum: Floats, a: Floats, b: Floats) -> Floats { four!(Floats, vfmsq_f32, sum, a, b) }
        fn add_scaled(sum: Floats, a: Floats, b: *const f32) -> Floats {
            four!(Floats, vfmaq_f32, sum, a, splat(b))
        }
        fn settle_sums(products: Self, mins: Self, address: *const u8) -> (Self, Self, *const u8) {
            (products, mins, settle(address))
        }
    }

    #[inline(always)]
    unsafe fn add_codes<B: PanelBlock, S: Step<Self>, const N: usize>(
        sums: &mut [[Self; N]; TURNS],
        step: &S,
        inputs: *const i32,
    ) {
        // SAFETY: the caller has the instructions, a whole step, and `QUADS * N` words of inputs.
        unsafe { Self::add_products::<B, S, N>(&mut sums[0], step, QUADS, inputs) }
    }
}

/// [`Words::add_products`] with the inputs of four words in a register, of which an instruction takes one.
#[inline(always)]
unsafe fn add_by_lane<const I8MM: bool, const N: usize>(
    products: &mut [Quad<I8MM>; N],
    step: &impl Step<Quad<I8MM>>,
    quads: usize,
    inputs: *const i32,
) {
    // SAFETY: callers have the instructions; a step has a multiple of four words of inputs.
    unsafe {
        let mut words = vdupq_n_s32(0);
        unrolled!(quads, |quad| {
            let codes = step.codes(quad);
            unrolled!(N, |n| {
                let number = quad * N + n;
                if number.is_multiple_of(4) {
                    words = vld1q_s32(inputs.add(number));
                }
                products[n] = match number % 4 {
                    0 => four!(
                        Quad,
                        add_dots_by_lane::<0>,
                        products[n],
                        codes,
                        Quad::<I8MM>(words, words, words, words)
                    ),
                    1 => four!(
                        Quad,
                        add_dots_by_lane::<1>,
                        products[n],
                        codes,
                        Quad::<I8MM>(words, words, words, words)
                    ),
                    2 => four!(
                        Quad,
                        add_dots_by_lane::<2>,
                        products[n],
                        codes,
                        Quad::<I8MM>(words, words, words, words)
                    ),
                    _ => four!(
                        Quad,
                        add_dots_by_lane::<3>,
                        products[n],
                        codes,
                        Quad::<I8MM>(words, words, words, words)
                    ),
                };
            });
        });
    }
}

/// [`Words::add_products`] with matrices, for an even number of inputs: eight codes of two rows times eight of two inputs.
#[inline(always)]
unsafe fn add_matrices<const I8MM: bool, const N: usize>(
    products: &mut [Quad<I8MM>; N],
    step: &impl Step<Quad<I8MM>>,
    quads: usize,
    inputs: *const i32,
) {
    // SAFETY: callers have the instructions; a step has eight codes of each input for every two fours.
    unsafe {
        for pair in products.as_chunks_mut::<2>().0 {
            *pair = mix(*pair);
        }
        unrolled!(quads / 2, |eight| {
            let (first, second) = (step.codes(2 * eight), step.codes(2 * eight + 1));
            let rows = mix([first, second]);
            for (number, pair) in products.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                let inputs = vld1q_s32(inputs.add(eight * 2 * N + number * 4));
                for (sums, rows) in pair.iter_mut().zip(&rows) {
                    *sums =
                        four!(Quad, add_matrix, *sums, *rows, Quad::<I8MM>(inputs, inputs, inputs, inputs));
                }
            }
        });
        for pair in products.as_chunks_mut::<2>().0 {
            *pair = unmix(*pair);
        }
    }
}

/// Of two registers' words, those of a row side by side: of rows 0 to 7, and of rows 8 to 15.
#[inline(always)]
unsafe fn mix<const I8MM: bool>([a, b]: [Quad<I8MM>; 2]) -> [Quad<I8MM>; 2] {
    // SAFETY: every aarch64 machine has the instructions, here and below.
    unsafe {
        [
            Quad(vzip1q_s32(a.0, b.0), vzip2q_s32(a.0, b.0), vzip1q_s32(a.1, b.1), vzip2q_s32(a.1, b.1)),
            Quad(vzip1q_s32(a.2, b.2), vzip2q_s32(a.2, b.2), vzip1q_s32(a.3, b.3), vzip2q_s32(a.3, b.3)),
        ]
    }
}

/// What [`mix`] was given.
#[inline(always)]
unsafe fn unmix<const I8MM: bool>([low, high]: [Quad<I8MM>; 2]) -> [Quad<I8MM>; 2] {
    // SAFETY: every aarch64 machine has the instructions, and there is no pointer.
    unsafe {
        [
            Quad(
                vuzp1q_s32(low.0, low.1),
                vuzp1q_s32(low.2, low.3),
                vuzp1q_s32(high.0, high.1),
                vuzp1q_s32(high.2, high.3),
            ),
            Quad(
                vuzp2q_s32(low.0, low.1),
                vuzp2q_s32(low.2, low.3),
                vuzp2q_s32(high.0, high.1),
                vuzp2q_s32(high.2, high.3),
            ),
        ]
    }
}

/// Adds products of the codes of four rows and one of four words of inputs.
#[inline]
#[target_feature(enable = "dotprod")]
fn add_dots_by_lane<const LANE: usize>(mut sums: int32x4_t, codes: int32x4_t, words: int32x4_t) -> int32x4_t {
    // SAFETY: compiled for the instruction, and it touches registers alone.
    unsafe {
        asm!(
            "sdot {0:v}.4s, {1:v}.16b, {2:v}.4b[{3}]",
            inout(vreg) sums,
            in(vreg) codes,
            in(vreg) words,
            const LANE,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sums
}

/// Adds the products of two rows' eight codes with those of two inputs.
#[inline]
#[target_feature(enable = "i8mm")]
fn add_matrix(mut sums: int32x4_t, rows: int32x4_t, inputs: int32x4_t) -> int32x4_t {
    // SAFETY: compiled for the instruction, and it touches registers alone.
    unsafe {
        asm!(
            "smmla {0:v}.4s, {1:v}.16b, {2:v}.16b",
            inout(vreg) sums,
            in(vreg) rows,
            in(vreg) inputs,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sums
}

/// Adds products of the codes of four rows and as many of an input's.
#[inline(always)]
unsafe fn add_words(sums: int32x4_t, codes: int32x4_t, inputs: int32x4_t) -> int32x4_t {
    // SAFETY: callers are compiled for products of bytes, and there is no pointer.
    unsafe { add_dots(sums, vreinterpretq_s8_s32(codes), vreinterpretq_s8_s32(inputs)) }
}
