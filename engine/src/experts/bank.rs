//! The slot bank: which expert of which layer is in memory, and a layer's turn to compute with its experts.
//!
//! A turn hands out groups of experts: first those that are in slots, then whichever have arrived while the last group
//! was computed. Where a batch wants more experts than fit, slots are used again for the next as soon as their group
//! is done, so every expert is read at most once per batch. Which expert leaves: the layer's least recently used.

use super::plan::Plan;
use super::readers::{Done, Job, Readers};
use super::slots::{Slot, SlotShape};
use super::statistics::{LayerStatistics, Statistics};
use super::{ExpertLayer, Layers, Stack};
use crate::error::{Error, Result};
use crate::kernels::{Dispatch, ExpertMatrices, MatrixRef};
use std::ops::Range;
use std::sync::{Arc, MutexGuard};
use std::time::Instant;

/// An expert in a slot.
struct Held {
    slot: Slot,
    /// The turn that used it last.
    turn: u64,
    /// Whether the current turn has yet to compute with it.
    is_wanted: bool,
    /// Whether the slot belongs to no layer.
    is_staging: bool,
}

/// The slots of one layer.
struct Shelf {
    quota: usize,
    /// Slots that exist, being filled or held.
    slots: usize,
    /// `(expert_count)`.
    held: Vec<Option<Held>>,
}

impl Shelf {
    /// Takes the slot of the expert that was used the longest time ago, unless all are wanted.
    fn evict(&mut self) -> Option<Slot> {
        let leaves = |held: &Held| !held.is_wanted && !held.is_staging;
        let candidates = self.held.iter_mut().filter(|held| held.as_ref().is_some_and(leaves));
        let oldest = candidates.min_by_key(|held| held.as_ref().map(|held| held.turn));
        oldest.and_then(Option::take).map(|held| held.slot)
    }
}

/// All slots.
pub(super) struct Bank {
    plan: Plan,
    shelves: Vec<Shelf>,
    /// Free slots that belong to no layer, and how many of those there are in all.
    staging: Vec<Slot>,
    staging_slots: usize,
    readers: Readers,
    turn: u64,
    statistics: Statistics,
    /// The current turn's experts: still to be asked for (the next one last), asked for, there, and being computed.
    waiting: Vec<u32>,
    flying: usize,
    arrived: Vec<u32>,
    group: Vec<u32>,
}

impl Bank {
    pub(super) fn new(layers: &Arc<Layers>, plan: Plan, past_cache: bool) -> Result<Self> {
        let count = |layer: &Option<ExpertLayer>| layer.as_ref().map_or(0, ExpertLayer::expert_count);
        let shelf = |(layer, &quota): (&Option<ExpertLayer>, &usize)| Shelf {
            quota,
            slots: 0,
            held: (0..count(layer)).map(|_| None).collect(),
        };
        let shelves = layers.iter().zip(&plan.quotas).map(shelf).collect();
        let counters = |(layer, &slots): (&Option<ExpertLayer>, &usize)| LayerStatistics {
            expert_bytes: layer.as_ref().map_or(0, ExpertLayer::expert_bytes),
            slots,
            uses: vec![0; count(layer)],
            ..LayerStatistics::default()
        };
        let counters = layers.iter().zip(&plan.quotas).map(counters).collect();
        let readers = Readers::start(layers, &plan, past_cache)?;
        Ok(Self {
            plan,
            shelves,
            staging: vec![],
            staging_slots: 0,
            readers,
            turn: 0,
            statistics: Statistics { layers: counters, ..Statistics::default() },
            waiting: vec![],
            flying: 0,
            arrived: vec![],
            group: vec![],
        })
    }

    pub(super) fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// Sorts a batch's experts into those that are here and those to be read.
    fn begin(&mut self, layer: usize, dispatch: &Dispatch) {
        self.turn += 1;
        let (shelf, counters) = (&mut self.shelves[layer], &mut self.statistics.layers[layer]);
        for &expert in dispatch.active() {
            counters.uses[expert as usize] += dispatch.picks(expert).len() as u64;
            match &mut shelf.held[expert as usize] {
                Some(held) => {
                    held.is_wanted = true;
                    self.arrived.push(expert);
                }
                None => self.waiting.push(expert),
            }
        }
        counters.hits += self.arrived.len() as u64;
        counters.misses += self.waiting.len() as u64;
        // What the last rows want is read last and so leaves last: the next batch goes on from there.
        let last_row = |expert: u32| dispatch.picks(expert).last().map(|pick| pick.input);
        self.waiting.sort_by_key(|&expert| (std::cmp::Reverse(last_row(expert)), expert));
    }

    /// The group has been computed.
    fn release(&mut self, layer: usize) {
        let shelf = &mut self.shelves[layer];
        for expert in self.group.drain(..) {
            let place = &mut shelf.held[expert as usize];
            match place.take() {
                Some(held) if held.is_staging => self.staging.push(held.slot),
                Some(held) => *place = Some(Held { turn: self.turn, is_wanted: false, ..held }),
                None => {}
            }
        }
    }

    /// Asks for as many of the waiting experts as there are slots.
    fn request(&mut self, layer: usize) -> Result<()> {
        while let Some(&expert) = self.waiting.last() {
            let Some((slot, is_staging)) = self.free_slot(layer)? else { return Ok(()) };
            self.waiting.pop();
            self.readers.send(Job { layer, expert, slot, is_staging });
            self.flying += 1;
        }
        Ok(())
    }

