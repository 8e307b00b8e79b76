//! The slot bank: which expert of which layer is in memory, which is on its way, and who leaves for whom: the one that
//! its layer used least often lately.
//!
//! What the next layer will choose is guessed, and read when nothing else is to be read. When that layer's turn comes,
//! guesses that came true are as good as experts that were there; others that no thread has begun are taken back.

use super::files::Files;
use super::frequency::Frequency;
use super::plan::Plan;
use super::queue::{Job, Queue};
use super::readers::{self, Done, Readers};
use super::slots::Slot;
use super::statistics::{Cost, Counters};
use super::{ExpertLayer, Layers, count_of};
use crate::error::{Error, Result};
use crate::kernels::Dispatch;
use crate::os::pages::Pages;
use std::sync::Arc;

/// An expert in a slot.
pub(super) struct Held {
    pub(super) slot: Slot,
    /// The turn that used it last.
    turn: u64,
    /// Whether the current turn has yet to compute with it, or the next is guessed to.
    is_wanted: bool,
    /// Whether the slot belongs to no layer.
    is_staging: bool,
    /// What reading it on a guess took, as long as nothing was computed with it.
    unused: Option<Cost>,
}

/// An expert on its way, piece by piece.
struct Incoming {
    ticket: u64,
    layer: usize,
    expert: u32,
    slot: Slot,
    is_staging: bool,
    why: Why,
    /// Pieces still to come.
    missing: usize,
    cost: Cost,
    has_failed: bool,
}

impl Incoming {
    fn is_for(&self, layer: usize, expert: u32) -> bool {
        (self.layer, self.expert) == (layer, expert)
    }
}

/// Where the expert is among those on their way that a job is part of.
fn place_of(ticket: u64, incoming: &[Incoming]) -> usize {
    incoming.iter().position(|incoming| incoming.ticket == ticket).expect("reads are for incoming experts")
}

/// Why an expert is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    /// The current turn computes with it.
    Wanted,
    /// The next one may.
    Guessed,
    /// A guess that was wrong, and a part of it was taken back.
    ForNothing,
}

/// The slots of one layer.
struct Shelf {
    quota: usize,
    /// Slots that exist, being filled or held.
    slots: usize,
    /// Those of them that are empty.
    spare: Vec<Slot>,
    /// `(expert_count)`.
    held: Vec<Option<Held>>,
    lately: Frequency,
}

impl Shelf {
    /// Takes the slot of the expert that was used least often lately, of several the longest ago, unless all are wanted.
    fn evict(&mut self) -> Option<(usize, Held)> {
        let may_leave = |held: &Held| !held.is_wanted && !held.is_staging;
        let worth = |(expert, held): &(usize, &Held)| (self.lately.of(*expert), held.turn);
        let held = self.held.iter().enumerate().filter_map(|(expert, held)| Some((expert, held.as_ref()?)));
        let (leaving, _) = held.filter(|(_, held)| may_leave(held)).min_by_key(worth)?;
        self.held[leaving].take().map(|held| (leaving, held))
    }
}

/// All slots.
pub(super) struct Bank {
    plan: Plan,
    /// The pieces in which a slot of each layer is filled.
    pieces: Vec<Vec<usize>>,
    shelves: Vec<Shelf>,
    /// Free slots that belong to no layer, and how many of those there are in all.
    staging: Vec<Slot>,
    staging_slots: usize,
    readers: Readers,
    turn: u64,
    tickets: u64,
    counters: Arc<Counters>,
    /// What the next layer is guessed to choose, the likeliest last.
    ahead: Vec<u32>,
    taken_back: Vec<Job>,
    /// The current turn's experts: still to be asked for (the next one last), asked for, there, and being computed.
    waiting: Vec<u32>,
    incoming: Vec<Incoming>,
    arrived: Vec<u32>,
    group: Vec<u32>,
}

impl Bank {
    pub(super) fn new(layers: &Arc<Layers>, plan: Plan, files: Arc<Files>) -> Result<Self> {
        let shelf = |(layer, &quota): (&Option<ExpertLayer>, &usize)| Shelf {
            quota,
            slots: 0,
            spare: vec![],
            held: (0..count_of(layer)).map(|_| None).collect(),
            lately: Frequency::new(count_of(layer)),
        };
        let shelves = layers.iter().zip(&plan.quotas).map(shelf).collect();
        let facts = |(layer, &slots): (&Option<ExpertLayer>, &usize)| {
            (layer.as_ref().map_or(0, ExpertLayer::expert_bytes), slots, count_of(layer))
        };
        let has_side_file = files.has_side_file();
        let readers = Readers::start(layers, &plan, files)?;
        let counters = Counters::new(layers.iter().zip(&plan.quotas).map(facts), readers.activity());
        let pieces = |layer: &Option<ExpertLayer>| {
            layer.as_ref().map_or_else(Vec::new, |layer| readers::pieces(layer, has_side_file))
        };
        Ok(Self {
            plan,
            pieces: layers.iter().map(pieces).collect(),
            shelves,
            staging: vec![],
            staging_slots: 0,
            readers,
            turn: 0,
            tickets: 0,
            ahead: vec![],
            taken_back: vec![],
            counters: Arc::new(counters),
            waiting: vec![],
            incoming: vec![],
            arrived: vec![],
            group: vec![],
        })
    }

