//! Rotary positions: frequency base and scaling of both configuration spellings, `rope_parameters` (transformers 5,
//! per layer type where they differ) and `rope_theta` with `rope_scaling` (transformers 4). Keys as llama.cpp has them.

use super::keys::Pairs;
use super::params::{Dim, Params};
use moewe_engine::gguf::Value;
use moewe_engine::{Error, Result};

/// A field of the rotary parameters under all its paths; where layer types differ, full attention counts.
macro_rules! field {
    ($($name:literal),+) => {
        &[$(
            concat!("rope_parameters.full_attention.", $name),
            concat!("rope_parameters.", $name),
            concat!("rope_scaling.", $name),
        )+]
    };
}

/// `rope.freq_base`, `rope.dimension_count` and the scaling keys.
pub(super) fn keys(params: &Params) -> Result<Pairs> {
    let mut pairs = base(params)?;
    pairs.push(("rope.dimension_count", Value::from(rotated(params)? as u32)));
    let factor = params.float(field!("factor"))?;
    match kind(params)? {
        "default" | "llama3" => {} // llama3 becomes the tensor `rope_freqs`
        "linear" => {
            pairs.push(("rope.scaling.type", "linear".into()));
            pairs.push(("rope.scaling.factor", required(factor)?.into()));
        }
        "yarn" => pairs.extend(yarn(params, required(factor)?)?),
        other => {
            let hint = "supported are default, linear, llama3 and yarn";
            return Err(Error::unsupported(format!("config: rotary scaling {other:?}"), hint));
        }
    }
    Ok(pairs)
}

fn required(factor: Option<f32>) -> Result<f32> {
    factor
        .filter(|&factor| factor > 0.0)
        .ok_or_else(|| Error::malformed("config, rope factor", "a positive number", "none"))
}

fn base(params: &Params) -> Result<Pairs> {
    let base = params.float(&[
        "rope_parameters.full_attention.rope_theta",
        "rope_parameters.rope_theta",
        "rope_theta",
    ])?;
    let local = params.float(&["rope_parameters.sliding_attention.rope_theta", "rope_local_base_freq"])?;
    let default = if params.text(&["model_type"])?.is_some_and(|kind| kind.starts_with("gemma3")) {
        1e6
    } else {
        10_000.0
    };
    let mut pairs = vec![("rope.freq_base", Value::from(base.unwrap_or(default)))];
    pairs.extend(local.map(|local| ("rope.freq_base_swa", Value::from(local))));
    Ok(pairs)
}

/// Elements of a head that are rotated.
fn rotated(params: &Params) -> Result<u64> {
    match params.maybe(Dim::HeadRope)? {
        Some(rotated) => Ok(rotated),
        None => params.dim(Dim::Head),
    }
}

fn kind(params: &Params) -> Result<&str> {
    Ok(params.text(field!("rope_type", "type"))?.unwrap_or("default"))
}

fn yarn(params: &Params, factor: f32) -> Result<Pairs> {
    let original = match params.uint(field!("original_max_position_embeddings"))? {
        Some(original) => original,
        None => params.dim(Dim::Context)?,
    };
    let mut pairs: Pairs = vec![
        ("rope.scaling.type", "yarn".into()),
        ("rope.scaling.factor", factor.into()),
        ("rope.scaling.original_context_length", (original.min(u32::MAX as u64) as u32).into()),
    ];
    for (name, paths) in [
        ("rope.scaling.yarn_ext_factor", field!("extrapolation_factor") as &[&str]),
        ("rope.scaling.yarn_beta_fast", field!("beta_fast")),
        ("rope.scaling.yarn_beta_slow", field!("beta_slow")),
    ] {
        pairs.extend(params.float(paths)?.map(|value| (name, Value::from(value))));
    }
    // transformers takes the factor on cos and sin as given; llama.cpp multiplies what YaRN's formula yields.
    if let Some(whole) = params.float(field!("attention_factor", "attn_factor"))? {
        pairs.push(("rope.scaling.attn_factor", (whole / (1.0 + 0.1 * factor.ln())).into()));
    }
    // DeepSeek: llama.cpp expects a tenth of mscale_all_dim here and undoes that when it loads.
    if let Some(mscale) = params.float(field!("mscale_all_dim"))? {
        pairs.push(("rope.scaling.yarn_log_multiplier", (0.1 * mscale).into()));
    }
    Ok(pairs)
}

