//! Search for a scale and a minimum: weight = scale * code - min, codes from 0 to `top`.
//!
//! For one group with both in F16 (Q4_1, Q5_1), and for the groups of a block whose scales and mins are small whole
//! numbers times two F16 (Q2_K, Q4_K, Q5_K).

use super::{Group, Prepared, inverse};
use crate::simd::Lanes;
use half::f16;

/// What a format allows.
#[derive(Clone, Copy)]
struct Rule {
    top: f32,           // the largest code
    min_positive: bool, // min may not be negative: codes count from 0 or below
}

/// Scale and min of one group.
#[derive(Clone, Copy, Default)]
struct Fit {
    scale: f32,
    min: f32,
    error: f32,
}

/// The best of 16 starts, whose codes are `(x - low) * steepness`, each after rounding to codes and solving for the
/// scale and min that suit these codes.
#[inline(always)]
fn best_start<L: Lanes, const N: usize>(group: Group<'_, N>, low: L, steepness: L, rule: Rule) -> Fit {
    let zero = L::splat(0.0);
    let (mut q, mut qq, mut qx) = (zero, zero, zero);
    for (&x, &w) in group.x.iter().zip(group.w) {
        let (x, w) = (L::splat(x), L::splat(w));
        let code = ((x - low) * steepness).max(zero).min(L::splat(rule.top)).nearest();
        let weighted = w * code;
        q = q + weighted;
        qq = qq + weighted * code;
        qx = qx + weighted * x;
    }
    let sum_w = L::splat(group.total::<L>(|_, w| w));
    let sum_x = L::splat(group.total::<L>(|x, w| w * x));
    let sum_xx = L::splat(group.total::<L>(|x, w| w * x * x));
    let determinant = sum_w * qq - q * q;
    let divisor = determinant.inverse();
    let (mut offset, mut scale) = ((qq * sum_x - q * qx) * divisor, (sum_w * qx - sum_x * q) * divisor);
    if rule.min_positive {
        scale = offset.if_above(zero, qx * qq.inverse(), scale);
        offset = offset.min(zero);
    }
    let error = determinant.if_above(zero, sum_xx - scale * qx - offset * sum_x, L::splat(f32::MAX));
    let best = error.least();
    Fit { scale: scale.store()[best], min: -offset.store()[best], error: error.store()[best] }
}

/// The best scale and min of one group, starting from its whole range.
#[inline(always)]
fn fit<L: Lanes, const N: usize>(group: Group<'_, N>, rule: Rule) -> Fit {
    let (low, high) = group.limits::<L>();
    let low = if rule.min_positive && low > 0.0 { 0.0 } else { low };
    if high <= low {
        return Fit { scale: 0.0, min: -low, error: 0.0 };
    }
    let mut best = Fit { scale: (high - low) / rule.top, min: -low, error: f32::MAX };
    for [first, step, shift] in STARTS {
        let factors = L::from_fn(|lane| 1.0 + (first + step * (lane % 4) as f32) / rule.top);
        let shifts = L::from_fn(|lane| shift * ((lane / 4) as f32 - 1.5));
        let steepness = factors * L::splat(inverse(best.scale));
        let low = shifts * L::splat(best.scale) - L::splat(best.min);
        let found = best_start(group, low, steepness, rule);
        best = if found.error < best.error { found } else { best };
    }
    best
}

/// The starts of each search around the best so far: codes more or less at the top (the first, and the step to
/// the next), and how far the lowest code moves, in codes.
const STARTS: [[f32; 3]; 2] = [[-0.9, 0.6, 0.3], [-0.3, 0.2, 0.15]];

/// The codes of a group.
#[inline(always)]
fn codes<L: Lanes, const N: usize>(group: Group<'_, N>, scale: f32, min: f32, top: f32) -> [i8; N] {
    let (steepness, min, top) = (L::splat(inverse(scale)), L::splat(min), L::splat(top));
    group.codes(|x: L| ((x + min) * steepness).max(L::splat(0.0)).min(top).nearest())
}

/// A group with a scale and an offset of its own: weight = d * code + m.
pub(crate) struct AffineGroup<const N: usize> {
    pub d: f16,
    pub m: f16,
    pub codes: [i8; N],
}

/// Quantizes one group.
#[inline(always)]
pub(crate) fn affine_group<L: Lanes, const N: usize>(prepared: &Prepared<N>, top: f32) -> AffineGroup<N> {
    let fit = fit::<L, N>(prepared.group(), Rule { top, min_positive: false });
    let ((d, scale), (m, offset)) = (prepared.stored(fit.scale), prepared.stored(-fit.min));
    AffineGroup { d, m, codes: codes::<L, N>(prepared.group(), scale, -offset, top) }
}

/// A block of groups: weight = (d * scale) * code - (dmin * min).
pub(crate) struct AffineBlock<const GROUPS: usize> {
    pub d: f16,
    pub dmin: f16,
    pub scales: [u8; GROUPS],
    pub mins: [u8; GROUPS],
    pub codes: [i8; 256],
}

/// Quantizes a block of `GROUPS` groups of `N`: codes up to `top`, scales and mins up to `limit`.
#[inline(always)]
pub(crate) fn affine_block<L: Lanes, const GROUPS: usize, const N: usize>(
    prepared: &Prepared<256>,
    top: f32,
    limit: f32,
) -> AffineBlock<GROUPS> {
    Search::<GROUPS, N> { prepared, top, limit }.run::<L>()
}

struct Search<'a, const GROUPS: usize, const N: usize> {
    prepared: &'a Prepared<256>,
    top: f32,
    limit: f32,
}

