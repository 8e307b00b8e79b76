//! A model's chat template: a conversation to the text that the model was trained to continue.
//!
//! Templates are Jinja with Hugging Face's additions (`raise_exception`, `strftime_now`, their `tojson`, `generation`
//! blocks). They are a stranger's programs, so steps, depth and output are bounded; what a template says when it
//! refuses a conversation reaches the person word for word. Which turns to keep is the session's decision.

use super::Tokenizer;
use crate::gguf::Metadata;
use crate::{Error, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{AutoEscape, Environment, ErrorKind, context};
use regex::Regex;
use serde::{Deserialize, Serialize};
use std::io::{self, Write};
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

/// The GGUF key of the template.
const KEY: &str = "tokenizer.chat_template";

const NAME: &str = "chat";
const STEPS: u64 = 2_000_000; // instructions of one rendering; real templates take some hundred per message
const STEPS_PER_MESSAGE: u64 = 20_000;
const DEPTH: usize = 100; // calls within calls
const LONGEST_TEMPLATE: usize = 1 << 20;
const LONGEST_OUTPUT: usize = 1 << 30;

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user` or `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// A turn of `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// A compiled template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

impl ChatTemplate {
    /// The template of a GGUF file; `None` for a base model without one.
    pub fn from_metadata(metadata: &Metadata, tokenizer: &Tokenizer) -> Result<Option<Self>> {
        let Some(source) = metadata.str(KEY)?.filter(|source| !source.trim().is_empty()) else {
            return Ok(None);
        };
        let text = |id: Option<u32>| id.map_or("", |id| tokenizer.token_text(id));
        Self::new(source, text(tokenizer.bos()), text(tokenizer.eos())).map(Some)
    }

    /// Compiles `source`; `bos` and `eos` are the texts that it may write.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self> {
        if source.len() > LONGEST_TEMPLATE {
            let found = format!("{} bytes", source.len());
            return Err(Error::malformed(format!("key `{KEY}`"), "a template under 1 MiB", found));
        }
        let mut environment = environment();
        let compiled = environment.add_template_owned(NAME, without_generation_blocks(source));
        compiled
            .map_err(|error| Error::malformed(format!("key `{KEY}`"), "a Jinja template", explain(&error)))?;
        Ok(Self { environment, bos: bos.to_owned(), eos: eos.to_owned() })
    }

    /// The text of the conversation. With `add_generation_prompt` it ends where the assistant's answer begins.
    ///
    /// It names special tokens as text: encode it with `Special::Parse` and without another BOS.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        self.render_with(messages, add_generation_prompt, &[])
    }

    /// Like [`ChatTemplate::render`], with further variables for the template, such as `enable_thinking`.
    pub fn render_with(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        variables: &[(&str, bool)],
    ) -> Result<String> {
        let refused = |error: minijinja::Error| Error::request(format!("chat template: {}", explain(&error)));
        let further = Value::from_pairs(variables.iter().copied());
        let turn = |message: &Message| {
            Value::from_pairs([("role", message.role.as_str()), ("content", message.content.as_str())])
        };
        let turns: Vec<Value> = messages.iter().map(turn).collect();
        let values = context! {
            messages => turns, add_generation_prompt, bos_token => self.bos.as_str(), eos_token => self.eos.as_str(),
            tools => Value::from(()), documents => Value::from(()), ..further
        };
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(STEPS + STEPS_PER_MESSAGE * messages.len() as u64));
        let mut text = Bounded(Vec::new());
        let template = environment.get_template(NAME).map_err(refused)?;
        template.render_captured_to(values, &mut text).map_err(refused)?;
        String::from_utf8(text.0).map_err(|_| Error::request("chat template: wrote text that is not UTF-8"))
    }
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
    environment.add_function("strftime_now", |format: String| date(&format, now()));
    environment.add_filter("tojson", to_json);
    // Jinja2 cannot iterate over none, and templates ask before they take the length of `tools`.
    environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    environment
}

/// `{% generation %}` marks the answers for training; here its content counts like any other.
fn without_generation_blocks(source: &str) -> String {
    static TAG: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}").ok());
    let Some(tag) = &*TAG else { return source.to_owned() };
    let replace = |found: &regex::Captures| {
        let body = if found.get(2).is_some() { "endif" } else { "if true" };
        format!("{{%{} {body} {}%}}", &found[1], &found[3])
    };
    tag.replace_all(source, replace).into_owned()
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

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// `strftime` of the UTC moment `seconds` after 1970 for the directives that templates use; others stay as they are.
fn date(format: &str, seconds: u64) -> String {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const WEEKDAYS: [&str; 7] =
        ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let weekday = WEEKDAYS[(days % 7) as usize];
    let month_name = MONTHS[month as usize - 1];
    let mut text = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            text.push(character);
            continue;
        }
        match characters.next() {
            Some('Y') => text += &year.to_string(),
            Some('y') => text += &format!("{:02}", year % 100),
            Some('m') => text += &format!("{month:02}"),
            Some('d') => text += &format!("{day:02}"),
            Some('B') => text += month_name,
            Some('b') => text += &month_name[..3],
            Some('A') => text += weekday,
            Some('a') => text += &weekday[..3],
            Some('H') => text += &format!("{:02}", second / 3600),
            Some('M') => text += &format!("{:02}", second / 60 % 60),
            Some('S') => text += &format!("{:02}", second % 60),
            Some('%') => text.push('%'),
            other => text.extend(['%'].into_iter().chain(other)),
        }
    }
    text
}

/// Year, month and day of the day `days` after 1970-01-01 (Hinnant's "chrono-compatible date algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153; // 0 = March
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests;
