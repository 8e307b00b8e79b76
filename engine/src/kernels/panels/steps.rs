//! Steps: the columns whose products add up as whole numbers, in their bits and out of them.
//!
//! A step is a group, which shares a scale. Where group scales are small whole numbers times that of the block (Q2_K), a
//! code times its scale still is a byte; two groups of sixteen then are one step, and the steps of a block are added up
//! together (`whole.rs`, `whole_avx2.rs`).

use super::super::matrix::PANEL;
use super::codes::{Head, PanelBlock, Scheme, stored_codes};
use super::packing::WORD;
use super::words::Words;

/// The columns of a step, of sixteen rows.
pub(super) trait Step<W: Words> {
    /// The scales of all of its codes.
    ///
    /// # Safety
    /// Here and below: needs the instructions of `W`.
    unsafe fn scales(&self) -> W::Floats;

    /// The mins of one of its groups.
    unsafe fn mins(&self, group: usize) -> W::Floats;

    /// Its four codes of each row from `4 * quad` on, from 0 up unless their signs are kept.
    unsafe fn codes(&self, quad: usize) -> W;
}

/// A step of a panel as it is.
pub(super) struct PackedStep<'a, B: PanelBlock, W: Words> {
    /// Leads to the words of a packed column of blocks.
    pub(super) words: *const u8,
    pub(super) head: &'a B::Head<W>,
    pub(super) number: usize,
}

impl<B: PanelBlock, W: Words> PackedStep<'_, B, W> {
    /// One of the step's groups, counted from the block's first.
    #[inline(always)]
    fn group(&self, number: usize) -> usize {
        self.number * const { Scheme::of::<B, W>().columns / B::GROUP } + number
    }
}

impl<B: PanelBlock, W: Words> Step<W> for PackedStep<'_, B, W> {
    #[inline(always)]
    unsafe fn scales(&self) -> W::Floats {
        // SAFETY: the caller has the instructions; a step's groups are groups of its block.
        unsafe {
            if const { Scheme::of::<B, W>().is_whole } {
                self.head.units().scales
            } else {
                self.head.factors(self.group(0)).scales
            }
        }
    }

    #[inline(always)]
    unsafe fn mins(&self, group: usize) -> W::Floats {
        // SAFETY: the caller has the instructions; a step's groups are groups of its block.
        unsafe { self.head.factors(self.group(group)).mins }
    }

    #[inline(always)]
    unsafe fn codes(&self, quad: usize) -> W {
        let (group, quad) = (self.group(quad / (B::GROUP / 4)), quad % (B::GROUP / 4));
        // SAFETY: the caller has the instructions; the group is one of the block, which `words` leads to, and the quad
        // one of the group.
        unsafe {
            let codes = stored_codes::<B, W>(self.words, group, quad);
            if const { Scheme::of::<B, W>().is_scaled } {
                codes.times_halves(self.head.whole_scales(group))
            } else {
                codes
            }
        }
    }
}

/// Bytes of a line: four codes, or one number, of sixteen rows.
pub(super) const LINE: usize = WORD * PANEL;

/// Where a step is whose codes are bytes and whose factors are floats, sixteen of each side by side.
#[derive(Clone, Copy)]
pub(super) struct UnpackedStep {
    pub(super) codes: *const u8,
    pub(super) scales: *const f32,
    pub(super) mins: *const f32,
}

impl<W: Words> Step<W> for UnpackedStep {
    #[inline(always)]
    unsafe fn scales(&self) -> W::Floats {
        // SAFETY: the pointers lead to all numbers of the step, here and below.
        unsafe { W::load_floats(self.scales) }
    }

    #[inline(always)]
    unsafe fn mins(&self, group: usize) -> W::Floats {
        // SAFETY: the pointer leads to sixteen mins of each group of the step.
        unsafe { W::load_floats(self.mins.add(group * PANEL)) }
    }

    #[inline(always)]
    unsafe fn codes(&self, quad: usize) -> W {
        // SAFETY: the pointer leads to a line of codes for each quad of the step.
        unsafe { W::load(self.codes.add(quad * LINE)) }
    }
}
