//! Flags of the scripts that Möwe's architectures come from, and of Hugging Face's trainer: who brings a command line of
//! theirs is told what to say here, not that the flag is unknown.

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// A flag as it is written elsewhere, and what to say here.
const OLD: &[(&str, &str)] = &[
    // Acceleron's train.py.
    ("model_size", "say --preset tachyon-tiny, tachyon-small, tachyon-medium or tachyon-large"),
    ("data_dir", "say --data FOLDER"),
    ("batch_size", "say --batch"),
    ("grad_accum", "say --accumulate"),
    ("seq_len", "say --context"),
    ("lr", "say --learning-rate"),
    ("min_lr", "say --min-learning-rate"),
    ("grad_clip", "say --clip"),
    ("log_interval", "say --log-every"),
    ("save_interval", "say --save-every"),
    ("eval_interval", "say --eval-every"),
    ("save_dir", "say --out FOLDER"),
    ("resume", "leave it out: the same --out goes on by itself"),
    ("compile", "leave it out: nothing is compiled at run time"),
    ("no_compile", "leave it out: nothing is compiled at run time"),
    ("gradient_checkpointing", "say --segment 1"),
    ("no_gradient_checkpointing", "leave it out, or say --segment 0"),
    ("memory_test", "say --dry-run"),
    ("num_workers", "leave it out: a thread reads ahead"),
    // 124M-MoE's train_moe_deepspeed.py.
    ("coding", "make shards first: moewe train shards --data coding=FILE"),
    ("stories", "make shards first: moewe train shards --data stories=FILE"),
    ("rawweb", "make shards first: moewe train shards --data rawweb=FILE"),
    ("qa", "make shards first: moewe train shards --data qa=FILE"),
    ("deepspeed_config", "leave it out: ranks are started by mpirun, srun or torchrun"),
    ("output_dir", "say --out FOLDER"),
    (
        "vocab_size",
        "leave it out: the tokenizer beside the data says it (moewe train tokenizer --vocabulary N makes one)",
    ),
    ("block_size", "say --context"),
    (
        "limit_time_hours",
        "leave it out: end it with a signal (timeout 5h moewe train …), which saves a checkpoint",
    ),
    // Hugging Face's Trainer, of which German MoE GPT's script is one.
    ("per_device_train_batch_size", "say --batch"),
    ("gradient_accumulation_steps", "say --accumulate"),
    ("max_grad_norm", "say --clip"),
    ("adam_beta1", "say --beta1"),
    ("adam_beta2", "say --beta2"),
    ("adam_epsilon", "say --epsilon"),
    ("lr_scheduler_type", "say --schedule"),
    ("logging_steps", "say --log-every"),
    ("eval_steps", "say --eval-every"),
    ("save_steps", "say --save-every"),
    ("save_total_limit", "say --keep-last"),
    ("model_name_or_path", "say --init-from FOLDER"),
    ("bf16", "say --precision bf16"),
];

/// What to say instead of `flag`, with or without dashes.
fn instead_of(flag: &str) -> Option<String> {
    let name = flag.trim_start_matches('-').split('=').next().unwrap_or_default().replace('-', "_");
    let old = OLD.iter().find(|(old, _)| *old == name);
    let known = || {
        let settings = toml::Table::try_from(crate::settings::Settings::default()).unwrap_or_default();
        let ours = name.replace('_', "-");
        (name.contains('_') && settings.contains_key(&ours)).then(|| format!("say --{ours}"))
    };
    old.map(|(_, advice)| (*advice).to_owned()).or_else(known)
}

/// Refuses settings of a file under the names that they have elsewhere.
pub(super) fn check(file: &str, layer: &toml::Table) -> crate::Result<()> {
    let ours = toml::Table::try_from(crate::settings::Settings::default()).unwrap_or_default();
    for name in layer.keys().filter(|name| !ours.contains_key(*name)) {
        if let Some(advice) = instead_of(name) {
            return Err(crate::Error::request(format!("{file}: {name} is no setting here: {advice}")));
        }
    }
    Ok(())
}

/// The error with what to say, where it is about a flag that is known from elsewhere.
pub(super) fn explain(error: clap::Error) -> clap::Error {
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else { return error };
    match instead_of(flag).filter(|_| error.kind() == ErrorKind::UnknownArgument) {
        Some(advice) => {
            clap::Error::raw(ErrorKind::UnknownArgument, format!("{flag} is not a flag here: {advice}\n"))
        }
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree;
    use super::*;

    /// Every advice names flags that there are, and no flag of ours is called wrong.
    #[test]
    fn the_advice_can_be_followed() {
        let tree = tree();
        let ours: Vec<&str> = tree.get_arguments().filter_map(clap::Arg::get_long).collect();
        for (old, advice) in OLD {
            assert!(!ours.contains(&old.replace('_', "-").as_str()), "--{old} is a flag of ours");
            let named = advice.split([' ', ',']).filter_map(|word| word.strip_prefix("--"));
            for flag in named.filter(|flag| *flag != "vocabulary") {
                assert!(ours.contains(&flag), "{old}: there is no --{flag}");
            }
        }
    }

    #[test]
    fn old_spellings_are_answered() {
        let said = |typed: &[&str]| {
            let typed = ["moewe-train"].iter().chain(typed);
            explain(tree().try_get_matches_from(typed).unwrap_err()).to_string()
        };
        for (typed, expected) in [
            (&["--model_size", "tiny"][..], "--model_size is not a flag here: say --preset tachyon-tiny"),
            (&["--data_dir=x"], "say --data FOLDER"),
            (&["--batch_size", "4"], "say --batch\n"),
            (&["--data", "x", "--grad_accum", "2"], "say --accumulate\n"),
            (&["--max_steps", "9"], "say --max-steps\n"),
            (&["--save_interval", "9"], "say --save-every\n"),
            (&["--weight_decay", "0.1"], "say --weight-decay\n"),
            (&["bench", "--batch_size", "4"], "say --batch\n"),
            (&["--grad-accum", "4"], "say --accumulate\n"),
        ] {
            assert!(said(typed).contains(expected), "{typed:?}: {}", said(typed));
        }
        assert!(said(&["--nonsense"]).contains("unexpected argument"), "{}", said(&["--nonsense"]));
    }

    #[test]
    fn files_of_settings_are_answered_too() {
        let check =
            |text: &str| check("a.toml", &toml::from_str(text).unwrap()).map_err(|error| error.to_string());
        assert_eq!(check("batch = 2\nmax-steps = 3"), Ok(()));
        for (text, expected) in [
            ("batch_size = 2", "batch_size is no setting here: say --batch"),
            ("max_steps = 2", "say --max-steps"),
        ] {
            let error = check(text).unwrap_err();
            assert!(error.starts_with("a.toml: ") && error.contains(expected), "{error}");
        }
    }
}
