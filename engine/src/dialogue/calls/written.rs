//! A test rendering of calls: what a chat template makes of turns that call tools, in one of the ways in which templates
//! want to be given them.

use crate::dialogue::trial::{ANSWER, QUESTION, Trial};
use crate::tokenizer::{ChatTemplate, Message};
use serde_json::{Deserializer, Map, Value, json};

use super::marks::ANY;

/// Names, keys and texts that no template looks for.
const NAMES: [&str; 2] = ["nx7first", "nx7second"];
const IDS: [&str; 2] = ["ix7call01", "ix7call02"];

/// How a template wants calls of earlier turns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Manner {
    /// Arguments as JSON in a text, not as an object.
    pub text_arguments: bool,
    /// No content rather than an empty one, where nothing was said.
    pub null_content: bool,
    /// Ids that say which tool is called, as in `functions.name:0`: the template writes no name.
    pub named_ids: bool,
    /// Ids of nine letters and digits: the template refuses longer ones.
    pub short_ids: bool,
    /// Results of tools as `tool_responses` (`name`, `response`) of the turn that called them: turns of their own would be
    /// written like anybody's.
    pub inner_results: bool,
}

/// All that are tried, the most common first.
pub(super) const MANNERS: [Manner; 6] = {
    let usual = Manner {
        text_arguments: false,
        null_content: false,
        named_ids: false,
        short_ids: false,
        inner_results: false,
    };
    let null = Manner { null_content: true, ..usual };
    [
        usual,
        null,
        Manner { text_arguments: true, ..usual },
        Manner { text_arguments: true, ..null },
        Manner { named_ids: true, ..usual },
        Manner { named_ids: true, text_arguments: true, ..usual },
    ]
};

/// What a template wrote of one or two calls, without the head of the turn.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) text: String,
    /// What ends a turn.
    pub(super) tail: String,
    objects: Vec<(usize, usize, Value)>,
}

impl Written {
    /// `None` where the template refuses calls or leaves them out. `thought` is the tag that ends a thought.
    pub(super) fn new(
        template: &ChatTemplate,
        trial: &Trial,
        thought: Option<&str>,
        manner: Manner,
    ) -> Option<Self> {
        let whole = |text: String| text.rfind(QUESTION).map(|at| text[at + QUESTION.len()..].to_owned());
        let with = |count: usize, words: &str| whole(render(template, manner, count, words)?);
        let two = with(2, "").filter(|text| NAMES.iter().all(|name| text.contains(name)));
        let text = two.or_else(|| with(1, "")).filter(|text| text.contains(NAMES[0]))?;
        let answered = whole(trial.answered.clone())?;
        let (head, tail) = answered.split_once(ANSWER)?;
        let name = text.find(NAMES[0])?;
        // What an answer begins with as well, and what stands between words and a call.
        let common = text.bytes().zip(head.bytes()).take_while(|(one, other)| one == other).count();
        let mut start = before_tag(&text, common.min(name));
        if let Some(said) = with(1, ANSWER)
            && let Some((_, behind)) = said.split_once(ANSWER)
            && let Some(at) = behind.find(NAMES[0])
            && text[..name].ends_with(behind[..at].trim_start())
        {
            start = start.max(name - behind[..at].trim_start().len());
        }
        if let Some(close) = thought
            && let Some(at) = text[start..name].rfind(close)
        {
            start += at + close.len();
        }
        let text = text[start..].to_owned();
        let objects = objects(&text);
        Some(Self { text, tail: tail.to_owned(), objects })
    }

