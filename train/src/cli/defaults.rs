//! The built-in value of every setting, shown by `--help` where clap does not know it: settings come in layers, so none of
//! them has a default as an argument.

use crate::settings::Settings;
use clap::Command;
use toml::Value;

/// `command` with the built-in values of the settings among its arguments.
pub(super) fn shown(command: Command) -> Command {
    // By way of text, which has 0.8 in 32 bits as 0.8.
    let text = toml::to_string(&Settings::default()).unwrap_or_default();
    let defaults: toml::Table = toml::from_str(&text).unwrap_or_default();
    command.mut_args(|argument| {
        let value = argument.get_long().and_then(|name| defaults.get(name));
        // Flags that are off need no word.
        let Some(value) = value.filter(|value| **value != Value::Boolean(false)) else { return argument };
        let text = value.as_str().map_or_else(|| number(value), str::to_owned);
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        // Commands with defaults of their own say them themselves.
        if !argument.get_default_values().is_empty() || help.contains("[default: ") {
            return argument;
        }
        argument.help(format!("{help} [default: {text}]"))
    })
}

/// A number as people type it: 1e-8, not 0.00000001.
fn number(value: &Value) -> String {
    match value.as_float() {
        Some(x) if x > 0.0 && x < 1e-3 => format!("{x:e}"),
        _ => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree;
    use super::*;

    #[test]
    fn help_shows_the_default_of_every_setting() {
        let mut tree = tree();
        let defaults = toml::Table::try_from(Settings::default()).unwrap();
        for path in [None, Some("bench")] {
            let command = path.map_or(tree.clone(), |name| tree.find_subcommand_mut(name).unwrap().clone());
            for (name, value) in &defaults {
                let argument = command.get_arguments().find(|argument| argument.get_long() == Some(name));
                let help = argument.unwrap_or_else(|| panic!("no --{name}")).get_help().unwrap().to_string();
                assert!(help.contains("[default: ") || *value == Value::Boolean(false), "--{name}: {help}");
            }
        }
        for argument in tree.find_subcommand_mut("finetune").unwrap().get_arguments() {
            let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
            let own = !argument.get_default_values().is_empty() && !argument.is_hide_default_value_set();
            let times = usize::from(own) + help.matches("[default: ").count();
            assert!(times <= 1, "{}: {help}", argument.get_id());
        }
        let help = tree.render_long_help().to_string();
        for expected in
            ["[default: 6e-4]", "[default: 1e-8]", "[default: cosine]", "[default: auto]", "[default: 0.8]"]
        {
            assert!(help.contains(expected), "{expected} in {help}");
        }
    }
}
