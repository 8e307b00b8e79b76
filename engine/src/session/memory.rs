//! Where the memory of a loaded model goes: one number in, shares for weights, cache, buffers and experts out.
//!
//! What every token needs comes first, then the cache; experts get the rest. Whether experts fit changes speed only,
//! never results.

use super::limit::{DEFAULT_SHARE, limit};
use super::{MemoryLimit, Options};
use crate::error::{Error, Result};
use crate::experts;
use crate::model::{KvCache, Model, PAGE, Pool, SNAPSHOTS, scratch_bytes};
use crate::os::memory;
use crate::simd::Isa;
use std::sync::Arc;

/// Kept free of the limit for what is not counted: stacks, the system's tables, a sampler's and a terminal's buffers.
const UNCOUNTED: u64 = 16 << 20;
/// Contexts are cut to multiples of this, which is at least two pages of the cache.
const CONTEXT_STEP: usize = 512;
/// No context is longer, whatever memory would hold: positions are counted in 32 bits in places.
const MOST_POSITIONS: usize = 1 << 28;

/// What takes how much, in bytes.
#[derive(Clone, Debug)]
pub struct MemoryPlan {
    /// The limit; `None` where none was given and the system does not say what is free.
    pub limit: Option<u64>,
    /// What this process has and what is free besides; `None` where the system does not say.
    pub machine: Option<u64>,
    /// Taken before a weight was touched: the program, vocabulary, norms.
    pub program: u64,
    /// Weights that every token needs.
    pub dense: u64,
    /// The cache of all positions.
    pub cache: u64,
    /// Recurrent states, with those that are kept from earlier.
    pub states: u64,
    /// Scratch of a step.
    pub buffers: u64,
    /// Slots of experts.
    pub experts: experts::Plan,
    /// Positions of a session.
    pub context_length: usize,
    /// Positions of all sessions together.
    pub positions: usize,
    /// What takes how much of a card, where one computes.
    pub card: Option<CardPlan>,
    state_pages: usize, // for which the states count
}

/// What takes how much of a card's memory, in bytes.
#[derive(Clone, Debug)]
pub struct CardPlan {
    /// The limit.
    pub limit: u64,
    /// Weights that every token needs.
    pub dense: u64,
    /// The cache of one session with all its positions.
    pub cache: u64,
    /// Scratch of a step, and what the driver takes for kernels.
    pub buffers: u64,
    /// Slots of experts.
    pub experts: experts::Plan,
}

/// What the driver takes on a card for kernels and their stacks.
const DRIVER: u64 = 64 << 20;

impl CardPlan {
    /// Plans for a card with so many bytes free.
    ///
    /// # Errors
    /// When it has no room for what every token needs.
    pub(super) fn new(
        model: &Model,
        options: &Options,
        isa: Isa,
        (context_length, cache): (usize, u64),
        free: u64,
    ) -> Result<Self> {
        let limit = options.vram.unwrap_or(MemoryLimit::Share(DEFAULT_SHARE));
        let (limit, own) = match limit {
            MemoryLimit::Experts(bytes) => (free, Some(bytes)),
            _ => (limit.bytes(free).unwrap_or(free).min(free), None),
        };
        let dense = model.dense_bytes();
        let with_logits = logit_rows(options);
        // Beside values and codes there are the sums of codes, twice.
        let buffers = scratch_bytes(model, options.batch, with_logits) * 5 / 4 + DRIVER;
        let fixed = dense + cache + buffers;
        let store = &model.weights.experts;
        let experts = store.plan(isa, Some(own.unwrap_or(limit.saturating_sub(fixed))));
        if fixed + experts.bytes() > limit && own.is_none() {
            let mebibytes = |bytes: u64| bytes.div_ceil(1 << 20);
            return Err(Error::request(format!(
                "the card has room for {} MiB; dense weights take {}, a cache of {context_length} positions {}, buffers \
                 {} and the least number of experts {}: give more with --vram, or a smaller --context or --batch, or \
                 --cache-type q8_0, or compute with --device cpu",
                mebibytes(limit),
                mebibytes(dense),
                mebibytes(cache),
                mebibytes(buffers),
                mebibytes(experts.bytes())
            )));
        }
        Ok(Self { limit, dense, cache, buffers, experts })
    }
}

