//! From a request in any dialect to its events: one list of prompts, each answered one or more times.

use super::Shared;
use super::model::Model;
use super::refusal::Refusal;
use super::scheduler::{Event, Failure, Request, Telling, Usage};
use moewe_engine::dialogue::{Dialogue, Offer, StopScanner};
use moewe_engine::grammar::Constraint;
use moewe_engine::sampler::Sampling;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{Receiver, channel};
use tokio::time::timeout_at;

/// Events that a client may leave lying before its answers pause.
const ROOM: usize = 256;

/// What a client asks, whatever dialect it speaks.
pub(super) struct Ask {
    /// Each with at least one token.
    pub(super) prompts: Vec<Vec<u32>>,
    /// How often each of them is answered.
    pub(super) count: usize,
    pub(super) sampling: Sampling,
    pub(super) limit: Option<usize>,
    pub(super) dialogue: Dialogue,
    pub(super) stops: Vec<String>,
    /// What each answer has to be.
    pub(super) constraint: Option<Constraint>,
    /// The tools that may be called.
    pub(super) offer: Option<Arc<Offer>>,
    /// The prompt's text, where the model may go on in the middle of a thought.
    pub(super) text: String,
    /// Which odds are told beside each token, if any.
    pub(super) odds: Option<Telling>,
    pub(super) scores: bool,
    pub(super) reuses: bool,
    /// Whether it is told how far the prompts have been read.
    pub(super) progress: bool,
}

/// The events of all its answers, which are numbered by prompts first. Whoever drops it cancels them.
pub(super) struct Answers {
    events: Receiver<(usize, Event)>,
    deadline: Option<tokio::time::Instant>,
}

/// What came of waiting.
pub(super) enum Heard {
    /// An event of the answer with this number.
    Event(usize, Event),
    /// Nothing for so long.
    Silence,
    /// There are no more.
    End,
}

impl Ask {
    /// Hands it to the scheduler.
    ///
    /// # Errors
    /// Prompts that are empty or too long, and a full queue.
    pub(super) fn submit(self, shared: &Shared, model: &Model) -> Result<Answers, Refusal> {
        let settings = &shared.settings;
        let context = model.engine.context_length();
        for prompt in &self.prompts {
            if prompt.is_empty() {
                return Err(Refusal::field("prompt", "it has no token"));
            }
            if prompt.len() >= context {
                return Err(Refusal::too_long(prompt.len(), context));
            }
        }
        let count = self.prompts.len() * self.count;
        let most = settings.places();
        if count > most {
            return Err(Refusal::invalid(format!("{count} answers are more than the {most} that may wait")));
        }
        if shared.is_closing() {
            return Err(Failure::Closing.into());
        }
        let places = shared.places.clone().try_acquire_many_owned(count as u32);
        let mut places = places.map_err(|_| {
            shared.metrics.rejected();
            Refusal::busy(shared.metrics.retry_after(settings.limits.parallel))
        })?;
        let (events, receiver) = channel(ROOM);
        let limit = match (self.limit, settings.tokens_limit) {
            (Some(asked), Some(most)) => Some(asked.min(most)),
            (asked, most) => asked.or(most),
        };
        for index in 0..count {
            let Some(permit) = places.split(1) else { break };
            let mut sampling = self.sampling.clone();
            sampling.seed = sampling.seed.map(|seed| seed.wrapping_add((index % self.count) as u64));
            let stops = StopScanner::new(self.stops.iter().cloned());
            model.scheduler.submit(Request {
                prompt: self.prompts[index / self.count].clone(),
                sampling,
                limit,
                reader: self.dialogue.reader(&self.text, stops, self.offer.clone()),
                constraint: self.constraint.clone(),
                odds: self.odds,
                scores: self.scores,
                reuses: self.reuses,
                progress: self.progress,
                deadline: settings.queue_timeout.map(|time| Instant::now() + time),
                index,
                events: events.clone(),
                permit,
            });
        }
        let deadline = settings.request_timeout.map(|time| tokio::time::Instant::now() + time);
        Ok(Answers { events: receiver, deadline })
    }
}

impl Answers {
    /// Those whose events come here.
    #[cfg(test)]
    pub(super) fn of(events: Receiver<(usize, Event)>) -> Self {
        Self { events, deadline: None }
    }

    /// The next event, or the news that there was none for this long.
    pub(super) async fn next(&mut self, patience: Duration) -> Heard {
        let silence = tokio::time::Instant::now() + patience;
        let until = self.deadline.map_or(silence, |deadline| deadline.min(silence));
        loop {
            match timeout_at(until, self.events.recv()).await {
                Ok(Some((_, Event::Begun { .. }))) => {}
                Ok(Some((index, event))) => return Heard::Event(index, event),
                Ok(None) => return Heard::End,
                Err(_) if self.deadline == Some(until) => {
                    self.events.close();
                    return Heard::Event(0, Event::Failed(Failure::Slow));
                }
                Err(_) => return Heard::Silence,
            }
        }
    }

    /// Waits until the first answer has a place, and counts its prompt's tokens. What is wrong by then
    /// still has a status of its own.
    pub(super) async fn begun(&mut self) -> Result<Usage, Refusal> {
        let first = match self.deadline {
            Some(deadline) => timeout_at(deadline, self.events.recv()).await,
            None => Ok(self.events.recv().await),
        };
        match first {
            Ok(Some((_, Event::Failed(failure)))) => Err(failure.into()),
            Ok(Some((_, Event::Begun { usage }))) => Ok(usage),
            Ok(Some(_)) => Ok(Usage::default()), // the first event is that it has begun
            Ok(None) => Err(Failure::Closing.into()),
            Err(_) => Err(Failure::Slow.into()),
        }
    }
}

/// Makes tokens of what may be long, while others are heard.
pub(super) async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Refusal::server(error.to_string()))?
}
