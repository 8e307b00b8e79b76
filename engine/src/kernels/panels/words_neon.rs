//! Registers of words on NEON, and products of bytes, one by one or as small matrices.
//!
//! What each function means is said in `words.rs` and `whole.rs`. A register holds four rows' words, so an instruction
//! for sixteen rows is four.

use super::super::activations::QuantizedRow;
use super::super::neon::{self, add_dots};
use super::codes::{PanelBlock, Step, each_quad};
use super::formats::in_all_bytes;
use super::packing::{Four, turn};
use super::products;
use super::unpacked::{UnpackedDots, UnpackedStep};
use super::whole::{BlockSums, QUADS, TURNS};
use super::words::{Words, instructions};
use crate::simd::{widen, widen_upper};
use std::arch::aarch64::*;
use std::arch::asm;

/// NEON with and without products of small matrices: rows 0 to 3, 4 to 7, 8 to 11 and 12 to 15.
#[derive(Clone, Copy)]
pub(super) struct Quad<const I8MM: bool>(int32x4_t, int32x4_t, int32x4_t, int32x4_t);

/// A float per row, likewise.
#[derive(Clone, Copy)]
pub(super) struct Floats(float32x4_t, float32x4_t, float32x4_t, float32x4_t);

/// Calls a function for all four quarters.
macro_rules! four {
    ($type:ident, $function:expr, $a:expr $(, $rest:expr)*) => {
        $type(
            $function($a.0 $(, $rest.0)*),
            $function($a.1 $(, $rest.1)*),
            $function($a.2 $(, $rest.2)*),
            $function($a.3 $(, $rest.3)*),
        )
    };
}

impl<const I8MM: bool> Words for Quad<I8MM> {
    type Floats = Floats;
    type Products = Self;
    type Rows = neon::NeonDot;
    const LARGEST_CODE: i32 = 127;
    const LINE: usize = 16;
    const WRITTEN_OUT: usize = usize::MAX;
    const SUMS_BLOCKS: bool = true;
    const SCALES_CODES: bool = true;
    const ASKS_TWICE: bool = false;
    const TAKES_EIGHTS: bool = I8MM;

    instructions! {
        fn load(address: *const u8) -> Self {
            let words = address.cast();
            Self(vld1q_s32(words), vld1q_s32(words.add(4)), vld1q_s32(words.add(8)), vld1q_s32(words.add(12)))
        }
        fn load_bytes(address: *const u8) -> Self {
            let bytes = vld1q_u8(address);
            let (low, high) = (vmovl_u8(vget_low_u8(bytes)), vmovl_high_u8(bytes));
            Self(
                vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(low))),
                vreinterpretq_s32_u32(vmovl_high_u16(low)),
                vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(high))),
                vreinterpretq_s32_u32(vmovl_high_u16(high)),
            )
        }
        fn splat(word: i32) -> Self {
            let all = vdupq_n_s32(word);
            Self(all, all, all, all)
        }
        fn store_words(self, address: *mut i8) {
            let words = address.cast();
            vst1q_s32(words, self.0);
            vst1q_s32(words.add(4), self.1);
            vst1q_s32(words.add(8), self.2);
            vst1q_s32(words.add(12), self.3);
        }
        fn and(self, other: Self) -> Self { four!(Self, vandq_s32, self, other) }
        fn or_masked(self, other: Self, mask: Self) -> Self { four!(Self, insert, self, other, mask) }
        fn flip(self, other: Self) -> Self { four!(Self, veorq_s32, self, other) }
        fn add(self, other: Self) -> Self { four!(Self, vaddq_s32, self, other) }
        fn subtract(self, other: Self) -> Self { four!(Self, vsubq_s32, self, other) }
        fn times_halves(self, other: Self) -> Self { four!(Self, times_halves, self, other) }
        fn bytes_in_halves(self, [low, high]: [usize; 2]) -> Self {
            // Zeros come from places that are none.
            let first = 0xff00_ff00u32 as i32 | low as i32 | (high as i32) << 16;
            let next = 0x0004_0004;
            let places = vld1q_s32([first, first + next, first + 2 * next, first + 3 * next].as_ptr());
            four!(Self, look_up, self, Self(places, places, places, places))
        }
        fn larger(self, other: Self) -> Self { four!(Self, vmaxq_s32, self, other) }
        fn smaller(self, other: Self) -> Self { four!(Self, vminq_s32, self, other) }
        // A move by a register goes left, or right where that is negative; the compiler makes moves by constants of them.
        fn right(self, count: i32) -> Self { self.left(-count) }
        fn right_or_left(self, count: i32) -> Self { self.left(-count) }
        fn right_signed(self, count: i32) -> Self { four!(Self, vshlq_s32, self, Self::splat(-count)) }
        fn left(self, count: i32) -> Self { four!(Self, shift, self, Self::splat(count)) }
        fn bits(self, right: i32, mask: i8) -> Self {
            let moved = if right == 0 { self } else { four!(Self, shift_bytes, self, in_all_bytes::<Self>(-right as i8)) };
            // Often that leaves just what is wanted.
            if mask as u8 == 0xff >> right { moved } else { moved.and(in_all_bytes(mask)) }
        }
        fn look_up(self, table: &[i8; 16]) -> Self {
            let table = vreinterpretq_s32_s8(vld1q_s8(table.as_ptr()));
            four!(Self, look_up, Self(table, table, table, table), self)
        }
        fn to_floats(self) -> Floats { four!(Floats, vcvtq_f32_s32, self) }
        fn as_floats(self) -> Floats { four!(Floats, vreinterpretq_f32_s32, self) }
        fn low_f16(self) -> Floats {
            let [a, b, c, d] = [
                vreinterpretq_u16_s32(self.0),
                vreinterpretq_u16_s32(self.1),
                vreinterpretq_u16_s32(self.2),
                vreinterpretq_u16_s32(self.3),
            ];
            let (low, high) = (vuzp1q_u16(a, b), vuzp1q_u16(c, d));
            Floats(widen(vget_low_u16(low)), widen_upper(low), widen(vget_low_u16(high)), widen_upper(high))
        }
        fn load_f16(address: *const u8) -> Floats {
            let (low, high) =
                (vreinterpretq_u16_u8(vld1q_u8(address)), vreinterpretq_u16_u8(vld1q_u8(address.add(16))));
            Floats(widen(vget_low_u16(low)), widen_upper(low), widen(vget_low_u16(high)), widen_upper(high))
        }
        fn load_floats(address: *const f32) -> Floats {
            Floats(
                vld1q_f32(address),
                vld1q_f32(address.add(4)),
                vld1q_f32(address.add(8)),
                vld1q_f32(address.add(12)),
            )
        }
        fn zero() -> Floats {
            let zero = vdupq_n_f32(0.0);
            Floats(zero, zero, zero, zero)
        }
        fn times(a: Floats, b: Floats) -> Floats { four!(Floats, vmulq_f32, a, b) }
        fn scaled(a: Floats, scale: *const f32) -> Floats { four!(Floats, vmulq_f32, a, splat(scale)) }
        fn add_product(sum: Floats, a: Floats, b: Floats) -> Floats { four!(Floats, vfmaq_f32, sum, a, b) }
        fn subtract_scaled(sum: Floats, a: Floats, b: *const f32) -> Floats {
            four!(Floats, vfmsq_f32, sum, a, splat(b))
        }
        fn store(floats: Floats, address: *mut f32) {
            vst1q_f32(address, floats.0);
            vst1q_f32(address.add(4), floats.1);
            vst1q_f32(address.add(8), floats.2);
            vst1q_f32(address.add(12), floats.3);
        }
        // Floats of several inputs stay in memory while products are added up, so they are left out.
        fn settle(floats: Floats, address: *const u8) -> (Floats, *const u8) { (floats, settle(address)) }
        fn interleave(rows: [*const i8; 4], out: *mut i8, stride: usize) {
            let [a, b, c, d] = rows;
            let turned = turn([&*a.cast(), &*b.cast(), &*c.cast(), &*d.cast()]);
            for (k, words) in turned.iter().enumerate() {
                out.add(k * stride).cast::<Four>().write(*words);
            }
        }
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
        // SAFETY: the trait's conditions are the caller's promise.
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
        // SAFETY: the caller's promises.
        unsafe { products::dots::<B, Self, N>(&step, number, inputs) }
    }
}

