//! From a grammar to a matcher: on a thread of its own, within bounds of time, however the library fares.

use super::vocabulary::reason;
use super::{Grammar, Matcher, Vocabulary};
use crate::{Error, Result};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::Builder;
use std::time::Duration;

/// A grammar that takes longer is refused.
const TIME: Duration = Duration::from_millis(500);
/// So many that took longer may still be at work; then all are refused for a while.
const MOST_LATE: usize = 2;
/// Of the thread that compiles: rules may refer to each other in a long chain.
const STACK: usize = 64 << 20;

impl Vocabulary {
    /// A matcher for a grammar, at its beginning. What it costs is bounded, and paid on a thread of its own.
    ///
    /// # Errors
    /// When the grammar is wrong, asks for what is not supported, or takes too long; in one line.
    pub fn compile(self: &Arc<Self>, grammar: &Grammar) -> Result<Matcher> {
        if self.late.load(Ordering::Relaxed) >= MOST_LATE {
            return Err(Error::request("other grammars take too long to compile; try again later"));
        }
        let (vocabulary, grammar) = (self.clone(), grammar.clone());
        let (sender, receiver) = channel();
        let (late, is_late) = (self.clone(), Arc::new(AtomicUsize::new(0)));
        let was_late = is_late.clone();
        let work = move || {
            let made = catch_unwind(AssertUnwindSafe(|| vocabulary.compile_here(&grammar)));
            let made = made.unwrap_or_else(|_| Err(Error::request("the grammar cannot be compiled")));
            // The one of both that comes second knows of the other.
            if was_late.swap(1, Ordering::AcqRel) == 1 {
                late.late.fetch_sub(1, Ordering::Relaxed);
            }
            let _ = sender.send(made);
        };
        let thread = Builder::new().name("moewe-grammar".into()).stack_size(STACK).spawn(work);
        thread.map_err(|error| Error::request(format!("no thread to compile the grammar: {error}")))?;
        match receiver.recv_timeout(TIME) {
            Ok(made) => made,
            Err(RecvTimeoutError::Disconnected) => Err(Error::request("the grammar cannot be compiled")),
            Err(RecvTimeoutError::Timeout) => {
                self.late.fetch_add(1, Ordering::Relaxed);
                if is_late.swap(1, Ordering::AcqRel) == 1 {
                    self.late.fetch_sub(1, Ordering::Relaxed);
                }
                let time = TIME.as_millis();
                Err(Error::request(format!("the grammar takes longer than {time} ms to compile")))
            }
        }
    }

    /// The same without bounds of time.
    fn compile_here(self: &Arc<Self>, grammar: &Grammar) -> Result<Matcher> {
        let wrong = |error: &str| Error::request(reason(error));
        let parser = self.factory.create_parser(grammar.lowered()?);
        let mut inner = llguidance::Matcher::new(parser);
        if let Some(error) = inner.get_error() {
            return Err(wrong(&error));
        }
        if let Some(warning) = inner.grammar_warnings().first() {
            return Err(wrong(warning));
        }
        let mut matcher = Matcher::new(inner, self.clone())?;
        matcher.allowed()?;
        Ok(matcher)
    }

    /// Grammars that took too long and are still at work.
    #[cfg(test)]
    pub(super) fn late(&self) -> usize {
        self.late.load(Ordering::Relaxed)
    }
}
