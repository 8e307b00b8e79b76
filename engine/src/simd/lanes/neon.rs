//! The registers of NEON: four for sixteen numbers.
//!
//! Every aarch64 machine has the instructions, which is what `unsafe` relies on below. Results are those of the twin to
//! the bit, zeros' signs included; so the smaller of two is chosen by a comparison.
#![allow(unsafe_code)]

use super::{Add, Div, Isa, LANES, Lanes, Mul, ROUND, Sub};
use std::arch::aarch64::*;
use std::arch::asm;

/// Lanes 0 to 3, 4 to 7, 8 to 11 and 12 to 15.
#[derive(Clone, Copy)]
pub(in crate::simd) struct Neon(float32x4_t, float32x4_t, float32x4_t, float32x4_t);

/// Calls an instruction for all four quarters.
macro_rules! four {
    ($instruction:ident, $a:expr $(, $rest:expr)*) => {
        // SAFETY: every aarch64 machine has the instruction, and it touches registers alone.
        unsafe {
            Self(
                $instruction($a.0 $(, $rest.0)*),
                $instruction($a.1 $(, $rest.1)*),
                $instruction($a.2 $(, $rest.2)*),
                $instruction($a.3 $(, $rest.3)*),
            )
        }
    };
}

macro_rules! operator {
    ($($trait:ident $method:ident $instruction:ident),*) => {$(
        impl $trait for Neon {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                four!($instruction, self, other)
            }
        }
    )*};
}
operator!(Add add vaddq_f32, Sub sub vsubq_f32, Mul mul vmulq_f32, Div div vdivq_f32);

