//! The commands of a chat: a table of names, help and what they do. A command is one function and one line.

use super::Talk;
use super::confirm::confirm;
use super::conversation::{Conversation, Saved};
use crate::cli::heat;
use crate::cli::options::describe_memory;
use crate::cli::output::{self, note};
use crate::cli::prompt::Think;
use crate::cli::sampling::{self, SamplingOptions};
use crate::cli::target;
use anyhow::{Context, Result, anyhow, bail};
use clap::{CommandFactory, Parser, ValueEnum};
use moewe_engine::gguf::Destination;
use moewe_engine::os::memory;
use moewe_engine::tokenizer::Message;
use std::io::{Write, stderr};
use std::path::{Path, PathBuf};

/// What comes after a command.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// The next message.
    Read,
    /// An answer to the latest turn.
    Answer,
    /// The end.
    Quit,
}

/// One row of the table.
pub(super) struct SlashCommand {
    pub(super) name: &'static str,
    arguments: &'static str,
    help: &'static str,
    run: fn(&mut Talk<'_>, &str) -> Result<Next>,
}

const fn command(
    name: &'static str,
    arguments: &'static str,
    help: &'static str,
    run: fn(&mut Talk<'_>, &str) -> Result<Next>,
) -> SlashCommand {
    SlashCommand { name, arguments, help, run }
}

/// All commands, in the order of `/help`.
pub(super) static COMMANDS: &[SlashCommand] = &[
    command("/help", "", "show this", help),
    command("/system", "[TEXT]", "show or change what the model knows beforehand; - removes it", system),
    command("/set", "[NAME VALUE]", "show or change how tokens are chosen: /set temp 0.5", set),
    command("/think", "[show|hide|off]", "show or hide what the model thinks, or ask it not to", think),
    command("/reset", "", "forget the conversation, keep the system prompt", reset),
    command("/undo", "", "take back the latest question and its answer", undo),
    command("/retry", "", "answer the latest question again", retry),
    command("/save", "[--force] FILE", "write the conversation as JSON; --force replaces a file", save),
    command("/load", "FILE", "go on with a conversation from a JSON file", load),
    command("/stats", "", "show tokens, speed and memory", stats),
    command("/experts", "", "draw how often each expert of each layer was used", experts),
    command("/quit", "", "leave; so do Ctrl-D and Ctrl-C at an empty prompt, twice", |_, _| Ok(Next::Quit)),
];

/// Whether a message is a command: one slash, then a letter.
pub(super) fn is_command(message: &str) -> bool {
    message.strip_prefix('/').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_alphabetic()))
}

/// Runs the command in `message`, whose name may be shortened as long as it is clear.
pub(super) fn run(talk: &mut Talk<'_>, message: &str) -> Result<Next> {
    let (name, argument) = message.split_once(char::is_whitespace).unwrap_or((message, ""));
    let found: Vec<_> = COMMANDS.iter().filter(|command| command.name.starts_with(name)).collect();
    match &found[..] {
        [command] => (command.run)(talk, argument.trim()),
        [] => bail!("no command is called {name}; /help lists them, and a space before / makes it a message"),
        several => {
            let names: Vec<_> = several.iter().map(|command| command.name).collect();
            bail!("{name} may be {}", names.join(" or "))
        }
    }
}

fn help(_talk: &mut Talk<'_>, _: &str) -> Result<Next> {
    for command in COMMANDS {
        note(format!("{:<23}  {}", format!("{} {}", command.name, command.arguments), command.help));
    }
    note(
        "A message goes on in the next line after a \\ at the end of a line, after Alt-Enter, and between \"\"\".",
    );
    Ok(Next::Read)
}

fn system(talk: &mut Talk<'_>, text: &str) -> Result<Next> {
    if !talk.partner.has_template() {
        bail!("this model has no chat template and so no system prompt");
    }
    match text {
        "" => note(talk.conversation.system.as_deref().unwrap_or("there is no system prompt")),
        "-" => talk.conversation.system = None,
        text => talk.conversation.system = Some(text.to_owned()),
    }
    Ok(Next::Read)
}

/// `/set` speaks the flags of `moewe run`.
#[derive(Parser)]
#[command(name = "/set", no_binary_name = true, disable_help_flag = true)]
struct Setting {
    #[command(flatten)]
    options: SamplingOptions,
}

/// What `/set` can set.
pub(super) fn setting_names() -> Vec<String> {
    let command = Setting::command();
    let long = command.get_arguments().filter_map(|argument| argument.get_long());
    long.filter(|name| *name != "help").map(str::to_owned).collect()
}

fn set(talk: &mut Talk<'_>, argument: &str) -> Result<Next> {
    if argument.is_empty() {
        let (settings, seed) = talk.partner.sampling();
        note(sampling::describe(settings, talk.partner.options().limit(), seed));
        return Ok(Next::Read);
    }
    talk.partner.set(changed(talk.partner.options(), argument)?)?;
    Ok(Next::Read)
}

