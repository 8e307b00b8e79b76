//! `adapter_config.json` as peft writes it: the keys that count, and those that must not be set.

use crate::json;
use moewe_engine::{Error, Result};
use regex::Regex;
use serde_json::Value;
use std::path::Path;

/// What an adapter's settings say.
#[derive(Debug)]
pub(super) struct Settings {
    rank: f64,
    alpha: f64,
    rank_stabilized: bool,
    alphas: Vec<(Regex, f64)>,
    /// Whether fused experts stand as they do since 0.19.1; unknown without a version.
    pub(super) is_new: Option<bool>,
}

/// Keys that change what an adapter is, with the values that leave it what it is here.
const UNKNOWN: [&str; 8] = [
    "layer_replication",
    "alora_invocation_tokens",
    "trainable_token_indices",
    "use_bdlora",
    "kasa_config",
    "velora_config",
    "monteclora_config",
    "lora_ga_config",
];

impl Settings {
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("adapter_config.json");
        let config = json::read(&path)?;
        Self::of(&config).map_err(|error| error.in_file(path))
    }

    fn of(config: &Value) -> Result<Self> {
        let kind = config["peft_type"].as_str().unwrap_or("nothing");
        if kind != "LORA" {
            return Err(refused("peft_type", kind, "only LORA is merged and converted here"));
        }
        refuse(config)?;
        let number = |key: &str, usual: f64| match &config[key] {
            Value::Null => Ok(usual),
            value => value.as_f64().ok_or_else(|| wrong(key, "a number", value)),
        };
        let rank = number("r", 8.0)?;
        if rank < 1.0 {
            return Err(wrong("r", "at least 1", &config["r"]));
        }
        Ok(Self {
            rank,
            alpha: number("lora_alpha", 8.0)?,
            rank_stabilized: config["use_rslora"].as_bool().unwrap_or(false),
            alphas: alphas(&config["alpha_pattern"])?,
            is_new: config["peft_version"].as_str().and_then(is_new),
        })
    }

    /// The factor of a module's pair of this rank.
    pub(super) fn scale(&self, module: &str, rank: usize) -> f64 {
        let own = self.alphas.iter().find(|(pattern, _)| pattern.is_match(module));
        let alpha = own.map_or(self.alpha, |(_, alpha)| *alpha);
        alpha / if self.rank_stabilized { (rank as f64).sqrt() } else { rank as f64 }
    }

    /// `alpha` with which `alpha / rank` is the factor of modules without one of their own.
    pub(super) fn alpha(&self) -> f64 {
        self.alpha * if self.rank_stabilized { self.rank.sqrt() } else { 1.0 }
    }
}

/// Refuses what is not plain LoRA, by the key's name.
fn refuse(config: &Value) -> Result<()> {
    let text = |key: &str| config[key].as_str().unwrap_or_default().to_owned();
    if !matches!(text("bias").as_str(), "" | "none") {
        return Err(refused("bias", &text("bias"), "biases that were trained along are not read"));
    }
    for key in ["fan_in_fan_out", "lora_bias", "use_qalora"] {
        if config[key].as_bool() == Some(true) {
            return Err(refused(key, "true", "merge it with peft (merge_and_unload)"));
        }
    }
    for key in UNKNOWN {
        let value = &config[key];
        let is_empty = value.is_null()
            || value.as_bool() == Some(false)
            || value.as_array().is_some_and(Vec::is_empty)
            || value.as_object().is_some_and(serde_json::Map::is_empty);
        if !is_empty {
            return Err(refused(key, &value.to_string(), "merge it with peft (merge_and_unload)"));
        }
    }
    // These change the base before training begins.
    let start = text("init_lora_weights").to_lowercase();
    if ["pissa", "olora", "corda", "loftq"].iter().any(|known| start.starts_with(known)) {
        let hint = "it begins with a changed base: export it as plain LoRA first (peft: save_pretrained with path_initial_model_for_weight_conversion)";
        return Err(refused("init_lora_weights", &start, hint));
    }
    Ok(())
}

/// peft's patterns: a whole name, or what stands behind a point.
fn alphas(patterns: &Value) -> Result<Vec<(Regex, f64)>> {
    let entries = patterns.as_object().into_iter().flatten();
    let one = |(key, value): (&String, &Value)| {
        let pattern = Regex::new(&format!(r"^(.*\.)?({key})$"));
        let pattern = pattern.map_err(|error| Error::malformed("alpha_pattern", "patterns", error))?;
        let alpha = value.as_f64().ok_or_else(|| wrong("alpha_pattern", "numbers", value))?;
        Ok((pattern, alpha))
    };
    entries.map(one).collect()
}

/// Whether a version is 0.19.1 or later.
fn is_new(version: &str) -> Option<bool> {
    let mut parts = version.split('.').map(|part| {
        let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u32>().unwrap_or(0)
    });
    let version = (parts.next()?, parts.next()?, parts.next().unwrap_or(0));
    Some(version >= (0, 19, 1))
}

fn refused(key: &str, value: &str, hint: &str) -> Error {
    Error::unsupported(format!("{key} is {value}"), hint)
}

fn wrong(key: &str, expected: &str, found: &Value) -> Error {
    Error::malformed(key, expected, found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn factors_follow_patterns_and_ranks() {
        let config = json!({
            "peft_type": "LORA", "r": 4, "lora_alpha": 8, "alpha_pattern": { "layers.1.self_attn.v_proj": 3 },
        });
        let settings = Settings::of(&config).unwrap();
        assert_eq!(settings.scale("model.layers.0.self_attn.v_proj", 4), 2.0);
        assert_eq!(settings.scale("model.layers.1.self_attn.v_proj", 4), 0.75);
        assert_eq!(settings.scale("model.layers.11.self_attn.v_proj", 4), 2.0);
        assert_eq!(settings.scale("q_proj", 2), 4.0);
        let mut stable = config;
        stable["use_rslora"] = true.into();
        let settings = Settings::of(&stable).unwrap();
        assert_eq!((settings.scale("q_proj", 4), settings.alpha()), (4.0, 16.0));
    }

    #[test]
    fn what_is_no_plain_lora_is_refused_by_its_key() {
        for (key, value) in [
            ("peft_type", json!("IA3")),
            ("bias", json!("all")),
            ("fan_in_fan_out", json!(true)),
            ("lora_bias", json!(true)),
            ("use_qalora", json!(true)),
            ("alora_invocation_tokens", json!([1, 2])),
            ("layer_replication", json!([[0, 4], [2, 5]])),
            ("init_lora_weights", json!("pissa_niter_4")),
            ("init_lora_weights", json!("olora")),
            ("trainable_token_indices", json!([5])),
            ("r", json!(0)),
        ] {
            let mut config = json!({ "peft_type": "LORA", "r": 4, "lora_alpha": 8 });
            config[key] = value;
            let error = Settings::of(&config).unwrap_err().to_string();
            assert!(error.contains(key), "{key}: {error}");
        }
        let plain =
            json!({ "peft_type": "LORA", "loftq_config": {}, "init_lora_weights": true, "bias": "none" });
        assert!(Settings::of(&plain).is_ok());
    }

    #[test]
    fn versions() {
        let cases =
            [("0.18.0", false), ("0.19.0", false), ("0.19.1", true), ("0.21.2.dev0", true), ("1.0", true)];
        for (version, expected) in cases {
            assert_eq!(is_new(version), Some(expected), "{version}");
        }
        assert_eq!(is_new("new"), None);
    }
}
