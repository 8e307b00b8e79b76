//! Rotary frequencies of a file: base, and the scalings that stretch a context (linear, YaRN, llama3 factors).

use super::Architecture;
use super::keys::Keys;
use super::mixer::grouped;
use crate::error::{Error, Result};
use crate::ops::{Rope, RopeStyle};

/// The rotation that a file's keys describe, for heads of `head_length`.
pub(super) fn read(
    keys: &Keys<'_>,
    architecture: &Architecture,
    style: RopeStyle,
    head_length: usize,
) -> Result<Rope> {
    let dims = keys.number("rope.dimension_count", head_length)?.unwrap_or(head_length);
    if dims % 2 != 0 || dims == 0 {
        return Err(keys.wrong("rope.dimension_count", "an even number above 0", dims));
    }
    let base = keys.float("rope.freq_base")?.unwrap_or(10_000.0);
    if base <= 0.0 {
        return Err(keys.wrong("rope.freq_base", "above 0", base));
    }
    read_with(keys, architecture, (style, dims), base)
}

/// The same with a base from elsewhere, for so many columns of a head.
pub(super) fn read_with(
    keys: &Keys<'_>,
    architecture: &Architecture,
    (style, dims): (RopeStyle, usize),
    base: f32,
) -> Result<Rope> {
    let mut frequencies = plain(base, dims);
    let factor = read_factor(keys)?;
    // As llama.cpp reads files: a factor without a type is linear.
    let kind = keys.text("rope.scaling.type")?.unwrap_or("linear");
    let mut magnitude = keys.float("rope.scaling.attn_factor")?.unwrap_or(1.0)
        * keys.float("rope.scaling.yarn_attn_factor")?.unwrap_or(1.0);
    match kind {
        "none" => {}
        "linear" => frequencies.iter_mut().for_each(|frequency| *frequency /= factor),
        "yarn" => {
            let yarn = Yarn::read(keys, architecture, factor, base)?;
            yarn.scale(&mut frequencies);
            if yarn.extrapolation != 0.0 {
                magnitude *= 1.0 + 0.1 * factor.ln();
            }
        }
        other => return Err(keys.wrong("rope.scaling.type", "none, linear or yarn", other)),
    }
    divide_by_factors(keys, &mut frequencies)?;
    Ok(Rope { style, frequencies, magnitude })
}

/// An architecture's [`ropes`](Architecture::ropes): one for all heads, or none where positions are learned.
pub(super) fn of_heads(keys: &Keys<'_>, architecture: &Architecture) -> Result<Vec<Rope>> {
    let Some(style) = architecture.rope else { return Ok(vec![]) };
    Ok(vec![read(keys, architecture, style, grouped::read_key_length(keys)?)?])
}

/// How many times as far positions are to reach; `rope.scale_linear` is the name of 2023, 0 says "not at all".
fn read_factor(keys: &Keys<'_>) -> Result<f32> {
    for name in ["rope.scaling.factor", "rope.scale_linear"] {
        match keys.float(name)? {
            None => {}
            Some(0.0) => return Ok(1.0),
            Some(factor) if factor > 0.0 => return Ok(factor),
            Some(factor) => return Err(keys.wrong(name, "above 0", factor)),
        }
    }
    Ok(1.0)
}

/// `base^(-2j / dims)` of every pair.
pub(super) fn plain(base: f32, dims: usize) -> Vec<f32> {
    (0..dims / 2).map(|j| (base as f64).powf(-2.0 * j as f64 / dims as f64) as f32).collect()
}

/// Peng et al. 2023, "YaRN": high frequencies stay, low ones are interpolated, a ramp in between.
struct Yarn {
    factor: f32,
    base: f64,
    original_context: f64,
    beta_fast: f64,
    beta_slow: f64,
    /// Share of the extrapolation: 1 in every model, 0 leaves interpolation alone.
    extrapolation: f32,
    whole_pairs: bool,
}

