//! When reads are under way, and how many: what of a disk's time is used. What they read is not known here.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The reads of all threads.
#[derive(Default)]
pub(super) struct Activity(Mutex<State>);

#[derive(Default)]
struct State {
    reads: u32,
    changed: Option<Instant>,
    used: Used,
}

/// Time so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Used {
    /// In which at least one read was under way.
    pub(super) busy: Duration,
    /// Of all reads together.
    pub(super) reading: Duration,
    /// That the threads spent on packing what they had read.
    pub(super) packing: Duration,
}

impl State {
    /// Counts the time up to now.
    fn pass(&mut self, now: Instant) {
        let passed = self.changed.map_or(Duration::ZERO, |changed| now.saturating_duration_since(changed));
        if self.reads > 0 {
            self.used.busy += passed;
            self.used.reading += passed * self.reads;
        }
        self.changed = Some(now);
    }
}

impl Activity {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A read begins, which lasts as long as what is returned.
    pub(super) fn begin(&self) -> Reading<'_> {
        let mut state = self.state();
        state.pass(Instant::now());
        state.reads += 1;
        Reading(self)
    }

    /// A thread has packed for so long.
    pub(super) fn packed(&self, time: Duration) {
        self.state().used.packing += time;
    }

    /// Time so far, with that of reads that are under way.
    pub(super) fn used(&self) -> Used {
        let mut state = self.state();
        state.pass(Instant::now());
        state.used
    }
}

/// A read under way.
pub(super) struct Reading<'a>(&'a Activity);

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.pass(Instant::now());
        state.reads -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_counts_once_while_any_read_is_under_way_and_for_each() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut state = State::default();
        // One read from 1 to 5, another from 2 to 4, none up to 9, one up to 10.
        for (seconds, change) in [(1, 1), (2, 1), (4, -1), (5, -1), (9, 1), (10, -1)] {
            state.pass(at(seconds));
            state.reads = state.reads.checked_add_signed(change).unwrap();
        }
        let used = state.used;
        assert_eq!((used.busy, used.reading), (Duration::from_secs(5), Duration::from_secs(7)));
    }

    #[test]
    fn a_read_ends_where_its_scope_does() {
        let activity = Activity::default();
        {
            let (_one, _other) = (activity.begin(), activity.begin());
            assert_eq!(activity.state().reads, 2);
        }
        assert_eq!(activity.state().reads, 0);
        let used = activity.used();
        assert!(used.reading >= used.busy && activity.used() == used, "nothing passes while nothing is read");
    }
}