    pub(super) fn queue(&self) -> Arc<Queue> {
        self.readers.queue().clone()
    }

    pub(super) fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    /// Sorts a batch's experts into those that are here and those to be read, and asks for these.
    pub(super) fn begin(&mut self, layer: usize, rows: usize, dispatch: &Dispatch) -> Result<()> {
        self.sort(layer, rows, dispatch);
        self.settle_guesses();
        let missing = self.waiting.len();
        self.request(layer)?;
        self.counters.asked(missing - self.waiting.len());
        Ok(())
    }

    fn sort(&mut self, layer: usize, rows: usize, dispatch: &Dispatch) {
        self.turn += 1;
        let (shelf, counters) = (&mut self.shelves[layer], self.counters.layer(layer));
        shelf.lately.pass(rows);
        shelf.held.iter_mut().flatten().for_each(|held| held.is_wanted = false);
        for &expert in dispatch.active() {
            let picks = dispatch.picks(expert).len();
            shelf.lately.add(expert, picks);
            counters.uses[expert as usize].add(picks as u64);
            match &mut shelf.held[expert as usize] {
                Some(held) => {
                    (held.is_wanted, held.unused) = (true, None);
                    self.arrived.push(expert);
                }
                None => {
                    let may_come_true =
                        |i: &&mut Incoming| i.is_for(layer, expert) && i.why == Why::Guessed && !i.has_failed;
                    match self.incoming.iter_mut().find(may_come_true) {
                        Some(incoming) => {
                            incoming.why = Why::Wanted;
                            self.counters.asked(1);
                        }
                        None => self.waiting.push(expert),
                    }
                    counters.misses.add(1);
                }
            }
        }
        counters.hits.add(self.arrived.len() as u64);
        // What the last rows want is read last and is there at the end: the next batch goes on from there.
        let last_row = |expert: u32| dispatch.picks(expert).last().map(|pick| pick.input);
        self.waiting.sort_by_key(|&expert| (std::cmp::Reverse(last_row(expert)), expert));
    }

    /// Takes note of what the layer after `layer` is guessed to choose.
    pub(super) fn expect(&mut self, layer: usize, experts: impl Iterator<Item = u32>) {
        self.ahead.extend(experts);
        self.ahead.reverse();
        for &expert in &self.ahead {
            if let Some(held) = &mut self.shelves[layer + 1].held[expert as usize] {
                held.is_wanted = true;
            }
        }
    }

    /// Takes wrong guesses back, as far as no thread has begun with them.
    fn settle_guesses(&mut self) {
        let Self { readers, incoming, taken_back, .. } = self;
        let came_true = |job: &Job| incoming[place_of(job.ticket, incoming)].why == Why::Wanted;
        readers.queue().settle(came_true, taken_back);
        while let Some(Job { ticket, pages, .. }) = self.taken_back.pop() {
            let place = place_of(ticket, &self.incoming);
            self.incoming[place].why = Why::ForNothing;
            self.returned(place, pages);
        }
    }