/// Scales and mins of the groups, whole numbers, and the steps that they count.
struct Steps<const GROUPS: usize> {
    d: (f16, f32),
    dmin: (f16, f32),
    scales: [f32; GROUPS],
    mins: [f32; GROUPS],
}

impl<const GROUPS: usize, const N: usize> Search<'_, GROUPS, N> {
    /// Each group as if its scale and min were free; then, in turns, whole numbers for them and the two steps.
    #[inline(always)]
    fn run<L: Lanes>(&self) -> AffineBlock<GROUPS> {
        let (mut scales, mut mins) = ([0f32; GROUPS], [0f32; GROUPS]);
        for g in 0..GROUPS {
            let fit = fit::<L, N>(self.prepared.part(g), Rule { top: self.top, min_positive: true });
            (scales[g], mins[g]) = (fit.scale, fit.min);
        }
        let largest = |values: &[f32; GROUPS]| values.iter().fold(0f32, |a, &b| if b > a { b } else { a });
        let (mut d, mut dmin) = (largest(&scales) / self.limit, largest(&mins) / self.limit);
        let one = (f16::ONE, 1.0);
        let mut steps = Steps { d: one, dmin: one, scales, mins };
        for round in 0..ROUNDS {
            if round > 0 {
                (d, dmin) = self.solve::<L>(&steps);
            }
            self.round::<L>(d, dmin, &mut steps);
        }
        let mut codes = [0; 256];
        for (g, out) in codes.as_chunks_mut().0.iter_mut().enumerate() {
            *out = self.codes::<L>(&steps, g);
        }
        let (scales, mins) = (steps.scales.map(|s| s as u8), steps.mins.map(|m| m as u8));
        AffineBlock { d: steps.d.0, dmin: steps.dmin.0, scales, mins, codes }
    }

    /// Goes over to new steps: of the neighbours of each scale and min the pair with the least error.
    #[inline(always)]
    fn round<L: Lanes>(&self, d: f32, dmin: f32, steps: &mut Steps<GROUPS>) {
        let (d, dmin) = (self.prepared.stored(d), self.prepared.stored(dmin));
        let (zero, limit) = (L::splat(0.0), L::splat(self.limit));
        let around_scale = L::from_fn(|lane| (lane % 3) as f32 - 1.0);
        let around_min = L::from_fn(|lane| (lane / 3) as f32 - 2.0);
        for g in 0..GROUPS {
            let scale = steps.scales[g] * steps.d.1 * inverse(d.1);
            let scale = (L::splat(scale) + around_scale).max(zero).min(limit).nearest();
            let min = steps.mins[g] * steps.dmin.1 * inverse(dmin.1);
            let min = (L::splat(min) + around_min).max(zero).min(limit).nearest();
            let best = self.errors(g, scale * L::splat(d.1), min * L::splat(dmin.1)).least();
            (steps.scales[g], steps.mins[g]) = (scale.store()[best], min.store()[best]);
        }
        (steps.d, steps.dmin) = (d, dmin);
    }

    /// The errors of 16 pairs of scale and min.
    #[inline(always)]
    fn errors<L: Lanes>(&self, g: usize, scale: L, min: L) -> L {
        let group = self.prepared.part::<N>(g);
        let (steepness, top, zero) = (scale.inverse(), L::splat(self.top), L::splat(0.0));
        let mut errors = zero;
        for (&x, &w) in group.x.iter().zip(group.w) {
            let raised = L::splat(x) + min;
            let difference = (raised * steepness).max(zero).min(top).nearest() * scale - raised;
            errors = errors + L::splat(w) * difference * difference;
        }
        errors
    }

    #[inline(always)]
    fn codes<L: Lanes>(&self, steps: &Steps<GROUPS>, g: usize) -> [i8; N] {
        let (scale, min) = (steps.d.1 * steps.scales[g], steps.dmin.1 * steps.mins[g]);
        codes::<L, N>(self.prepared.part(g), scale, min, self.top)
    }

    /// The two steps with the least error for the codes, scales and mins as they are.
    #[inline(always)]
    fn solve<L: Lanes>(&self, steps: &Steps<GROUPS>) -> (f32, f32) {
        let zero = L::splat(0.0);
        let (mut aa, mut ab, mut bb, mut ax, mut bx) = (zero, zero, zero, zero, zero);
        for g in 0..GROUPS {
            let group = self.prepared.part::<N>(g);
            let (scale, min) = (L::splat(steps.scales[g]), L::splat(steps.mins[g]));
            let (d, dmin) = (L::splat(steps.d.1), L::splat(steps.dmin.1));
            let (steepness, lowest) = ((d * scale).inverse(), dmin * min);
            let parts = group.x.as_chunks().0.iter().zip(group.w.as_chunks().0);
            for (x, w) in parts {
                let (x, w) = (L::load(x), L::load(w));
                let code = ((x + lowest) * steepness).max(zero).min(L::splat(self.top)).nearest();
                let a = code * scale;
                aa = aa + w * a * a;
                ab = ab - w * a * min;
                bb = bb + w * min * min;
                ax = ax + w * a * x;
                bx = bx - w * min * x;
            }
        }
        let (aa, ab, bb, ax, bx) = (aa.sum(), ab.sum(), bb.sum(), ax.sum(), bx.sum());
        let determinant = aa * bb - ab * ab;
        let (d, dmin) = ((bb * ax - ab * bx) / determinant, (aa * bx - ab * ax) / determinant);
        if determinant > 0.0 && d > 0.0 && dmin >= 0.0 {
            (d, dmin)
        } else if bb == 0.0 && aa > 0.0 {
            (ax / aa, steps.dmin.1)
        } else {
            (steps.d.1, steps.dmin.1)
        }
    }
}
const ROUNDS: usize = 3;
