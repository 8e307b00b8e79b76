//! What the expert store counts: hits, reads, waiting, how often each expert was used, and which are in memory.
//!
//! Who holds the bank writes, anybody reads at any time: a look at the counters waits for nobody and delays nobody.

use super::activity::Activity;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Counters since the model was loaded.
#[derive(Clone, Debug, Default)]
pub struct Statistics {
    /// Bytes that were read.
    pub bytes_read: u64,
    /// Time in which nothing could be computed because no expert was there.
    pub stall: Duration,
    /// Time in which at least one read was under way.
    pub disk_busy: Duration,
    /// The part of it in which something was computed meanwhile.
    pub hidden: Duration,
    /// Time of all reads together, of which several are under way at a time.
    pub reading: Duration,
    /// Time that the threads that read spent on packing for the kernels.
    pub packing: Duration,
    /// Missing experts that were asked for as soon as the router had chosen; the others waited for a slot.
    pub asked: u64,
    /// Bytes of experts that were read on a guess and left, or were given up, before anything was computed with them.
    pub wasted_bytes: u64,
    /// Time of these reads.
    pub wasted: Duration,
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

    /// Reads under way while there is any, on average; 0 where nothing was read.
    pub fn depth(&self) -> f64 {
        if self.disk_busy.is_zero() { 0.0 } else { self.reading.as_secs_f64() / self.disk_busy.as_secs_f64() }
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
            stall: self.stall.saturating_sub(earlier.stall),
            disk_busy: self.disk_busy.saturating_sub(earlier.disk_busy),
            hidden: self.hidden.saturating_sub(earlier.hidden),
            reading: self.reading.saturating_sub(earlier.reading),
            packing: self.packing.saturating_sub(earlier.packing),
            asked: self.asked - earlier.asked,
            wasted_bytes: self.wasted_bytes - earlier.wasted_bytes,
            wasted: self.wasted.saturating_sub(earlier.wasted),
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
    stall: Counter,         // nanoseconds, as the next two
    stall_reading: Counter, // of these with a read under way
    wasted: Counter,
    wasted_bytes: Counter,
    asked: Counter,
    activity: Arc<Activity>, // of the readers, which keep time
    layers: Vec<LayerCounters>,
}

/// What reading something took.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cost {
    pub(super) bytes: u64,
    pub(super) time: Duration,
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
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
    pub(super) fn new(layers: impl Iterator<Item = (u64, usize, usize)>, activity: &Arc<Activity>) -> Self {
        let layer = |(expert_bytes, slots, experts)| LayerCounters {
            expert_bytes,
            slots,
            hits: Counter::default(),
            misses: Counter::default(),
            uses: (0..experts).map(|_| Counter::default()).collect(),
            held: (0..experts).map(|_| AtomicBool::new(false)).collect(),
        };
        Self { layers: layers.map(layer).collect(), activity: activity.clone(), ..Self::default() }
    }

    pub(super) fn layer(&self, layer: usize) -> &LayerCounters {
        &self.layers[layer]
    }

    pub(super) fn read(&self, bytes: u64) {
        self.bytes_read.add(bytes);
    }

    /// So many missing experts were asked for at once.
    pub(super) fn asked(&self, experts: usize) {
        self.asked.add(experts as u64);
    }

    /// `wait` brings nothing but time.
    pub(super) fn stall<T>(&self, wait: impl FnOnce() -> T) -> T {
        let (start, before) = (Instant::now(), self.activity.used().busy);
        let result = wait();
        let busy = self.activity.used().busy - before;
        self.stall.add(nanoseconds(start.elapsed()));
        self.stall_reading.add(nanoseconds(busy));
        result
    }

    /// What was read at this cost was for nothing.
    pub(super) fn wasted(&self, cost: Cost) {
        self.wasted.add(nanoseconds(cost.time));
        self.wasted_bytes.add(cost.bytes);
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
        let used = self.activity.used();
        Statistics {
            bytes_read: self.bytes_read.get(),
            stall: Duration::from_nanos(self.stall.get()),
            disk_busy: used.busy,
            hidden: used.busy.saturating_sub(Duration::from_nanos(self.stall_reading.get())),
            reading: used.reading,
            packing: used.packing,
            asked: self.asked.get(),
            wasted_bytes: self.wasted_bytes.get(),
            wasted: Duration::from_nanos(self.wasted.get()),
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
