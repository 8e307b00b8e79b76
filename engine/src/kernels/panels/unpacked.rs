//! Columns of a panel taken out of their bits once, for many tiles of inputs: codes as bytes, factors as floats.

use super::super::PANEL;
use super::super::activations::QuantizedRow;
use super::WORD;
use super::products::{Factors, Group, Head, PanelBlock, Part, Sums, add_group, codes, each_group, prefetch};
use super::words::Words;
use std::cell::RefCell;

/// Bytes of a line: four codes, or one number, of sixteen rows.
const LINE: usize = WORD * PANEL;

/// So many columns of sixteen rows stay in the nearest cache beside a tile.
pub(super) const COLUMNS: usize = 512;

/// A part of a panel out of its bits.
#[derive(Default)]
pub(super) struct Unpacked {
    codes: Vec<i8>,   // (groups, GROUP / 4, 16, 4)
    scales: Vec<f32>, // (groups, 16)
    mins: Vec<f32>,   // (groups, 16)
}

thread_local! {
    /// Grows to a part once per thread.
    pub(super) static UNPACKED: RefCell<Unpacked> = RefCell::default();
}

impl Unpacked {
    /// Takes a part out of its bits, with codes as [`codes`] gives them.
    ///
    /// # Safety
    /// Needs the instructions of `W`.
    #[inline(always)]
    pub(super) unsafe fn fill<B: PanelBlock, W: Words>(&mut self, part: &Part<'_>) {
        let blocks = part.blocks.chunks_exact(size_of::<B>() * PANEL);
        let groups = part.groups.len();
        self.codes.resize(groups * B::GROUP * PANEL, 0);
        self.scales.resize(groups * PANEL, 0.0);
        self.mins.resize(groups * PANEL, 0.0);
        let lines = self.codes.chunks_exact_mut(B::LEN * PANEL);
        let factors = self.scales.chunks_exact_mut(B::LEN / B::GROUP * PANEL);
        let factors = factors.zip(self.mins.chunks_exact_mut(B::LEN / B::GROUP * PANEL));
        for ((block, lines), (scales, mins)) in blocks.zip(lines).zip(factors) {
            let (lines, scales, mins) = (lines.as_mut_ptr(), scales.as_mut_ptr(), mins.as_mut_ptr());
            // SAFETY: a block has the bytes of sixteen, and all its lines and factors are stored inside theirs.
            unsafe {
                let head = B::Head::<W>::read(block.as_ptr());
                each_group!(B, |group| {
                    prefetch::<B>(block, group);
                    let factors = head.factors(group);
                    W::store(factors.scales, scales.add(group * PANEL));
                    W::store(factors.mins, mins.add(group * PANEL));
                    for quad in 0..B::GROUP / WORD {
                        let codes = codes::<B, W>(block.as_ptr(), group, quad);
                        codes.store_words(lines.add((group * B::GROUP / WORD + quad) * LINE));
                    }
                });
            }
        }
    }

    /// What bounds every load of a pass.
    fn check(&self, groups: usize, group: usize) {
        assert!(self.codes.len() == groups * group * PANEL);
        assert!(self.scales.len() == groups * PANEL && self.mins.len() == groups * PANEL);
    }

    /// The body of [`super::products::Passes::pass`].
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    pub(super) unsafe fn pass_body<B: PanelBlock, W: Words, const N: usize>(
        &self,
        part: &Part<'_>,
        inputs: &QuantizedRow<'_>,
        sums: &Sums<'_>,
    ) {
        self.check(part.groups.len(), B::GROUP);
        // SAFETY: the checks bound all that is read of a group; outputs by the caller's promise.
        unsafe {
            let mut all = sums.read::<B, W, N>(part, inputs);
            for number in 0..part.groups.len() {
                let group = UnpackedGroup {
                    codes: self.codes.as_ptr().add(number * B::GROUP * PANEL),
                    scales: self.scales.as_ptr().add(number * PANEL),
                    mins: self.mins.as_ptr().add(number * PANEL),
                };
                add_group::<B, W, N>(&mut all, &group, part.groups.start + number, inputs);
            }
            sums.write::<W, N>(all);
        }
    }
}

/// Where a group is, see [`Unpacked`].
struct UnpackedGroup {
    codes: *const i8,
    scales: *const f32,
    mins: *const f32,
}

impl<W: Words> Group<W> for UnpackedGroup {
    #[inline(always)]
    unsafe fn factors(&self) -> Factors<W> {
        // SAFETY: the pointers lead to sixteen numbers each.
        unsafe { Factors { scales: W::load_floats(self.scales), mins: W::load_floats(self.mins) } }
    }

    #[inline(always)]
    unsafe fn codes(&self, quad: usize) -> W {
        // SAFETY: the pointer leads to all lines of the group.
        unsafe { W::load(self.codes.add(quad * LINE).cast()) }
    }
}
