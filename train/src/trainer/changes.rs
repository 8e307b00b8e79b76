//! What a start of a run says otherwise than the one that made its checkpoint. All of it is allowed, and told: a
//! training that goes on with half of the batch or another corpus is not the one that was begun.

use crate::settings::Run;
use crate::{Error, Result};
use std::path::Path;
use toml::{Table, Value};

/// One line for every flag of `run` whose value differs from that in the checkpoint, with both values.
///
/// # Errors
/// The settings of the checkpoint are no TOML.
pub(super) fn since(checkpoint: &Path, run: &Run) -> Result<Vec<String>> {
    let path = checkpoint.join("run.toml");
    let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, "read", e))?;
    let malformed = |e: toml::de::Error| Error::malformed(&path, "", "the settings of a run", e.message());
    let old: Table = toml::from_str(&text).map_err(malformed)?;
    let new = toml::to_string(run).map_err(|e| Error::request(e.to_string()))?;
    let new: Table = toml::from_str(&new).map_err(malformed)?;
    Ok(lines(&old, &new))
}

fn lines(old: &Table, new: &Table) -> Vec<String> {
    let settings = |run: &Table| run.get("settings").and_then(Value::as_table).cloned().unwrap_or_default();
    let (old_settings, new_settings) = (settings(old), settings(new));
    // Optional ones are not written where they are not given.
    let parts = ["preset", "data", "validation", "tokenizer", "init-from", "prompts"];
    let parts = parts.iter().map(|name| (*name, old.get(*name), new.get(*name)));
    // An older version had fewer settings: what it did is what the default does.
    let known = new_settings
        .iter()
        .filter_map(|(name, new)| Some((name.as_str(), Some(old_settings.get(name)?), Some(new))));
    let changed = parts.chain(known).filter(|(_, old, new)| old != new);
    changed.map(|(name, old, new)| line(name, old, new)).collect()
}

fn line(name: &str, old: Option<&Value>, new: Option<&Value>) -> String {
    let flag = if name == "prompts" { "prompt" } else { name };
    format!("--{flag} was {}, now it is {}", text(old), text(new))
}

fn text(value: Option<&Value>) -> String {
    match value {
        None => "not given".into(),
        Some(Value::Array(all)) if all.is_empty() => "not given".into(),
        Some(Value::Array(all)) => all.iter().map(|one| text(Some(one))).collect::<Vec<_>>().join(" and "),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    fn run() -> Run {
        Run {
            preset: "moewe-mini".into(),
            data: vec!["a".into(), "b:2".into()],
            validation: vec![],
            tokenizer: None,
            out: "runs/x".into(),
            init_from: None,
            prompts: vec!["Es war".into()],
            settings: Settings::default(),
        }
    }

    fn since_of(old: &Run, new: &Run) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("run.toml"), toml::to_string(old).unwrap()).unwrap();
        since(folder.path(), new).unwrap()
    }

    #[test]
    fn every_flag_is_compared() {
        let old = run();
        assert_eq!(since_of(&old, &Run { out: "elsewhere".into(), ..run() }), Vec::<String>::new());
        let settings = Settings { batch: 16, learning_rate: 1e-3, ..Settings::default() };
        let data = vec!["a".into()];
        let new =
            Run { data, validation: vec!["v".into()], tokenizer: Some("t.json".into()), settings, ..run() };
        let expected = [
            "--data was a and b:2, now it is a",
            "--validation was not given, now it is v",
            "--tokenizer was not given, now it is t.json",
            "--batch was 8, now it is 16",
            "--learning-rate was 0.0006, now it is 0.001",
        ];
        assert_eq!(since_of(&old, &new), expected);
        // Every setting that there is, whatever its kind.
        let mut other = toml::Table::try_from(Settings::default()).unwrap();
        for (name, value) in &mut other {
            *value = match value.clone() {
                Value::Integer(n) => (n + 1).into(),
                Value::Float(x) => (x / 2.0 + 0.013).into(),
                Value::Boolean(b) => (!b).into(),
                _ if name == "precision" => "bf16".into(),
                _ if name == "schedule" => "constant".into(),
                _ => "cpu".into(),
            };
        }
        let settings = other.try_into().unwrap();
        let count = toml::Table::try_from(Settings::default()).unwrap().len();
        assert_eq!(since_of(&old, &Run { settings, ..run() }).len(), count);
    }

    #[test]
    fn settings_that_an_older_version_lacked_are_not_told() {
        let mut old = toml::Table::try_from(run()).unwrap();
        let settings = old["settings"].as_table_mut().unwrap();
        settings.remove("clip");
        settings.insert("of-old".into(), 3.into());
        let new =
            toml::Table::try_from(Run { settings: Settings { clip: 2.0, ..Settings::default() }, ..run() })
                .unwrap();
        assert_eq!(lines(&old, &new), Vec::<String>::new());
    }
}
