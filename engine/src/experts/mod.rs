//! Where the weights of routed experts are: in the file, and packed for the kernels in slots within a memory budget.
//!
//! `slots.rs` is one expert's memory, `readers.rs` the threads that fill slots, `queue.rs` what they do first, `plan.rs`
//! divides a budget among layers, `bank.rs` decides which expert is in which slot, `turn.rs` hands a layer's experts out
//! as they come; `trace.rs` and `replay.rs` measure other ways to decide. Nothing here knows what experts compute.

mod activity;
mod bank;
mod files;
mod frequency;
pub mod pack;
mod plan;
mod queue;
mod readers;
mod replay;
mod slots;
mod statistics;
mod sync;
mod trace;
mod turn;

pub use plan::Plan;
pub use readers::{PIECE as READ_PIECE, READ_BUFFER_BYTES, THREADS as READ_THREADS};
pub use replay::{Pace, Policy, Replayed, hit_rate, replay};
pub use statistics::{LayerStatistics, Statistics};
pub use trace::{Trace, TracedLayer};
pub use turn::{Group, GroupMatrix, Turn};

use crate::cuda::Vector;
use crate::error::Result;
use crate::gguf::{Bytes, Gguf};
use crate::kernels::{Dispatch, Layout, LowRank, MatrixRef};
use crate::quant::Format;
use crate::simd::Isa;
use bank::Bank;
use files::Files;
pub use files::ReadFrom;
use pack::SideFile;
use queue::Queue;
use statistics::Counters;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// One matrix of every expert of a layer, as the file has it.
pub struct Stack {
    /// How all of them are stored.
    pub format: &'static Format,
    /// Outputs of one expert's matrix.
    pub rows: usize,
    /// Inputs of one expert's matrix.
    pub cols: usize,
    /// One per expert.
    pub experts: Vec<Bytes>,
    /// `(expert_count, rows)`.
    pub bias: Option<Vector>,
    /// What adapters add, one per expert; empty without any.
    pub(crate) low_ranks: Vec<LowRank>,
}

impl Stack {
    /// One expert's matrix in the file.
    pub(crate) fn matrix(&self, expert: u32) -> MatrixRef<'_> {
        let bytes = &self.experts[expert as usize];
        MatrixRef { format: self.format, rows: self.rows, cols: self.cols, layout: Layout::Rows, bytes }
    }

    /// One expert's bias.
    pub fn bias(&self, expert: u32) -> Option<&[f32]> {
        self.bias.as_ref().map(|bias| &bias[expert as usize * self.rows..][..self.rows])
    }

    /// What adapters add to one expert's matrix.
    pub(crate) fn low_rank(&self, expert: u32) -> Option<&LowRank> {
        self.low_ranks.get(expert as usize)
    }

    fn row_bytes(&self) -> usize {
        self.format.row_bytes(self.cols)
    }

    /// Of one expert's matrix, packed or not.
    pub(crate) fn expert_bytes(&self) -> usize {
        self.rows * self.row_bytes()
    }
}

/// All experts of a layer.
pub struct ExpertLayer {
    /// Through the activation; some models have none.
    pub gate: Option<Stack>,
    /// To the hidden width.
    pub up: Stack,
    /// Back.
    pub down: Stack,
}

impl ExpertLayer {
    /// Experts.
    pub fn expert_count(&self) -> usize {
        self.up.experts.len()
    }

    /// Bytes of one expert in the file.
    pub fn expert_bytes(&self) -> u64 {
        self.stacks().map(|stack| stack.matrix(0).bytes.len() as u64).sum()
    }

    fn stacks(&self) -> impl Iterator<Item = &Stack> {
        self.gate.iter().chain([&self.up, &self.down])
    }
}

/// The experts of all layers; `None` for dense ones.
type Layers = Vec<Option<ExpertLayer>>;

/// How many experts a layer has; 0 for dense ones.
fn count_of(layer: &Option<ExpertLayer>) -> usize {
    layer.as_ref().map_or(0, ExpertLayer::expert_count)
}

/// The experts of all layers.
pub struct ExpertStore {
    layers: Arc<Layers>,
    bank: Option<Mutex<Bank>>,
    queue: Arc<Queue>,       // of the bank's readers
    counters: Arc<Counters>, // of the bank
    look_ahead: usize,       // experts per row to read on a guess; none where all have slots
    are_reads_direct: bool,
    has_side_file: bool,
}

impl ExpertStore {
    /// A store over bound layers; `None` for dense ones. It has no slots yet.
    pub fn new(layers: Vec<Option<ExpertLayer>>) -> Self {
        Self {
            layers: Arc::new(layers),
            bank: None,
            queue: Arc::default(),
            counters: Arc::default(),
            look_ahead: 0,
            are_reads_direct: false,
            has_side_file: false,
        }
    }

    /// Whether the model has experts at all.
    pub fn is_empty(&self) -> bool {
        self.layers.iter().all(Option::is_none)
    }

    /// Formats of all experts, those of each layer one after the other.
    pub fn formats(&self) -> impl Iterator<Item = &'static Format> + '_ {
        self.layers.iter().flatten().flat_map(|layer| layer.stacks()).map(|stack| stack.format)
    }

    /// Whether a layer has experts.
    pub fn has(&self, layer: usize) -> bool {
        self.layers[layer].is_some()
    }

