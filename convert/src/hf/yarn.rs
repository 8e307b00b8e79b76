//! YaRN as transformers computes it (`_compute_yarn_parameters`): which frequencies are stretched, and the factor on
//! cosines and sines. What GGUF's keys cannot say becomes a divisor per frequency, or is refused.

use super::keys::Pairs;
use super::params::Params;
use super::rotation::{Rotation, has_factors, rotated};
use moewe_engine::Result;
use moewe_engine::gguf::Value;

/// Differences that are rounding.
const ROUNDING: f64 = 1e-6;

pub(super) struct Yarn {
    factor: f64,
    theta: f64,
    rotated: u64,
    original: f64,
    fast: f64,
    slow: f64,
    stated: [Option<f64>; 2], // beta_fast, beta_slow as the configuration has them
    attention: f64,           // on cosines and sines
    mscale_all: f64,
    truncate: bool,
}

impl Yarn {
    pub(super) fn of(params: &Params, rotation: &Rotation) -> Result<Self> {
        let original = rotation.original_context(params)?;
        let factor = rotation.factor()?;
        // Zero counts as absent, as in Python's `or`.
        let number = |name: &str| Ok::<_, moewe_engine::Error>(rotation.number(name)?.filter(|n| *n != 0.0));
        let (mscale, mscale_all) = (number("mscale")?, number("mscale_all_dim")?);
        let attention = match (rotation.number("attention_factor")?, mscale, mscale_all) {
            (Some(attention), ..) => attention,
            (None, Some(mscale), Some(all)) => magnitude(factor, mscale) / magnitude(factor, all),
            _ => magnitude(factor, 1.0),
        };
        let stated = [number("beta_fast")?, number("beta_slow")?];
        Ok(Self {
            factor,
            theta: rotation.theta()?,
            rotated: rotated(params)?,
            original,
            fast: stated[0].unwrap_or(32.0),
            slow: stated[1].unwrap_or(1.0),
            stated,
            attention,
            mscale_all: mscale_all.unwrap_or(0.0),
            truncate: rotation.flag("truncate", true)?,
        })
    }

    /// The scaling keys.
    pub(super) fn keys(&self, params: &Params) -> Result<Pairs> {
        let has_no_factor = params.is_latent() || params.is("deepseek_v4");
        if has_no_factor {
            // Its files have no factor on cosines and sines; there is none where both are equal, as in all published.
            let what =
                format!("a factor of {} on cosines and sines (mscale, mscale_all_dim)", self.attention);
            params.refuse((self.attention - 1.0).abs() > ROUNDING, &what)?;
        }
        if !self.fits(params) {
            let what = format!("YaRN with truncate: {}", self.truncate);
            params.refuse(!has_factors(params), &what)?;
            // The tensor `rope_freqs` holds the rest.
            return Ok(vec![("rope.scaling.attn_factor", (self.attention as f32).into())]);
        }
        let mut pairs: Pairs = vec![
            ("rope.scaling.type", "yarn".into()),
            ("rope.scaling.factor", (self.factor as f32).into()),
            ("rope.scaling.original_context_length", (self.original as u32).into()),
        ];
        for (name, value) in
            ["rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow"].into_iter().zip(self.stated)
        {
            pairs.extend(value.map(|value| (name, Value::from(value as f32))));
        }
        if params.is_latent() {
            // llama.cpp expects a tenth of mscale_all_dim here and undoes that when it loads.
            let multiplier = Value::from((0.1 * self.mscale_all) as f32);
            pairs
                .extend((self.mscale_all != 0.0).then_some(("rope.scaling.yarn_log_multiplier", multiplier)));
            return Ok(pairs);
        }
        if has_no_factor {
            return Ok(pairs);
        }
        // transformers takes the factor on cos and sin as given; llama.cpp multiplies what YaRN's formula yields.
        let beyond = self.attention / (1.0 + 0.1 * self.factor.ln());
        if (beyond - 1.0).abs() > ROUNDING {
            pairs.push(("rope.scaling.attn_factor", (beyond as f32).into()));
        }
        Ok(pairs)
    }

    /// Divisors of the frequencies, where the keys cannot say which are stretched.
    pub(super) fn factors(&self, params: &Params) -> Result<Option<Vec<f32>>> {
        let divisors = || self.divisors(self.truncate).into_iter().map(|divisor| divisor as f32).collect();
        Ok((!self.fits(params)).then(divisors))
    }

    /// Whether whoever reads the keys stretches the same frequencies: gpt-oss without truncating, all others with.
    fn fits(&self, params: &Params) -> bool {
        let (ours, theirs) = (self.divisors(self.truncate), self.divisors(!params.is("gpt_oss")));
        ours.iter().zip(theirs).all(|(ours, theirs)| (ours / theirs - 1.0).abs() < ROUNDING)
    }

    fn divisors(&self, truncate: bool) -> Vec<f64> {
        let dims = self.rotated as f64;
        let pair = |rotations: f64| {
            dims * (self.original / (rotations * std::f64::consts::TAU)).ln() / (2.0 * self.theta.ln())
        };
        let (mut low, mut high) = (pair(self.fast), pair(self.slow));
        if truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, mut high) = (low.max(0.0), high.min(dims - 1.0));
        if low == high {
            high += 0.001;
        }
        let ramp = |j: u64| ((j as f64 - low) / (high - low)).clamp(0.0, 1.0);
        (0..self.rotated / 2).map(ramp).map(|ramp| 1.0 / (ramp / self.factor + 1.0 - ramp)).collect()
    }
}

/// transformers' `get_mscale`.
fn magnitude(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}
