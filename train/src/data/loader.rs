//! Reads batches ahead on a thread of its own, so that the device never waits for a disk.
//!
//! Which rows a batch has is arithmetic on its number, its rank and the first row; nothing is drawn here.

use super::mixture::Dataset;
use crate::{Error, Result};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// What a loader reads: batch b of rank r has the `rows` rows from `first + (b * ranks + r) * rows` on.
#[derive(Clone, Copy, Debug)]
pub struct LoaderSettings {
    /// Seed of the stream.
    pub seed: u64,
    /// The first row of all ranks.
    pub first: u64,
    /// Rows of a batch.
    pub rows: usize,
    /// This process, below `ranks`.
    pub rank: u64,
    /// How many processes share the stream.
    pub ranks: u64,
    /// Batches that are kept ready.
    pub depth: usize,
}

/// Rows for one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Token ids, `(rows, context)`.
    pub tokens: Vec<u32>,
    /// Rows.
    pub rows: usize,
    /// Tokens of a row.
    pub context: usize,
    /// Index of the first row in the stream.
    pub first_index: u64,
}

impl Batch {
    /// Reads `rows` rows of the stream from `first` on.
    ///
    /// # Errors
    /// As [`Dataset::row`].
    pub fn read(dataset: &Dataset, seed: u64, first: u64, rows: usize) -> Result<Self> {
        let context = dataset.context();
        let mut tokens = vec![0; rows * context];
        for (row, out) in tokens.chunks_exact_mut(context).enumerate() {
            dataset.row(seed, first + row as u64, out)?;
        }
        Ok(Self { tokens, rows, context, first_index: first })
    }
}

/// A thread that reads ahead. Dropping it ends the thread.
pub struct Loader {
    batches: Option<Receiver<Result<Batch>>>, // until it is dropped
    thread: Option<JoinHandle<()>>,
    settings: LoaderSettings,
    taken: u64, // batches handed out
}

impl Loader {
    /// Starts to read.
    ///
    /// # Errors
    /// Settings without rows or with a rank that is none, and a system without another thread.
    pub fn start(dataset: Arc<Dataset>, settings: LoaderSettings) -> Result<Self> {
        if settings.rows == 0 || settings.rank >= settings.ranks {
            let LoaderSettings { rows, rank, ranks, .. } = settings;
            return Err(Error::request(format!("cannot load {rows} rows a batch as rank {rank} of {ranks}")));
        }
        let (sender, batches) = sync_channel(settings.depth.max(1));
        let read = move || read_ahead(&dataset, settings, &sender);
        let thread = std::thread::Builder::new().name("loader".to_owned()).spawn(read);
        let thread =
            thread.map_err(|error| Error::request(format!("no thread for reading data: {error}")))?;
        Ok(Self { batches: Some(batches), thread: Some(thread), settings, taken: 0 })
    }

    /// The next batch, waiting for it if need be.
    ///
    /// # Errors
    /// What reading ran into; the loader has ended then.
    #[expect(
        clippy::should_implement_trait,
        reason = "an endless stream that can fail is no iterator to collect"
    )]
    pub fn next(&mut self) -> Result<Batch> {
        let received = self.batches.as_ref().and_then(|batches| batches.recv().ok());
        let batch = received.unwrap_or_else(|| Err(Error::request("the loader has ended after an error")))?;
        self.taken += 1;
        Ok(batch)
    }

    /// The row from which a new loader goes on after the batches taken: all that a checkpoint needs to know.
    pub fn position(&self) -> u64 {
        let LoaderSettings { first, rows, ranks, .. } = self.settings;
        first + self.taken * ranks * rows as u64
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        // Without a receiver the thread's next send fails, and it ends.
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Sends batch after batch until nobody listens or reading fails.
fn read_ahead(dataset: &Dataset, settings: LoaderSettings, sender: &SyncSender<Result<Batch>>) {
    let LoaderSettings { seed, first, rows, rank, ranks, .. } = settings;
    for number in 0.. {
        let start = first + (number * ranks + rank) * rows as u64;
        let batch = Batch::read(dataset, seed, start, rows);
        let is_over = batch.is_err();
        if sender.send(batch).is_err() || is_over {
            break;
        }
    }
}

#[cfg(test)]
mod tests;
