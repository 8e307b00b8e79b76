//! One expert in memory: its matrices, packed, in one allocation, each in pages of its own.
//!
//! A matrix' pages belong to whoever may write them: to a reader while they are filled, to the bank before and after.
//! That is all the synchronisation they need.

use super::{ExpertLayer, Stack};
use crate::error::Result;
use crate::os::pages::Pages;

/// The matrices of an expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    Gate,
    Up,
    Down,
}

impl Which {
    pub(super) const ALL: [Which; 3] = [Which::Gate, Which::Up, Which::Down];

    /// That matrix of a layer's experts; only gates may be missing.
    pub(super) fn of(self, layer: &ExpertLayer) -> Option<&Stack> {
        match self {
            Self::Gate => layer.gate.as_ref(),
            Self::Up => Some(&layer.up),
            Self::Down => Some(&layer.down),
        }
    }
}

/// Bytes of each matrix of a layer's experts, 0 for a missing gate: packed as many as in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SlotShape([usize; 3]);

impl SlotShape {
    pub(super) fn of(layer: &ExpertLayer) -> Self {
        Self(Which::ALL.map(|which| which.of(layer).map_or(0, |stack| stack.expert_bytes())))
    }

    /// Bytes of one matrix.
    pub(super) fn bytes_of(&self, which: Which) -> usize {
        self.0[which as usize]
    }

    /// Bytes of the whole slot.
    pub(super) fn bytes(&self) -> usize {
        self.0.iter().sum()
    }

    /// The shape that both fit.
    pub(super) fn union(self, other: Self) -> Self {
        Self(Which::ALL.map(|which| self.bytes_of(which).max(other.bytes_of(which))))
    }
}

/// Memory of one expert. A matrix is away while a reader fills it.
#[derive(Debug)]
pub(super) struct Slot([Option<Pages>; 3]);

impl Slot {
    /// Memory for an expert of this shape.
    pub(super) fn new(shape: SlotShape) -> Result<Self> {
        Ok(Self(Pages::pieces(Which::ALL.map(|which| shape.bytes_of(which)))?.map(Some)))
    }

    /// Hands a matrix' pages out.
    pub(super) fn take(&mut self, which: Which) -> Option<Pages> {
        self.0[which as usize].take()
    }

    /// Takes them back.
    pub(super) fn put(&mut self, which: Which, pages: Pages) {
        self.0[which as usize] = Some(pages);
    }

    /// A matrix.
    ///
    /// # Panics
    /// While it is away.
    pub(super) fn matrix(&self, which: Which) -> &[u8] {
        self.0[which as usize].as_deref().expect("a slot of the bank is whole")
    }
}
