//! A conversation that wants an answer, whatever dialect it came in: a dialect reads its fields into a [`Chat`], and tells
//! the events of its answers in its own words.

use super::Shared;
use super::ask::{Answers, Ask, aside};
use super::format::Format;
use super::messages::Messages;
use super::model::Model;
use super::refusal::Refusal;
use super::tools::Tools;
use moewe_engine::grammar::{Begins, Constraint, Grammar};
use moewe_engine::sampler::Sampling;
use serde_json::{Map, Value};
use std::sync::Arc;

/// One conversation.
pub(super) struct Chat {
    pub(super) messages: Messages,
    pub(super) tools: Tools,
    /// Of the template.
    pub(super) variables: Map<String, Value>,
    /// What each answer has to be.
    pub(super) format: Format,
    pub(super) sampling: Sampling,
    /// Texts that end an answer, besides the model's own.
    pub(super) stops: Vec<String>,
    /// Most tokens of an answer.
    pub(super) limit: Option<usize>,
    /// How many answers are wanted.
    pub(super) count: usize,
    /// How many of the likeliest tokens are told beside each token, if any.
    pub(super) odds: Option<usize>,
    pub(super) reuses: bool,
}

impl Chat {
    /// Hands it to the scheduler.
    ///
    /// # Errors
    /// What the template says, a format that does not compile, prompts that are too long, and a full queue.
    pub(super) async fn submit(self, shared: &Shared, model: &Arc<Model>) -> Result<Answers, Refusal> {
        let dialogue = &model.dialect.dialogue;
        let offered = self.tools.offered(dialogue)?;
        let (writer, mut messages, mut variables) = (model.clone(), self.messages, self.variables);
        let (mut dialogue, mut constraint, mut offer) = (dialogue.clone(), None, None);
        if let Some(offered) = offered {
            variables.extend(offered.variable());
            if let Some(text) = offered.instructions() {
                messages = messages.with_instructions(&text);
            }
            let (reading, grammar) = offered.reading(&dialogue, model.tokenizer());
            dialogue = reading;
            if let Some((grammar, begins)) = grammar {
                constraint = match compiled(model, grammar, begins).await {
                    // A schema that is not supported hinders nobody who did not ask to be held to it.
                    Err(_) if !offered.is_strict() => None,
                    constraint => Some(constraint?),
                };
            }
            offer = Some(offered.offer);
        }
        let (text, tokens) = aside(move || prompt(&writer, &messages, &variables)).await?;
        if let Some(format) = self.format.compile(model, Begins::AfterThought).await? {
            if offer.is_some() {
                return Err(Refusal::field(
                    "tools",
                    "an answer with a format calls none: leave out one of the two",
                ));
            }
            constraint = Some(format);
        }
        let ask = Ask {
            prompts: vec![tokens],
            count: self.count,
            sampling: self.sampling,
            limit: self.limit,
            dialogue,
            constraint,
            stops: model.dialect.stops.iter().cloned().chain(self.stops).collect(),
            offer,
            text,
            odds: self.odds,
            scores: false,
            reuses: self.reuses,
        };
        ask.submit(shared, model)
    }
}

/// A grammar of calls, ready to rule an answer.
async fn compiled(model: &Arc<Model>, grammar: Grammar, begins: Begins) -> Result<Constraint, Refusal> {
    let model = model.clone();
    let work = move || {
        let matcher = model.engine.vocabulary().and_then(|vocabulary| vocabulary.compile(&grammar));
        let matcher = matcher.map_err(|error| Refusal::field("tools", error.to_string()))?;
        Ok(Constraint { matcher, begins })
    };
    aside(work).await
}

/// The prompt as text and as tokens.
pub(super) fn prompt(
    model: &Model,
    messages: &Messages,
    variables: &Map<String, Value>,
) -> Result<(String, Vec<u32>), Refusal> {
    let template = model.dialect.template.as_ref().ok_or_else(Refusal::no_template)?;
    let rendered = messages.render(template, model.dialect.dialogue.manner(), variables)?;
    let tokens = model.tokenizer().encode_parts(rendered.parts());
    let tokens = tokens.map_err(|error| Refusal::field("messages", error.to_string()))?;
    Ok((rendered.text().to_owned(), tokens))
}
