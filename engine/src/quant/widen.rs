//! How an F16 scale becomes f32: one instruction where the kernel's instruction set has it.
//!
//! Blocks of 32 weights have a scale each, so this conversion is a good part of unpacking them.

use super::float::{F16, f16_to_f32};

/// A way to widen F16, exactly.
pub trait Widen {
    /// The value.
    fn f16(value: F16) -> f32;
}

/// Integer arithmetic: works everywhere.
pub struct Portable;

impl Widen for Portable {
    #[inline(always)]
    fn f16(value: F16) -> f32 {
        f16_to_f32(value)
    }
}
