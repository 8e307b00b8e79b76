//! The worker team of the forward: a few threads that live as long as the engine and share one job at a time.
//!
//! A job is a number of tasks, of which every thread has a share; who has none left takes half of what another has
//! (`claims.rs`). So a thread that the system takes away delays one task and not its share, and a thread's
//! tasks mostly follow each other: what it asked for ahead is what it reads next.
//! Waiting is a brief spin, then sleep: on a busy machine a spinning team collapses.
#![allow(unsafe_code)]

mod claims;

use crate::os::cores;
use claims::Claims;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

/// What claims are made of; where they are tried in every order of events, it is something else.
mod sync {
    pub(super) use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
}

/// How long a waiting thread spins before it goes to sleep: longer than the pauses between the jobs of one token and
/// shorter than a scheduler slice. On x86-64 rounds of `spin_loop`, which take about that; elsewhere a round is an
/// instruction that takes 3 to 40 nanoseconds.
const SPIN_TIME: Duration = Duration::from_micros(20);
const SPINS: u32 = 4000;

/// Rounds between two looks at the clock.
const ROUNDS_PER_LOOK: u32 = 64;

/// A short wait for what may come at any moment.
#[derive(Default)]
struct Spin {
    rounds: u32,
    since: Option<Instant>,
    is_over: bool,
}

impl Spin {
    fn round(&mut self) {
        self.rounds += 1;
        std::hint::spin_loop();
        if cfg!(target_arch = "x86_64") {
            self.is_over = self.rounds >= SPINS;
        } else if self.rounds.is_multiple_of(ROUNDS_PER_LOOK) {
            self.is_over = self.since.get_or_insert_with(Instant::now).elapsed() >= SPIN_TIME;
        }
    }
}

/// The work of one job, called with each task's number.
type Work<'a> = dyn Fn(usize) + Sync + 'a;

#[derive(Default)]
struct Shared {
    claims: Claims,
    /// Points to the `&Work` of the current job, on the stack of the thread inside [`Team::run`].
    work: AtomicPtr<&'static Work<'static>>,
    panicked: AtomicBool,
    closing: AtomicBool,
}

struct Worker {
    asleep: Arc<AtomicBool>,
    handle: Option<JoinHandle<()>>,
    thread: Thread,
}

/// A team of threads, the caller of [`Team::run`] included.
pub(crate) struct Team {
    shared: Arc<Shared>,
    workers: Vec<Worker>,
    /// Held by the thread inside `run`; a second caller waits.
    running: std::sync::Mutex<()>,
}

impl Team {
    /// A team of `threads` (at least one: the caller itself).
    pub(crate) fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared { claims: Claims::new(threads.max(1)), ..Shared::default() });
        let workers = (1..threads).map_while(|i| Worker::start(i, &shared)).collect();
        Self { shared, workers, running: std::sync::Mutex::new(()) }
    }

    /// Threads that work on a job.
    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `work` once for every task in `0..tasks` and returns when all are done.
    ///
    /// # Panics
    /// Passes on a panic of `work`. `work` must not call `run` itself.
    pub(crate) fn run(&self, tasks: usize, work: impl Fn(usize) + Sync) {
        if self.workers.is_empty() || tasks <= 1 {
            (0..tasks).for_each(work);
            return;
        }
        let _running = self.running.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let work: &Work<'_> = &work;
        // SAFETY: only the lifetime changes. The pointer is dereferenced only by a thread that claimed a task
        // of this job, and this function does not return before every claimed task has finished.
        let mut work: &'static Work<'static> = unsafe { std::mem::transmute(work) };
        self.publish(tasks, &mut work);
        self.shared.work_on_current(0);
        self.shared.wait_until_finished(tasks);
        if self.shared.panicked.swap(false, Ordering::Relaxed) {
            panic!("a task of the worker team panicked");
        }
    }

    /// Like [`Team::run`] over the chunks `0..len` cut into pieces of `chunk`: `work(start, end)`.
    pub(crate) fn run_chunks(&self, len: usize, chunk: usize, work: impl Fn(usize, usize) + Sync) {
        let chunk = chunk.max(1);
        self.run(len.div_ceil(chunk), |task| work(task * chunk, len.min((task + 1) * chunk)));
    }

    /// Calls `work(i, row)` for every row of `width` elements, `rows_per_task` at a time.
    pub(crate) fn each_row<T: Send>(
        &self,
        rows: &mut [T],
        width: usize,
        rows_per_task: usize,
        work: impl Fn(usize, &mut [T]) + Sync,
    ) {
        let count = rows.len() / width.max(1);
        let rows = SharedSlice::new(rows);
        self.run_chunks(count, rows_per_task, |start, end| {
            for row in start..end {
                // SAFETY: every row belongs to one task.
                work(row, unsafe { rows.slice(row * width, width) });
            }
        });
    }

    /// [`Team::each_row`] over two slices of equally many rows: `work(i, row of a, row of b)`.
    pub(crate) fn each_row_pair<A: Send, B: Send>(
        &self,
        (a, a_width): (&mut [A], usize),
        (b, b_width): (&mut [B], usize),
        rows_per_task: usize,
        work: impl Fn(usize, &mut [A], &mut [B]) + Sync,
    ) {
        let count = a.len() / a_width.max(1);
        let (a, b) = (SharedSlice::new(a), SharedSlice::new(b));
        self.run_chunks(count, rows_per_task, |start, end| {
            for row in start..end {
                // SAFETY: every row belongs to one task.
                let (a, b) = unsafe { (a.slice(row * a_width, a_width), b.slice(row * b_width, b_width)) };
                work(row, a, b);
            }
        });
    }

    fn publish(&self, tasks: usize, work: *mut &'static Work<'static>) {
        self.shared.work.store(work, Ordering::Relaxed);
        self.shared.claims.publish(tasks, self.threads());
        for worker in self.workers.iter().take(tasks - 1) {
            if worker.asleep.swap(false, Ordering::SeqCst) {
                worker.thread.unpark();
            }
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        for worker in &mut self.workers {
            worker.thread.unpark();
            if let Some(handle) = worker.handle.take() {
                let _ = handle.join();
            }
        }
    }
}

