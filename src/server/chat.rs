//! A conversation that wants an answer, whatever dialect it came in: a dialect reads its fields into a [`Chat`], and tells
//! the events of its answers in its own words.

use super::Shared;
use super::ask::{Answers, Ask, aside};
use super::messages::Messages;
use super::model::Model;
use super::refusal::Refusal;
use super::tools::Tools;
use moewe_engine::sampler::Sampling;
use serde_json::{Map, Value};
use std::sync::Arc;

/// One conversation.
pub(super) struct Chat {
    pub(super) messages: Messages,
    pub(super) tools: Tools,
    /// Of the template.
    pub(super) variables: Map<String, Value>,
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
    /// What the template says, prompts that are too long, and a full queue.
    pub(super) async fn submit(self, shared: &Shared, model: &Arc<Model>) -> Result<Answers, Refusal> {
        let offered = self.tools.offered(&model.dialect.dialogue)?;
        let offer = offered.as_ref().map(|offered| offered.offer.clone());
        let (writer, messages, mut variables) = (model.clone(), self.messages, self.variables);
        variables.extend(offered.map(|offered| ("tools".to_owned(), offered.list)));
        let (text, tokens) = aside(move || prompt(&writer, &messages, &variables)).await?;
        let ask = Ask {
            prompts: vec![tokens],
            count: self.count,
            sampling: self.sampling,
            limit: self.limit,
            dialogue: model.dialect.dialogue.clone(),
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
