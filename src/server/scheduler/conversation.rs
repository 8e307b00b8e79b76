//! One request on its way: its text, its place in the batch, and what its client has not taken yet.

use super::Usage;
use super::odds::{Telling, TokenOdds};
use moewe_engine::dialogue::{Piece, Reader};
use moewe_engine::generate::{Ending, Event as Brought, Generation, Guide, Guided};
use moewe_engine::grammar::Constraint;
use moewe_engine::model::{Row, Wants};
use moewe_engine::sampler::{Sampler, Sampling};
use moewe_engine::session::{Batch, Engine};
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

/// What a client wants.
pub(crate) struct Request {
    /// At least one token, fewer than the context has positions.
    pub(crate) prompt: Vec<u32>,
    pub(crate) sampling: Sampling,
    /// Most tokens of the answer.
    pub(crate) limit: Option<usize>,
    /// Splits and ends its text.
    pub(crate) reader: Reader,
    /// What its text has to be.
    pub(crate) constraint: Option<Constraint>,
    /// Which odds are told beside each token, if any.
    pub(crate) odds: Option<Telling>,
    /// Whether the odds of the prompt's own tokens are told as well.
    pub(crate) scores: bool,
    /// Whether beginnings are shared with others, and this one's kept.
    pub(crate) reuses: bool,
    /// Whether it is told how far the prompt has been read.
    pub(crate) progress: bool,
    /// When it has waited for too long.
    pub(crate) deadline: Option<Instant>,
    /// Which of its client's answers it is.
    pub(crate) index: usize,
    /// Where its events go, with this index; it is cancelled as soon as nobody listens any more.
    pub(crate) events: Sender<(usize, Event)>,
    /// Its place in the house: given back when it ends.
    pub(crate) permit: OwnedSemaphorePermit,
}

