//! Activations of the FFN, by name and by row.

use super::exp;
use crate::simd::{Isa, Lanes, Work};

/// The function between up and down, and how the gate enters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// `silu(gate) * up`, or `silu(up)` without a gate.
    Silu,
    /// GELU through the error function, exact.
    GeluErf,
    /// GELU through tanh.
    GeluTanh,
    /// `max(0, x)`.
    Relu,
    /// `max(0, x)^2`.
    ReluSquared,
    /// gpt-oss: `g * sigmoid(1.702 g) * (u + 1)` with `g <= 7` and `-7 <= u <= 7`.
    SwigluOai,
    /// `silu(g) * u` with `g` at most this, and `u` at most this far from 0 (DeepSeek V4).
    SwigluClamped(f32),
}

impl Activation {
    /// The scalar function.
    #[inline(always)]
    pub fn apply(self, x: f32) -> f32 {
        match self {
            Self::Silu => x / (1.0 + exp(-x)),
            Self::GeluErf => 0.5 * x * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2)),
            Self::GeluTanh => {
                let inner = 0.797_884_6 * (x + 0.044_715 * x * x * x);
                // tanh(y) = 1 - 2 / (e^(2y) + 1)
                0.5 * x * (2.0 - 2.0 / (exp(2.0 * inner) + 1.0))
            }
            Self::Relu => x.max(0.0),
            Self::ReluSquared => x.max(0.0) * x.max(0.0),
            Self::SwigluOai => {
                let x = x.min(7.0);
                x / (1.0 + exp(-1.702 * x))
            }
            Self::SwigluClamped(limit) => Self::Silu.apply(x.min(limit)),
        }
    }

    /// `up[i] = f(gate[i]) * up[i]`, or `f(up[i])` where there is no gate; the same on every instruction set.
    pub fn combine(self, isa: Isa, gate: Option<&[f32]>, up: &mut [f32]) {
        isa.run(Combine { activation: self, gate, up });
    }

    #[inline(always)]
    fn combine_body(self, gate: Option<&[f32]>, up: &mut [f32]) {
        match (self, gate) {
            (Self::SwigluOai, Some(gate)) => {
                for (up, gate) in up.iter_mut().zip(gate) {
                    *up = self.apply(*gate) * (up.clamp(-7.0, 7.0) + 1.0);
                }
            }
            (Self::SwigluClamped(limit), Some(gate)) => {
                for (up, gate) in up.iter_mut().zip(gate) {
                    *up = Self::Silu.apply(gate.min(limit)) * up.min(limit).max(-limit);
                }
            }
            (Self::Silu, Some(gate)) => {
                for (up, gate) in up.iter_mut().zip(gate) {
                    *up *= Self::Silu.apply(*gate);
                }
            }
            (_, Some(gate)) => up.iter_mut().zip(gate).for_each(|(up, gate)| *up *= self.apply(*gate)),
            (_, None) => up.iter_mut().for_each(|up| *up = self.apply(*up)),
        }
    }
}

struct Combine<'a> {
    activation: Activation,
    gate: Option<&'a [f32]>,
    up: &'a mut [f32],
}

impl Work for Combine<'_> {
    type Output = ();

    /// Plain loops, which the compiler turns into the instructions of the set.
    #[inline(always)]
    fn run<L: Lanes>(self) {
        self.activation.combine_body(self.gate, self.up);
    }
}

#[cfg(test)]
mod tests {
    use super::Activation::*;
    use crate::simd::Isa;

    #[test]
    fn both_sides_are_clamped_and_the_gate_from_above_alone() {
        for isa in Isa::available() {
            let mut up = [1.0, 4.0, -4.0, -4.0];
            SwigluClamped(1.5).combine(isa, Some(&[1.0, 9.0, 9.0, -9.0]), &mut up);
            let silu = |x: f32| Silu.apply(x);
            let expected = [silu(1.0), 1.5 * silu(1.5), -1.5 * silu(1.5), -1.5 * silu(-9.0)];
            for (found, expected) in up.iter().zip(expected) {
                assert!((found - expected).abs() < 1e-6, "{isa}: {up:?}");
            }
        }
    }

    #[test]
    fn known_values() {
        // Computed with mpmath to nine digits.
        for (activation, x, expected) in [
            (Silu, 1.0, 0.731_058_6),
            (Silu, -3.0, -0.142_277_6),
            (GeluErf, 1.0, 0.841_344_8),
            (GeluErf, -2.7, -0.009_360_8),
            (GeluTanh, 1.0, 0.841_192),
            (Relu, -1.0, 0.0),
            (ReluSquared, -1.0, 0.0),
            (ReluSquared, 3.0, 9.0),
            (SwigluOai, 9.0, 6.999_953),
            (SwigluClamped(1.5), 9.0, 1.226_361_7),
            (SwigluClamped(1.5), -3.0, -0.142_277_6),
        ] {
            let found: f32 = activation.apply(x);
            assert!((found - expected).abs() < 2e-6, "{activation:?}({x}) = {found}, expected {expected}");
        }
    }
}
