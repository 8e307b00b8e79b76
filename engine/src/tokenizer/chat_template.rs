//! A model's chat template: a conversation to the text that the model was trained to continue.
//!
//! Templates are Jinja with Hugging Face's additions (`raise_exception`, `strftime_now`, their `tojson`, `generation`
//! blocks). They are a stranger's programs, so steps, depth and output are bounded; what a template says when it
//! refuses a conversation reaches the person word for word. Which turns to keep is the session's decision, what the
//! answer means that of `dialogue`.

mod built_in;
mod date;
mod generation;
mod lists;
mod message;
mod rendered;

use super::Tokenizer;
use super::stand_ins::{StandIns, Undone, guards};
use crate::gguf::Metadata;
use crate::os::clock;
use crate::{Error, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{AutoEscape, Environment, ErrorKind};
use regex::Regex;
use serde::Serialize;
use serde_json::{Map, Value as Json};
use std::io::{self, Write};
use std::ops::Range;
use std::sync::LazyLock;

pub use built_in::{BUILT_IN, built_in};
pub use date::date;
pub use message::Message;
pub use rendered::Rendered;

/// The GGUF key of the template.
const KEY: &str = "tokenizer.chat_template";

const NAME: &str = "chat";
const STEPS: u64 = 2_000_000; // instructions of one rendering; real templates take some hundred per message
const STEPS_PER_MESSAGE: u64 = 20_000;
const DEPTH: usize = 100; // calls within calls
const LONGEST_TEMPLATE: usize = 1 << 20;
const LONGEST_OUTPUT: usize = 1 << 30;

/// What stands for a message where only the template is of interest.
const PROBE: &str = "Qx7probe";
/// What a person can do about a template that does not do.
const WAY_OUT: &str = "--chat-template NAME or FILE takes another, --raw continues the text as it stands";

/// Further keys that templates read what was thought from.
const REASONING_KEYS: [&str; 2] = ["thinking", "reasoning"];

/// A compiled template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    bos: String,
    eos: String,
    guards: Vec<char>, // characters of messages that could make a control token
}

impl ChatTemplate {
    /// The template of a GGUF file; `None` for a base model without one. A file may name a built-in one.
    ///
    /// # Errors
    /// As [`ChatTemplate::for_tokenizer`].
    pub fn from_metadata(metadata: &Metadata, tokenizer: &Tokenizer) -> Result<Option<Self>> {
        let Some(source) = metadata.str(KEY)?.filter(|source| !source.trim().is_empty()) else {
            return Ok(None);
        };
        Self::for_tokenizer(built_in(source.trim()).unwrap_or(source), tokenizer).map(Some)
    }

    /// Compiles `source` for a vocabulary, whose control tokens no message can then write.
    ///
    /// # Errors
    /// When it is no Jinja template, or leaves out what a person says.
    pub fn for_tokenizer(source: &str, tokenizer: &Tokenizer) -> Result<Self> {
        static GO: LazyLock<Option<Regex>> = LazyLock::new(|| {
            Regex::new(r"\{\{-?\s*((if|range|else if|with|and|or|not)\s+)?[.$][A-Za-z]*").ok()
        });
        if GO.as_ref().is_some_and(|go| go.is_match(source)) {
            let what = format!("key `{KEY}`: a template in Go's language, not in Jinja");
            return Err(Error::unsupported(what, WAY_OUT));
        }
        let text = |id: Option<u32>| id.map_or("", |id| tokenizer.token_text(id));
        let mut template = Self::new(source, text(tokenizer.bos()), text(tokenizer.eos()))?;
        template.guards = tokenizer.guards().to_vec();
        // One that refuses this conversation may take another.
        let rendered = template.render(&[Message::new("user", PROBE)], true);
        if rendered.is_ok_and(|rendered| !rendered.text().contains(PROBE)) {
            let what = format!("key `{KEY}`: this template leaves out what you say");
            return Err(Error::unsupported(what, WAY_OUT));
        }
        Ok(template)
    }

