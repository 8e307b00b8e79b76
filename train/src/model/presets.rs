//! Named sizes: the config.json of every folder in `models/`, compiled in.

use super::config::Config;
use super::parameters::specs;
use super::roles::Role;
use crate::{Error, Result};

/// A named size.
pub struct Preset {
    /// Its folder in `models/`.
    pub name: &'static str,
    /// Its config.json.
    pub config: &'static str,
}

macro_rules! presets {
    ($($name:literal),* $(,)?) => {
        &[$(Preset { name: $name, config: include_str!(concat!("../../../models/", $name, "/config.json")) }),*]
    };
}

/// All of them, smaller ones of a kind first.
pub static PRESETS: &[Preset] = presets![
    "moewe-mini",
    "german-mini",
    "german-moe-149.6m",
    "german-moe-readme",
    "tachyon-tiny",
    "tachyon-small",
    "tachyon-medium",
    "tachyon-large",
    "moe-124m",
    "mixtral-mini",
    "mixtral-4x7b",
    "mixtral-8x7b",
];

impl Preset {
    /// The model of this size.
    ///
    /// # Errors
    /// Its config.json is wrong.
    pub fn config(&self) -> Result<Config> {
        config_of(self.name, self.config, None, None)
    }
}

impl Config {
    /// A preset by its name, or the config.json at a path.
    ///
    /// # Errors
    /// No such preset or file, or a config that no model can have.
    pub fn named(name: &str) -> Result<Self> {
        Self::named_for(name, None, None)
    }

    /// [`Config::named`] for a tokenizer of `vocabulary` tokens and a context of `context`, where these are known.
    ///
    /// # Errors
    /// As [`Config::named`]; of the two lengths, the config.json must have those that are not given.
    pub fn named_for(name: &str, vocabulary: Option<usize>, context: Option<usize>) -> Result<Self> {
        if let Some(preset) = PRESETS.iter().find(|preset| preset.name == name) {
            return config_of(name, preset.config, vocabulary, context);
        }
        let mut path = std::path::PathBuf::from(name);
        if path.is_dir() {
            path.push("config.json");
        }
        if !path.exists() {
            let names: Vec<&str> = PRESETS.iter().map(|preset| preset.name).collect();
            let message =
                format!("{name} is neither a config.json nor a preset; presets: {}", names.join(", "));
            return Err(Error::request(message));
        }
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, "read", e))?;
        config_of(name, &text, vocabulary, context)
    }

    /// Numbers in all parameters, and in those that one token uses while it is answered.
    pub fn counts(&self) -> (u64, u64) {
        let (mut total, mut active) = (0, 0);
        for spec in specs(self) {
            let count = spec.count() as u64;
            total += count;
            active += match spec.role {
                Role::RouterNoise => 0,
                Role::ExpertsUp | Role::ExpertsUpBias | Role::ExpertsDown | Role::ExpertsDownBias => {
                    count / self.experts.count as u64 * self.experts.used as u64
                }
                _ => count,
            };
        }
        (total, active)
    }
}

fn config_of(name: &str, text: &str, vocabulary: Option<usize>, context: Option<usize>) -> Result<Config> {
    let source = serde_json::from_str(text.trim_start_matches('\u{FEFF}'))
        .map_err(|e| moewe_engine::Error::malformed("config.json", "JSON", e).in_file(name))?;
    Config::sized(&source, vocabulary, context).map_err(|error| match error {
        Error::Common(error) => error.in_file(name).into(),
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_have_the_counts_of_their_originals() {
        let counts = |name: &str| Config::named(name).expect(name).counts();
        for (name, expected) in [
            ("german-moe-149.6m", (149_603_328, 99_255_296)),
            ("german-moe-readme", (1_061_426_688, 211_932_672)),
            ("tachyon-tiny", (109_906_432, 75_303_424)),
            ("tachyon-small", (1_270_076_416, 439_604_224)),
            ("tachyon-medium", (3_404_116_224, 1_139_192_064)),
            ("tachyon-large", (7_414_099_968, 2_431_266_816)),
            ("moe-124m", (123_522_048, 84_517_632)),
            ("mixtral-4x7b", (24_153_690_112, 12_879_400_960)),
        ] {
            assert_eq!(counts(name), expected, "{name}");
        }
        assert!(counts("moewe-mini").0 <= 16_000_000);
        assert!(PRESETS.iter().all(|preset| preset.config().is_ok()));
    }
}