    /// A slot to be filled, and whether it belongs to no layer.
    fn free_slot(&mut self, layer: usize) -> Result<Option<(Slot, bool)>> {
        let shelf = &mut self.shelves[layer];
        if shelf.slots < shelf.quota {
            let bytes = self.plan.shapes[layer].as_ref().map_or(0, SlotShape::bytes);
            let slot = Slot::new(bytes)?;
            shelf.slots += 1;
            return Ok(Some((slot, false)));
        }
        if let Some(slot) = shelf.evict() {
            return Ok(Some((slot, false)));
        }
        if self.staging.is_empty() && self.staging_slots < self.plan.staging {
            self.staging.push(Slot::new(self.plan.largest_slot())?);
            self.staging_slots += 1;
        }
        Ok(self.staging.pop().map(|slot| (slot, true)))
    }

    /// Takes a finished read in.
    fn accept(&mut self, done: Done) -> Result<()> {
        let Done { job: Job { layer, expert, slot, is_staging }, outcome } = done;
        self.flying -= 1;
        match outcome {
            Ok(bytes) => {
                self.statistics.bytes_read += bytes;
                let held = Held { slot, turn: self.turn, is_wanted: true, is_staging };
                self.shelves[layer].held[expert as usize] = Some(held);
                self.arrived.push(expert);
                Ok(())
            }
            Err(error) => {
                if is_staging {
                    self.staging.push(slot);
                } else {
                    self.shelves[layer].slots -= 1;
                }
                Err(error)
            }
        }
    }

    /// Waits for one read.
    fn wait(&mut self) -> Result<()> {
        let start = Instant::now();
        let done = self.readers.next();
        self.statistics.stall += start.elapsed();
        let gone = || Error::request("the threads that read experts have ended; load the model again");
        self.accept(done.ok_or_else(gone)?)
    }

    /// Ends a turn, finished or not.
    fn end(&mut self, layer: usize) {
        self.waiting.clear();
        while self.flying > 0 {
            // A read that fails here fails for nobody.
            if let Some(done) = self.readers.next() { _ = self.accept(done) } else { self.flying = 0 }
        }
        self.group.append(&mut self.arrived);
        self.release(layer);
        self.statistics.layers[layer].resident = self.shelves[layer].held.iter().flatten().count();
    }
}

/// A layer's turn to compute with its experts.
pub struct Turn<'a> {
    bank: MutexGuard<'a, Bank>,
    layers: &'a Layers,
    layer: usize,
}

impl<'a> Turn<'a> {
    pub(super) fn begin(
        layers: &'a Layers,
        mut bank: MutexGuard<'a, Bank>,
        layer: usize,
        dispatch: &Dispatch,
    ) -> Self {
        bank.begin(layer, dispatch);
        Self { bank, layers, layer }
    }

    /// The next experts to compute with, `None` after the last: each expert of the batch is in one group. The group
    /// before is done with.
    ///
    /// # Errors
    /// When an expert cannot be read; the turn is then over.
    pub fn next_group(&mut self) -> Result<Option<Group<'_>>> {
        let (bank, layer) = (&mut *self.bank, self.layer);
        bank.release(layer);
        bank.request(layer)?;
        while let Some(done) = bank.readers.try_next() {
            bank.accept(done)?;
        }
        while bank.arrived.is_empty() && bank.flying > 0 {
            bank.wait()?;
        }
        if bank.arrived.is_empty() {
            return Ok(None);
        }
        std::mem::swap(&mut bank.arrived, &mut bank.group);
        let (Some(layer), Some(shape)) = (&self.layers[layer], &bank.plan.shapes[layer]) else {
            unreachable!("dense layers have no turn")
        };
        Ok(Some(Group { layer, shape, held: &bank.shelves[self.layer].held, experts: &bank.group }))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.bank.end(self.layer);
    }
}

/// Experts whose weights are here.
pub struct Group<'a> {
    layer: &'a ExpertLayer,
    shape: &'a SlotShape,
    held: &'a [Option<Held>],
    experts: &'a [u32],
}

impl<'a> Group<'a> {
    /// Which ones.
    pub fn experts(&self) -> &'a [u32] {
        self.experts
    }

    /// Their gates, where the model has any.
    pub fn gate(&self) -> Option<Part<'a>> {
        self.layer.gate.as_ref().map(|gate| self.part(gate, &self.shape.gate))
    }

    /// Their matrices to the hidden width.
    pub fn up(&self) -> Part<'a> {
        self.part(&self.layer.up, &self.shape.up)
    }

    /// Their matrices back.
    pub fn down(&self) -> Part<'a> {
        self.part(&self.layer.down, &self.shape.down)
    }

    fn part(&self, stack: &'a Stack, place: &Range<usize>) -> Part<'a> {
        Part { stack, held: self.held, place: place.clone() }
    }
}

/// One matrix of every expert of a group.
pub struct Part<'a> {
    stack: &'a Stack,
    held: &'a [Option<Held>],
    place: Range<usize>,
}

impl Part<'_> {
    /// Shape and format.
    pub fn stack(&self) -> &Stack {
        self.stack
    }
}

impl ExpertMatrices for Part<'_> {
    fn matrix(&self, expert: u32) -> MatrixRef<'_> {
        let held = self.held[expert as usize].as_ref().expect("an expert of the group");
        let Stack { format, rows, cols, .. } = *self.stack;
        MatrixRef { format, rows, cols, bytes: &held.slot[self.place.clone()] }
    }

    fn bias(&self, expert: u32) -> Option<&[f32]> {
        self.stack.bias(expert)
    }
}