impl MemoryPlan {
    /// Plans for one session of `model`.
    ///
    /// # Errors
    /// When the context asked for is none, the cache's format does not fit the model, or memory is asked for as a part of
    /// what the system does not tell.
    pub(super) fn new(model: &Model, options: &Options, isa: Isa) -> Result<Self> {
        let (free, program) = (memory::available(), memory::resident());
        let machine = free.map(|free| free + program);
        let limit = limit(options.memory, machine)?;
        let dense = model.dense_bytes();
        let with_logits = logit_rows(options);
        let buffers = scratch_bytes(model, options.batch, with_logits) + experts::READ_BUFFER_BYTES;
        let all_experts = model.weights.experts.plan(isa, None);
        let (state_pages, state_bytes) = KvCache::state_size(&model.config.memories(), options.cache)?;
        let state_count = state_count(options);
        let states = (state_count * state_bytes) as u64;
        let fixed = program + dense + buffers + states + UNCOUNTED;
        let left = limit.map(|limit| limit.saturating_sub(fixed));
        let per_position =
            KvCache::page_bytes(&model.config.memories(), options.cache)?.div_ceil(PAGE) as u64;
        // What a person asks for may exceed their limit, which is then said, but not the machine; a quarter of what it
        // has is left to experts.
        let room = machine.or(limit).map(|bytes| bytes.saturating_sub(fixed));
        let room = room.map(|room| room - all_experts.bytes().min(room / 4));
        let context_length = match options.context {
            Some(context) => asked_context(model, context)?.min(most_positions(room, per_position)),
            None => fitting_context(model, left, all_experts.bytes(), per_position),
        };
        let positions = shared_positions(options, context_length, left, all_experts.bytes(), per_position);
        let cache = (positions as u64).saturating_mul(per_position);
        let left = match options.memory {
            Some(MemoryLimit::Experts(bytes)) => Some(bytes),
            _ => left.map(|left| left.saturating_sub(cache)),
        };
        let mut experts = model.weights.experts.plan(isa, left);
        let besides =
            free.zip(limit).map_or(u64::MAX, |(free, limit)| (free + program).saturating_sub(limit));
        experts.past_cache =
            options.measuring.direct_reads || !experts.holds_all() && besides < all_experts.bytes();
        Ok(Self {
            limit,
            machine,
            program,
            dense,
            cache,
            states,
            buffers,
            experts,
            context_length,
            positions,
            card: None,
            state_pages: state_count * state_pages,
        })
    }

    /// The pages that sequences may have: those that were planned for, where it was said how many share them.
    pub(super) fn pool(&self, options: &Options) -> Arc<Pool> {
        match options.sequences {
            None => Pool::new(usize::MAX / 2),
            // Each ends within a page.
            Some(sequences) => Pool::new(self.positions.div_ceil(PAGE) + sequences + self.state_pages),
        }
    }

    /// What all of it takes once a conversation fills its context.
    pub fn total(&self) -> u64 {
        self.program + self.dense + self.cache + self.states + self.buffers + self.experts.bytes() + UNCOUNTED
    }
}

/// Recurrent states of all sequences: the present one of each and, where there are many, on average one from earlier.
fn state_count(options: &Options) -> usize {
    options.sequences.map_or(1, |sequences| 2 * sequences) + SNAPSHOTS
}

fn logit_rows(options: &Options) -> usize {
    if options.all_logits { options.batch } else { options.sequences.unwrap_or(1) }
}

/// Positions of so many sequences as are to share the cache: what all experts leave of the memory, but at least one
/// context and at most one for each.
fn shared_positions(
    options: &Options,
    context_length: usize,
    left: Option<u64>,
    experts: u64,
    per_position: u64,
) -> usize {
    let most = context_length.saturating_mul(options.sequences.unwrap_or(1).max(1));
    let fitting = left.map_or(u64::MAX, |left| left.saturating_sub(experts) / per_position.max(1));
    most.min(usize::try_from(fitting).unwrap_or(usize::MAX)).max(context_length)
}

fn asked_context(model: &Model, context: usize) -> Result<usize> {
    match model.config.learned_positions {
        _ if context == 0 => Err(Error::request("a context needs at least one position")),
        Some(limit) if context > limit => Err(Error::request(format!(
            "this model has learned {limit} positions; --context cannot be {context}"
        ))),
        _ => Ok(context),
    }
}

/// Positions whose cache has room in so many bytes.
fn most_positions(room: Option<u64>, per_position: u64) -> usize {
    let fitting = room.unwrap_or(u64::MAX) / per_position.max(1);
    (fitting.min(MOST_POSITIONS as u64) as usize / CONTEXT_STEP * CONTEXT_STEP).max(CONTEXT_STEP)
}

/// The model's context, lowered to what all experts leave of the memory, or to a quarter of it where they leave less.
fn fitting_context(model: &Model, left: Option<u64>, experts: u64, per_position: u64) -> usize {
    let original = model.config.context_length;
    let Some(left) = left else { return original };
    let room = left.saturating_sub(experts).max(left / 4);
    let fitting = (room / per_position.max(1)) as usize / CONTEXT_STEP * CONTEXT_STEP;
    original.min(fitting.max(CONTEXT_STEP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_end_where_memory_does() {
        for (room, per_position, expected) in [
            (Some(1 << 30), 1 << 10, 1 << 20),
            (Some((1 << 30) + 1000), 1 << 10, 1 << 20),
            (Some(0), 1 << 10, CONTEXT_STEP),
            (None, 1 << 10, MOST_POSITIONS),
            (Some(u64::MAX), 0, MOST_POSITIONS),
        ] {
            assert_eq!(most_positions(room, per_position), expected, "{room:?} by {per_position}");
        }
    }
}
