//! F32, F16 and BF16: weights as plain numbers. Conversion rounds to nearest even.
//!
//! Also the conversions and repairs of single numbers that block formats need. F16 is converted by the house's own code
//! and not by `half`, which asks for the CPU's features at every call and so never becomes vector code.

pub use crate::simd::f16_to_f32;
use crate::simd::{LANES, Lanes};
use bytemuck::{AnyBitPattern, NoUninit};

/// A floating point element type.
pub trait Float: AnyBitPattern + NoUninit + Send + Sync {
    /// GGUF's name.
    const NAME: &'static str;
    /// GGUF's type number.
    const ID: u32;
    /// The value, exactly.
    fn to_f32(self) -> f32;
    /// The nearest value.
    fn from_f32(value: f32) -> Self;
    /// Sixteen values from the first bytes.
    #[inline(always)]
    fn load<L: Lanes>(bytes: &[u8]) -> L {
        let bytes_of = |lane: usize| &bytes[lane * size_of::<Self>()..][..size_of::<Self>()];
        L::from_fn(|lane| bytemuck::pod_read_unaligned::<Self>(bytes_of(lane)).to_f32())
    }
}

/// 32-bit IEEE float.
pub type F32 = f32;
/// 16-bit IEEE float.
pub type F16 = half::f16;
/// The upper half of a 32-bit float.
pub type Bf16 = half::bf16;

impl Float for F32 {
    const NAME: &'static str = "F32";
    const ID: u32 = 0;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }
}

impl Float for F16 {
    const NAME: &'static str = "F16";
    const ID: u32 = 1;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f16_to_f32(self)
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        f16_from_f32(value)
    }
    #[inline(always)]
    fn load<L: Lanes>(bytes: &[u8]) -> L {
        L::load_f16(bytes.first_chunk().expect("sixteen values"))
    }
}

impl Float for Bf16 {
    const NAME: &'static str = "BF16";
    const ID: u32 = 30;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits((self.to_bits() as u32) << 16)
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        let quiet_nan = bits >> 16 | 0x40;
        Self::from_bits(if value.is_nan() { quiet_nan } else { rounded } as u16)
    }
}

/// The nearest F16, ties to even, without branches; infinity from 65520 up. A NaN stays one.
#[inline(always)]
pub fn f16_from_f32(value: f32) -> F16 {
    let bits = value.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    // Adding 0.5 leaves the multiple of 2^-24 in the low bits of the sum, rounded by the addition itself.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let normal = magnitude.wrapping_add(0xfff + (magnitude >> 13 & 1)).wrapping_sub(112 << 23) >> 13;
    let finite = if magnitude < 0x3880_0000 { subnormal } else { normal };
    let infinite_or_nan = if magnitude > 0x7f80_0000 { 0x7e00 | (magnitude >> 13 & 0x3ff) } else { 0x7c00 };
    let result = if magnitude >= 0x477f_f000 { infinite_or_nan } else { finite };
    F16::from_bits((result | bits >> 16 & 0x8000) as u16)
}

/// Rounds to the nearest whole number, halves away from zero, for magnitudes below 2^23.
///
/// Same as `f32::round`, which is a library call on x86. The addend is the largest value below one half.
#[inline(always)]
pub(super) fn round(value: f32) -> i32 {
    (value + 0.499_999_97_f32.copysign(value)) as i32
}

/// `1 / scale`, or 0 where there is no finite one: such a scale stands for a block of zeros.
#[inline(always)]
pub(super) fn inverse(scale: f32) -> f32 {
    let inverse = 1.0 / scale;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// A finite value, or F16's largest of the same sign where it would become infinite.
#[inline(always)]
pub(super) fn fit_f16(value: f32) -> f32 {
    if value.abs() < 65520.0 { value } else { 65504f32.copysign(value) }
}

/// Multiplies a scale.
#[inline(always)]
pub(super) fn stretch(scale: &mut F16, factor: f32) {
    *scale = f16_from_f32(fit_f16(f16_to_f32(*scale) * factor));
}

/// The largest finite magnitude, 0 where there is none.
///
/// Every sixteenth number is compared with those of its lane: where a single chain of comparisons is unrolled, LLVM 22
/// does not come to an end with it for 64-bit ARM.
#[inline(always)]
pub(super) fn largest_magnitude(weights: &[f32]) -> f32 {
    let mut largest = [0; LANES];
    let (chunks, rest) = weights.as_chunks::<LANES>();
    for weights in chunks.iter().map(|chunk| &chunk[..]).chain([rest]) {
        for (largest, weight) in largest.iter_mut().zip(weights) {
            let magnitude = weight.to_bits() & 0x7fff_ffff;
            let finite = if magnitude < 0x7f80_0000 { magnitude } else { 0 };
            *largest = finite.max(*largest);
        }
    }
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            largest[lane] = largest[lane].max(largest[lane + half]);
        }
    }
    f32::from_bits(largest[0])
}

