//! Panels on AVX2, with and without VNNI.

use super::super::activations::QuantizedRow;
use super::super::avx2;
use super::super::job::Job;
use super::codes::PanelBlock;
use super::products::{Passes, Strip, SumPlaces, rows_body};
use super::tiles::{Cut, FEW_FOURS};
use super::unpacked::{COLUMNS, UNPACKED, Unpacked};
use super::whole_avx2;
use super::words_x86::Pair;
use std::ops::Range;

/// Whether unpacking columns once for so many inputs pays. Blocks of one group come out of their bits in few steps.
fn are_many<B: PanelBlock, const VNNI: bool>(inputs: usize) -> bool {
    let fewest = match B::LEN == B::GROUP {
        false => 8,
        true if VNNI => 64,
        true => 16,
    };
    inputs >= fewest
}

/// The functions of one set; a set's name cannot be a parameter.
macro_rules! compiled_for {
    ($name:ident, $rows_of_panels:ident, $vnni:literal, $features:literal) => {
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

        impl Passes for $name {
            type Words = Pair<$vnni>;
            type Rows = avx2::Avx2<$vnni>;
            const CUT: &'static Cut = &FEW_FOURS;

            fn columns<B: PanelBlock>(inputs: usize) -> usize {
                if are_many::<B, $vnni>(inputs) { COLUMNS } else { usize::MAX }
            }

            #[target_feature(enable = $features)]
            unsafe fn begin<B: PanelBlock>(&mut self, strip: &Strip<'_>, inputs: usize) {
                self.is_unpacked = are_many::<B, $vnni>(inputs);
                if self.is_unpacked {
                    // SAFETY: compiled for the instructions.
                    unsafe { whole_avx2::unpack::<B, $vnni>(&mut self.panel, strip) }
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
                let panel = self.is_unpacked.then_some(&self.panel);
                // SAFETY: compiled for the instructions; strip, inputs and sums are as the trait has them.
                unsafe {
                    match len {
                        4 => whole_avx2::pass::<B, $vnni, 4>(panel, strip, inputs, sums),
                        2 => whole_avx2::pass::<B, $vnni, 2>(panel, strip, inputs, sums),
                        _ => whole_avx2::pass::<B, $vnni, 1>(panel, strip, inputs, sums),
                    }
                }
            }
        }
    };
}

compiled_for!(Avx2, rows_of_panels, false, "avx2,fma,f16c");
compiled_for!(AvxVnni, rows_of_panels_with_vnni, true, "avx2,fma,f16c,avxvnni");
