//! What the expert store counts: hits, reads, waiting, and how often each expert was used.

use std::time::Duration;

/// Counters since the model was loaded.
#[derive(Clone, Debug, Default)]
pub struct Statistics {
    /// Bytes that were read.
    pub bytes_read: u64,
    /// Time in which nothing could be computed because no expert was there.
    pub stall: Duration,
    /// One per layer; dense ones are empty.
    pub layers: Vec<LayerStatistics>,
}

/// Counters of one layer.
#[derive(Clone, Debug, Default)]
pub struct LayerStatistics {
    /// Bytes of one expert in the file.
    pub expert_bytes: u64,
    /// Experts that fit at a time.
    pub slots: usize,
    /// Experts that are in a slot now.
    pub resident: usize,
    /// Times that a batch wanted an expert and found it in a slot.
    pub hits: u64,
    /// Times that it had to be read.
    pub misses: u64,
    /// Rows that each expert computed, `(expert_count)`.
    pub uses: Vec<u64>,
}

impl Statistics {
    /// Experts that batches found in slots.
    pub fn hits(&self) -> u64 {
        self.layers.iter().map(|layer| layer.hits).sum()
    }

    /// Experts that had to be read.
    pub fn misses(&self) -> u64 {
        self.layers.iter().map(|layer| layer.misses).sum()
    }

    /// Experts that are in slots now.
    pub fn resident(&self) -> usize {
        self.layers.iter().map(|layer| layer.resident).sum()
    }

    /// Time in which nothing could be computed, in milliseconds.
    pub fn stall_ms(&self) -> f64 {
        self.stall.as_secs_f64() * 1e3
    }

    /// What was counted since `earlier`; slots and residents are those of now.
    pub fn since(&self, earlier: &Self) -> Self {
        let layers = self.layers.iter().zip(&earlier.layers).map(|(now, then)| LayerStatistics {
            hits: now.hits - then.hits,
            misses: now.misses - then.misses,
            uses: now.uses.iter().zip(&then.uses).map(|(now, then)| now - then).collect(),
            ..now.clone()
        });
        Self {
            bytes_read: self.bytes_read - earlier.bytes_read,
            stall: self.stall - earlier.stall,
            layers: layers.collect(),
        }
    }

    /// Share of wanted experts that were in a slot; 1 where none was wanted.
    pub fn hit_rate(&self) -> f64 {
        let wanted = self.hits() + self.misses();
        if wanted == 0 { 1.0 } else { self.hits() as f64 / wanted as f64 }
    }
}
