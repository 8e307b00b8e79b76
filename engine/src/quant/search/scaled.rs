//! Search for a scale alone: weight = scale * code, where codes are whole numbers or the values of a table.
//!
//! For one group with its scale in F16 (Q5_0, IQ4_NL), for the groups of a block whose scales are small whole
//! numbers times an F16 (Q3_K, Q6_K, IQ4_XS), and for powers of two (MXFP4).

use super::{Group, Prepared, Scalars, inverse};
use crate::simd::{LANES, Lanes};
use half::f16;

/// The codes that a format has, as numbers.
pub(crate) trait Codebook {
    /// The code of largest magnitude; a scale that gives it to the largest weight is where the search starts.
    const EXTREME: f32;
    /// How far apart codes are, about.
    const STEP: f32;
    /// The nearest code.
    fn nearest<L: Lanes>(value: L) -> L;
}

/// Whole numbers from `-TOP` to `TOP - 1`.
pub(crate) struct Linear<const TOP: i32>;

impl<const TOP: i32> Codebook for Linear<TOP> {
    const EXTREME: f32 = -TOP as f32;
    const STEP: f32 = 1.0;
    #[inline(always)]
    fn nearest<L: Lanes>(value: L) -> L {
        Scalars::Whole(-TOP as f32, (TOP - 1) as f32).nearest(value)
    }
}

/// The best of 16 starts, each after rounding to codes and solving for the scale that suits these codes. Also how
/// far it lowers the squared error.
#[inline(always)]
fn best_start<C: Codebook, L: Lanes, const N: usize>(group: Group<'_, N>, steepness: L) -> (f32, f32) {
    let zero = L::splat(0.0);
    let (mut qq, mut qx) = (zero, zero);
    for (&x, &w) in group.x.iter().zip(group.w) {
        let x = L::splat(x);
        let code = C::nearest(x * steepness);
        let weighted = L::splat(w) * code;
        qq = qq + weighted * code;
        qx = qx + weighted * x;
    }
    let scale = qx * qq.inverse();
    let loss = zero - qx * scale;
    let best = loss.least();
    (scale.store()[best], -loss.store()[best])
}

/// The best scale of a group; its sign decides which end of the codes the largest weight gets.
#[inline(always)]
fn fit<C: Codebook, L: Lanes, const N: usize>(group: Group<'_, N>) -> f32 {
    let (low, high) = group.limits::<L>();
    let extreme = if -low > high { low } else { high };
    if extreme == 0.0 {
        return 0.0;
    }
    // Ten starts with one sign, six with the other; then all around the best.
    let spread = 0.18 * C::STEP / -C::EXTREME;
    let coarse = L::from_fn(|lane| {
        let (sign, step) = if lane < 10 { (1.0, lane as f32 - 5.0) } else { (-1.0, lane as f32 - 13.0) };
        sign * (1.0 + step * spread)
    });
    let fine = L::from_fn(|lane| 1.0 + (lane as f32 - 7.5) * spread / 8.0);
    let (mut scale, mut gain) = (extreme / C::EXTREME, 0.0);
    for factors in [coarse, fine] {
        let found = best_start::<C, L, N>(group, factors * L::splat(inverse(scale)));
        (scale, gain) = if found.1 > gain { found } else { (scale, gain) };
    }
    scale
}

/// The errors of 16 scales.
#[inline(always)]
fn errors<C: Codebook, L: Lanes, const N: usize>(group: Group<'_, N>, scale: L) -> L {
    let steepness = scale.inverse();
    let mut errors = L::splat(0.0);
    for (&x, &w) in group.x.iter().zip(group.w) {
        let x = L::splat(x);
        let difference = C::nearest(x * steepness) * scale - x;
        errors = errors + L::splat(w) * difference * difference;
    }
    errors
}

/// The codes of a group.
#[inline(always)]
fn codes<C: Codebook, L: Lanes, const N: usize>(group: Group<'_, N>, scale: f32) -> [i8; N] {
    let steepness = L::splat(inverse(scale));
    group.codes(|x: L| C::nearest(x * steepness))
}

/// Quantizes one group with an F16 scale of its own.
#[inline(always)]
pub(crate) fn scaled_group<C: Codebook, L: Lanes, const N: usize>(prepared: &Prepared<N>) -> (f16, [i8; N]) {
    let (d, scale) = prepared.stored(fit::<C, L, N>(prepared.group()));
    (d, codes::<C, L, N>(prepared.group(), scale))
}

