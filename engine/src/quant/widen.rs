//! What unpacking leaves to the kernel's instruction set, where that has an instruction for it.
//!
//! Blocks of 32 weights have a scale each, so widening it is a good part of unpacking them; so are tables.

use super::bits;
use super::float::{F16, f16_to_f32};

/// Ways to widen numbers, exactly.
pub trait Widen {
    /// The value.
    fn f16(value: F16) -> f32;

    /// Replaces indices below 16 by the values of a table. The number of indices is a multiple of 32.
    #[inline(always)]
    fn look_up(table: [i8; 16], codes: &mut [i8]) {
        bits::look_up(table, codes);
    }
}

/// Integer arithmetic: works everywhere.
pub struct Portable;

impl Widen for Portable {
    #[inline(always)]
    fn f16(value: F16) -> f32 {
        f16_to_f32(value)
    }
}
