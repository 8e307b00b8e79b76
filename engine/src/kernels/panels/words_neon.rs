//! Registers of words on NEON.
//!
//! What each function means is said in `words.rs`. A register holds four rows' words, so an instruction
//! for sixteen rows is four.

use super::packing::{Four, turn};
use super::words::{Words, in_all_bytes, instructions};
use crate::simd::{widen, widen_upper};
use std::arch::aarch64::*;
use std::arch::asm;

/// NEON with and without products of small matrices: rows 0 to 3, 4 to 7, 8 to 11 and 12 to 15.
#[derive(Clone, Copy)]
pub(super) struct Quad<const I8MM: bool>(
    pub(super) int32x4_t,
    pub(super) int32x4_t,
    pub(super) int32x4_t,
    pub(super) int32x4_t,
);

/// A float per row, likewise.
#[derive(Clone, Copy)]
pub(super) struct Floats(
    pub(super) float32x4_t,
    pub(super) float32x4_t,
    pub(super) float32x4_t,
    pub(super) float32x4_t,
);

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

pub(super) use four;

impl<const I8MM: bool> Words for Quad<I8MM> {
    type Floats = Floats;
    const LARGEST_CODE: i32 = 127;
    const LINE: usize = 16;
    const WRITTEN_OUT: usize = usize::MAX;
    const HALVES_BLOCKS: bool = true;
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
    }
}

/// The address as it is, but the compiler cannot know: what follows from it is loaded later.
#[inline(always)]
pub(super) fn settle(mut address: *const u8) -> *const u8 {
    // SAFETY: there is no instruction.
    unsafe { asm!("/* {} */", inout(reg) address, options(nostack, preserves_flags)) };
    address
}

/// A float in all lanes.
#[inline(always)]
pub(super) unsafe fn splat(value: *const f32) -> Floats {
    // SAFETY: the caller has a float there, and every aarch64 machine the instruction.
    let all = unsafe { vld1q_dup_f32(value) };
    Floats(all, all, all, all)
}

/// Operations on words that intrinsics know for other numbers.
macro_rules! of_words {
    ($($(#[$doc:meta])* fn $name:ident($a:ident $(, $b:ident)*) $body:block)*) => {
        $($(#[$doc])*
        #[inline(always)]
        unsafe fn $name($a: int32x4_t $(, $b: int32x4_t)*) -> int32x4_t {
            // SAFETY: every aarch64 machine has the instructions, and there is no pointer.
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
}
