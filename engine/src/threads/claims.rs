//! Who does which task of a job: every thread has a share that it claims one by one, and who has none left takes half of
//! what another has. It knows neither threads nor work, so that it can be tried in every order of events (`tests/loom`).

use super::sync::{AtomicU64, AtomicUsize, Ordering};
use std::ops::Range;

/// Bits of [`Ticket`] for the next task and, above them, as many for the end.
const TASK_BITS: u32 = 20;
const TASK_MASK: u64 = (1 << TASK_BITS) - 1;

/// A thread's share of a job: job number, end and next unclaimed task in one word, so that they change together.
#[derive(Clone, Copy)]
struct Ticket(u64);

impl Ticket {
    fn new(job: u64, tasks: Range<usize>) -> Self {
        Self(job << (2 * TASK_BITS) | (tasks.end as u64) << TASK_BITS | tasks.start as u64)
    }
    fn job(self) -> u64 {
        self.0 >> (2 * TASK_BITS)
    }
    /// What is left of this job.
    fn tasks(self, job: u64) -> Range<usize> {
        if self.job() != job {
            return 0..0;
        }
        (self.0 & TASK_MASK) as usize..(self.0 >> TASK_BITS & TASK_MASK) as usize
    }
}

/// A [`Ticket`] on cache lines of its own (the processor fetches them by twos).
#[derive(Default)]
#[repr(align(128))]
struct Share(AtomicU64);

impl Share {
    fn get(&self) -> Ticket {
        Ticket(self.0.load(Ordering::Acquire))
    }
    fn set(&self, ticket: Ticket) {
        self.0.store(ticket.0, Ordering::Release);
    }
    /// Whether the ticket was still `from` and is `to` now.
    fn change(&self, from: Ticket, to: Ticket) -> bool {
        self.0.compare_exchange(from.0, to.0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

/// Jobs that follow each other.
#[derive(Default)]
pub(super) struct Claims {
    /// Number of the current job, of which a ticket keeps 24 bits: a thread would have to sleep through sixteen million jobs
    /// in the midst of a claim to take one for another. It changes after the shares: they may be touched only with this
    /// number, or a late thread would take from a share that is written while another still is not, and lose what it took.
    job: AtomicU64,
    /// One per thread.
    shares: Vec<Share>,
    finished: AtomicUsize,
}

impl Claims {
    /// Among so many threads.
    pub(super) fn new(threads: usize) -> Self {
        let shares = (0..threads).map(|_| Share::default()).collect();
        Self { shares, ..Self::default() }
    }

    /// Begins a job for the first `threads`, which no one may do before all tasks of the one before are finished. What was written before is seen by
    /// whoever claims a task of it.
    ///
    /// # Panics
    /// When there are more tasks than a ticket counts.
    pub(super) fn publish(&self, tasks: usize, threads: usize) {
        assert!((tasks as u64) < TASK_MASK);
        self.finished.store(0, Ordering::Relaxed);
        // As many bits as a ticket has for it.
        let job = Ticket::new(self.job.load(Ordering::Relaxed) + 1, 0..0).job();
        let threads = threads.min(tasks);
        for (i, share) in self.shares.iter().enumerate() {
            let first = |i: usize| tasks * i.min(threads) / threads.max(1);
            share.set(Ticket::new(job, first(i)..first(i + 1)));
        }
        self.job.store(job, Ordering::SeqCst);
    }

    /// The current job's number.
    pub(super) fn current(&self) -> u64 {
        self.job.load(Ordering::SeqCst)
    }

    /// The next task of the thread's share, or of half of the largest share once there is none.
    pub(super) fn claim(&self, thread: usize, job: u64) -> Option<usize> {
        loop {
            let own = &self.shares[thread];
            let ticket = own.get();
            let Range { start, end } = ticket.tasks(job);
            if start < end {
                if own.change(ticket, Ticket::new(job, start + 1..end)) {
                    return Some(start);
                }
                continue;
            }
            let others = self.shares.iter().map(|share| (share, share.get()));
            let (share, ticket) = others.max_by_key(|(_, ticket)| ticket.tasks(job).len())?;
            let Range { start, end } = ticket.tasks(job);
            if start == end {
                return None;
            }
            let middle = start + (end - start) / 2;
            if share.change(ticket, Ticket::new(job, start..middle)) {
                // Nobody else writes an empty share, and the job does not end before these tasks.
                own.set(Ticket::new(job, middle + 1..end));
                return Some(middle);
            }
        }
    }

    /// A claimed task is done; what it wrote is seen by whoever learns that all are.
    pub(super) fn finish(&self) {
        self.finished.fetch_add(1, Ordering::Release);
    }

    /// Whether so many tasks of the current job are done.
    pub(super) fn are_finished(&self, tasks: usize) -> bool {
        self.finished.load(Ordering::Acquire) >= tasks
    }
}
