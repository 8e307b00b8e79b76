//! One thread computes for all conversations: it owns the batch, takes requests and hands out what they become.
//!
//! Turns alternate: one step with a row of every answer that goes on, then a piece of one prompt, so that nobody waits
//! for longer than a piece takes. Rows of answers are steps of their own: they have the bits that they have alone.
//! `conversation.rs` is one of them, `turns.rs` the thread's work, `prefixes.rs` what is kept of those that ended, `board.rs`
//! what is shown of it.

mod board;
mod conversation;
mod odds;
mod prefixes;
#[cfg(test)]
mod tests;
mod turns;

pub(crate) use super::usage::Usage;
pub(crate) use board::Slot;
pub(crate) use conversation::{Event, Failure, Request};
pub(crate) use odds::{By, Telling, TokenOdds};

use super::metrics::Metrics;
use board::Board;
use moewe_engine::session::Engine;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;
use turns::Turns;

/// Of the thread: what follows a stranger's grammar goes into its depth.
const STACK: usize = 16 << 20;

/// How the thread divides its time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Conversations that are computed at once.
    pub(crate) parallel: usize,
    /// About how long an answer may pause for a piece of another's prompt.
    pub(crate) pause: Duration,
    /// The share of time that prompts get while others answer.
    pub(crate) prefill_share: f64,
    /// Whether prompts are cut, and beginnings shared, only where this changes no bit of what follows.
    pub(crate) exact: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self { parallel: 8, pause: Duration::from_millis(600), prefill_share: 0.75, exact: false }
    }
}

enum Message {
    New(Box<Request>),
    End,
}

/// The way to the thread.
#[derive(Clone)]
pub(crate) struct Scheduler {
    messages: Sender<Message>,
    board: Arc<Board>,
}

impl Scheduler {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system has no thread, or the cache does not fit the model.
    pub(crate) fn start(
        engine: Arc<Engine>,
        limits: Limits,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<(Self, JoinHandle<()>)> {
        engine.batch(1)?;
        let (messages, receiver) = channel();
        let board = Arc::new(Board::new(limits.parallel));
        let of_thread = board.clone();
        let run = move || match Turns::new(&engine, limits, receiver, &metrics, &of_thread) {
            Ok(turns) => turns.run(),
            Err(error) => tracing::error!("{error}"),
        };
        let thread = Builder::new().name("moewe-scheduler".into()).stack_size(STACK).spawn(run)?;
        Ok((Self { messages, board }, thread))
    }

    /// Hands over a request; its channel hears all that follows.
    pub(crate) fn submit(&self, request: Request) {
        // Where the thread is gone the request is dropped, and with it its channel.
        let _ = self.messages.send(Message::New(Box::new(request)));
    }

    /// What each place does.
    pub(crate) fn slots(&self) -> Vec<Slot> {
        self.board.slots()
    }

    /// Ends the thread, and with it all requests.
    pub(crate) fn end(&self) {
        let _ = self.messages.send(Message::End);
    }
}
