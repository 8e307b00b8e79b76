//! Which template turns conversations into text: the model's own, one that is built in, or a file.
//!
//! A template from elsewhere is of use only if its markers are tokens of the vocabulary: spelled out in letters they would
//! be learnt as words, and no runtime would stop at them.

use super::vocabulary::Vocabulary;
use crate::{Error, Result};
use moewe_engine::gguf::mistaken;
use moewe_engine::tokenizer::{BUILT_IN, ChatTemplate, Message, Rendered, built_in};
use regex::Regex;
use serde_json::{Map, Value as Json};
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// Name of the template that is used when none is asked for.
const DEFAULT: &str = "default";
/// Largest template file that is read, and largest file that holds one among other things.
const LARGEST: u64 = 1 << 20;
const LARGEST_JSON: u64 = 64 << 20;
/// An answer that no template writes by itself.
const PROBE: &str = "Qx7probe";

/// What happens to a template whose markers are no tokens of the vocabulary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Markers {
    /// It is refused.
    #[default]
    Known,
    /// They become tokens: whoever asks for this gives them rows in the embedding and trains these.
    Appended,
}

/// A template for training.
pub(super) struct Template {
    chat: ChatTemplate,
    name: String, // for a person
    has_blocks: bool,
    knows_developers: bool,
}

impl Template {
    /// The template that a person names, else that of the model in `folder`; `None` where it has none. Markers that are
    /// no tokens yet become some in `vocabulary`, if they may.
    pub(super) fn find(
        folder: &Path,
        given: Option<&str>,
        vocabulary: &mut Vocabulary,
        markers: Markers,
    ) -> Result<Option<Self>> {
        let Some(given) = given else {
            let Some((path, source)) = own(folder)? else { return Ok(None) };
            let named = |error: Error| match error {
                Error::Common(error) => error.in_file(&path).into(),
                error => error,
            };
            return Self::new(&source, path.display().to_string(), vocabulary).map_err(named).map(Some);
        };
        let source = match built_in(given) {
            Some(source) => source.to_owned(),
            None => chosen(Path::new(given))?,
        };
        let missing = Self::new(&source, given.to_owned(), vocabulary)?.markers();
        let missing: Vec<String> =
            missing.into_iter().filter(|marker| !vocabulary.is_token(marker)).collect();
        match markers {
            _ if missing.is_empty() => {}
            Markers::Appended => vocabulary.append(&missing)?,
            Markers::Known => {
                let are = if missing.len() == 1 { "is no single token" } else { "are no single tokens" };
                return Err(Error::request(format!(
                    "--chat-template {given}: {} {are} of this vocabulary; choose a template without such markers \
                     (alpaca), or --train all, which appends tokens",
                    missing.join(", ")
                )));
            }
        }
        Self::new(&source, given.to_owned(), vocabulary).map(Some)
    }

    fn new(source: &str, name: String, vocabulary: &Vocabulary) -> Result<Self> {
        let control = vocabulary.control_tokens();
        let chat = ChatTemplate::new(source, vocabulary.bos(), vocabulary.eos())?;
        let chat = chat.guarding(control.iter().map(String::as_str));
        let has_blocks = chat.has_generation_blocks();
        let template = Self { chat, name, has_blocks, knows_developers: source.contains("developer") };
        let probe =
            template.chat.render(&[Message::new("user", "?"), Message::new("assistant", PROBE)], false);
        // One that refuses this conversation may take another.
        if probe.is_ok_and(|rendered| !rendered.text().contains(PROBE)) {
            let message = format!("{}: this template leaves out what the assistant says", template.name);
            return Err(Error::request(message));
        }
        Ok(template)
    }

    /// What it is called.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Its own words.
    pub(super) fn source(&self) -> &str {
        self.chat.source()
    }

    /// Whether it says itself what is trained.
    pub(super) fn has_blocks(&self) -> bool {
        self.has_blocks
    }

    /// A message as this template knows it: to most, a developer is the system.
    pub(super) fn adapt(&self, message: &Message) -> Message {
        let is_unknown = message.role() == "developer" && !self.knows_developers;
        if is_unknown { message.clone().with("role", Json::from("system")) } else { message.clone() }
    }

