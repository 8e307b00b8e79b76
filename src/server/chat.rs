//! A conversation that wants an answer, whatever dialect it came in: a dialect reads its fields into a [`Chat`], and tells
//! the events of its answers in its own words.

use super::Shared;
use super::ask::{Answers, Ask, aside};
use super::format::Format;
use super::messages::Messages;
use super::model::Model;
use super::refusal::Refusal;
use super::tools::Tools;
use moewe_engine::grammar::Begins;
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
    /// What the template says, a format that does not compile, prompts that are too long, and a full queue.
    pub(super) async fn submit(self, shared: &Shared, model: &Arc<Model>) -> Result<Answers, Refusal> {
        let (sampling, limit, count, odds) = (self.sampling.clone(), self.limit, self.count, self.odds);
        let (reuses, progress) = (self.reuses, self.progress);
        let stops = model.dialect.stops.iter().chain(&self.stops).cloned().collect();
        let constraint = self.format.clone().compile(model, Begins::AfterThought).await?;
        let (text, tokens) = self.prompt(model).await?;
        let ask = Ask {
            prompts: vec![tokens],
            count,
            sampling,
            limit,
            dialogue: model.dialect.dialogue.clone(),
            stops,
            constraint,
            text,
            odds,
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
        self.tools.check()?;
        let (writer, messages, variables) = (model.clone(), self.messages, self.variables);
        aside(move || prompt(&writer, &messages, &variables)).await
    }
}

/// The prompt as text and as tokens.
fn prompt(
    model: &Model,
    messages: &Messages,
    variables: &Map<String, Value>,
) -> Result<(String, Vec<u32>), Refusal> {
    let template = model.dialect.template.as_ref().ok_or_else(Refusal::no_template)?;
    let rendered = messages.render(template, variables)?;
    let tokens = model.tokenizer().encode_parts(rendered.parts());
    let tokens = tokens.map_err(|error| Refusal::field("messages", error.to_string()))?;
    Ok((rendered.text().to_owned(), tokens))
}