impl Yarn {
    fn read(keys: &Keys<'_>, architecture: &Architecture, factor: f32, base: f32) -> Result<Self> {
        let original = keys.number("rope.scaling.original_context_length", 1 << 28)?;
        Ok(Self {
            factor,
            base: base as f64,
            original_context: original.map_or_else(|| keys.require("context_length", 1 << 28), Ok)? as f64,
            beta_fast: keys.float("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0) as f64,
            beta_slow: keys.float("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0) as f64,
            // llama.cpp writes -1 for "as usual".
            extrapolation: keys
                .float("rope.scaling.yarn_ext_factor")?
                .filter(|share| *share >= 0.0)
                .unwrap_or(1.0),
            whole_pairs: architecture.yarn_whole_pairs,
        })
    }

    /// The pair that turns `rotations` times within the original context.
    fn pair(&self, rotations: f64, dims: f64) -> f64 {
        dims * (self.original_context / (rotations * std::f64::consts::TAU)).ln() / (2.0 * self.base.ln())
    }

    fn scale(&self, frequencies: &mut [f32]) {
        let dims = frequencies.len() as f64 * 2.0;
        let (mut low, mut high) = (self.pair(self.beta_fast, dims), self.pair(self.beta_slow, dims));
        if self.whole_pairs {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, high) = (low.max(0.0), high.min(dims - 1.0));
        for (j, frequency) in frequencies.iter_mut().enumerate() {
            let ramp = ((j as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0) as f32;
            let kept = (1.0 - ramp) * self.extrapolation;
            *frequency = *frequency / self.factor * (1.0 - kept) + *frequency * kept;
        }
    }
}

/// llama3 scaling arrives as one divisor per pair in the tensor `rope_freqs.weight`.
fn divide_by_factors(keys: &Keys<'_>, frequencies: &mut [f32]) -> Result<()> {
    let Some(tensor) = keys.gguf.tensor("rope_freqs.weight") else { return Ok(()) };
    if tensor.elements() != frequencies.len() as u64 {
        let place = "tensor `rope_freqs.weight`";
        return Err(Error::malformed(place, format!("{} values", frequencies.len()), tensor.elements()));
    }
    let mut factors = vec![0f32; frequencies.len()];
    (tensor.format.dequantize)(&keys.gguf.bytes(tensor), &mut factors);
    if let Some(wrong) = factors.iter().find(|factor| !factor.is_finite() || **factor <= 0.0) {
        return Err(Error::malformed("tensor `rope_freqs.weight`", "factors above 0", wrong));
    }
    frequencies.iter_mut().zip(&factors).for_each(|(frequency, factor)| *frequency /= factor);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::{Bytes, Gguf, Metadata, Value, Writer};

    fn rope(entries: &[(&str, Value)]) -> Result<Rope> {
        let mut metadata = Metadata::new();
        metadata.set("x.context_length", 64u32);
        entries.iter().for_each(|(key, value)| metadata.set(format!("x.rope.{key}"), value.clone()));
        let none: Vec<(String, _, _)> = vec![];
        let file = Writer::new(metadata, none).unwrap().over(Vec::new()).unwrap().into_inner().unwrap();
        let gguf = Gguf::from_bytes(Bytes::from(file)).unwrap();
        read(&Keys::new(&gguf, "x"), &Architecture::LLAMA, RopeStyle::Norm, 8)
    }

    #[test]
    fn linear_in_every_spelling() {
        let (four, kind) = (Value::F32(4.0), |name: &str| ("scaling.type", Value::from(name)));
        let expected = |factor: f32| plain(10_000.0, 8).iter().map(|f| f / factor).collect::<Vec<_>>();
        for (entries, factor) in [
            (vec![], 1.0),
            (vec![("scaling.factor", four.clone()), kind("linear")], 4.0),
            (vec![("scaling.factor", four.clone())], 4.0),
            (vec![("scale_linear", four.clone())], 4.0),
            (vec![("scale_linear", four.clone()), ("scaling.factor", Value::F32(2.0))], 2.0),
            (vec![("scale_linear", Value::F32(0.0))], 1.0),
            (vec![("scaling.factor", four.clone()), kind("none")], 1.0),
        ] {
            let rope = rope(&entries).unwrap();
            assert_eq!((rope.frequencies, rope.magnitude), (expected(factor), 1.0), "{entries:?}");
        }
        for name in ["scaling.factor", "scale_linear"] {
            let error = rope(&[(name, Value::F32(-2.0))]).unwrap_err().to_string();
            assert!(error.contains(&format!("key `x.rope.{name}`: expected above 0")), "{error}");
        }
        assert!(rope(&[kind("su")]).unwrap_err().to_string().contains("none, linear or yarn"));
    }

    #[test]
    fn yarn_extrapolates_as_much_as_it_is_told() {
        let with = |extrapolation: Option<f32>| {
            let mut entries = vec![("scaling.factor", Value::F32(4.0)), ("scaling.type", "yarn".into())];
            entries.extend(extrapolation.map(|share| ("scaling.yarn_ext_factor", Value::F32(share))));
            rope(&entries).unwrap()
        };
        let usual = with(None);
        for same in [1.0, -1.0] {
            assert_eq!(with(Some(same)).frequencies, usual.frequencies, "{same}");
        }
        let interpolated = with(Some(0.0));
        assert_eq!(interpolated.frequencies, plain(10_000.0, 8).iter().map(|f| f / 4.0).collect::<Vec<_>>());
        assert_eq!(interpolated.magnitude, 1.0);
        assert!(usual.magnitude > 1.0 && usual.frequencies != interpolated.frequencies);
    }
}
