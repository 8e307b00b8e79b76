//! Columns of a panel taken out of their bits once, for many tiles of inputs: codes as bytes, factors as floats.

use super::super::activations::QuantizedRow;
use super::super::matrix::PANEL;
use super::codes::{PanelBlock, Scheme, each_step, open};
use super::dots::UnpackedDots;
use super::packing::WORD;
use super::products::{Strip, SumPlaces, add_dots, prefetch};
use super::steps::{LINE, PackedStep, Step, UnpackedStep};
use super::words::Words;
use std::cell::RefCell;

/// So many columns of sixteen rows stay in the nearest cache beside a tile.
pub(super) const COLUMNS: usize = 512;

/// A strip of a panel out of its bits.
#[derive(Default)]
pub(super) struct Unpacked {
    pub(super) codes: Vec<i8>, // (columns / 4, 16, 4)
    scales: Vec<f32>,          // (steps, 16)
    mins: Vec<f32>,            // (groups, 16)
    #[cfg(target_arch = "x86_64")]
    pub(super) whole_scales: Vec<i32>, // (groups, 16), in both halves
    #[cfg(target_arch = "x86_64")]
    pub(super) whole_mins: Vec<i32>, // (groups / 2, 16), an i16 of each group
    #[cfg(target_arch = "x86_64")]
    pub(super) units: Vec<f32>, // (blocks, 2, 16), of whole scales and whole mins
}

thread_local! {
    /// Grows to a strip once per thread.
    pub(super) static UNPACKED: RefCell<Unpacked> = RefCell::default();
}

impl Unpacked {
    /// Takes a strip out of its bits.
    ///
    /// # Safety
    /// Needs the instructions of `W`.
    #[inline(always)]
    pub(super) unsafe fn fill<B: PanelBlock, W: Words>(&mut self, strip: &Strip<'_>) {
        let scheme = const { Scheme::of::<B, W>() };
        let blocks = strip.blocks.chunks_exact(size_of::<B>() * PANEL);
        let width = scheme.columns;
        let len = strip.steps.len() * width;
        self.codes.resize(len * PANEL, 0);
        self.scales.resize(len / width * PANEL, 0.0);
        self.mins.resize(len / B::GROUP * PANEL, 0.0);
        let lines = self.codes.chunks_exact_mut(B::LEN * PANEL);
        let factors = self.scales.chunks_exact_mut(scheme.steps * PANEL);
        let factors = factors.zip(self.mins.chunks_exact_mut(B::LEN / B::GROUP * PANEL));
        for (number, ((block, lines), (scales, mins))) in blocks.zip(lines).zip(factors).enumerate() {
            let (lines, scales, mins) = (lines.as_mut_ptr(), scales.as_mut_ptr(), mins.as_mut_ptr());
            // SAFETY: a block has the bytes of sixteen, and all its lines and factors are stored inside theirs.
            unsafe {
                let (head, words) = open::<B, W>(block.as_ptr(), strip.offset + number * block.len());
                each_step!(B, W, |number| {
                    prefetch::<B, W>(block, number, strip.ahead);
                    let step = PackedStep::<B, W> { words, head: &head, number };
                    W::store(step.scales(), scales.add(number * PANEL));
                    for group in 0..width / B::GROUP {
                        W::store(step.mins(group), mins.add((number * width / B::GROUP + group) * PANEL));
                    }
                    for quad in 0..width / WORD {
                        step.codes(quad).store_words(lines.add((number * width / WORD + quad) * LINE));
                    }
                });
            }
        }
    }

    /// What bounds every load of a pass.
    fn check<B: PanelBlock, W: Words>(&self, steps: usize) {
        let len = steps * const { Scheme::of::<B, W>().columns };
        assert!(self.codes.len() == len * PANEL && self.scales.len() == steps * PANEL);
        assert!(self.mins.len() == len / B::GROUP * PANEL);
    }

    /// The body of [`super::products::Passes::pass`].
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    pub(super) unsafe fn pass_body<B: PanelBlock, W: UnpackedDots, const N: usize>(
        &self,
        strip: &Strip<'_>,
        inputs: &QuantizedRow<'_>,
        sums: &SumPlaces<'_>,
    ) {
        self.check::<B, W>(strip.steps.len());
        let width = const { Scheme::of::<B, W>().columns };
        // SAFETY: the checks bound all that is read of a step; the sums are at this task's outputs.
        unsafe {
            let mut all = sums.read::<B, W, N>(strip, inputs);
            for number in 0..strip.steps.len() {
                let step = UnpackedStep {
                    codes: self.codes.as_ptr().add(number * width * PANEL).cast(),
                    scales: self.scales.as_ptr().add(number * PANEL),
                    mins: self.mins.as_ptr().add(number * width / B::GROUP * PANEL),
                };
                let number = strip.steps.start + number;
                let dots = W::dots::<B, N>(step, number, inputs);
                let scales = Step::<W>::scales(&step);
                add_dots::<B, W, N>(&mut all, (dots, scales), &step, number, inputs);
            }
            sums.write::<W, N>(all);
        }
    }
}