/// Quantizes one group whose scale is a power of two, given by an exponent byte; `scale_of` says what it means.
#[inline(always)]
pub(crate) fn power_of_two_group<C: Codebook, L: Lanes, const N: usize>(
    prepared: &Prepared<N>,
    scale_of: fn(u8) -> f32,
) -> (u8, [i8; N]) {
    // The largest weight lies in [1, 2) units: 16 exponents around the one that gives it the extreme code. Above
    // 252 the extreme code would be infinite.
    let unit = (prepared.unit.to_bits() >> 23) as i32;
    let exponent = |lane: usize| (unit + lane as i32 - 9).clamp(0, 252) as u8;
    let scales = L::from_fn(|lane| scale_of(exponent(lane)) / prepared.unit);
    let best = errors::<C, L, N>(prepared.group(), scales).least();
    (exponent(best), codes::<C, L, N>(prepared.group(), scales.store()[best]))
}

/// A block of groups: weight = (d * scale) * code.
pub(crate) struct ScaledBlock<const GROUPS: usize> {
    pub d: f16,
    pub scales: [i8; GROUPS],
    pub codes: [i8; 256],
}

/// Quantizes a block of `GROUPS` groups of `N` with scales from `-limit` to `limit - 1`.
#[inline(always)]
pub(crate) fn scaled_block<C: Codebook, L: Lanes, const GROUPS: usize, const N: usize>(
    prepared: &Prepared<256>,
    limit: f32,
) -> ScaledBlock<GROUPS> {
    let mut fits = [0f32; GROUPS];
    for (g, fit) in fits.iter_mut().enumerate() {
        *fit = self::fit::<C, L, N>(prepared.part(g));
    }
    let extreme = fits.iter().fold(0f32, |most, &scale| if scale.abs() > most.abs() { scale } else { most });
    let (mut d, mut scales) = ((f16::ONE, 1.0), fits);
    let mut better = -extreme / limit;
    for round in 0..ROUNDS {
        if round > 0 {
            better = solve_step::<C, L, GROUPS, N>(prepared, d.1, &scales);
        }
        let before = scales.map(|scale| scale * d.1);
        d = prepared.stored(better);
        scales = round_steps::<C, L, GROUPS, N>(prepared, d.1, before, limit);
    }
    let mut all = [0; 256];
    for (g, out) in all.as_chunks_mut().0.iter_mut().enumerate() {
        *out = codes::<C, L, N>(prepared.part(g), d.1 * scales[g]);
    }
    ScaledBlock { d: d.0, scales: scales.map(|scale| scale as i8), codes: all }
}
const ROUNDS: usize = 2;

/// Rounds scales to steps of `d`: of 16 neighbours the one with the least error.
#[inline(always)]
fn round_steps<C: Codebook, L: Lanes, const GROUPS: usize, const N: usize>(
    prepared: &Prepared<256>,
    d: f32,
    mut scales: [f32; GROUPS],
    limit: f32,
) -> [f32; GROUPS] {
    for (g, scale) in scales.iter_mut().enumerate() {
        let near = L::splat(*scale * inverse(d)) + L::from_fn(|lane| lane as f32 - (LANES / 2) as f32);
        let near = near.nearest().max(L::splat(-limit)).min(L::splat(limit - 1.0));
        *scale = near.store()[errors::<C, L, N>(prepared.part(g), near * L::splat(d)).least()];
    }
    scales
}

/// The step with the least error for given codes and scales.
#[inline(always)]
fn solve_step<C: Codebook, L: Lanes, const GROUPS: usize, const N: usize>(
    prepared: &Prepared<256>,
    d: f32,
    scales: &[f32; GROUPS],
) -> f32 {
    let (mut qq, mut qx) = (L::splat(0.0), L::splat(0.0));
    for (g, &scale) in scales.iter().enumerate() {
        let group = prepared.part::<N>(g);
        let (scale, steepness) = (L::splat(scale), L::splat(inverse(d * scale)));
        for (x, w) in group.x.as_chunks().0.iter().zip(group.w.as_chunks().0) {
            let (x, w) = (L::load(x), L::load(w));
            let product = C::nearest(x * steepness) * scale;
            qq = qq + w * product * product;
            qx = qx + w * product * x;
        }
    }
    let (qq, qx) = (qq.sum(), qx.sum());
    if qq > 0.0 { qx / qq } else { d }
}
