//! How threads claim the tasks of jobs that follow each other: each task is done once, by a thread that sees what the job is
//! about, and whoever learns that all are done sees what they wrote.

mod sync {
    pub(super) use loom::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
}

#[path = "../../engine/src/threads/claims.rs"]
mod claims;

use super::in_every_order;
use claims::Claims;
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

/// What a team shares: what the current job is about, and a place for each task.
struct Team {
    claims: Claims,
    about: UnsafeCell<u64>,
    done: Vec<UnsafeCell<u64>>,
}

// SAFETY: loom itself tells when two threads have a cell at once.
unsafe impl Sync for Team {}

impl Team {
    fn new(threads: usize, tasks: usize) -> Arc<Self> {
        let done = (0..tasks).map(|_| UnsafeCell::new(0)).collect();
        Arc::new(Self { claims: Claims::new(threads), about: UnsafeCell::new(0), done })
    }

    /// Does what it can claim.
    fn work(&self, thread: usize) {
        let job = self.claims.current();
        while let Some(task) = self.claims.claim(thread, job) {
            // SAFETY: the job cannot end before this task, and nobody writes it meanwhile.
            let about = self.about.with(|about| unsafe { *about });
            assert_eq!(about, job, "a task of another job");
            // SAFETY: a task belongs to whoever claimed it.
            self.done[task].with_mut(|done| unsafe { *done += 1 });
            self.claims.finish();
        }
    }

    /// Publishes a job of so many tasks, does its part and waits for the others.
    fn run(&self, number: u64, tasks: usize, threads: usize) {
        // SAFETY: all tasks of the job before are done.
        self.about.with_mut(|about| unsafe { *about = number });
        self.claims.publish(tasks, threads);
        self.work(0);
        while !self.claims.are_finished(tasks) {
            thread::yield_now();
        }
        for done in &self.done[..tasks] {
            // SAFETY: as above.
            assert_eq!(done.with(|done| unsafe { *done }), number, "every task once");
        }
    }
}

/// A thread looks in as often as there are jobs, whenever it likes, and may sleep through a whole job.
fn with_late_threads(threads: usize, tasks: usize, jobs: u64) {
    in_every_order(move || {
        let team = Team::new(threads, tasks);
        let late = |number: usize| {
            let team = team.clone();
            thread::spawn(move || (0..jobs).for_each(|_| team.work(number)))
        };
        let late: Vec<_> = (1..threads).map(late).collect();
        (1..=jobs).for_each(|job| team.run(job, tasks, threads));
        late.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn two_threads_do_every_task_of_two_jobs_once() {
    with_late_threads(2, 3, 2);
}

#[test]
fn three_threads_take_from_each_other() {
    with_late_threads(3, 2, 1);
}