    /// Compiles `source`; `bos` and `eos` are the texts that it may write. Messages are kept from writing control
    /// tokens that hold `<` or `[`; those of a vocabulary are known to [`ChatTemplate::for_tokenizer`].
    ///
    /// # Errors
    /// When it is no Jinja template.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self> {
        if source.len() > LONGEST_TEMPLATE {
            let found = format!("{} bytes", source.len());
            return Err(Error::malformed(format!("key `{KEY}`"), "a template under 1 MiB", found));
        }
        let source = source.replace("\r\n", "\n"); // as Jinja2 reads files
        let mut environment = environment();
        let compiled =
            environment.add_template_owned(NAME, generation::with_marks(&lists::replaced(&source)));
        compiled
            .map_err(|error| Error::malformed(format!("key `{KEY}`"), "a Jinja template", explain(&error)))?;
        let (bos, eos) = (bos.to_owned(), eos.to_owned());
        Ok(Self { environment, source, bos, eos, guards: vec!['<', '['] })
    }

    /// The template's own words.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The template for a vocabulary with these control tokens, none of which a message can then write.
    #[must_use]
    pub fn guarding<'t>(mut self, control_tokens: impl Iterator<Item = &'t str>) -> Self {
        self.guards = guards(control_tokens);
        self
    }

    /// Whether it says itself, with `generation` blocks, what a model is to be trained on.
    pub fn has_generation_blocks(&self) -> bool {
        generation::are_in(&self.source)
    }

    /// Whether it asks for a variable, such as `enable_thinking`.
    pub fn reads(&self, variable: &str) -> bool {
        let template = self.environment.get_template(NAME);
        template.is_ok_and(|template| template.undeclared_variables(false).contains(variable))
    }

    /// The text of the conversation. With `add_generation_prompt` it ends where the assistant's answer begins.
    ///
    /// # Errors
    /// What the template says when it refuses the conversation, and bounds that it exceeds.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<Rendered> {
        self.render_with(messages, add_generation_prompt, &Map::new())
    }

    /// Like [`ChatTemplate::render`], with further variables for the template, such as `enable_thinking` and `tools`.
    ///
    /// # Errors
    /// As there.
    pub fn render_with(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        variables: &Map<String, Json>,
    ) -> Result<Rendered> {
        let (masked, stand_ins) = self.masked(messages, variables, (add_generation_prompt, false))?;
        let Undone { text, contents, .. } = stand_ins.undo(&masked);
        Ok(Rendered::new(text, contents))
    }

    /// The text of the whole conversation, and which of it stands in `generation` blocks, empty ones among them: the bytes
    /// to train on.
    ///
    /// # Errors
    /// As [`ChatTemplate::render_with`].
    pub fn render_for_training(
        &self,
        messages: &[Message],
        variables: &Map<String, Json>,
    ) -> Result<(Rendered, Vec<Range<usize>>)> {
        let (masked, stand_ins) = self.masked(messages, variables, (false, true))?;
        let Undone { text, contents, marked } = stand_ins.undo(&masked);
        Ok((Rendered::new(text, contents), marked))
    }

    /// What the template writes of messages with stand-ins in them; the flags are whether an answer is to begin at the
    /// end, and whether `generation` blocks are marked.
    fn masked(
        &self,
        messages: &[Message],
        variables: &Map<String, Json>,
        (add_generation_prompt, is_marked): (bool, bool),
    ) -> Result<(String, StandIns)> {
        let refused = |error: minijinja::Error| Error::request(format!("chat template: {}", explain(&error)));
        let turns: Vec<Map<String, Json>> =
            messages.iter().map(|message| self.with_aliases(message)).collect();
        let mut texts = vec![&*self.source];
        turns.iter().chain([variables]).for_each(|object| strings(object, &mut texts));
        let stand_ins = StandIns::new(&self.guards, texts.into_iter())?;
        let masking = Masking { stand_ins: &stand_ins, kept: cutting_tags(&self.source) };
        let turns: Vec<Json> = turns.iter().map(|turn| Json::Object(masking.turn(turn))).collect();
        let mut values =
            Map::from_iter([("tools".to_owned(), Json::Null), ("documents".to_owned(), Json::Null)]);
        values.extend(masking.object(variables, &[]));
        values.insert("messages".to_owned(), Json::Array(turns));
        values.insert("add_generation_prompt".to_owned(), Json::Bool(add_generation_prompt));
        values.insert("bos_token".to_owned(), Json::from(&*self.bos));
        values.insert("eos_token".to_owned(), Json::from(&*self.eos));
        if is_marked {
            values.extend(generation::variables(stand_ins.marks()?));
        }
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(STEPS + STEPS_PER_MESSAGE * messages.len() as u64));
        let mut text = Bounded(Vec::new());
        let template = environment.get_template(NAME).map_err(refused)?;
        template.render_captured_to(Value::from(Serde(&values)), &mut text).map_err(refused)?;
        let masked = String::from_utf8(text.0)
            .map_err(|_| Error::request("chat template: wrote text that is not UTF-8"))?;
        Ok((masked, stand_ins))
    }

    /// The turn with what was thought under the key that this template reads it from.
    fn with_aliases(&self, message: &Message) -> Map<String, Json> {
        let mut turn = message.entries().clone();
        let Some(reasoning) = message.reasoning().map(Json::from) else { return turn };
        // gpt-oss' template refuses a call of a tool that has both words and thoughts.
        let calls_and_speaks = turn.contains_key("tool_calls") && !message.content().is_empty();
        for key in REASONING_KEYS.into_iter().filter(|_| !calls_and_speaks) {
            let spellings = [format!(".{key}"), format!("'{key}'"), format!("\"{key}\"")];
            if !turn.contains_key(key) && spellings.iter().any(|spelling| self.source.contains(spelling)) {
                turn.insert(key.to_owned(), reasoning.clone());
            }
        }
        turn
    }
}