impl Shared {
    /// Claims and does tasks until none is left, as the thread with this number; returns the job's number.
    fn work_on_current(&self, thread: usize) -> u64 {
        let job = self.claims.current();
        while let Some(task) = self.claims.claim(thread, job) {
            // SAFETY: with a task claimed the job cannot end, so `work` is the current job's pointer, and
            // `Team::run` keeps the pointee alive until `finished` reaches the number of tasks.
            let work = unsafe { *self.work.load(Ordering::Relaxed) };
            if catch_unwind(AssertUnwindSafe(|| work(task))).is_err() {
                self.panicked.store(true, Ordering::Relaxed);
            }
            self.claims.finish();
        }
        job
    }

    fn wait_until_finished(&self, tasks: usize) {
        let mut spin = Spin::default();
        while !self.claims.are_finished(tasks) {
            if spin.is_over { thread::yield_now() } else { spin.round() }
        }
    }

    fn has_work(&self, seen: u64) -> bool {
        self.claims.current() != seen || self.closing.load(Ordering::SeqCst)
    }
}

impl Worker {
    /// `None` where the system has no more threads: the team is then smaller.
    fn start(number: usize, shared: &Arc<Shared>) -> Option<Self> {
        let asleep = Arc::new(AtomicBool::new(false));
        let (shared, sleeping) = (shared.clone(), asleep.clone());
        let name = format!("moewe-{number}");
        let handle =
            thread::Builder::new().name(name).spawn(move || serve(number, &shared, &sleeping)).ok()?;
        Some(Self { asleep, thread: handle.thread().clone(), handle: Some(handle) })
    }
}

fn serve(number: usize, shared: &Shared, asleep: &AtomicBool) {
    cores::prefer_fast();
    while !shared.closing.load(Ordering::SeqCst) {
        let seen = shared.work_on_current(number);
        let mut spin = Spin::default();
        while !spin.is_over && !shared.has_work(seen) {
            spin.round();
        }
        if !spin.is_over {
            continue;
        }
        // Announce the sleep before the last look: a job published in between either is seen here or finds
        // `asleep` set and unparks.
        asleep.store(true, Ordering::SeqCst);
        while asleep.load(Ordering::SeqCst) && !shared.has_work(seen) {
            thread::park();
        }
        asleep.store(false, Ordering::SeqCst);
    }
}

/// A slice that several tasks write at disjoint places.
#[derive(Clone, Copy)]
pub(crate) struct SharedSlice<'a, T> {
    start: *mut T,
    len: usize,
    lifetime: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: access goes through `slice`, whose caller promises disjoint ranges.
unsafe impl<T: Send> Send for SharedSlice<'_, T> {}
// SAFETY: tasks that share the slice reach its elements through `slice` only, each its own, which may be sent to it.
unsafe impl<T: Send> Sync for SharedSlice<'_, T> {}

impl<'a, T> SharedSlice<'a, T> {
    /// Takes the slice over for the time of a job.
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), lifetime: std::marker::PhantomData }
    }

    /// The elements `start..start + len`.
    ///
    /// # Safety
    /// No two tasks may hold overlapping ranges at the same time.
    ///
    /// # Panics
    /// When the range leaves the slice.
    #[allow(clippy::mut_from_ref)]
    #[inline(always)]
    pub(crate) unsafe fn slice(&self, start: usize, len: usize) -> &'a mut [T] {
        assert!(start <= self.len && len <= self.len - start);
        // SAFETY: inside the slice by the assert, and no other task has these elements, as the caller says.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn every_task_runs_exactly_once() {
        for threads in [1, 2, 3, 8] {
            let team = Team::new(threads);
            for tasks in [0, 1, 2, 7, 100, 1000] {
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                team.run(tasks, |task| {
                    counts[task].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1), "{threads} {tasks}");
            }
        }
    }

    #[test]
    fn a_thread_that_is_held_up_keeps_one_task() {
        for threads in [2, 3, 8] {
            let (team, done) = (Team::new(threads), AtomicUsize::new(0));
            team.run(100, |task| {
                while task == 0 && done.load(Ordering::Relaxed) < 99 {
                    thread::yield_now();
                }
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
    }

    #[test]
    fn jobs_follow_each_other_after_sleep_and_without() {
        let team = Team::new(4);
        for round in 0..2000 {
            let sum = AtomicUsize::new(0);
            team.run(5, |task| {
                sum.fetch_add(task + round, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 10 + 5 * round);
            if round % 500 == 0 {
                thread::sleep(std::time::Duration::from_millis(2));
            }
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_survives() {
        let team = Team::new(3);
        let result = catch_unwind(AssertUnwindSafe(|| team.run(8, |task| assert_ne!(task, 5))));
        assert!(result.is_err());
        let done = AtomicUsize::new(0);
        team.run(8, |_| {
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.into_inner(), 8);
    }
}