/// Four F16 numbers as F32, exactly. The type of an F16 vector is unstable, so the instruction is written out.
#[inline(always)]
pub(crate) fn widen(halves: uint16x4_t) -> float32x4_t {
    let widened;
    // SAFETY: every aarch64 machine has the instruction, and it touches registers alone.
    unsafe {
        asm!(
            "fcvtl {0:v}.4s, {1:v}.4h",
            out(vreg) widened,
            in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    widened
}

/// [`widen`] of the upper four of eight.
#[inline(always)]
pub(crate) fn widen_upper(halves: uint16x8_t) -> float32x4_t {
    let widened;
    // SAFETY: every aarch64 machine has the instruction, and it touches registers alone.
    unsafe {
        asm!(
            "fcvtl2 {0:v}.4s, {1:v}.8h",
            out(vreg) widened,
            in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    widened
}

impl Neon {
    /// Halves, then quarters: sums of every fourth lane.
    #[inline(always)]
    fn sums_of_four(self) -> float32x4_t {
        // SAFETY: see the module, here and below.
        unsafe { vaddq_f32(vaddq_f32(self.0, self.2), vaddq_f32(self.1, self.3)) }
    }
}

impl Lanes for Neon {
    const ISA: Isa = Isa::NeonDot;
    const REGISTERS: usize = 6;
    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: see the module.
        let all = unsafe { vdupq_n_f32(value) };
        Self(all, all, all, all)
    }
    #[inline(always)]
    fn load(values: &[f32; LANES]) -> Self {
        let start = values.as_ptr();
        // SAFETY: see the module; all reads lie inside the array.
        unsafe {
            Self(vld1q_f32(start), vld1q_f32(start.add(4)), vld1q_f32(start.add(8)), vld1q_f32(start.add(12)))
        }
    }
    #[inline(always)]
    fn load_f16(bytes: &[u8; 2 * LANES]) -> Self {
        let start = bytes.as_ptr();
        // SAFETY: see the module; both reads lie inside the array.
        unsafe {
            let first = vreinterpretq_u16_u8(vld1q_u8(start));
            let second = vreinterpretq_u16_u8(vld1q_u8(start.add(16)));
            Self(
                widen(vget_low_u16(first)),
                widen_upper(first),
                widen(vget_low_u16(second)),
                widen_upper(second),
            )
        }
    }
    #[inline(always)]
    fn store(self) -> [f32; LANES] {
        let mut values = [0.0; LANES];
        let start = values.as_mut_ptr();
        // SAFETY: see the module; all writes lie inside the array.
        unsafe {
            vst1q_f32(start, self.0);
            vst1q_f32(start.add(4), self.1);
            vst1q_f32(start.add(8), self.2);
            vst1q_f32(start.add(12), self.3);
        }
        values
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        other.if_above(self, self, other)
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.if_above(other, self, other)
    }
    #[inline(always)]
    fn multiply_add(self, factor: Self, sum: Self) -> Self {
        four!(vfmaq_f32, sum, self, factor)
    }
    #[inline(always)]
    fn if_above(self, limit: Self, yes: Self, no: Self) -> Self {
        #[inline(always)]
        unsafe fn select(
            a: float32x4_t,
            limit: float32x4_t,
            yes: float32x4_t,
            no: float32x4_t,
        ) -> float32x4_t {
            // SAFETY: see the module.
            unsafe { vbslq_f32(vcgtq_f32(a, limit), yes, no) }
        }
        four!(select, self, limit, yes, no)
    }
    #[inline(always)]
    fn is_below_any(self, other: Self) -> bool {
        // SAFETY: see the module.
        unsafe {
            let first = vorrq_u32(vcltq_f32(self.0, other.0), vcltq_f32(self.1, other.1));
            let second = vorrq_u32(vcltq_f32(self.2, other.2), vcltq_f32(self.3, other.3));
            vmaxvq_u32(vorrq_u32(first, second)) != 0
        }
    }
    #[inline(always)]
    fn times_power(self, power: Self) -> Self {
        #[inline(always)]
        unsafe fn exponent(number: float32x4_t) -> float32x4_t {
            // SAFETY: see the module.
            unsafe { vreinterpretq_f32_s32(vshlq_n_s32::<23>(vreinterpretq_s32_f32(number))) }
        }
        // A biased exponent of 0 makes 0.
        let exponents = power.max(Self::splat(-127.0)) + Self::splat(ROUND + 127.0);
        self * four!(exponent, exponents)
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: see the module.
        unsafe {
            let four = self.sums_of_four();
            vpadds_f32(vadd_f32(vget_low_f32(four), vget_high_f32(four)))
        }
    }
    #[inline(always)]
    fn sums(all: [Self; 8]) -> [f32; 8] {
        /// Two sums of each of two.
        #[inline(always)]
        unsafe fn twos(a: Neon, b: Neon) -> float32x4_t {
            // SAFETY: see the module.
            unsafe {
                let (a, b) =
                    (vreinterpretq_f64_f32(a.sums_of_four()), vreinterpretq_f64_f32(b.sums_of_four()));
                let (low, high) = (vzip1q_f64(a, b), vzip2q_f64(a, b));
                vaddq_f32(vreinterpretq_f32_f64(low), vreinterpretq_f32_f64(high))
            }
        }
        let [a, b, c, d, e, f, g, h] = all;
        let mut sums = [0.0; 8];
        // SAFETY: see the module; both writes lie inside the array.
        unsafe {
            vst1q_f32(sums.as_mut_ptr(), vpaddq_f32(twos(a, b), twos(c, d)));
            vst1q_f32(sums.as_mut_ptr().add(4), vpaddq_f32(twos(e, f), twos(g, h)));
        }
        sums
    }
    #[inline(always)]
    fn smallest(self) -> f32 {
        // SAFETY: see the module.
        unsafe { vminvq_f32(vminq_f32(vminq_f32(self.0, self.1), vminq_f32(self.2, self.3))) }
    }
    #[inline(always)]
    fn least(self) -> usize {
        // SAFETY: see the module.
        let nibbles = unsafe {
            let smallest = vdupq_n_f32(self.smallest());
            let first =
                vcombine_u16(vmovn_u32(vceqq_f32(self.0, smallest)), vmovn_u32(vceqq_f32(self.1, smallest)));
            let second =
                vcombine_u16(vmovn_u32(vceqq_f32(self.2, smallest)), vmovn_u32(vceqq_f32(self.3, smallest)));
            let bytes = vcombine_u8(vmovn_u16(first), vmovn_u16(second));
            vget_lane_u64::<0>(vreinterpret_u64_u8(vshrn_n_u16::<4>(vreinterpretq_u16_u8(bytes))))
        };
        nibbles.trailing_zeros() as usize / 4 % LANES
    }
}
