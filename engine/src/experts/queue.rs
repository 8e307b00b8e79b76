//! Jobs for the threads that read experts: what is wanted goes first, a guess only when nothing is wanted.

use super::sync::{AtomicU64, Condvar, Mutex, MutexGuard, Ordering, PoisonError};
use crate::os::pages::Pages;
use std::collections::VecDeque;

/// A piece of an expert wanted in a slot.
pub(super) struct Job {
    /// Which of the bank's requests it is part of.
    pub(super) ticket: u64,
    pub(super) layer: usize,
    pub(super) expert: u32,
    /// Where in the slot the piece begins.
    pub(super) at: usize,
    pub(super) pages: Pages,
}

/// Jobs waiting for a thread.
#[derive(Default)]
pub(super) struct Queue {
    jobs: Mutex<Jobs>,
    changed: Condvar,
    asked: AtomicU64,
}

#[derive(Default)]
struct Jobs {
    wanted: VecDeque<Job>,
    guessed: VecDeque<Job>,
    is_closed: bool,
}

impl Queue {
    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Jobs so far that were computed with as soon as they were done.
    pub(super) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Adds a job that is computed with as soon as it is done.
    pub(super) fn want(&self, job: Job) {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.jobs().wanted.push_back(job);
        self.changed.notify_one();
    }

    /// Adds a job that may turn out to be for nothing.
    pub(super) fn guess(&self, job: Job) {
        self.jobs().guessed.push_back(job);
        self.changed.notify_one();
    }

    /// Ends guessing: guesses that `came_true` are wanted now, the others that no thread has begun go to `taken_back`.
    pub(super) fn settle(&self, came_true: impl Fn(&Job) -> bool, taken_back: &mut Vec<Job>) {
        let mut jobs = self.jobs();
        while let Some(job) = jobs.guessed.pop_front() {
            if came_true(&job) { jobs.wanted.push_back(job) } else { taken_back.push(job) }
        }
    }

    /// Waits for the next job; `None` when the queue was closed.
    pub(super) fn next(&self) -> Option<Job> {
        let mut jobs = self.jobs();
        loop {
            if jobs.is_closed {
                return None;
            }
            let Jobs { wanted, guessed, .. } = &mut *jobs;
            if let Some(job) = wanted.pop_front().or_else(|| guessed.pop_front()) {
                return Some(job);
            }
            jobs = self.changed.wait(jobs).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets all threads end; jobs that none has begun are dropped.
    pub(super) fn close(&self) {
        self.jobs().is_closed = true;
        self.changed.notify_all();
    }
}
