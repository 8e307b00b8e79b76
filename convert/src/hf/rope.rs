//! Rotary positions: keys for frequency base and scaling as llama.cpp has them, and divisors of the frequencies where
//! keys cannot say what the configuration does.

use super::keys::Pairs;
use super::params::{Dim, Params};
use super::rotation::{FIELDS, Rotation, THETA, has_factors, rotated};
use super::yarn::Yarn;
use moewe_engine::Result;
use moewe_engine::gguf::Value;

/// `rope.freq_base`, `rope.dimension_count` and the scaling keys.
pub(super) fn keys(params: &Params) -> Result<Pairs> {
    let rotation = Rotation::of(params)?;
    let (own, other) = match params.is("deepseek_v4") {
        true => ("attention.compress_rope_freq_base", "rope.freq_base"),
        false => ("rope.freq_base", "rope.freq_base_swa"),
    };
    let mut pairs: Pairs = vec![(own, Value::from(rotation.theta()? as f32))];
    pairs.extend(rotation.local.map(|local| (other, Value::from(local as f32))));
    pairs.push(("rope.dimension_count", Value::from(rotated(params)? as u32)));
    match rotation.kind()? {
        "default" => {}
        "linear" => {
            // DeepSeek's attention takes this field of any scaling.
            let scaled = params.is_latent() && rotation.number("mscale_all_dim")?.unwrap_or(0.0) != 0.0;
            params.refuse(scaled, "mscale_all_dim with linear scaling")?;
            pairs.push(("rope.scaling.type", "linear".into()));
            pairs.push(("rope.scaling.factor", (rotation.factor()? as f32).into()));
        }
        "llama3" => {
            params.refuse(!has_factors(params), "llama3 scaling outside of Llama, Mistral and Mixtral")?
        }
        _ => pairs.extend(Yarn::of(params, &rotation)?.keys(params)?),
    }
    Ok(pairs)
}

/// The keys of Gemma 4, whose two kinds of layers have heads of two widths.
pub(super) fn proportional_keys(params: &Params) -> Result<Pairs> {
    let rotation = Rotation::of(params)?;
    let (wide, usual) = (params.dim(Dim::WideHead)?, rotated(params)?);
    let local = rotation.local.unwrap_or(THETA);
    Ok(vec![
        ("rope.freq_base", Value::from(rotation.theta()? as f32)),
        ("rope.freq_base_swa", Value::from(local as f32)),
        ("rope.dimension_count", Value::from(wide as u32)),
        ("rope.dimension_count_swa", Value::from(usual as u32)),
    ])
}

/// Divisors of its frequencies: pairs beyond the share that turns are divided until they stand still. llama.cpp pairs
/// the halves of a whole head, so leaving them out would turn others.
pub(super) fn proportional_factors(params: &Params) -> Result<Option<Vec<f32>>> {
    let (rotation, wide) = (Rotation::of(params)?, params.dim(Dim::WideHead)?);
    let turning = (wide as f64 * rotation.part(params)? / 2.0) as usize;
    let mut factors = vec![1.0; turning];
    factors.resize((wide / 2) as usize, 1e30);
    Ok(Some(factors))
}

/// Divisors of the frequencies, one per rotated pair, where keys cannot say what the configuration does.
pub(super) fn factors(params: &Params) -> Result<Option<Vec<f32>>> {
    let rotation = Rotation::of(params)?;
    match rotation.kind()? {
        "llama3" => llama3_factors(params, &rotation).map(Some),
        "yarn" => Yarn::of(params, &rotation)?.factors(params),
        _ => Ok(None),
    }
}

/// Fields of the rotation that nothing reads, with their place.
pub(super) fn unread(params: &Params) -> Result<Vec<String>> {
    let rotation = Rotation::of(params)?;
    let kind = rotation.kind()?;
    let read = FIELDS.iter().find(|row| row.0 == kind).map_or(&[][..], |row| row.1);
    let is_read = |name: &&String| {
        let name = name.as_str();
        let deep = params.is_latent() && name == "mscale_all_dim";
        let of_images = OF_IMAGES.contains(&name) && SEEING.iter().any(|class| params.is(class));
        read.contains(&name) || deep || of_images || matches!(name, "rope_theta" | "rope_type" | "type")
    };
    let unread = rotation.fields.keys().filter(|name| !is_read(name));
    let mut unread: Vec<_> = unread.map(|name| format!("{name} of the rotation")).collect();
    unread.sort();
    Ok(unread)
}

/// Fields about the positions of images, and the classes that have them.
const OF_IMAGES: &[&str] = &["mrope_section", "mrope_interleaved"];
const SEEING: &[&str] = &["qwen3_5_moe_text", "qwen3_5_text"];

/// Divisors of the frequencies that Llama 3 scaling stands for, one per rotated pair (transformers,
/// `_compute_llama3_parameters`): long waves are slowed by `factor`, short ones kept, those between blended.
fn llama3_factors(params: &Params, rotation: &Rotation) -> Result<Vec<f32>> {
    let factor = rotation.factor()?;
    let (low, high) = (rotation.required("low_freq_factor")?, rotation.required("high_freq_factor")?);
    let original = rotation.original_context(params)?;
    let theta = rotation.theta()?;
    let rotated = rotated(params)?;
    let divisor = |pair: u64| {
        let wavelength = std::f64::consts::TAU * theta.powf((2 * pair) as f64 / rotated as f64);
        if wavelength < original / high {
            1.0
        } else if wavelength > original / low {
            factor
        } else {
            let smooth = (original / wavelength - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    Ok((0..rotated / 2).map(|pair| divisor(pair) as f32).collect())
}

#[cfg(test)]
#[path = "rope_tests.rs"]
mod tests;
