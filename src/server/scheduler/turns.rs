//! What the thread does in turn: listens, lets in, answers, reads on, and lets go.

use super::conversation::{Conversation, Failure};
use super::prefixes::Prefixes;
use super::{Limits, Message, Metrics};
use moewe_engine::model::{PAGE, Row};
use moewe_engine::session::{Batch, Engine};
use moewe_engine::{Error, Result};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Rows of a piece of a prompt while others answer: the first guess, and the fewest.
const FIRST_PIECE: usize = 64;
const LEAST_PIECE: usize = 32;
/// From so many rows on, other kernels may compute: a prompt's last piece is no shorter, unless the prompt is, and a step
/// of answers no longer.
const MANY: usize = 24;
/// Rows of a piece whose odds are told: memory for their logits was planned.
const SCORED_PIECE: usize = 32;
/// A prompt that waited this long comes before shorter ones.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a client may leave its events lying.
const SLOW: Duration = Duration::from_secs(30);
/// How soon a client is asked again whether it has room.
const RETRY: Duration = Duration::from_millis(10);
/// So many faults of our own within this time end the process: something is broken for good.
const FAULTS: (usize, Duration) = (3, Duration::from_secs(60));
/// The exit status then, `EX_SOFTWARE`.
const BROKEN: i32 = 70;

/// The thread's own.
pub(super) struct Turns<'e> {
    batch: Batch<'e>,
    limits: Limits,
    messages: Receiver<Message>,
    metrics: &'e Metrics,
    arrived: u64,
    waiting: VecDeque<Conversation>,
    running: Vec<Conversation>,
    free: Vec<usize>, // sequences of the batch
    prefixes: Prefixes,
    piece: usize,
    spent: [Duration; 2], // on answers and on prompts, since both last had something to do
    faults: VecDeque<Instant>,
}

impl<'e> Turns<'e> {
    pub(super) fn new(
        engine: &'e Engine,
        limits: Limits,
        messages: Receiver<Message>,
        metrics: &'e Metrics,
    ) -> Result<Self> {
        Ok(Self {
            batch: engine.batch(limits.parallel)?,
            limits,
            messages,
            metrics,
            arrived: 0,
            waiting: VecDeque::new(),
            running: vec![],
            free: (0..limits.parallel).rev().collect(),
            prefixes: Prefixes::default(),
            piece: FIRST_PIECE,
            spent: Default::default(),
            faults: VecDeque::new(),
        })
    }

    pub(super) fn run(mut self) {
        while self.listen() {
            self.metrics.begin_turn();
            if catch_unwind(AssertUnwindSafe(|| self.turn())).is_err() {
                self.recover();
            }
            self.metrics.end_turn();
        }
        for mut conversation in self.running.drain(..).chain(self.waiting.drain(..)) {
            conversation.fail(Failure::Closing);
        }
    }

    fn turn(&mut self) {
        self.admit();
        self.deliver();
        let answering = self.those(|conversation, held| conversation.is_answering(held));
        for some in answering.chunks(MANY - 1) {
            // Where one loses its place the others are no longer where they were.
            if !self.answer(some) {
                break;
            }
        }
        let answers = !self.those(|conversation, held| conversation.is_answering(held)).is_empty();
        match self.next_prompt() {
            Some(next) if !answers || self.may_read_on() => self.read(next, !answers),
            Some(_) => {}
            None => self.spent = Default::default(),
        }
    }

    fn tell_metrics(&self) {
        let (pool, metrics) = (self.batch.engine().pool(), self.metrics);
        metrics.processing.set(self.running.len() as i64);
        metrics.deferred.set(self.waiting.len() as i64);
        metrics.pages(pool.used(), pool.free());
    }

