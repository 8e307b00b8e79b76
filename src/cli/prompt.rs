//! From messages or text to the tokens that a model is to continue, and the flags that say how: which chat template,
//! with which variables, and whether the model is to think.

use super::output::note;
use crate::server::Dialect;
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use moewe_engine::dialogue::{Dialogue, StopScanner};
use moewe_engine::gguf::Metadata;
use moewe_engine::tokenizer::{BUILT_IN, ChatTemplate, Message, Rendered, Special, Tokenizer, built_in};
use serde_json::{Map, Value};
use std::io::{IsTerminal, stderr};
use std::path::{Path, PathBuf};

/// What the template gets from us, whatever a person sets.
const RESERVED: [&str; 4] = ["messages", "add_generation_prompt", "bos_token", "eos_token"];

// No doc comment: see options.rs.
#[derive(Args, Clone, Default)]
pub(crate) struct PromptOptions {
    /// Chat template in the place of the file's: a Jinja file, or chatml, llama3, mistral, gemma, deepseek, harmony or alpaca
    #[arg(long, value_name = "FILE|NAME")]
    chat_template: Option<PathBuf>,
    /// Set a variable of the chat template, as in enable_thinking=false; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    template_var: Vec<(String, Value)>,
    /// What a model thinks before it answers: show it on stderr, hide it, or ask the model not to think [default: show at
    /// a terminal]
    #[arg(long, value_name = "MODE")]
    think: Option<Think>,
    /// End the answer before this text; may be repeated
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
}

/// What becomes of thoughts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Think {
    /// The person sees them.
    Show,
    /// The model thinks, the person sees the answer.
    Hide,
    /// The model is asked not to think.
    Off,
}

impl PromptOptions {
    /// What becomes of thoughts; where nothing is said about it a terminal shows them.
    pub(crate) fn thinks(&self, quiet: bool) -> Think {
        let usual = if stderr().is_terminal() && !quiet { Think::Show } else { Think::Hide };
        self.think.unwrap_or(usual)
    }

    pub(crate) fn stops(&self) -> StopScanner {
        StopScanner::new(self.stop.iter().cloned())
    }

    /// The same for requests that may bring others.
    pub(crate) fn dialect(&self, metadata: &Metadata, tokenizer: &Tokenizer) -> Result<Dialect> {
        let template = self.template(metadata, tokenizer)?;
        let mut variables = Map::new();
        if let (Some(template), Some(Think::Off)) = (&template, self.think) {
            variables = template.without_thoughts();
        }
        let (template, dialogue) = match template {
            Some(template) => {
                variables.extend(template.variables);
                (Some(template.template), template.dialogue)
            }
            None => (None, Dialogue::plain()),
        };
        Ok(Dialect { template, dialogue, variables, stops: self.stop.clone() })
    }

    /// How to speak with the model; `None` for a base model.
    ///
    /// # Errors
    /// Templates that cannot be read or used, and flags that want one where there is none.
    pub(crate) fn template(&self, metadata: &Metadata, tokenizer: &Tokenizer) -> Result<Option<Template>> {
        let template = match &self.chat_template {
            Some(given) => Some(chosen(given, tokenizer)?),
            None => ChatTemplate::from_metadata(metadata, tokenizer)?,
        };
        let variables: Map<String, Value> = self.template_var.iter().cloned().collect();
        if template.is_none() && !variables.is_empty() {
            bail!("--template-var needs a model with a chat template; --chat-template gives it one");
        }
        let Some(template) = template else { return Ok(None) };
        if let Some(unread) = variables.keys().find(|name| *name != "tools" && !template.reads(name)) {
            note(format!("the chat template reads no variable {unread}: it changes nothing"));
        }
        let template = Template { dialogue: Dialogue::of(&template), template, variables };
        if self.think == Some(Think::Off) {
            template.say_without_switch();
        }
        Ok(Some(template))
    }
}

/// A chat template with its variables, and how to read what answers it.
pub(crate) struct Template {
    template: ChatTemplate,
    dialogue: Dialogue,
    variables: Map<String, Value>,
}

impl Template {
    pub(crate) fn dialogue(&self) -> &Dialogue {
        &self.dialogue
    }

    /// The conversation up to where the answer begins.
    pub(crate) fn render(&self, messages: &[Message], think: Think) -> Result<Rendered> {
        let mut variables = if think == Think::Off { self.without_thoughts() } else { Map::new() };
        variables.extend(self.variables.clone());
        Ok(self.template.render_with(messages, true, &variables)?)
    }

