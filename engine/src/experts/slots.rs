//! One expert in memory: its matrices, packed, in one allocation, each in pages of its own.
//!
//! While a slot is filled it is in pieces, which belong to the readers; before and after, all of it is the bank's. That is
//! all the synchronisation it needs.

use super::{ExpertLayer, Stack};
use crate::error::Result;
use crate::os::pages::Pages;
use std::ops::Range;

/// A matrix begins at a multiple of this, the largest page that is common; direct reads want no less.
pub(super) const ALIGNMENT: usize = 4096;

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

    /// Where a matrix lies in the slot.
    pub(super) fn range(&self, which: Which) -> Range<usize> {
        let before = &self.0[..which as usize];
        let start = before.iter().map(|bytes| bytes.next_multiple_of(ALIGNMENT)).sum();
        start..start + self.0[which as usize]
    }

    /// Bytes of the matrices.
    pub(super) fn bytes(&self) -> usize {
        self.0.iter().sum()
    }

    /// Bytes of a slot, with what lies between the matrices.
    pub(super) fn len(&self) -> usize {
        self.range(Which::Down).end.next_multiple_of(ALIGNMENT)
    }

    /// The matrix that has the byte `at` of a slot, with where it begins there.
    pub(super) fn at(&self, at: usize) -> (Which, Range<usize>) {
        let all = Which::ALL.into_iter().map(|which| (which, self.range(which)));
        all.filter(|(_, range)| range.contains(&at)).last().expect("jobs begin within a matrix")
    }
}

/// Memory of one expert.
#[derive(Debug)]
pub(super) struct Slot {
    pages: Pages,
    /// Pieces that came back from the readers while others are still there.
    back: Vec<Pages>,
}

impl Slot {
    /// Memory for an expert of `len` bytes.
    pub(super) fn new(len: usize) -> Result<Self> {
        Ok(Self { pages: Pages::new(len)?, back: vec![] })
    }

    /// Hands out the first `len` bytes that are not away.
    pub(super) fn cut(&mut self, len: usize) -> Pages {
        self.pages.split_to(len)
    }

    /// Takes a piece back.
    pub(super) fn put(&mut self, piece: Pages) {
        self.back.push(piece);
    }

    /// Makes the slot whole once all pieces are back.
    pub(super) fn mend(&mut self) {
        self.back.sort_unstable_by_key(Pages::place);
        while let Some(last) = self.back.pop() {
            self.pages.prepend(last);
        }
    }

    /// The bytes of a matrix.
    pub(super) fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.pages[range]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_lie_in_pages_of_their_own() {
        let shape = SlotShape([5000, 10, 4096]);
        assert_eq!(Which::ALL.map(|which| shape.range(which)), [0..5000, 8192..8202, 12288..16384]);
        assert_eq!((shape.bytes(), shape.len()), (9106, 16384));
        for (at, which) in [(0, Which::Gate), (4999, Which::Gate), (8192, Which::Up), (16383, Which::Down)] {
            assert_eq!(shape.at(at).0, which);
        }
        let ungated = SlotShape([0, 10, 10]);
        assert_eq!((ungated.at(0), ungated.len()), ((Which::Up, 0..10), 8192));
    }

    #[test]
    fn a_slot_is_whole_in_whatever_order_its_pieces_come_back() {
        let mut slot = Slot::new(100).unwrap();
        for order in [[0, 1, 2], [2, 0, 1], [1, 2, 0]] {
            let mut pieces = [10, 20, 30].map(|len| Some(slot.cut(len)));
            for number in order {
                let mut piece = pieces[number].take().unwrap();
                piece.fill(number as u8);
                slot.put(piece);
            }
            slot.mend();
            assert_eq!(slot.bytes(0..100).len(), 100);
            assert_eq!([0, 10, 30].map(|at| slot.bytes(at..at + 1)[0]), [0, 1, 2]);
        }
    }
}
