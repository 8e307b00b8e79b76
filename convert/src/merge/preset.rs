//! Mixtures that can be planned without their sources: the named sizes of Mixtral's kind, compiled in.

use super::Merged;
use crate::calibrate::Guide;
use crate::from_config::FromConfig;
use crate::options::Options;
use crate::plain;
use crate::source::Source;
use moewe_engine::{Error, Result};
use serde_json::Value;

macro_rules! presets {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../../models/", $name, "/config.json")))),*]
    };
}

/// Names and configurations, smaller ones first.
static PRESETS: &[(&str, &str)] = presets!["mixtral-mini", "mixtral-4x7b", "mixtral-8x7b"];

/// Plans a mixture of a named size, whose sources nobody needs to have; nothing is written.
///
/// # Errors
/// A name that nothing is called; options that are about other tensors.
pub fn preset(name: &str, options: &Options) -> Result<Merged> {
    let known = PRESETS.iter().find(|(known, _)| *known == name);
    let (_, words) = known.ok_or_else(|| {
        let names: Vec<&str> = PRESETS.iter().map(|(name, _)| *name).collect();
        Error::request(format!("no preset is called {name:?}; there are {}", names.join(", ")))
    })?;
    let config: Value = serde_json::from_str(words).unwrap_or_default();
    let source = FromConfig::new(&config)?;
    let options = Options { dry_run: true, calibrate: None, ..options.clone() };
    let guide = Guide::with(options.importance.clone());
    let (report, _) = plain::write_source(&source, guide, None, &options, &())?;
    let count = |key: &str| config[key].as_u64().unwrap_or(1).max(1);
    let (experts, used) = (count("num_local_experts"), count("num_experts_per_tok"));
    Ok(Merged {
        report,
        family: "mixtral".to_owned(),
        because: format!("{name} is of this size"),
        active: super::account::active(experts, used, source.tensors()),
        ..Merged::default()
    })
}