    /// Takes what has come; sleeps where there is nothing to compute. `false` at the end.
    fn listen(&mut self) -> bool {
        self.tell_metrics();
        let is_idle = self.waiting.is_empty() && self.running.is_empty();
        let can_compute = self.running.iter().any(|conversation| !conversation.is_full());
        let first = if is_idle {
            self.messages.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else if !can_compute && !self.running.is_empty() {
            self.messages.recv_timeout(RETRY)
        } else {
            Err(RecvTimeoutError::Timeout)
        };
        match first {
            Ok(message) => {
                if !self.heed(message) {
                    return false;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        while let Ok(message) = self.messages.try_recv() {
            if !self.heed(message) {
                return false;
            }
        }
        true
    }

    fn heed(&mut self, message: Message) -> bool {
        let Message::New(request) = message else { return false };
        self.arrived += 1;
        self.waiting.push_back(Conversation::new(self.batch.engine(), self.arrived, *request));
        true
    }

    /// Gives those that wait a sequence, as long as there are any and the cache has room for what they begin with.
    fn admit(&mut self) {
        let metrics = self.metrics;
        self.waiting.retain_mut(|conversation| {
            if conversation.is_late() {
                conversation.fail(Failure::Waited);
            } else if conversation.is_gone() {
                metrics.cancelled("waiting");
            } else {
                return true;
            }
            false
        });
        while let Some(&sequence) = self.free.last() {
            let Some(mut conversation) = self.waiting.pop_front() else { return };
            if !conversation.begin() {
                continue;
            }
            if conversation.reuses() {
                self.begin_with_known(sequence, conversation.tokens());
            }
            self.mark(sequence, conversation.tokens().len());
            let wanted = (conversation.tokens().len() + PAGE).min(self.batch.engine().context_length());
            if self.make_room(self.batch.pages_for(sequence, wanted)) {
                self.free.pop();
                conversation.take_place(sequence, self.batch.len(sequence));
                self.metrics.waited(conversation.usage().waited);
                self.running.push(conversation);
                continue;
            }
            self.batch.rewind(sequence, 0);
            if !self.running.is_empty() {
                self.waiting.push_front(conversation);
                return;
            }
            conversation.fail(no_room(&self.batch));
        }
    }

    /// Lets a sequence begin with the longest beginning of these tokens that anybody holds, if that has more of them than
    /// itself; says how many more. Their last one is always computed.
    fn begin_with_known(&mut self, sequence: usize, tokens: &[u32]) -> usize {
        let (most, held) = (tokens.len() - 1, self.batch.len(sequence));
        let exact = self.limits.exact;
        let common = |held: &[u32]| {
            let same = held.iter().zip(&tokens[..most]).take_while(|(held, own)| held == own).count();
            if exact { same / PAGE * PAGE } else { same }
        };
        // A recurrent state may be known somewhere before the end of what is in common.
        let usable = |reached: usize| if exact && !reached.is_multiple_of(PAGE) { 0 } else { reached };
        let of_running = self.running.iter().filter(|other| other.reuses()).map(|other| {
            let common = common(&other.tokens()[..self.worth_sharing(other)]);
            (usable(self.batch.reach(other.sequence(), common)), common, other.sequence())
        });
        let (running, parted, other) = of_running.max().unwrap_or_default();
        let kept = self.prefixes.longest(common, usable);
        let kept = kept.filter(|(kept, common, _)| (*kept, *common) > (running, parted));
        let (length, parted, known) = match kept {
            Some((length, parted, prefix)) => (length, parted, (length > held).then(|| prefix.fork(parted))),
            None => (running, parted, (running > held).then(|| self.batch.fork(other, parted))),
        };
        if let Some(known) = known {
            self.batch.replace(sequence, known);
        } else if parted > held {
            // Where two conversations parted a third one may begin.
            self.batch.mark(sequence, parted);
        }
        length.saturating_sub(held)
    }

    /// Has a recurrent state kept before the last token of a prompt, which is always computed.
    fn mark(&mut self, sequence: usize, prompt: usize) {
        let end = prompt - 1;
        self.batch.mark(sequence, if self.limits.exact { end / PAGE * PAGE } else { end });
    }

    /// What others have read in the meantime need not be read again.
    fn look_again(&mut self, at: usize) {
        let conversation = &self.running[at];
        if !conversation.reuses() {
            return;
        }
        let (sequence, tokens) = (conversation.sequence(), conversation.tokens().to_vec());
        let more = self.begin_with_known(sequence, &tokens);
        if more > 0 {
            self.running[at].find(more);
            self.mark(sequence, tokens.len());
        }
    }

    /// How many of its positions others may begin with. Those of an answer were computed one by one, which gives other
    /// bits than in pieces of a prompt.
    fn worth_sharing(&self, conversation: &Conversation) -> usize {
        let held = self.batch.len(conversation.sequence());
        if self.limits.exact { held.min(conversation.usage().prompt_tokens) } else { held }
    }

    /// Lets go of what ended long ago until so many pages are free.
    fn make_room(&mut self, pages: usize) -> bool {
        let pool = self.batch.engine().pool().clone();
        while pool.free() < pages {
            if !self.prefixes.forget_oldest() {
                return false;
            }
        }
        true
    }

    /// Makes room for sequences of these lengths; where there is none, the youngest goes back to the queue, to be
    /// computed anew, and `false` says so.
    fn make_room_for(&mut self, wanted: &[(usize, usize)]) -> bool {
        let pages = wanted.iter().map(|&(sequence, len)| self.batch.pages_for(sequence, len)).sum();
        if self.make_room(pages) {
            return true;
        }
        let youngest = (0..self.running.len()).max_by_key(|&at| self.running[at].id());
        if let Some(at) = youngest {
            let mut conversation = self.running.swap_remove(at);
            self.vacate(conversation.sequence());
            if self.running.is_empty() {
                conversation.fail(no_room(&self.batch));
            } else {
                self.metrics.preemptions.inc();
                conversation.leave_place();
                self.waiting.push_front(conversation);
            }
        }
        false
    }

    /// Sends what clients had no room for; lets go of those that ended, are gone, or too slow.
    fn deliver(&mut self) {
        for at in (0..self.running.len()).rev() {
            let conversation = &mut self.running[at];
            conversation.resend();
            let has_ended = conversation.has_ended();
            if has_ended && !conversation.is_full() {
                self.finish(at);
            } else if conversation.is_gone() || conversation.full_for() > SLOW {
                let phase = match (has_ended, conversation.usage().completion_tokens) {
                    (true, _) => "ended",
                    (_, 0) => "reading",
                    _ => "answering",
                };
                self.metrics.cancelled(phase);
                self.finish(at);
            }
        }
    }

    fn those(&self, holds: impl Fn(&Conversation, usize) -> bool) -> Vec<usize> {
        let held = |conversation: &Conversation| self.batch.len(conversation.sequence());
        let is_one = |&at: &usize| holds(&self.running[at], held(&self.running[at]));
        (0..self.running.len()).filter(is_one).collect()
    }

    /// One step with a row of each answer. `false` where there was no room for all.
    fn answer(&mut self, answering: &[usize]) -> bool {
        let rows: Vec<Row> = answering.iter().filter_map(|&at| self.running[at].next_row()).collect();
        let wanted: Vec<_> = rows.iter().map(|row| (row.sequence, row.position + 1)).collect();
        if !self.make_room_for(&wanted) {
            return false;
        }
        let start = Instant::now();
        if let Err(error) = self.batch.step(&rows) {
            self.give_up(&rows, &error);
            return false;
        }
        for (row, &at) in answering.iter().enumerate() {
            if let Some(gap) = self.running[at].take(&mut self.batch, row) {
                self.metrics.token(gap);
            }
            self.metrics.masked(self.running[at].mask_took());
        }
        self.spent[0] += start.elapsed();
        self.metrics.answered(rows.len(), start.elapsed());
        true
    }

    /// Whether prompts have had less than their share.
    fn may_read_on(&self) -> bool {
        let [answers, prompts] = self.spent.map(|time| time.as_secs_f64());
        prompts <= self.limits.prefill_share * (answers + prompts)
    }

    /// The prompt with the least left to read, unless one has waited for long.
    fn next_prompt(&self) -> Option<usize> {
        let reading = self.those(|conversation, held| conversation.is_reading(held));
        let oldest = reading.iter().copied().max_by_key(|&at| self.running[at].waited());
        oldest.filter(|&at| self.running[at].waited() > PATIENCE).or_else(|| {
            reading.into_iter().min_by_key(|&at| {
                let conversation = &self.running[at];
                conversation.tokens().len() - self.batch.len(conversation.sequence())
            })
        })
    }

    /// A piece of a prompt; behind its end the answer begins.
    fn read(&mut self, at: usize, is_alone: bool) {
        self.look_again(at);
        let conversation = &self.running[at];
        let (sequence, held) = (conversation.sequence(), self.batch.len(conversation.sequence()));
        let left = conversation.tokens().len() - held;
        let most = self.batch.engine().options().batch;
        let piece = if is_alone { most } else { self.piece.min(most) };
        let scores = conversation.scores();
        let count = if scores {
            left.min(SCORED_PIECE).min(most)
        } else if self.limits.exact {
            // Always the same cuts, whatever was shared and whoever else is here.
            let of_prompt = conversation.usage().prompt_tokens.saturating_sub(held);
            of_prompt.min(PAGE - held % PAGE).clamp(1, most)
        } else if left < piece + MANY {
            left.min(most)
        } else {
            piece
        };
        let rows = conversation.rows(held, count);
        if !self.make_room_for(&[(sequence, held + count)]) {
            return;
        }
        let start = Instant::now();
        if let Err(error) = self.batch.step(&rows) {
            return self.give_up(&rows, &error);
        }
        let conversation = &mut self.running[at];
        if scores {
            conversation.score(&mut self.batch, held, count);
        }
        if count == left {
            conversation.take(&mut self.batch, if scores { count - 1 } else { 0 });
            self.metrics.masked(conversation.mask_took());
        }
        let took = start.elapsed();
        self.metrics.read(count, took);
        if is_alone {
            self.spent = Default::default();
            return;
        }
        self.spent[1] += took;
        if count == piece && took > self.limits.pause {
            self.piece = (piece / 2).max(LEAST_PIECE);
        } else if count == piece && took * 2 < self.limits.pause {
            self.piece = (piece * 2).min(most);
        }
    }

    /// An error ends those whose rows were computed, and leaves nothing of them in the cache.
    fn give_up(&mut self, rows: &[Row], error: &Error) {
        for at in (0..self.running.len()).rev() {
            let sequence = self.running[at].sequence();
            if rows.iter().any(|row| row.sequence == sequence) {
                let mut conversation = self.running.swap_remove(at);
                self.vacate(sequence);
                conversation.fail(Failure::Engine(error.to_string()));
            }
        }
    }

    /// After a fault of our own nothing that was computed is trusted: all who were computed for are told, and the others
    /// go on.
    fn recover(&mut self) {
        let now = Instant::now();
        self.faults.push_back(now);
        self.faults.retain(|fault| now - *fault < FAULTS.1);
        if self.faults.len() >= FAULTS.0 {
            tracing::error!("the model cannot be computed any more: {} faults within a minute", FAULTS.0);
            std::process::exit(BROKEN);
        }
        for mut conversation in self.running.drain(..) {
            conversation.fail(Failure::Engine("a fault of the server's own; its log says more".into()));
        }
        self.prefixes.clear();
        match self.batch.engine().batch(self.limits.parallel) {
            Ok(batch) => self.batch = batch,
            Err(error) => tracing::error!("{error}"),
        }
        self.free = (0..self.limits.parallel).rev().collect();
    }

    /// Lets a conversation go, and keeps what it held for others.
    fn finish(&mut self, at: usize) {
        let conversation = self.running.swap_remove(at);
        self.metrics.finished(&conversation.usage());
        let sequence = conversation.sequence();
        let held = self.worth_sharing(&conversation);
        if conversation.reuses() && held > 0 {
            let kept = self.batch.fork(sequence, held);
            // A recurrent state is not known everywhere.
            let held = kept.len();
            self.prefixes.keep(conversation.tokens()[..held].to_vec(), kept);
        }
        self.vacate(sequence);
    }

    fn vacate(&mut self, sequence: usize) {
        self.batch.rewind(sequence, 0);
        self.free.push(sequence);
    }
}

fn no_room(batch: &Batch<'_>) -> Failure {
    Failure::Engine(Error::PoolFull(batch.engine().pool().most()).to_string())
}
