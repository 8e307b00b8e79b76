//! A layer's turn to compute with its experts, and the groups in which it gets them: first those that are in slots, then
//! whichever have arrived while the last group was computed.
//!
//! Where a batch wants more experts than fit, slots are used again for the next as soon as their group is done, so every
//! expert is read at most once per batch.

use super::bank::{Bank, Held};
use super::slots::{SlotShape, Which};
use super::{ExpertLayer, Layers, Stack};
use crate::error::Result;
use crate::kernels::{Dispatch, ExpertMatrices, Layout, LowRank, MatrixRef};
use crate::simd::Isa;
use std::ops::Range;
use std::sync::MutexGuard;

/// A layer's turn to compute with its experts.
pub struct Turn<'a> {
    bank: MutexGuard<'a, Bank>,
    layers: &'a Layers,
    layer: usize,
}

impl<'a> Turn<'a> {
    pub(super) fn begin(
        layers: &'a Layers,
        bank: MutexGuard<'a, Bank>,
        layer: usize,
        rows: usize,
        dispatch: &Dispatch,
    ) -> Result<Self> {
        // The turn ends what it began, also where that failed.
        let mut turn = Self { bank, layers, layer };
        turn.bank.begin(layer, rows, dispatch)?;
        Ok(turn)
    }

    /// Notes what the next layer is guessed to choose, the likeliest first: it is read when nothing else is to be read.
    pub fn expect(&mut self, ahead: impl Iterator<Item = u32>) {
        self.bank.expect(self.layer, ahead);
    }

    /// The next experts to compute with, `None` after the last: each expert of the batch is in one group. The group
    /// before is done with.
    ///
    /// # Errors
    /// When an expert cannot be read; the turn is then over.
    pub fn next_group(&mut self) -> Result<Option<Group<'_>>> {
        if !self.bank.next_group(self.layer)? {
            return Ok(None);
        }
        let plan = self.bank.plan();
        let (Some(layer), Some(shape)) = (&self.layers[self.layer], plan.shapes[self.layer]) else {
            unreachable!("dense layers have no turn")
        };
        let (held, experts) = self.bank.group(self.layer);
        Ok(Some(Group { layer, shape, isa: plan.isa, held, experts }))
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
    shape: SlotShape,
    isa: Isa,
    held: &'a [Option<Held>],
    experts: &'a [u32],
}

impl<'a> Group<'a> {
    /// Which ones.
    pub fn experts(&self) -> &'a [u32] {
        self.experts
    }

    /// Their gates, where the model has any.
    pub fn gate(&self) -> Option<GroupMatrix<'a>> {
        self.layer.gate.as_ref().map(|gate| self.part(gate, Which::Gate))
    }

    /// Their matrices to the hidden width.
    pub fn up(&self) -> GroupMatrix<'a> {
        self.part(&self.layer.up, Which::Up)
    }

    /// Their matrices back.
    pub fn down(&self) -> GroupMatrix<'a> {
        self.part(&self.layer.down, Which::Down)
    }

    fn part(&self, stack: &'a Stack, which: Which) -> GroupMatrix<'a> {
        GroupMatrix { stack, held: self.held, isa: self.isa, place: self.shape.range(which) }
    }
}

/// One matrix of every expert of a group.
pub struct GroupMatrix<'a> {
    stack: &'a Stack,
    held: &'a [Option<Held>],
    isa: Isa,
    place: Range<usize>, // in a slot
}

impl GroupMatrix<'_> {
    /// Shape and format.
    pub fn stack(&self) -> &Stack {
        self.stack
    }
}

impl ExpertMatrices for GroupMatrix<'_> {
    fn matrix(&self, expert: u32) -> MatrixRef<'_> {
        let held = self.held[expert as usize].as_ref().expect("an expert of the group");
        let Stack { format, rows, cols, .. } = *self.stack;
        let bytes = held.slot.bytes(self.place.clone());
        MatrixRef { format, rows, cols, layout: Layout::of(self.isa, format), bytes }
    }

    fn bias(&self, expert: u32) -> Option<&[f32]> {
        self.stack.bias(expert)
    }

    fn low_rank(&self, expert: u32) -> Option<&LowRank> {
        self.stack.low_rank(expert)
    }
}
