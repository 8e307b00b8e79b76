//! The queue of the threads that read experts, with two of them and the one that asks: no job is lost or done twice, and
//! nobody sleeps for ever.

mod sync {
    pub(super) use loom::sync::atomic::{AtomicU64, Ordering};
    pub(super) use loom::sync::{Condvar, Mutex, MutexGuard};
    pub(super) use std::sync::PoisonError;
}

#[path = "../../engine/src/experts/queue.rs"]
mod queue;

use super::in_every_order;
use super::os::pages::Pages;
use loom::sync::Arc;
use loom::sync::mpsc::{Receiver, channel};
use loom::thread::{JoinHandle, spawn};
use queue::{Job, Queue};

fn job(ticket: u64) -> Job {
    Job { ticket, layer: 0, expert: 0, at: 0, pages: Pages }
}

/// Threads that tell which jobs they got.
fn readers(queue: &Arc<Queue>, count: usize) -> (Receiver<u64>, Vec<JoinHandle<()>>) {
    let (done, told) = channel();
    let reader = |_| {
        let (queue, done) = (queue.clone(), done.clone());
        spawn(move || {
            while let Some(job) = queue.next() {
                done.send(job.ticket).unwrap();
            }
        })
    };
    (told, (0..count).map(reader).collect())
}

#[test]
fn what_is_wanted_is_done_once_and_all_threads_end() {
    in_every_order(|| {
        let queue = Arc::new(Queue::default());
        let (told, threads) = readers(&queue, 2);
        queue.want(job(1));
        queue.want(job(2));
        let mut done = [told.recv().unwrap(), told.recv().unwrap()];
        done.sort_unstable();
        assert_eq!((done, queue.asked()), ([1, 2], 2));
        queue.close();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn a_guess_is_done_or_taken_back() {
    for came_true in [false, true] {
        in_every_order(move || {
            let queue = Arc::new(Queue::default());
            let (told, threads) = readers(&queue, 2);
            queue.guess(job(1));
            queue.want(job(2));
            let mut taken_back = vec![];
            queue.settle(|_| came_true, &mut taken_back);
            assert!(!came_true || taken_back.is_empty());
            let mut all: Vec<u64> = taken_back.iter().map(|job| job.ticket).collect();
            while all.len() < 2 {
                all.push(told.recv().unwrap());
            }
            all.sort_unstable();
            assert_eq!(all, [1, 2]);
            queue.close();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        });
    }
}

#[test]
fn closing_lets_sleepers_end() {
    in_every_order(|| {
        let queue = Arc::new(Queue::default());
        let (_, threads) = readers(&queue, 2);
        queue.close();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}
