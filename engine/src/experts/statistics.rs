//! What the expert store counts: hits, reads, waiting, how often each expert was used, and which are in memory.
//!
//! Who holds the bank writes, anybody reads at any time: a look at the counters waits for nobody and delays nobody.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
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
    /// Whether each expert is in a slot now, `(expert_count)`.
    pub held: Vec<bool>,
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

/// The counters themselves.
#[derive(Default)]
pub(super) struct Counters {
    bytes_read: Counter,
    stall: Counter, // nanoseconds
    layers: Vec<LayerCounters>,
}

/// Those of one layer.
pub(super) struct LayerCounters {
    expert_bytes: u64,
    slots: usize,
    pub(super) hits: Counter,
    pub(super) misses: Counter,
    pub(super) uses: Vec<Counter>,
    held: Vec<AtomicBool>,
}

/// A number that only grows, and that one thread at a time adds to.
#[derive(Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    /// Not `fetch_add`, which would hold up the processor: nobody else writes.
    pub(super) fn add(&self, more: u64) {
        self.0.store(self.0.load(Relaxed) + more, Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Counters {
    /// Counters of layers with so many bytes per expert, slots and experts.
    pub(super) fn new(layers: impl Iterator<Item = (u64, usize, usize)>) -> Self {
        let layer = |(expert_bytes, slots, experts)| LayerCounters {
            expert_bytes,
            slots,
            hits: Counter::default(),
            misses: Counter::default(),
            uses: (0..experts).map(|_| Counter::default()).collect(),
            held: (0..experts).map(|_| AtomicBool::new(false)).collect(),
        };
        Self { layers: layers.map(layer).collect(), ..Self::default() }
    }

    pub(super) fn layer(&self, layer: usize) -> &LayerCounters {
        &self.layers[layer]
    }

    pub(super) fn read(&self, bytes: u64) {
        self.bytes_read.add(bytes);
    }

    pub(super) fn stalled(&self, time: Duration) {
        self.stall.add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// All numbers as they are. While a layer computes, one may be a moment ahead of another.
    pub(super) fn now(&self) -> Statistics {
        let layer = |layer: &LayerCounters| {
            let held: Vec<bool> = layer.held.iter().map(|held| held.load(Relaxed)).collect();
            LayerStatistics {
                expert_bytes: layer.expert_bytes,
                slots: layer.slots,
                resident: held.iter().filter(|held| **held).count(),
                hits: layer.hits.get(),
                misses: layer.misses.get(),
                uses: layer.uses.iter().map(Counter::get).collect(),
                held,
            }
        };
        Statistics {
            bytes_read: self.bytes_read.get(),
            stall: Duration::from_nanos(self.stall.get()),
            layers: self.layers.iter().map(layer).collect(),
        }
    }
}

impl LayerCounters {
    /// An expert came into a slot, or left it.
    pub(super) fn hold(&self, expert: usize, is_held: bool) {
        self.held[expert].store(is_held, Relaxed);
    }
}