    /// The group has been computed.
    fn release(&mut self, layer: usize) {
        let shelf = &mut self.shelves[layer];
        for expert in self.group.drain(..) {
            let place = &mut shelf.held[expert as usize];
            match place.take() {
                Some(held) if held.is_staging => {
                    self.counters.layer(layer).hold(expert as usize, false);
                    self.staging.push(held.slot);
                }
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
            self.send(layer, expert, slot, is_staging, Why::Wanted);
        }
        Ok(())
    }

    /// Asks for what the layer after `layer` is guessed to choose, in slots of experts that it is not.
    fn request_ahead(&mut self, layer: usize) -> Result<()> {
        let layer = layer + 1;
        while let Some(expert) = self.ahead.pop() {
            let is_coming = self.incoming.iter().any(|i| i.is_for(layer, expert));
            if is_coming || self.shelves[layer].held[expert as usize].is_some() {
                continue;
            }
            let Some(slot) = self.own_slot(layer)? else { return Ok(()) };
            self.send(layer, expert, slot, false, Why::Guessed);
        }
        Ok(())
    }

    /// Gives a slot's memory to the readers, piece by piece.
    fn send(&mut self, layer: usize, expert: u32, slot: Slot, is_staging: bool, why: Why) {
        self.tickets += 1;
        let (ticket, pieces) = (self.tickets, &self.pieces[layer]);
        let (missing, cost) = (pieces.len(), Cost::default());
        let mut incoming =
            Incoming { ticket, layer, expert, slot, is_staging, why, missing, cost, has_failed: false };
        let mut at = 0;
        for &len in pieces {
            let job = Job { ticket, layer, expert, at, pages: incoming.slot.cut(len) };
            let queue = self.readers.queue();
            if why == Why::Guessed {
                queue.guess(job)
            } else {
                queue.want(job)
            }
            at += len;
        }
        self.incoming.push(incoming);
    }

    /// A slot of the layer's own to be filled.
    fn own_slot(&mut self, layer: usize) -> Result<Option<Slot>> {
        let shelf = &mut self.shelves[layer];
        if let Some(slot) = shelf.spare.pop() {
            return Ok(Some(slot));
        }
        if shelf.slots < shelf.quota {
            let slot = Slot::new(self.plan.shapes[layer].unwrap_or_default().len())?;
            shelf.slots += 1;
            return Ok(Some(slot));
        }
        let Some((leaving, held)) = shelf.evict() else { return Ok(None) };
        self.counters.layer(layer).hold(leaving, false);
        held.unused.into_iter().for_each(|cost| self.counters.wasted(cost));
        Ok(Some(held.slot))
    }

    /// A slot to be filled, and whether it belongs to no layer.
    fn free_slot(&mut self, layer: usize) -> Result<Option<(Slot, bool)>> {
        if let Some(slot) = self.own_slot(layer)? {
            return Ok(Some((slot, false)));
        }
        if self.staging.is_empty() && self.staging_slots < self.plan.staging {
            self.staging.push(Slot::new(self.plan.largest_slot().len())?);
            self.staging_slots += 1;
        }
        Ok(self.staging.pop().map(|slot| (slot, true)))
    }

    /// Takes a finished read in.
    fn accept(&mut self, done: Done) -> Result<()> {
        let Done { job: Job { ticket, pages, .. }, outcome } = done;
        let place = place_of(ticket, &self.incoming);
        let incoming = &mut self.incoming[place];
        incoming.has_failed |= outcome.is_err();
        if let Ok(cost) = outcome {
            incoming.cost.bytes += cost.bytes;
            incoming.cost.time += cost.time;
        }
        let is_wanted = incoming.why == Why::Wanted;
        self.returned(place, pages);
        match outcome {
            Ok(cost) => self.counters.read(cost.bytes),
            Err(error) if is_wanted => return Err(error),
            // Should it be wanted after all, it is read again.
            Err(_) => {}
        }
        Ok(())
    }

    /// A piece of an incoming expert is back from the readers.
    fn returned(&mut self, place: usize, pages: Pages) {
        let incoming = &mut self.incoming[place];
        incoming.slot.put(pages);
        incoming.missing -= 1;
        if incoming.missing == 0 {
            let mut incoming = self.incoming.swap_remove(place);
            incoming.slot.mend();
            self.settle(incoming);
        }
    }

    /// An expert is here, or its slot is free again.
    fn settle(&mut self, incoming: Incoming) {
        let Incoming { layer, expert, slot, is_staging, why, has_failed, cost, .. } = incoming;
        if has_failed || why == Why::ForNothing {
            if why != Why::Wanted {
                self.counters.wasted(cost);
            }
            let free = if is_staging { &mut self.staging } else { &mut self.shelves[layer].spare };
            return free.push(slot);
        }
        let unused = (why == Why::Guessed).then_some(cost);
        let held = Held { slot, turn: self.turn, is_wanted: true, is_staging, unused };
        self.shelves[layer].held[expert as usize] = Some(held);
        self.counters.layer(layer).hold(expert as usize, true);
        if why == Why::Wanted {
            self.arrived.push(expert);
        }
    }

    /// Whether the current turn waits for reads.
    fn awaits_reads(&self) -> bool {
        self.incoming.iter().any(|incoming| incoming.why == Why::Wanted)
    }

    /// Waits for one read.
    fn wait(&mut self) -> Result<()> {
        let done = self.counters.stall(|| self.readers.next());
        let gone = || Error::request("the threads that read experts have ended; load the model again");
        self.accept(done.ok_or_else(gone)?)
    }

    /// Ends a turn, finished or not.
    pub(super) fn end(&mut self, layer: usize) {
        self.waiting.clear();
        self.ahead.clear();
        while self.awaits_reads() {
            // A read that fails here fails for nobody.
            if let Some(done) = self.readers.next() { _ = self.accept(done) } else { self.incoming.clear() }
        }
        self.group.append(&mut self.arrived);
        self.release(layer);
    }

    /// Makes the next experts to compute with the group, and the ones before free to leave. `false` after the last.
    pub(super) fn next_group(&mut self, layer: usize) -> Result<bool> {
        self.release(layer);
        self.request(layer)?;
        self.request_ahead(layer)?;
        while let Some(done) = self.readers.try_next() {
            self.accept(done)?;
        }
        while self.arrived.is_empty() && self.awaits_reads() {
            self.wait()?;
        }
        std::mem::swap(&mut self.arrived, &mut self.group);
        Ok(!self.group.is_empty())
    }

    /// How everything is divided.
    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// A layer's experts in slots, `(expert_count)`, and which of them the group is.
    pub(super) fn group(&self, layer: usize) -> (&[Option<Held>], &[u32]) {
        (&self.shelves[layer].held, &self.group)
    }
}