    /// The experts of a layer, in the file.
    ///
    /// # Panics
    /// When the layer is dense.
    pub fn layer(&self, layer: usize) -> &ExpertLayer {
        self.layers[layer].as_ref().expect("an expert layer")
    }

    /// Bytes of all experts of a layer in the file; 0 for dense ones.
    pub fn layer_bytes(&self, layer: usize) -> u64 {
        self.layers[layer].as_ref().map_or(0, |layer| layer.expert_bytes() * layer.expert_count() as u64)
    }

    /// The model's side file, where it has one that can be used on this instruction set. One that cannot is told in a line.
    pub fn side_file(&self, gguf: &Gguf, isa: Isa) -> Option<SideFile> {
        let side = match SideFile::beside(gguf) {
            Ok(side) => side?,
            Err(error) => {
                tracing::warn!("packed experts are not used: {error}");
                return None;
            }
        };
        match side.why_not(gguf, &self.layers, isa) {
            None => Some(side),
            Some(reason) => {
                let path = side.mapping().path().display();
                tracing::warn!("{path} is not used: {reason}; `moewe pack` makes it anew");
                None
            }
        }
    }

    /// Writes the model's side file; see [`pack::pack`].
    ///
    /// # Errors
    /// As there.
    pub fn pack(
        &self,
        gguf: &Gguf,
        isa: Isa,
        progress: impl FnMut(u64, u64) -> bool,
    ) -> Result<pack::Written> {
        pack::pack(gguf, &self.layers, isa, progress)
    }

    /// Bytes that the side file of the model takes.
    ///
    /// # Errors
    /// As [`pack::packed_bytes`].
    pub fn packed_bytes(&self, gguf: &Gguf, isa: Isa) -> Result<u64> {
        pack::packed_bytes(gguf, &self.layers, isa)
    }

    /// What a side file would gain; see [`pack::probe`].
    ///
    /// # Errors
    /// As there.
    pub fn probe_packing(&self, isa: Isa, limit: Duration, stop: &AtomicBool) -> Result<pack::Probed> {
        pack::probe(&self.layers, isa, limit, stop)
    }

    /// Compares the side file with the model; see [`pack::verify`].
    ///
    /// # Errors
    /// As there.
    pub fn verify(&self, gguf: &Gguf, isa: Isa, progress: impl FnMut(u64, u64) -> bool) -> Result<u64> {
        pack::verify(gguf, &self.layers, isa, progress)
    }

    /// How `budget` bytes of slots are best divided among the layers; `None` for no limit.
    pub(crate) fn plan(&self, isa: Isa, budget: Option<u64>) -> Plan {
        Plan::new(&self.layers, isa, budget)
    }

    /// Sets up the slots of a plan, empty, and the threads that fill them. `look_ahead` is how many experts per row are
    /// read before their layer's turn, on a guess.
    ///
    /// # Errors
    /// When the system has no room or no threads for them.
    pub fn provide(&mut self, plan: Plan, look_ahead: usize, from: ReadFrom) -> Result<()> {
        self.look_ahead = if plan.holds_all() { 0 } else { look_ahead };
        let files = Arc::new(Files::open(&self.layers, plan.past_cache, from)?);
        (self.are_reads_direct, self.has_side_file) = (files.are_direct(), files.has_side_file());
        let bank = Bank::new(&self.layers, plan, files)?;
        self.queue = bank.queue();
        self.counters = bank.counters();
        self.bank = Some(Mutex::new(bank));
        Ok(())
    }

    /// How many experts of a layer to guess for each of `rows` rows: none where rows choose most experts anyway.
    pub fn look_ahead(&self, layer: usize, rows: usize) -> usize {
        let count = self.layers.get(layer).map_or(0, count_of);
        let fits = self.look_ahead.saturating_mul(2 * rows) <= count;
        if fits { self.look_ahead } else { 0 }
    }

    /// Begins a layer's work on a batch of `rows` rows: experts that are not in slots are asked for at once, and read
    /// while others are computed with. Work on another batch waits until the turn ends.
    ///
    /// # Errors
    /// When the system has no room for a slot.
    ///
    /// # Panics
    /// When the layer is dense or [`ExpertStore::provide`] was not called.
    pub(crate) fn turn(&self, layer: usize, rows: usize, dispatch: &Dispatch) -> Result<Turn<'_>> {
        let bank = self.bank.as_ref().expect("slots are provided before the first step");
        let bank = bank.lock().unwrap_or_else(PoisonError::into_inner);
        Turn::begin(&self.layers, bank, layer, rows, dispatch)
    }

    /// Pieces of experts asked for so far, guesses aside; may be asked in the middle of a turn.
    pub fn asked(&self) -> u64 {
        self.queue.asked()
    }

    /// Whether experts are read from a side file.
    pub fn has_side_file(&self) -> bool {
        self.has_side_file
    }

    /// Whether reads leave no copy in the page cache.
    pub fn are_reads_direct(&self) -> bool {
        self.are_reads_direct
    }

    /// What the store did so far; `None` where it has no slots. May be asked in the middle of a turn, which does not
    /// notice.
    pub fn statistics(&self) -> Option<Statistics> {
        self.bank.as_ref().map(|_| self.counters.now())
    }
}
