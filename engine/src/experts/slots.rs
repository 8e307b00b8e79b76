//! One expert in memory: its matrices side by side, packed.
//!
//! A slot belongs to whoever may write it: to a reader while it is filled, to the bank before and after. That is all
//! the synchronisation it needs.

use super::{ExpertLayer, Stack};
use crate::error::Result;
use crate::kernels::Layout;
use crate::os::pages::Pages;
use std::ops::{Deref, DerefMut, Range};

/// Matrices begin at multiples of this: a cache line, and the widest load of any instruction set.
const ALIGNMENT: usize = 64;

/// Where the matrices of a layer's experts are in their slots.
#[derive(Clone, Debug)]
pub(super) struct SlotShape {
    pub(super) gate: Range<usize>, // empty where there is none
    pub(super) up: Range<usize>,
    pub(super) down: Range<usize>,
}

impl SlotShape {
    pub(super) fn of(layer: &ExpertLayer, layout: Layout) -> Self {
        let mut end = 0usize;
        let mut place = |stack: Option<&Stack>| {
            let start = end.next_multiple_of(ALIGNMENT);
            end = start + stack.map_or(0, |stack| stack.packed_bytes(layout));
            start..end
        };
        Self { gate: place(layer.gate.as_ref()), up: place(Some(&layer.up)), down: place(Some(&layer.down)) }
    }

    /// Bytes of the whole slot.
    pub(super) fn bytes(&self) -> usize {
        self.down.end
    }

    /// The places in the order of [`ExpertLayer::stacks`].
    pub(super) fn places(&self) -> impl Iterator<Item = Range<usize>> {
        let gate = Some(self.gate.clone()).filter(|gate| !gate.is_empty());
        gate.into_iter().chain([self.up.clone(), self.down.clone()])
    }
}

/// Memory of one expert.
#[derive(Debug)]
pub(super) struct Slot(Pages);

impl Slot {
    pub(super) fn new(bytes: usize) -> Result<Self> {
        Pages::new(bytes).map(Self)
    }
}

impl Deref for Slot {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Slot {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}