/// Divisors of the frequencies that Llama 3 scaling stands for, one per rotated pair (transformers,
/// `_compute_llama3_parameters`): long waves are slowed by `factor`, short ones kept, those between blended.
pub(super) fn llama3_factors(params: &Params) -> Result<Option<Vec<f32>>> {
    if kind(params)? != "llama3" {
        return Ok(None);
    }
    let number =
        |names: &[&str], default: f32| Ok::<f64, Error>(params.float(names)?.unwrap_or(default) as f64);
    let factor = number(field!("factor"), 8.0)?;
    let low = number(field!("low_freq_factor"), 1.0)?;
    let high = number(field!("high_freq_factor"), 4.0)?;
    let original = number(field!("original_max_position_embeddings"), 8192.0)?;
    let theta = number(&["rope_parameters.rope_theta", "rope_theta"], 10_000.0)?;
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
    Ok(Some((0..rotated / 2).map(|pair| divisor(pair) as f32).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn value(pairs: &Pairs, name: &str) -> Option<Value> {
        pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone())
    }

    #[test]
    fn both_spellings_say_the_same() {
        let sizes = json!({ "hidden_size": 64, "num_attention_heads": 4, "max_position_embeddings": 100 });
        let spellings = [
            json!({ "rope_parameters": { "rope_type": "yarn", "factor": 32.0, "rope_theta": 150000.0, "truncate": false,
                    "original_max_position_embeddings": 4096 } }),
            json!({ "rope_theta": 150000, "rope_scaling": { "type": "yarn", "factor": 32, "truncate": false,
                    "original_max_position_embeddings": 4096 } }),
        ];
        for spelling in spellings {
            let mut config = sizes.clone();
            config.as_object_mut().unwrap().extend(spelling.as_object().unwrap().clone());
            let pairs = keys(&Params::new(&config, &[])).unwrap();
            for (name, expected) in [
                ("rope.freq_base", Value::from(150000f32)),
                ("rope.dimension_count", Value::from(16u32)),
                ("rope.scaling.type", Value::from("yarn")),
                ("rope.scaling.factor", Value::from(32f32)),
                ("rope.scaling.original_context_length", Value::from(4096u32)),
            ] {
                assert_eq!(value(&pairs, name), Some(expected), "{name} of {config}");
            }
        }
    }

    #[test]
    fn layer_types_with_their_own_base() {
        let config = json!({ "head_dim": 16, "rope_parameters": {
            "full_attention": { "rope_type": "linear", "factor": 8.0, "rope_theta": 1e6 },
            "sliding_attention": { "rope_type": "default", "rope_theta": 1e4 } } });
        let pairs = keys(&Params::new(&config, &[])).unwrap();
        assert_eq!(value(&pairs, "rope.freq_base_swa"), Some(Value::from(1e4f32)));
        assert_eq!(value(&pairs, "rope.scaling.factor"), Some(Value::from(8f32)));
    }

    /// First, a blended and the last value of Llama 3.2's 32 divisors, from transformers.
    #[test]
    fn llama3_divisors() {
        let config = json!({ "head_dim": 64, "rope_theta": 500000.0, "rope_scaling": { "rope_type": "llama3",
            "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192 } });
        let factors = llama3_factors(&Params::new(&config, &[])).unwrap().unwrap();
        assert_eq!((factors.len(), factors[0], factors[31]), (32, 1.0, 32.0));
        assert!(factors.is_sorted());
        let blended: Vec<f32> = factors.iter().copied().filter(|&f| f > 1.0 && f < 32.0).collect();
        assert!(!blended.is_empty() && blended.len() < 6, "{factors:?}");
    }

    #[test]
    fn unknown_scaling_is_refused() {
        let config = json!({ "head_dim": 16, "rope_scaling": { "rope_type": "longrope" } });
        let message = keys(&Params::new(&config, &[])).unwrap_err().to_string();
        assert!(message.contains("longrope"), "{message}");
    }
}
