//! A test rendering: what a chat template makes of an answer with thoughts, of one without, and of the beginning of one.

use crate::tokenizer::{ChatTemplate, Message};
use serde_json::json;

/// Words that stand for a question, thoughts and an answer; no template looks for them.
const QUESTION: &str = "Qx7question";
pub(super) const THOUGHT: &str = "Rx7thought";
pub(super) const ANSWER: &str = "Ax7answer";

/// What a template wrote; a text is empty where it refused.
#[derive(Debug, Default)]
pub(super) struct Trial {
    /// The template itself.
    pub(super) source: String,
    /// A question and where its answer begins.
    pub(super) prompt: String,
    /// A question and an answer.
    pub(super) answered: String,
    /// The same with thoughts, in the forms in which templates take them.
    pub(super) thought: Vec<String>,
    /// For each `</name>` or `[/NAME]` of the template an answer that has thoughts before it in its text, after which the
    /// conversation went on.
    pub(super) cut: Vec<(String, String)>,
}

impl Trial {
    pub(super) fn new(template: &ChatTemplate) -> Self {
        let render = |turns: &[Message], prompt: bool| {
            template.render(turns, prompt).map(|rendered| rendered.text().to_owned()).unwrap_or_default()
        };
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
        let cut = closing_tags(&source).map(|tag| {
            let old = Message::new("assistant", format!("{THOUGHT}{tag}{ANSWER}"));
            (tag.to_owned(), render(&[question.clone(), old, question.clone()], true))
        });
        Self {
            cut: cut.collect(),
            prompt: render(std::slice::from_ref(&question), true),
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