/// `options` after `NAME VALUE`, `--NAME VALUE` or `NAME=VALUE`, one or several.
fn changed(options: &SamplingOptions, argument: &str) -> Result<SamplingOptions> {
    let mut setting = Setting { options: options.clone() };
    let mut arguments = Vec::new();
    for (i, word) in argument.split_whitespace().enumerate() {
        let is_name = i % 2 == 0 && !word.starts_with('-');
        match word.len() {
            1 if is_name => arguments.push(format!("-{word}")),
            _ if is_name => arguments.push(format!("--{word}")),
            _ => arguments.push(word.to_owned()),
        }
    }
    setting.try_update_from(arguments).map_err(|error| {
        let message = error.to_string();
        anyhow!("{}", message.lines().next().unwrap_or_default().trim_start_matches("error: "))
    })?;
    Ok(setting.options)
}

fn think(talk: &mut Talk<'_>, mode: &str) -> Result<Next> {
    if mode.is_empty() {
        let value = talk.partner.think().to_possible_value();
        note(value.map_or(String::new(), |value| value.get_name().to_owned()));
        return Ok(Next::Read);
    }
    let think = Think::from_str(mode, false).map_err(|_| anyhow!("/think takes show, hide or off"))?;
    talk.partner.set_think(think);
    Ok(Next::Read)
}

fn reset(talk: &mut Talk<'_>, _: &str) -> Result<Next> {
    talk.conversation.reset();
    note("the conversation is forgotten");
    Ok(Next::Read)
}

fn undo(talk: &mut Talk<'_>, _: &str) -> Result<Next> {
    let turn = talk.conversation.undo().context("there is nothing to take back")?;
    note(format!("taken back: {}", output::excerpt(&turn.question, 60)));
    Ok(Next::Read)
}

fn retry(talk: &mut Talk<'_>, _: &str) -> Result<Next> {
    if !talk.conversation.unanswer() {
        bail!("there is no question to answer");
    }
    Ok(Next::Answer)
}

fn save(talk: &mut Talk<'_>, file: &str) -> Result<Next> {
    let forced = file.strip_prefix("--force").filter(|rest| rest.starts_with(char::is_whitespace));
    let file = forced.unwrap_or(file).trim();
    let path = &path(file)?;
    target::refuse_model(path, [talk.partner.engine().gguf()])?;
    let asks = forced.is_none() && talk.is_interactive && path.is_file();
    if asks && !confirm(&format!("{file} exists; replace it? [y/N] "))? {
        note("nothing is saved");
        return Ok(Next::Read);
    }
    let existing = target::existing(forced.is_some() || asks);
    let name = talk.partner.engine().metadata().str("general.name").ok().flatten().unwrap_or_default();
    let json = serde_json::to_string_pretty(&talk.conversation.to_saved(name))?;
    let mut destination = Destination::create(path, existing).map_err(|error| say_how(error, file))?;
    writeln!(destination, "{json}").with_context(|| format!("{file}: cannot write"))?;
    destination.publish()?;
    note(format!("{} written to {file}", output::counted(talk.conversation.len(), "turn")));
    Ok(Next::Read)
}

/// An error of `/save`, with what to type where a file exists.
fn say_how(error: moewe_engine::Error, file: &str) -> anyhow::Error {
    let message = error.to_string();
    anyhow!("{}", message.replace("--force replaces it", &format!("/save --force {file} replaces it")))
}

fn load(talk: &mut Talk<'_>, file: &str) -> Result<Next> {
    talk.conversation = read(&path(file)?)?;
    note(format!("{} read from {file}", output::counted(talk.conversation.len(), "turn")));
    say_if_open(&talk.conversation);
    Ok(Next::Read)
}

/// Says what can be done about a question without an answer.
pub(super) fn say_if_open(conversation: &Conversation) {
    if conversation.is_open() {
        note(
            "the latest question has no answer yet: /retry answers it, a message goes with it, /undo drops it",
        );
    }
}

/// A conversation from what `/save` wrote, or from a bare list of messages.
pub(super) fn read(path: &Path) -> Result<Conversation> {
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Stored {
        Saved(Saved),
        Messages(Vec<Message>),
    }
    let bytes = std::fs::read(path).with_context(|| format!("{}: cannot read", path.display()))?;
    // Editors on Windows begin a file with a mark.
    let json = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let stored: Stored = serde_json::from_slice(json)
        .map_err(|_| anyhow!("{}: expected a saved conversation as JSON", path.display()))?;
    let messages = match stored {
        Stored::Saved(saved) => saved.messages,
        Stored::Messages(messages) => messages,
    };
    Conversation::from_messages(messages).with_context(|| path.display().to_string())
}

