//! How far a pass over documents has come, for a person who watches.
//!
//! Says nothing by itself: the command line decides where the figures go.

use std::time::Instant;

/// What a pass has read so far.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Documents read.
    pub documents: u64,
    /// Bytes of their text.
    pub bytes: u64,
    /// The source being read.
    pub source: String,
    start: Instant,
}

impl Progress {
    /// A pass that begins now.
    pub(super) fn begin() -> Self {
        Self { documents: 0, bytes: 0, source: String::new(), start: Instant::now() }
    }

    /// Counts a batch.
    pub(super) fn advance(&mut self, documents: &[String]) {
        self.documents += documents.len() as u64;
        self.bytes += documents.iter().map(|document| document.len() as u64).sum::<u64>();
    }

    /// Seconds since the pass began.
    pub fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }
}

impl std::fmt::Display for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let megabytes = self.bytes as f64 / 1e6;
        let speed = megabytes / self.seconds().max(1e-3);
        write!(f, "{}: {} documents, {megabytes:.1} MB, {speed:.1} MB/s", self.source, self.documents)
    }
}

/// Where the figures of a pass go.
pub type Report<'a> = &'a mut dyn FnMut(&Progress);
