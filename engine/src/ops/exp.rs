//! `exp` that vectorises: the range is reduced to +-ln(2)/2 (Cody & Waite's two-part ln 2), a polynomial of
//! degree 6 follows. Relative error under 2e-7.

use crate::simd::{Lanes, ROUND};

const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;

/// The polynomial's coefficients, the highest degree first, down to that of the square.
const TERMS: [f32; 6] = [1.987_569_1e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];

/// e to the power of `x`; 0 far below, infinity far above, NaN stays NaN.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let clamped = x.clamp(-87.33, 88.72);
    let rounded = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = clamped - n * LN2_HIGH - n * LN2_LOW;
    let mut p = TERMS[0];
    for term in &TERMS[1..] {
        p = p * r + term;
    }
    let value = p * r * r + r + 1.0;
    let n = (rounded.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    // 2^n in two steps: n reaches 128, one past the largest exponent.
    let half = n >> 1;
    let power = |n: i32| f32::from_bits(((n.wrapping_add(127)) << 23) as u32);
    let value = value * power(half) * power(n.wrapping_sub(half));
    let value = if x < -87.33 { 0.0 } else { value };
    if x > 88.72 { f32::INFINITY } else { value }
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `ln(1 + e^x)`.
pub fn softplus(x: f32) -> f32 {
    if x > 20.0 { x } else { libm::log1pf(exp(x)) }
}

/// [`exp`] of sixteen numbers that are 0 or less, in half of the instructions; what would be subnormal may be 0.
#[inline(always)]
pub fn exp_of_negatives<L: Lanes>(x: L) -> L {
    // Far above the least that whole numbers and their powers are exact for, and nothing by then. NaN stays NaN.
    let x = L::splat(-110.0).max(x);
    let n = x.multiply_add(L::splat(std::f32::consts::LOG2_E), L::splat(ROUND)) - L::splat(ROUND);
    let r = n.multiply_add(L::splat(-LN2_LOW), n.multiply_add(L::splat(-LN2_HIGH), x));
    let mut p = L::splat(TERMS[0]);
    for term in &TERMS[1..] {
        p = p.multiply_add(r, L::splat(*term));
    }
    (p.multiply_add(r * r, r) + L::splat(1.0)).times_power(n)
}

#[cfg(test)]
mod tests {
    use super::{exp, exp_of_negatives};
    use crate::quant::tests::isas;
    use crate::simd::{LANES, Lanes, Work};

    #[test]
    fn close_to_the_library_everywhere() {
        let mut worst = 0f64;
        for i in -870_000..880_000 {
            let x = i as f32 * 1e-4;
            let exact = (x as f64).exp();
            worst = worst.max(((exp(x) as f64 - exact) / exact).abs());
        }
        assert!(worst < 2.5e-7, "{worst}");
    }

    #[test]
    fn limits() {
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-200.0), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
    }

    struct Exp([f32; LANES]);

    impl Work for Exp {
        type Output = [f32; LANES];
        #[inline(always)]
        fn run<L: Lanes>(self) -> [f32; LANES] {
            exp_of_negatives(L::load(&self.0)).store()
        }
    }

    #[test]
    fn sixteen_are_as_close_on_every_isa() {
        for isa in isas() {
            let mut worst = 0f64;
            for i in 0..60_000 {
                let x = std::array::from_fn(|lane| -((i * LANES + lane) as f32) * 9e-5);
                for (found, x) in isa.run(Exp(x)).into_iter().zip(x) {
                    let exact = (x as f64).exp();
                    worst = worst.max(((found as f64 - exact) / exact).abs());
                }
            }
            assert!(worst < 2.5e-7, "{worst} on {isa}");
            let mut x = [f32::NEG_INFINITY; LANES];
            x[1..4].copy_from_slice(&[0.0, -200.0, f32::NAN]);
            let found = isa.run(Exp(x));
            assert_eq!(found[..3], [0.0, 1.0, 0.0], "{isa}");
            assert!(found[3].is_nan(), "{isa}");
        }
    }
}
