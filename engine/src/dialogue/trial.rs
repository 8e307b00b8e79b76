//! A test rendering: what a chat template makes of an answer with thoughts, of one without, and of the beginning of one.

use crate::error::Result;
use crate::tokenizer::{ChatTemplate, Message, Rendered};
use serde_json::{Map, json};

/// Words that stand for a question, thoughts and an answer; no template looks for them, and none that strips a tag's
/// letters off their ends finds any.
pub(super) const QUESTION: &str = "Qx7QUESTION";
pub(super) const THOUGHT: &str = "Rx7THOUGHT";
pub(super) const ANSWER: &str = "Ax7ANSWER";

/// What a template wrote; a text is empty where it refused.
#[derive(Debug, Default)]
pub(super) struct Trial {
    /// The template itself.
    pub(super) source: String,
    /// A question and where its answer begins.
    pub(super) prompt: String,
    /// The same where the model is asked not to think.
    pub(super) silent: String,
    /// A question and an answer.
    pub(super) answered: String,
    /// The same with thoughts, in the forms in which templates take them.
    pub(super) thought: Vec<String>,
    /// For each `</name>` or `[/NAME]` of the template an answer with thoughts and this tag in its text, after which the
    /// conversation went on.
    pub(super) cut: Vec<Cut>,
}

/// What a template made of an earlier answer with tags in its text.
#[derive(Debug)]
pub(super) struct Cut {
    pub(super) open: String,
    pub(super) close: String,
    /// Thoughts, the closing tag, the answer.
    pub(super) behind: String,
    /// Thoughts, then the answer between the two tags.
    pub(super) between: String,
}

impl Trial {
    pub(super) fn new(template: &ChatTemplate) -> Self {
        let written = |rendered: Result<Rendered>| {
            rendered.map(|rendered| rendered.text().to_owned()).unwrap_or_default()
        };
        let render = |turns: &[Message], prompt: bool| written(template.render(turns, prompt));
        let question = Message::new("user", QUESTION);
        let with = |answer: Message| render(&[question.clone(), answer], false);
        let answer = Message::new("assistant", ANSWER);
        let call =
            json!([{"type": "function", "id": "call00000", "function": {"name": "f", "arguments": {}}}]);
        let blocks = json!([{"type": "thinking", "thinking": THOUGHT, "closed": true},
                            {"type": "text", "text": ANSWER}]);
        let thought = [
            answer.clone().with_reasoning(THOUGHT),
            answer.clone().with("content", blocks),
            answer.clone().with_reasoning(THOUGHT).with("tool_calls", call),
        ];
        let source = template.source().to_owned();
        let earlier = |text: String| {
            render(&[question.clone(), Message::new("assistant", text), question.clone()], true)
        };
        let cut = closing_tags(&source).map(|close| {
            let (open, close) = (close.replacen('/', "", 1), close.to_owned());
            let behind = earlier(format!("{THOUGHT}{close}{ANSWER}"));
            let between = earlier(format!("{THOUGHT}{open}{ANSWER}{close}"));
            Cut { open, close, behind, between }
        });
        let silence =
            Map::from_iter(["enable_thinking", "thinking"].map(|name| (name.to_owned(), json!(false))));
        Self {
            cut: cut.collect(),
            prompt: render(std::slice::from_ref(&question), true),
            silent: written(template.render_with(std::slice::from_ref(&question), true, &silence)),
            answered: with(answer),
            thought: thought.into_iter().map(with).filter(|text| text.contains(THOUGHT)).collect(),
            source,
        }
    }
}

/// The first few different `</name>` and `[/NAME]` of a template.
fn closing_tags(source: &str) -> impl Iterator<Item = &str> {
    let mut tags: Vec<&str> = Vec::new();
    for (opening, closing) in [("</", '>'), ("[/", ']')] {
        for (at, _) in source.match_indices(opening) {
            let rest = &source[at..];
            let is_name = |name: &str| {
                !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || "_:-".contains(c))
            };
            let end = rest.find(closing).filter(|&end| is_name(&rest[opening.len()..end]));
            if let Some(tag) = end.map(|end| &rest[..=end])
                && !tags.contains(&tag)
                && tags.len() < 16
            {
                tags.push(tag);
            }
        }
    }
    tags.into_iter()
}