    /// Says where a model thinks whatever it is asked.
    pub(crate) fn say_without_switch(&self) {
        if self.dialogue.has_reasoning() && self.without_thoughts().is_empty() {
            note("this model's template has no switch for thinking: it is hidden instead");
        }
    }

    /// The variables that ask the model not to think, of those that its template reads.
    fn without_thoughts(&self) -> Map<String, Value> {
        let switches = ["enable_thinking", "thinking"].map(|name| (name, Value::Bool(false)));
        let mut read: Map<String, Value> = switches
            .into_iter()
            .filter(|(name, _)| self.template.reads(name))
            .map(|(name, off)| (name.to_owned(), off))
            .collect();
        // gpt-oss cannot be kept from thinking; this is its least.
        if read.is_empty() && self.template.reads("reasoning_effort") {
            read.insert("reasoning_effort".to_owned(), Value::from("low"));
        }
        read
    }
}

/// The template that a person names: a built-in one, else a file.
fn chosen(given: &Path, tokenizer: &Tokenizer) -> Result<ChatTemplate> {
    if let Some(source) = given.to_str().and_then(built_in) {
        return Ok(ChatTemplate::for_tokenizer(source, tokenizer)?);
    }
    let names: Vec<_> = BUILT_IN.iter().map(|(name, _)| *name).collect();
    let known = || format!("{}: cannot read; it may also be one of {}", given.display(), names.join(", "));
    let source = std::fs::read_to_string(given).with_context(known)?;
    let source = source.strip_prefix('\u{feff}').unwrap_or(&source);
    // Hugging Face's files end with a line end that is no part of the prompt; Jinja takes one off as well.
    ChatTemplate::for_tokenizer(source, tokenizer).with_context(|| given.display().to_string())
}

fn variable(text: &str) -> Result<(String, Value)> {
    let (name, value) = text.split_once('=').context("expected a name, `=` and a value")?;
    let name = name.trim();
    if name.is_empty() {
        bail!("expected a name before `=`");
    }
    if RESERVED.contains(&name) {
        bail!("{name} is the conversation's own");
    }
    let value = match value {
        "True" => Value::Bool(true),
        "False" => Value::Bool(false),
        "None" => Value::Null,
        value => serde_json::from_str(value).unwrap_or_else(|_| Value::from(value)),
    };
    Ok((name.to_owned(), value))
}

/// Tokens of a text to continue. Control tokens in it count: who continues texts may want to write a template by hand.
pub(crate) fn encode_text(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    Ok(tokenizer.encode_with_bos(text, Special::Parse)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn variables() {
        for (text, name, value) in [
            ("enable_thinking=false", "enable_thinking", json!(false)),
            ("a=True", "a", json!(true)),
            ("a=3", "a", json!(3)),
            ("reasoning_effort=low", "reasoning_effort", json!("low")),
            ("a=\"3\"", "a", json!("3")),
            ("a=b=c", "a", json!("b=c")),
            ("a=", "a", json!("")),
            ("tools=[{\"x\":1}]", "tools", json!([{"x": 1}])),
        ] {
            assert_eq!(variable(text).unwrap(), (name.to_owned(), value), "{text}");
        }
        for wrong in ["a", "=1", "messages=[]", "bos_token=x"] {
            assert!(variable(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn thinking_is_switched_off_as_the_template_reads_it() {
        let question = [Message::new("user", "U")];
        for (source, has_switch, expected) in [
            ("{% if enable_thinking is defined and not enable_thinking %}off{% endif %}", true, "off"),
            ("{{ thinking }}{{ reasoning_effort }}", true, "False"),
            ("{{ reasoning_effort }}", true, "low"),
            ("{{ messages[0].content }}", false, "U"),
        ] {
            let template = ChatTemplate::new(source, "", "").unwrap();
            let dialogue = Dialogue::plain();
            let mut template = Template { template, dialogue, variables: Map::new() };
            let text = template.render(&question, Think::Off).unwrap();
            assert_eq!(
                (!template.without_thoughts().is_empty(), text.text()),
                (has_switch, expected),
                "{source}"
            );
            template.variables.insert("reasoning_effort".to_owned(), Value::from("high"));
            let set = template.render(&question, Think::Off).unwrap().text().contains("high");
            assert_eq!(set, source.contains("effort"), "{source}");
        }
    }
}