    /// The names and arguments that are in it.
    pub(super) fn calls(&self) -> [(&'static str, Value); 2] {
        calls()
    }

    /// All JSON objects with their places.
    pub(super) fn objects(&self) -> impl Iterator<Item = (usize, usize, &Value)> {
        self.objects.iter().map(|(start, end, value)| (*start, *end, value))
    }
}

/// Of both tools.
pub(super) fn parameters() -> Value {
    json!({
        "type": "object",
        "properties": {
            "kx7one": {"type": "string", "description": "D"},
            "kx7two": {"type": "object", "description": "D"},
        },
        "required": ["kx7one"],
    })
}

/// The variable with the tools.
fn tools() -> Map<String, Value> {
    let tool = |name: &&str| {
        let function = json!({"name": name, "description": "D", "parameters": parameters()});
        json!({"type": "function", "function": function})
    };
    Map::from_iter([("tools".to_owned(), NAMES.iter().map(tool).collect())])
}

impl Manner {
    /// The same with short ids, where the template refuses others, and with results where it looks for them.
    pub(super) fn with_rest(self, template: &ChatTemplate) -> Self {
        const LONG: &str = "call_0123456789abcdefghijkl";
        let refuses = rendered(template, self, 1, "", [LONG; 2]).is_none();
        let inner_results = takes_results(template, self);
        Self { short_ids: refuses && !self.named_ids, inner_results, ..self }
    }
}

/// Whether a template writes a call with this before the tool's name.
pub(super) fn names_a_tool(template: &ChatTemplate, manner: Manner, before: &str) -> bool {
    let name = before.to_owned() + NAMES[0];
    render(template, manner, 1, "").is_some_and(|text| text.contains(&name))
}

/// Whether a template writes the results that a turn with calls holds.
fn takes_results(template: &ChatTemplate, manner: Manner) -> bool {
    const RESULT: &str = "Zx7RESULT";
    let turn = turn(manner, 1, "", IDS);
    let turn = turn.with("tool_responses", json!([{"name": NAMES[0], "response": RESULT}]));
    let rendered = template.render_with(&[Message::new("user", QUESTION), turn], false, &tools());
    rendered.is_ok_and(|rendered| rendered.text().contains(RESULT))
}

/// Whether a template tells the model which tools there are.
pub(super) fn offers(template: &ChatTemplate) -> bool {
    let rendered = template.render_with(&[Message::new("user", QUESTION)], true, &tools());
    rendered.is_ok_and(|rendered| rendered.text().contains(NAMES[1]))
}

/// `at`, or where the tag begins that it lies in.
fn before_tag(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    match text[..at].rfind(['<', '[']) {
        Some(open) if !text[open..at].contains(['>', ']', '\n']) => open,
        _ => at,
    }
}

fn calls() -> [(&'static str, Value); 2] {
    [(NAMES[0], json!({"kx7one": "Vx7TEXT", "kx7two": {"kx7within": [1, true]}})), (NAMES[1], json!({}))]
}

/// A question and an answer that calls so many tools.
fn render(template: &ChatTemplate, manner: Manner, count: usize, words: &str) -> Option<String> {
    let mut text = rendered(template, manner, count, words, IDS)?;
    IDS.iter().for_each(|id| text = text.replace(id, &ANY.to_string()));
    Some(text)
}

fn rendered(
    template: &ChatTemplate,
    manner: Manner,
    count: usize,
    words: &str,
    ids: [&str; 2],
) -> Option<String> {
    let turns = [Message::new("user", QUESTION), turn(manner, count, words, ids)];
    Some(template.render_with(&turns, false, &tools()).ok()?.text().to_owned())
}

/// An answer that calls so many tools.
fn turn(manner: Manner, count: usize, words: &str, ids: [&str; 2]) -> Message {
    let id = |number: usize| match manner.named_ids {
        true => format!("functions.{}:{number}", NAMES[number]),
        false => ids[number].to_owned(),
    };
    let calls: Vec<Value> = calls()
        .into_iter()
        .take(count)
        .enumerate()
        .map(|(number, (name, arguments))| {
            let arguments =
                if manner.text_arguments { Value::from(arguments.to_string()) } else { arguments };
            json!({"type": "function", "id": id(number), "function": {"name": name, "arguments": arguments}})
        })
        .collect();
    let content = if manner.null_content && words.is_empty() { Value::Null } else { Value::from(words) };
    Message::new("assistant", "").with("content", content).with("tool_calls", Value::from(calls))
}

/// The outermost JSON objects of a text, and those within braces that are none.
fn objects(text: &str) -> Vec<(usize, usize, Value)> {
    let (mut found, mut from) = (vec![], 0);
    while let Some(start) = text[from..].find('{').map(|at| from + at) {
        let mut values = Deserializer::from_str(&text[start..]).into_iter::<Value>();
        match values.next() {
            Some(Ok(value)) => {
                from = start + values.byte_offset();
                found.push((start, from, value));
            }
            _ => from = start + 1,
        }
    }
    found
}
