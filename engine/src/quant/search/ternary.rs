//! Search for the scale of a block whose codes are -1, 0 and 1 (TQ1_0, TQ2_0).
//!
//! A weight becomes 0 where its magnitude is below a threshold; what lies above says which scale suits. Trying
//! thresholds is all there is to it.

use super::{Prepared, inverse};
use crate::simd::{LANES, Lanes};
use half::f16;

/// Quantizes a block.
#[inline(always)]
pub(crate) fn ternary_block<L: Lanes>(prepared: &Prepared<256>) -> (f16, [i8; 256]) {
    let (d, scale) = prepared.stored(fit::<L>(prepared));
    let steepness = L::splat(inverse(scale));
    let (low, high) = (L::splat(-1.0), L::splat(1.0));
    (d, prepared.group().codes(|x: L| (x * steepness).max(low).min(high).nearest()))
}

/// The best scale: thresholds over the whole range, then between the neighbours of the best.
#[inline(always)]
fn fit<L: Lanes>(prepared: &Prepared<256>) -> f32 {
    let (low, high) = prepared.group().limits::<L>();
    let mut spread = high.max(-low) / LANES as f32;
    let (mut threshold, mut scale) = (spread * (LANES / 2) as f32, 0.0);
    for _ in 0..2 {
        let middle = (LANES - 1) as f32 / 2.0;
        let thresholds = L::splat(threshold) + L::from_fn(|lane| (lane as f32 - middle) * spread);
        let (mass, weight) = above(prepared, thresholds);
        let scales = mass * weight.inverse();
        let best = (L::splat(0.0) - mass * scales).least();
        (threshold, scale) = (thresholds.store()[best], scales.store()[best]);
        spread *= 2.0 / LANES as f32;
    }
    scale
}

/// The weighted sum of the magnitudes above each threshold, and the sum of their importance.
#[inline(always)]
fn above<L: Lanes>(prepared: &Prepared<256>, threshold: L) -> (L, L) {
    let (zero, mut mass, mut weight) = (L::splat(0.0), L::splat(0.0), L::splat(0.0));
    for (&x, &w) in prepared.x.iter().zip(&prepared.w) {
        let magnitude = L::splat(x.abs());
        mass = mass + magnitude.if_above(threshold, L::splat(w * x.abs()), zero);
        weight = weight + magnitude.if_above(threshold, L::splat(w), zero);
    }
    (mass, weight)
}