/// What a request becomes.
#[derive(Debug)]
pub(crate) enum Event {
    /// It has a place; the prompt's tokens are counted, and those that are known.
    Begun { usage: Usage },
    /// So many of the prompt's tokens have been read.
    Read { read: usize, usage: Usage },
    /// The odds of some of the prompt's tokens, from the second one on.
    Scored(Vec<TokenOdds>),
    /// A token, the text that it completes, and what the answer took so far.
    Token { token: u32, pieces: Vec<Piece>, odds: Option<TokenOdds>, usage: Usage },
    /// The end, after this text, because of the stop string if there was one.
    Ended { ending: Ending, stop: Option<String>, pieces: Vec<Piece>, usage: Usage },
    /// No answer, or no more of it.
    Failed(Failure),
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Failure {
    /// It waited for longer than it may.
    Waited,
    /// It took longer than it may.
    Slow,
    /// The server ends.
    Closing,
    /// A setting makes no sense.
    Setting(String),
    /// The model cannot be computed.
    Engine(String),
}

pub(super) struct Conversation {
    id: u64, // later ones have larger ones
    index: usize,
    events: Sender<(usize, Event)>,
    generation: Generation,
    sampler: Option<Sampler>, // made when it begins
    sampling: Sampling,
    limit: Option<usize>,
    vocabulary: usize,
    odds: Option<Telling>,
    scored: Option<usize>, // tokens of the prompt whose odds were told, where they are wanted
    reuses: bool,
    progress: bool,
    deadline: Option<Instant>,
    sequence: usize,
    usage: Usage,
    since: Instant,          // of its arrival, of its place, then of its first token
    latest: Option<Instant>, // token
    unsent: VecDeque<Event>,
    full_since: Option<Instant>,
    is_gone: bool,
    has_place: bool,
    was_moved: bool,
    has_ended: bool,
    _permit: OwnedSemaphorePermit,
}

impl Conversation {
    pub(super) fn new(engine: &Engine, id: u64, request: Request) -> Self {
        let Request { prompt, sampling, limit, reader, constraint, odds, scores, reuses, .. } = request;
        let Request { progress, deadline, index, events, permit, .. } = request;
        let guided = Guided { reader, guide: constraint.map(Guide::new) };
        Self {
            id,
            index,
            events,
            generation: Generation::new(engine, &prompt, limit, guided),
            sampler: None,
            sampling,
            limit,
            vocabulary: engine.config().vocab_size,
            odds,
            scored: scores.then_some(1),
            reuses: reuses && !scores,
            progress,
            deadline,
            sequence: 0,
            usage: Usage { prompt_tokens: prompt.len(), ..Usage::default() },
            since: Instant::now(),
            latest: None,
            unsent: VecDeque::new(),
            full_since: None,
            is_gone: false,
            has_place: false,
            was_moved: false,
            has_ended: false,
            _permit: permit,
        }
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Tokens of the prompt and the answer so far.
    pub(super) fn tokens(&self) -> &[u32] {
        self.generation.all()
    }

    pub(super) fn limit(&self) -> Option<usize> {
        self.limit
    }

    pub(super) fn sampling(&self) -> &Sampling {
        &self.sampling
    }

    pub(super) fn reuses(&self) -> bool {
        self.reuses
    }

    /// Whether the prompt's own tokens want odds.
    pub(super) fn scores(&self) -> bool {
        self.scored.is_some_and(|scored| scored < self.usage.prompt_tokens)
    }

    pub(super) fn sequence(&self) -> usize {
        self.sequence
    }

    pub(super) fn usage(&self) -> Usage {
        self.usage
    }

    /// How long it has been in its present state.
    pub(super) fn waited(&self) -> Duration {
        self.since.elapsed()
    }

    /// Whether it has waited in vain.
    pub(super) fn is_late(&self) -> bool {
        !self.has_place && self.deadline.is_some_and(|deadline| deadline < Instant::now())
    }

    /// Makes the sampler; `false` where the settings are wrong, which is said then.
    pub(super) fn begin(&mut self) -> bool {
        if self.sampler.is_none() {
            match Sampler::new(self.sampling.clone(), self.vocabulary) {
                Ok(mut sampler) => {
                    sampler.begin_answer(self.usage.prompt_tokens);
                    self.sampler = Some(sampler);
                }
                Err(error) => {
                    self.fail(Failure::Setting(error.to_string()));
                    return false;
                }
            }
        }
        true
    }

    /// It has a sequence that holds its first tokens.
    pub(super) fn take_place(&mut self, sequence: usize, held: usize) {
        self.sequence = sequence;
        if !self.has_place {
            self.usage.waited = self.since.elapsed();
            (self.has_place, self.since, self.usage.cached_tokens) = (true, Instant::now(), held);
            self.send(Event::Begun { usage: self.usage });
            self.has_read(held);
            if !self.scores() {
                self.end_if_full();
            }
        }
    }

    /// More of its prompt has become known. What it had read before it lost its place counts as computed.
    pub(super) fn find(&mut self, known: usize) {
        if !self.was_moved {
            self.usage.cached_tokens += known;
        }
    }

    /// The first so many tokens of its prompt are held now.
    pub(super) fn has_read(&mut self, held: usize) {
        if self.progress && !self.was_moved && held <= self.usage.prompt_tokens {
            let usage = Usage { prompt: self.since.elapsed(), ..self.usage };
            self.send(Event::Read { read: held, usage });
        }
    }

    /// It has none any more, and waits for another.
    pub(super) fn leave_place(&mut self) {
        (self.was_moved, self.sequence) = (true, 0);
    }

    /// Whether all but the latest token is held, so that one row brings the next.
    pub(super) fn is_answering(&self, held: usize) -> bool {
        !self.has_ended
            && !self.is_full()
            && self.usage.completion_tokens > 0
            && held + 1 == self.tokens().len()
    }

    /// Whether tokens of the prompt, or of an answer that lost its place, are still to be read.
    pub(super) fn is_reading(&self, held: usize) -> bool {
        !self.has_ended && !self.is_full() && !self.is_answering(held)
    }

    /// The row of the latest token.
    pub(super) fn next_row(&self) -> Option<Row> {
        let row = self.generation.next_row(self.sequence, self.sampler.as_ref()?)?;
        Some(Row { wants: if self.odds.is_some() { Wants::Logits } else { row.wants }, ..row })
    }

    /// Rows of the tokens behind those held; the latest one wants to know what follows.
    pub(super) fn rows(&self, held: usize, count: usize) -> Vec<Row> {
        let last = self.tokens().len() - 1;
        let wants = Wants::logits_if(self.scores());
        let row = |position: usize| {
            let row = Row { sequence: self.sequence, position, token: self.tokens()[position], wants };
            if position == last { self.next_row().unwrap_or(row) } else { row }
        };
        (held..held + count).map(row).collect()
    }

    /// Tells the odds of the prompt's tokens that follow rows from position `held` on.
    pub(super) fn score(&mut self, batch: &mut Batch<'_>, held: usize, count: usize) {
        let Some(scored) = self.scored else { return };
        let top = self.odds.map_or(0, |telling| telling.top);
        let until = (held + count + 1).min(self.usage.prompt_tokens);
        if let Err(error) = batch.fetch() {
            return self.fail(Failure::Engine(error.to_string()));
        }
        let odds =
            |position: usize| TokenOdds::new(batch.logits(position - 1 - held), self.tokens()[position], top);
        // What is read again, because the place was lost, was told before.
        let told = (scored.max(held + 1)..until).map(odds).collect();
        self.scored = Some(scored.max(until));
        self.send(Event::Scored(told));
        if held + count == self.tokens().len() {
            self.end_if_full();
        }
    }

    /// Takes the next token from what the batch's last step says in this of the rows that wanted something, and tells the
    /// time since the one before.
    pub(super) fn take(&mut self, batch: &mut Batch<'_>, row: usize) -> Option<Duration> {
        let sampler = self.sampler.as_mut().filter(|_| !self.has_ended)?;
        if self.usage.completion_tokens == 0 {
            self.usage.prompt += self.since.elapsed();
            self.since = Instant::now();
        }
        let (ending, pieces) = match self.generation.take(sampler, batch, row) {
            Ok(Brought::Said(pieces)) => (None, pieces),
            Ok(Brought::Ended(ending, pieces)) => (Some(ending), pieces),
            Err(error) => {
                self.fail(Failure::Engine(error.to_string()));
                return None;
            }
        };
        if ending == Some(Ending::EndOfText) {
            self.end(Ending::EndOfText);
            return None;
        }
        let token = self.tokens()[self.tokens().len() - 1];
        let telling = self.odds.zip(self.sampler.as_ref());
        let odds = telling.map(|(telling, sampler)| telling.odds(batch.logits(row), sampler, token));
        self.usage.completion_tokens += 1;
        // The token that brings a stop string has odds, too.
        self.usage.answer = self.since.elapsed();
        self.send(Event::Token { token, pieces, odds, usage: self.usage });
        if let Some(ending) = ending.or_else(|| self.generation.end_if_full()) {
            self.end(ending);
        }
        let now = Instant::now();
        self.latest.replace(now).map(|latest| now - latest)
    }

    /// How long the latest mask of its grammar took.
    pub(super) fn mask_took(&self) -> Option<Duration> {
        self.generation.guide_took()
    }

    fn end_if_full(&mut self) {
        if let Some(ending) = self.generation.end_if_full() {
            self.end(ending);
        }
    }

    fn end(&mut self, ending: Ending) {
        self.usage.answer = self.since.elapsed();
        self.has_ended = true;
        let pieces = self.generation.flush();
        let stop = self.generation.stop().map(str::to_owned);
        self.send(Event::Ended { ending, stop, pieces, usage: self.usage });
    }

    /// Says that there is no answer, or no more of it.
    pub(super) fn fail(&mut self, failure: Failure) {
        self.has_ended = true;
        self.send(Event::Failed(failure));
    }

    fn send(&mut self, event: Event) {
        self.unsent.push_back(event);
        self.resend();
    }

    /// Sends what there was no room for.
    pub(super) fn resend(&mut self) {
        while !self.is_gone
            && let Some(event) = self.unsent.pop_front()
        {
            match self.events.try_send((self.index, event)) {
                Ok(()) => self.full_since = None,
                Err(TrySendError::Closed(_)) => self.is_gone = true,
                Err(TrySendError::Full((_, event))) => {
                    self.unsent.push_front(event);
                    self.full_since.get_or_insert_with(Instant::now);
                    return;
                }
            }
        }
    }

    /// Whether its client has no room.
    pub(super) fn is_full(&self) -> bool {
        !self.unsent.is_empty()
    }

    pub(super) fn full_for(&self) -> Duration {
        self.full_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Whether nobody listens any more.
    pub(super) fn is_gone(&self) -> bool {
        self.is_gone || self.events.is_closed()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }
}