/// The file that a person named, as a shell would read it: the completion writes `~` and, before spaces, backslashes.
fn path(file: &str) -> Result<PathBuf> {
    if file.is_empty() {
        bail!("which file?");
    }
    let quoted = ['"', '\''].into_iter().find_map(|quote| file.strip_prefix(quote)?.strip_suffix(quote));
    let plain = match quoted {
        Some(quoted) => quoted.to_owned(),
        None if cfg!(windows) || Path::new(file).exists() => file.to_owned(),
        None => unescaped(file),
    };
    match plain.strip_prefix('~').filter(|rest| rest.is_empty() || rest.starts_with(std::path::is_separator))
    {
        Some(rest) if !Path::new(&plain).exists() => Ok(match std::env::home_dir() {
            Some(home) => home.join(rest.trim_start_matches(std::path::is_separator)),
            None => plain.into(),
        }),
        _ => Ok(plain.into()),
    }
}

/// `text` without the backslashes before characters.
fn unescaped(text: &str) -> String {
    let mut characters = text.chars();
    let mut plain = String::new();
    while let Some(character) = characters.next() {
        plain.extend(if character == '\\' { characters.next().or(Some('\\')) } else { Some(character) });
    }
    plain
}

fn stats(talk: &mut Talk<'_>, _: &str) -> Result<Next> {
    let (partner, conversation) = (&talk.partner, &talk.conversation);
    let forgotten = match conversation.forgotten() {
        0 => String::new(),
        turns => format!(", {turns} of them no longer in the model's view"),
    };
    note(format!("conversation  {}{forgotten}", output::counted(conversation.len(), "turn")));
    note(format!("context       {} of {} positions", partner.positions(), partner.engine().context_length()));
    if let Some(latest) = partner.latest() {
        let figures = latest.figures;
        note(format!(
            "prompt        {}: {} reused from the cache, {} computed at {:.1} tokens/s",
            output::counted(figures.prompt, "token"),
            latest.reused(),
            figures.prefilled,
            figures.prefill_tokens_per_second()
        ));
        note(format!(
            "answer        {} at {:.1} tokens/s, {}",
            output::counted(figures.generated, "token"),
            figures.decode_tokens_per_second(),
            latest.ending.name()
        ));
    }
    note(format!("memory        {} at most", output::bytes(memory::peak_resident())));
    if let Some(counted) = partner.engine().expert_statistics().filter(heat::has_experts) {
        describe_memory(partner.engine().memory()).into_iter().for_each(note);
        note(format!("experts       {}", heat::summary(&counted)));
    }
    Ok(Next::Read)
}

fn experts(talk: &mut Talk<'_>, _: &str) -> Result<Next> {
    let counted = talk.partner.engine().expert_statistics().filter(heat::has_experts);
    let counted = counted.context("this model has no experts")?;
    heat::map(&counted, output::has_colours(&stderr())).into_iter().for_each(note);
    note(heat::summary(&counted));
    Ok(Next::Read)
}

#[cfg(test)]
mod tests {
    use super::*;
    use moewe_engine::sampler::Sampling;

    #[test]
    fn what_is_a_command() {
        for (message, expected) in
            [("/help", true), ("/x", true), ("/", false), ("//", false), (" /help", false), ("/1", false)]
        {
            assert_eq!(is_command(message), expected, "{message}");
        }
        let mut names = std::collections::HashSet::new();
        assert!(COMMANDS.iter().all(|command| is_command(command.name) && names.insert(command.name)));
    }

    #[test]
    fn set_changes_what_it_names_and_nothing_else() {
        let start = changed(&SamplingOptions::default(), "temp 0.25").unwrap();
        for argument in ["top-k 7", "--top-k 7", "--top-k=7", "n 5 top-k 7"] {
            let options = changed(&start, argument).unwrap();
            let sampling = options.over(Sampling::default());
            assert_eq!((sampling.temperature, sampling.top_k), (0.25, 7), "{argument}");
            assert_eq!(options.limit(), argument.starts_with('n').then_some(5), "{argument}");
        }
        for (argument, part) in [("temp hot", "hot"), ("warmth 3", "--warmth"), ("temp", "value is required")]
        {
            let error = changed(&start, argument).err().unwrap().to_string();
            assert!(error.contains(part) && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn files_are_named_as_in_a_shell() {
        let home = std::env::home_dir().unwrap();
        for (file, expected) in [
            ("a.json", PathBuf::from("a.json")),
            (r"with\ space.json", "with space.json".into()),
            ("\"with space.json\"", "with space.json".into()),
            ("~/c.json", home.join("c.json")),
            ("~x/c.json", "~x/c.json".into()),
            (r"\\a\", r"\a\".into()),
        ] {
            assert_eq!(path(file).unwrap(), expected, "{file}");
        }
        assert!(path("").is_err());
    }

    #[test]
    fn reads_its_own_files_and_bare_lists() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.json");
        for (json, turns) in [
            (r#"{"model":"m","messages":[{"role":"user","content":"a"}]}"#, Some(1)),
            (r#"[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]"#, Some(1)),
            (r#"{"messages":[{"role":"assistant","content":"b"}]}"#, None),
            ("\u{feff}[]", Some(0)),
            ("[1]", None),
            ("", None),
        ] {
            std::fs::write(&path, json).unwrap();
            assert_eq!(read(&path).ok().map(|conversation| conversation.len()), turns, "{json}");
        }
    }
}
