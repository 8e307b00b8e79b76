//! Panels on NEON, with products of bytes and with those of small matrices.

use super::super::activations::QuantizedRow;
use super::super::job::Job;
use super::super::neon;
use super::codes::PanelBlock;
use super::products::{Passes, Strip, SumPlaces, rows_body};
use super::tiles::{Cut, FEW_FOURS};
use super::unpacked::{COLUMNS, UNPACKED, Unpacked};
use super::whole::pass;
use super::words_neon::Quad;
use std::ops::Range;

/// Whether unpacking columns once for so many inputs pays. Whole blocks are multiplied as they are.
fn are_many<B: PanelBlock>(inputs: usize) -> bool {
    !B::WHOLE && inputs >= 16
}

/// The functions of one set; a set's name cannot be a parameter.
macro_rules! compiled_for {
    ($name:ident, $rows_of_panels:ident, $i8mm:literal, $features:literal) => {
        struct $name {
            panel: Unpacked,
            is_unpacked: bool,
        }

        #[target_feature(enable = $features)]
        pub(super) unsafe fn $rows_of_panels<B: PanelBlock>(job: &Job<'_>, range: Range<usize>) {
            let mut passes = $name { panel: UNPACKED.take(), is_unpacked: false };
            // SAFETY: compiled for the instructions; the rows of these outputs are this task's own, as `RowsFn` has it.
            unsafe { rows_body::<B, _>(job, range, &mut passes) };
            UNPACKED.set(passes.panel);
        }

        impl $name {
            #[target_feature(enable = $features)]
            unsafe fn pass_tile<B: PanelBlock, const N: usize>(
                &self,
                strip: &Strip<'_>,
                inputs: &QuantizedRow<'_>,
                sums: &SumPlaces<'_>,
            ) {
                // SAFETY: compiled for the instructions; strip, inputs and sums are as the trait has them.
                unsafe {
                    match self.is_unpacked {
                        true => self.panel.pass_body::<B, Quad<$i8mm>, N>(strip, inputs, sums),
                        false => pass::<B, Quad<$i8mm>, N>(strip, inputs, sums),
                    }
                }
            }
        }

        impl Passes for $name {
            type Words = Quad<$i8mm>;
            type Rows = neon::NeonDot;
            const CUT: &'static Cut = &FEW_FOURS;

            fn columns<B: PanelBlock>(inputs: usize) -> usize {
                if are_many::<B>(inputs) { COLUMNS } else { usize::MAX }
            }

            #[target_feature(enable = $features)]
            unsafe fn begin<B: PanelBlock>(&mut self, strip: &Strip<'_>, inputs: usize) {
                self.is_unpacked = are_many::<B>(inputs);
                if self.is_unpacked {
                    // SAFETY: compiled for the instructions.
                    unsafe { self.panel.fill::<B, Quad<$i8mm>>(strip) }
                }
            }

            #[target_feature(enable = $features)]
            unsafe fn pass<B: PanelBlock>(
                &mut self,
                len: usize,
                strip: &Strip<'_>,
                inputs: &QuantizedRow<'_>,
                sums: &SumPlaces<'_>,
            ) {
                // SAFETY: compiled for the instructions; strip, inputs and sums are as the trait has them.
                unsafe {
                    match len {
                        4 => self.pass_tile::<B, 4>(strip, inputs, sums),
                        2 => self.pass_tile::<B, 2>(strip, inputs, sums),
                        _ => self.pass_tile::<B, 1>(strip, inputs, sums),
                    }
                }
            }
        }
    };
}

compiled_for!(NeonDot, rows_of_panels, false, "dotprod");
compiled_for!(NeonI8mm, rows_of_panels_with_i8mm, true, "dotprod,i8mm");
