//! A conversation that wants an answer, whatever dialect it came in: a dialect reads its fields into a [`Chat`], and tells
//! the events of its answers in its own words.

use super::Shared;
use super::ask::{Answers, Ask, aside};
use super::format::{Format, compile};
use super::messages::Messages;
use super::model::Model;
use super::refusal::Refusal;
use super::scheduler::Telling;
use super::tools::{Offered, Tools};
use moewe_engine::dialogue::Dialogue;
use moewe_engine::grammar::{Begins, Constraint};
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
    /// Whether it is told how far the prompt has been read.
    pub(super) progress: bool,
}

impl Chat {
    /// Hands it to the scheduler.
    ///
    /// # Errors
    /// What the template says, tools and formats that do not compile, prompts that are too long, and a full queue.
    pub(super) async fn submit(mut self, shared: &Shared, model: &Arc<Model>) -> Result<Answers, Refusal> {
        let offered = self.tools.offered(&model.dialect.dialogue)?;
        let format = std::mem::take(&mut self.format).compile(model, Begins::AfterThought).await?;
        let (dialogue, constraint) = match &offered {
            None => (model.dialect.dialogue.clone(), format),
            Some(_) if format.is_some() => {
                let message = "an answer with a format calls none: leave out one of the two";
                return Err(Refusal::field("tools", message));
            }
            Some(offered) => calls(model, offered).await?,
        };
        let (sampling, limit, count, odds) = (self.sampling.clone(), self.limit, self.count, self.odds);
        let (reuses, progress) = (self.reuses, self.progress);
        let stops = model.dialect.stops.iter().chain(&self.stops).cloned().collect();
        let (text, tokens) = self.write(model, offered.as_ref()).await?;
        let ask = Ask {
            prompts: vec![tokens],
            count,
            sampling,
            limit,
            dialogue,
            constraint,
            stops,
            offer: offered.map(|offered| offered.offer),
            text,
            odds: odds.map(Telling::of_model),
            scores: false,
            reuses,
            progress,
        };
        ask.submit(shared, model)
    }

    /// Its prompt as text and as tokens.
    ///
    /// # Errors
    /// What the template says.
    pub(super) async fn prompt(self, model: &Arc<Model>) -> Result<(String, Vec<u32>), Refusal> {
        let offered = self.tools.offered(&model.dialect.dialogue)?;
        self.write(model, offered.as_ref()).await
    }

    async fn write(
        self,
        model: &Arc<Model>,
        offered: Option<&Offered>,
    ) -> Result<(String, Vec<u32>), Refusal> {
        let (writer, mut messages, mut variables) = (model.clone(), self.messages, self.variables);
        variables.extend(offered.and_then(Offered::variable));
        if let Some(text) = offered.and_then(Offered::instructions) {
            messages = messages.with_instructions(&text);
        }
        aside(move || prompt(&writer, &messages, &variables)).await
    }
}

/// How an answer with calls is read, and what it has to be.
async fn calls(model: &Arc<Model>, offered: &Offered) -> Result<(Dialogue, Option<Constraint>), Refusal> {
    let (dialogue, grammar) = offered.reading(&model.dialect.dialogue, model.tokenizer());
    let Some((grammar, begins)) = grammar else { return Ok((dialogue, None)) };
    match compile(model, "tools".into(), grammar, begins).await {
        // A schema that is not supported hinders nobody who did not ask to be held to it.
        Err(_) if !offered.is_strict() => Ok((dialogue, None)),
        constraint => Ok((dialogue, Some(constraint?))),
    }
}

/// The prompt as text and as tokens.
fn prompt(
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
