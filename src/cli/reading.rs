//! A long prompt being read: how far it is and how fast, on a terminal; Ctrl-C stops it.
//!
//! Parts are those in which the session would read it anyway, so nothing that is computed differs.

use super::progress;
use anyhow::Result;
use indicatif::HumanCount;
use moewe_engine::Error;
use moewe_engine::generate::Figures;
use moewe_engine::model::Wants;
use moewe_engine::session::{CapacityMode, Session};
use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

/// What was read before a generation began.
#[derive(Clone, Copy, Default)]
pub(crate) struct Ahead {
    tokens: usize,
    time: Duration,
}

impl Ahead {
    /// Reads all of `prompt` but its last part, where a person watches and it is longer than that.
    ///
    /// # Errors
    /// As [`Session::synchronise`]; a stop is none, the generation finds it.
    pub(crate) fn read(session: &mut Session<'_>, prompt: &[u32], quiet: bool) -> Result<Self> {
        let options = session.engine().options();
        let part = options.batch;
        let known = session.tokens().iter().zip(prompt).take_while(|(a, b)| a == b).count();
        let is_short = prompt.len() - known <= part || prompt.len() > session.engine().context_length();
        if quiet || is_short || options.capacity == CapacityMode::Reference || !stderr().is_terminal() {
            return Ok(Self::default());
        }
        let (start, mut tokens) = (Instant::now(), 0);
        let bar = progress::bar(false, "{msg}");
        for end in (known + part..prompt.len()).step_by(part) {
            match session.synchronise_for(&prompt[..end], Wants::Nothing) {
                Ok(read) => tokens += read,
                Err(Error::Stopped) => break,
                Err(error) => return Err(error.into()),
            }
            let rate = tokens as f64 / start.elapsed().as_secs_f64();
            let (end, all) = (HumanCount(end as u64), HumanCount(prompt.len() as u64));
            bar.set_message(format!("{end} of {all} tokens read, {rate:.1} tokens/s; Ctrl-C stops"));
        }
        bar.finish_and_clear();
        Ok(Self { tokens, time: start.elapsed() })
    }

    /// `figures` with what was read before.
    pub(crate) fn added_to(self, mut figures: Figures) -> Figures {
        figures.prefilled += self.tokens;
        figures.prefill += self.time;
        figures
    }
}