/// The weights of one block as [`super::Quantize`] sees them: NaN is 0, an infinity the largest finite magnitude.
#[inline(always)]
pub(super) fn finite<const N: usize>(weights: &[f32]) -> [f32; N] {
    let mut weights: [f32; N] = *weights.first_chunk().expect("a whole block of weights");
    let largest = largest_magnitude(&weights);
    for weight in &mut weights {
        let repaired = if weight.is_nan() { 0.0 } else { largest.copysign(*weight) };
        *weight = if weight.is_finite() { *weight } else { repaired };
    }
    weights
}

pub(super) fn dequantize_row<F: Float>(bytes: &[u8], weights: &mut [f32]) {
    assert_eq!(bytes.len(), size_of_val(weights) / size_of::<f32>() * size_of::<F>());
    for (bytes, weight) in bytes.chunks_exact(size_of::<F>()).zip(weights) {
        *weight = bytemuck::pod_read_unaligned::<F>(bytes).to_f32();
    }
}

pub(super) fn quantize_row<F: Float>(weights: &[f32], _importance: Option<&[f32]>, bytes: &mut [u8]) {
    assert_eq!(bytes.len(), weights.len() * size_of::<F>());
    for (bytes, &weight) in bytes.chunks_exact_mut(size_of::<F>()).zip(weights) {
        bytes.copy_from_slice(bytemuck::bytes_of(&F::from_f32(weight)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_has_its_value() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (f16_to_f32(F16::from_bits(bits)), F16::from_bits(bits).to_f32());
            assert!(ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan(), "{bits:#06x}");
        }
    }

    /// Around every F16 and every midpoint between two, and across the whole range of f32.
    #[test]
    fn f16_rounds_to_nearest_even() {
        let near = (0..0x7fffu16).flat_map(|bits| {
            let value = F16::from_bits(bits).to_f32().to_bits();
            let midpoint =
                value.wrapping_add(F16::from_bits(bits + 1).to_f32().to_bits().wrapping_sub(value) / 2);
            [value, midpoint].into_iter().flat_map(|bits| [bits.wrapping_sub(1), bits, bits.wrapping_add(1)])
        });
        for bits in near.chain((0..=u32::MAX).step_by(4099)).flat_map(|bits| [bits, bits ^ 0x8000_0000]) {
            let value = f32::from_bits(bits);
            let (ours, theirs) = (f16_from_f32(value), F16::from_f32(value));
            assert!(ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan(), "{value:e}");
        }
    }

    #[test]
    fn bf16_rounds_to_nearest_even() {
        for bits in (0..=u32::MAX).step_by(4099).chain([0x3f80_8000, 0x3f81_8000, 0x7f7f_ffff, 0x7f80_0001]) {
            let value = f32::from_bits(bits);
            let (ours, theirs) = (<Bf16 as Float>::from_f32(value), Bf16::from_f32(value));
            assert!(ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan(), "{value:e}");
        }
    }

    #[test]
    fn round_takes_halves_away_from_zero() {
        for i in -300_000..300_000 {
            let value = i as f32 / 2048.0;
            for value in [value.next_down(), value, value.next_up()] {
                assert_eq!(round(value), value.round() as i32, "{value}");
            }
        }
    }

    #[test]
    fn unusual_weights_are_repaired_one_by_one() {
        let weights = [1.5, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -2.0, -0.0];
        assert_eq!(finite::<6>(&weights), [1.5, 0.0, 2.0, -2.0, -2.0, 0.0]);
        assert_eq!(finite::<2>(&[f32::INFINITY, f32::NAN]), [0.0, 0.0]);
    }
}
