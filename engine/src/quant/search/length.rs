//! The length of quantized blocks, which the least error takes away.

use super::{Group, Prepared};
use crate::quant::Quantize;
use crate::simd::Lanes;

/// Makes a block as long, in the direction of its weights, as these are.
///
/// The least error leaves it too short: the error stands at a right angle on the block, not on the weights. Rounding
/// errors of many blocks cancel in an output, while missing length adds up, layer after layer. So what this adds to
/// the error of a block is taken several times from that of a model.
#[inline(always)]
pub(crate) fn restore_length<L: Lanes, B: Quantize>(
    block: &mut B,
    weights: &[f32],
    importance: Option<&[f32]>,
) {
    let Some(stretch) = B::STRETCH else { return };
    let factor = match B::LEN {
        32 => missing_length::<L, B, 32>(block, &Prepared::new::<L>(weights, importance)),
        _ => missing_length::<L, B, 256>(block, &Prepared::new::<L>(weights, importance)),
    };
    // Not where all is zero or only the wrong signs are left.
    if factor > 1.0 && factor.is_finite() {
        stretch(block, factor.min(LONGEST));
    }
}

/// Weights that a format can hardly say at all are not made up for by length.
const LONGEST: f32 = 2.0;

/// The length of the weights over that of the block in their direction.
#[inline(always)]
fn missing_length<L: Lanes, B: Quantize, const N: usize>(block: &B, prepared: &Prepared<N>) -> f32 {
    let (mut values, mut direction) = ([0.0; N], prepared.w);
    block.dequantize(&mut values);
    let inverse = 1.0 / prepared.unit;
    values.iter_mut().for_each(|value| *value *= inverse);
    direction.iter_mut().zip(&prepared.x).for_each(|(w, x)| *w *= x);
    let length = |x| Group { x, w: &direction }.total::<L>(|x, w| x * w);
    length(&prepared.x) / length(&values)
}