impl<const I8MM: bool> BlockSums for Quad<I8MM> {
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
        // SAFETY: the caller's promises.
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
        each_quad!(quads, |quad| {
            let codes = step.codes(quad);
            each_quad!(N, |n| {
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
        each_quad!(quads / 2, |eight| {
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
    // SAFETY: as above.
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

/// The address as it is, but the compiler cannot know: what follows from it is loaded later.
#[inline(always)]
fn settle(mut address: *const u8) -> *const u8 {
    // SAFETY: there is no instruction.
    unsafe { asm!("/* {} */", inout(reg) address, options(nostack, preserves_flags)) };
    address
}

/// A float in all lanes.
#[inline(always)]
unsafe fn splat(value: *const f32) -> Floats {
    // SAFETY: the caller's promise: the float is there.
    let all = unsafe { vld1q_dup_f32(value) };
    Floats(all, all, all, all)
}

/// Operations on words that intrinsics know for other numbers.
macro_rules! of_words {
    ($($(#[$doc:meta])* fn $name:ident($a:ident $(, $b:ident)*) $body:block)*) => {
        $($(#[$doc])*
        #[inline(always)]
        unsafe fn $name($a: int32x4_t $(, $b: int32x4_t)*) -> int32x4_t {
            // SAFETY: every aarch64 machine has the instructions, but for products, whose callers are compiled for them.
            unsafe { $body }
        })*
    };
}

of_words! {
    /// `a`, but bits of `b` where the mask has any.
    fn insert(a, b, mask) { vbslq_s32(vreinterpretq_u32_s32(mask), b, a) }
    fn times_halves(a, b) {
        vreinterpretq_s32_s16(vmulq_s16(vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b)))
    }
    /// Moves bits left, or right where the counts are negative.
    fn shift(a, counts) { vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(a), counts)) }
    /// The same within bytes.
    fn shift_bytes(a, counts) {
        vreinterpretq_s32_u8(vshlq_u8(vreinterpretq_u8_s32(a), vreinterpretq_s8_s32(counts)))
    }
    fn look_up(table, indices) {
        vreinterpretq_s32_u8(vqtbl1q_u8(vreinterpretq_u8_s32(table), vreinterpretq_u8_s32(indices)))
    }
    fn add_words(sums, codes, inputs) {
        add_dots(sums, vreinterpretq_s8_s32(codes), vreinterpretq_s8_s32(inputs))
    }
}
