//! F32, F16 and BF16: weights as plain numbers. Conversion rounds to nearest even.

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
}

/// 32-bit IEEE float.
pub type F32 = f32;
/// 16-bit IEEE float.
pub type F16 = half::f16;
/// The upper half of a 32-bit float.
pub type Bf16 = half::bf16;

impl Float for f32 {
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

impl Float for half::f16 {
    const NAME: &'static str = "F16";
    const ID: u32 = 1;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        half::f16::to_f32(self)
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        half::f16::from_f32(value)
    }
}

impl Float for half::bf16 {
    const NAME: &'static str = "BF16";
    const ID: u32 = 30;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits((self.to_bits() as u32) << 16)
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        half::bf16::from_f32(value)
    }
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