/// Puts stand-ins into all texts of JSON values.
struct Masking<'m> {
    stand_ins: &'m StandIns,
    kept: Vec<&'m str>, // tags of an assistant's own turns that the template looks for
}

impl Masking<'_> {
    fn turn(&self, turn: &Map<String, Json>) -> Map<String, Json> {
        let is_assistant = turn.get("role").is_some_and(|role| role == "assistant");
        self.object(turn, if is_assistant { &self.kept } else { &[] })
    }

    fn object(&self, object: &Map<String, Json>, kept: &[&str]) -> Map<String, Json> {
        object.iter().map(|(key, value)| (self.text(key, &[]), self.value(value, kept))).collect()
    }

    fn value(&self, value: &Json, kept: &[&str]) -> Json {
        match value {
            Json::String(text) => Json::String(self.text(text, kept)),
            Json::Array(values) => values.iter().map(|value| self.value(value, kept)).collect(),
            Json::Object(object) => Json::Object(self.object(object, kept)),
            other => other.clone(),
        }
    }

    fn text(&self, text: &str, kept: &[&str]) -> String {
        let (mut masked, mut rest) = (String::with_capacity(text.len()), text);
        let next = |rest: &str| kept.iter().filter_map(|tag| Some((rest.find(tag)?, tag.len()))).min();
        while let Some((at, length)) = next(rest) {
            self.stand_ins.put(&rest[..at], &mut masked);
            masked.push_str(&rest[at..at + length]);
            rest = &rest[at + length..];
        }
        self.stand_ins.put(rest, &mut masked);
        masked
    }
}

/// All texts in an object, keys included.
fn strings<'o>(object: &'o Map<String, Json>, texts: &mut Vec<&'o str>) {
    fn within<'o>(value: &'o Json, texts: &mut Vec<&'o str>) {
        match value {
            Json::String(text) => texts.push(text),
            Json::Array(values) => values.iter().for_each(|value| within(value, texts)),
            Json::Object(object) => strings(object, texts),
            _ => {}
        }
    }
    for (key, value) in object {
        texts.push(key);
        within(value, texts);
    }
}

/// The tags around thoughts and answers that `source` names: a template cuts an assistant's text at them.
fn cutting_tags(source: &str) -> Vec<&str> {
    static TAG: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(r"</?([a-z_]+:)?(think|thinking|thought|thoughts|reasoning|answer)>|\[/?THINK\]").ok()
    });
    let mut tags: Vec<&str> =
        TAG.iter().flat_map(|tag| tag.find_iter(source)).map(|found| found.as_str()).collect();
    tags.sort_unstable();
    tags.dedup();
    tags
}

/// Collects output up to [`LONGEST_OUTPUT`].
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > LONGEST_OUTPUT - self.0.len() {
            return Err(io::Error::other("wrote more than 1 GiB"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Hugging Face's environment (`apply_chat_template` in transformers' `chat_template_utils.py`).
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    if let Ok(syntax) = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build() {
        environment.set_syntax(syntax);
    }
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_recursion_limit(DEPTH);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", |format: String| date(&format, clock::local_seconds()));
    environment.add_filter("tojson", to_json);
    // Jinja2 cannot iterate over none, and templates ask before they take the length of `tools`.
    environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    environment
}

/// The template's own words where it has some, else what went wrong and in which line.
fn explain(error: &minijinja::Error) -> String {
    match (error.kind(), error.detail(), error.line()) {
        (ErrorKind::InvalidOperation, Some(message), _) => message.to_owned(),
        (ErrorKind::OutOfFuel, ..) => "it does not come to an end".to_owned(),
        (kind, Some(detail), Some(line)) => format!("{kind}: {detail} (line {line})"),
        _ => error.to_string(),
    }
}

/// Python's `json.dumps(value, ensure_ascii=False, indent=indent)`; keys in their order, or sorted.
fn to_json(value: &Value, arguments: Kwargs) -> Result<String, minijinja::Error> {
    let indent: Option<usize> = arguments.get("indent")?;
    let sort: Option<bool> = arguments.get("sort_keys")?;
    // Other arguments of json.dumps, such as ensure_ascii, change nothing that is written here.
    let failed =
        |error: serde_json::Error| minijinja::Error::new(ErrorKind::BadSerialization, error.to_string());
    let mut json = serde_json::to_value(value).map_err(failed)?;
    if sort == Some(true) {
        json.sort_all_objects();
    }
    let mut text = Vec::new();
    match indent.filter(|&indent| indent < 100) {
        Some(indent) => {
            let spaces = " ".repeat(indent);
            let formatter = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
            json.serialize(&mut serde_json::Serializer::with_formatter(&mut text, formatter))
                .map_err(failed)?;
        }
        None => {
            json.serialize(&mut serde_json::Serializer::with_formatter(&mut text, Spaced)).map_err(failed)?
        }
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Python's separators: a space after each comma and colon.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests;