    /// The text of a conversation; with `is_asking` it ends where an answer begins.
    pub(super) fn render(
        &self,
        messages: &[Message],
        is_asking: bool,
        variables: &Map<String, Json>,
    ) -> Result<Rendered> {
        Ok(self.chat.render_with(messages, is_asking, variables)?)
    }

    /// The text of a conversation, and which of it the template marks for training.
    pub(super) fn render_marked(
        &self,
        messages: &[Message],
        variables: &Map<String, Json>,
    ) -> Result<(Rendered, Vec<Range<usize>>)> {
        Ok(self.chat.render_for_training(messages, variables)?)
    }

    /// What looks like a control token in conversations that it writes.
    fn markers(&self) -> BTreeSet<String> {
        static MARKER: LazyLock<Option<Regex>> = LazyLock::new(|| {
            let like =
                r"<\|[^|<>\s]+\|>|<｜[^｜<>\s]+｜>|<(start|end)_of_[a-z]+>|</?s>|<[be]os>|\[/?[A-Z][A-Z_]+\]";
            Regex::new(like).ok()
        });
        let turns =
            ["system", "user", "assistant", "user", "assistant"].map(|role| Message::new(role, PROBE));
        let conversations = [(&turns[1..], false), (&turns[1..4], true), (&turns[..], false)];
        let texts = conversations.map(|(turns, is_asking)| self.chat.render(turns, is_asking));
        let texts: String = texts.iter().flatten().map(Rendered::text).collect();
        MARKER
            .iter()
            .flat_map(|marker| marker.find_iter(&texts))
            .map(|found| found.as_str().to_owned())
            .collect()
    }
}

/// What to do where a conversation finds no template.
pub(super) fn none(folder: &Path) -> Error {
    Error::request(format!(
        "{} has no chat template; name one with --chat-template: {}, or a Jinja file",
        folder.display(),
        names()
    ))
}

fn names() -> String {
    BUILT_IN.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

/// The template in a file that a person names.
fn chosen(path: &Path) -> Result<String> {
    if !path.is_file() {
        let what = format!("--chat-template {}: no such file, and none of {}", path.display(), names());
        return Err(Error::request(what));
    }
    read(path, LARGEST)
}

/// The template of the model in `folder`, with the file that holds it.
fn own(folder: &Path) -> Result<Option<(PathBuf, String)>> {
    let path = folder.join("chat_template.jinja");
    if path.is_file() {
        let text = read(&path, LARGEST)?;
        return Ok(Some((path, text)).filter(|(_, text)| !text.trim().is_empty()));
    }
    for name in ["chat_template.json", "tokenizer_config.json"] {
        let path = folder.join(name);
        if !path.is_file() {
            continue;
        }
        let json: Json = serde_json::from_str(&read(&path, LARGEST_JSON)?)
            .map_err(|error| Error::malformed(&path, "", "JSON", error))?;
        let text = default(&json["chat_template"]).filter(|text| !text.trim().is_empty());
        if let Some(text) = text {
            return Ok(Some((path, text.to_owned())));
        }
    }
    Ok(None)
}

/// The template for ordinary conversations: the only one, or the default one of several with names.
fn default(value: &Json) -> Option<&str> {
    match value {
        Json::Array(list) => {
            list.iter().find(|entry| entry["name"] == DEFAULT).and_then(|entry| entry["template"].as_str())
        }
        Json::Object(named) => named.get(DEFAULT)?.as_str(),
        other => other.as_str(),
    }
}

fn read(path: &Path, largest: u64) -> Result<String> {
    let length = path.metadata().map_err(|error| Error::io(path, "open", error))?.len();
    if length > largest {
        let found = format!("{length} bytes");
        return Err(Error::malformed(path, "size", format!("at most {} MiB", largest >> 20), found));
    }
    let bytes = std::fs::read(path).map_err(|error| Error::io(path, "read", error))?;
    if let Some(error) = mistaken(&bytes) {
        return Err(error.in_file(path).into());
    }
    let text = String::from_utf8(bytes).map_err(|error| Error::malformed(path, "", "UTF-8", error))?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}
