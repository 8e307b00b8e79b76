//! Panels on AVX-512 VNNI.

use super::super::activations::QuantizedRow;
use super::super::avx512;
use super::super::job::Job;
use super::codes::PanelBlock;
use super::products::{Ahead, Passes, Strip, SumPlaces, rows_body};
use super::tiles::{Cut, FOURS};
use super::whole::pass;
use crate::simd::Processor;
use std::arch::x86_64::__m512i;
use std::ops::Range;

struct Avx512;

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn rows_of_panels<B: PanelBlock>(job: &Job<'_>, range: Range<usize>) {
    // SAFETY: compiled for the instructions; the rows of these outputs are this task's own, as `RowsFn` has it.
    unsafe { rows_body::<B, _>(job, range, &mut Avx512) }
}

impl Passes for Avx512 {
    type Words = __m512i;
    type Rows = avx512::Vnni;
    const CUT: &'static Cut = &FOURS;

    /// A line is a register: a single input arrives at what it asks for before that does, and its requests only take the
    /// places of the processor's own, on Zen 5 those of the nearest cache.
    fn ahead<B: PanelBlock>(inputs: usize) -> Ahead {
        match Processor::of_machine() {
            Processor::Zen4 if inputs == 1 && B::IS_STREAM => Ahead::NOT,
            Processor::Zen5 if inputs == 1 && B::IS_STREAM => Ahead::SECOND_LEVEL,
            _ => Ahead::FAR,
        }
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
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
                12 => pass::<B, __m512i, 12>(strip, inputs, sums),
                8 => pass::<B, __m512i, 8>(strip, inputs, sums),
                4 => pass::<B, __m512i, 4>(strip, inputs, sums),
                2 => pass::<B, __m512i, 2>(strip, inputs, sums),
                _ => pass::<B, __m512i, 1>(strip, inputs, sums),
            }
        }
    }
}
