//! Products with panels on AMX: a tile of inputs times a tile of weights, a group of codes at a time.
//!
//! A panel's words already lie as the tile unit wants its second operand: four codes of each of sixteen rows, one line
//! after the other. They are unpacked once for all inputs of a job (`unpacked.rs`). The unit's whole-number products are
//! exact, and what follows is the arithmetic of `products.rs` in its order, so both have the same bits.

use super::super::Job;
use super::super::activations::QuantizedRow;
use super::avx512;
use super::products::{PanelBlock, Part, Passes, Sums, rows_body};
use super::tiles::{Cut, GROUPS};
use super::unpacked::{COLUMNS, LINE, UNPACKED, Unpacked};
use super::{PANEL, WORD};
use std::arch::asm;
use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

/// From so many inputs on, unpacking a panel for the tile unit pays.
const FEWEST: usize = 8;

/// A part of a panel, and what the tile unit makes of two of its groups.
struct Tiled {
    panel: Unpacked,
    products: Vec<i32>, // (two groups, inputs of a tile, 16)
    /// Inputs and group that the registers are shaped for: shaping takes as long as some groups.
    shape: (usize, usize),
}

thread_local! {
    /// [`Tiled::products`], kept from job to job.
    static PRODUCTS: RefCell<Vec<i32>> = RefCell::default();
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn rows_of_panels<B: PanelBlock>(job: &Job<'_>, range: Range<usize>) {
    // SAFETY: compiled for the instructions; outputs by the caller's promise.
    unsafe {
        if job.picks.len() < FEWEST {
            return avx512::rows_of_panels::<B>(job, range);
        }
        let mut tiled = Tiled { panel: UNPACKED.take(), products: PRODUCTS.take(), shape: (0, 0) };
        tiled.products.resize(2 * GROUPS.largest() * PANEL, 0);
        rows_body::<B, _>(job, range, &mut tiled);
        UNPACKED.set(tiled.panel);
        PRODUCTS.set(tiled.products);
        asm!("tilerelease", options(nomem, nostack, preserves_flags));
    }
}

impl Passes for Tiled {
    type Words = __m512i;
    const CUT: &'static Cut = &GROUPS;

    fn columns<B: PanelBlock>(&self, _inputs: usize) -> usize {
        COLUMNS
    }

    /// Codes get their signs, as the tile unit multiplies them.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn begin<B: PanelBlock>(&mut self, part: &Part<'_>, _inputs: usize) {
        // SAFETY: compiled for the instructions.
        unsafe { self.panel.fill::<B, __m512i>(part, B::BIAS) }
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn pass<B: PanelBlock, const N: usize>(
        &mut self,
        part: &Part<'_>,
        inputs: &QuantizedRow<'_>,
        sums: &mut Sums<'_>,
    ) {
        inputs.check_groups(N * part.groups.end, B::GROUP);
        self.panel.check(part.groups.len(), B::GROUP);
        // SAFETY: the checks above bound all that is read of a group; products have room for two tiles.
        unsafe {
            let mut all = sums.read::<__m512i, N>();
            if self.shape != (N, B::GROUP) {
                configure(N, B::GROUP);
                self.shape = (N, B::GROUP);
            }
            for group in 0..part.groups.len() {
                // By turns, so that a group's products are made while the last one's are added.
                let products = self.products.as_mut_ptr().add(group % 2 * N * PANEL);
                let number = part.groups.start + group;
                multiply::<B>(
                    inputs.codes.as_ptr().add(number * N * B::GROUP),
                    self.panel.codes.as_ptr().add(group * B::GROUP * PANEL),
                    products,
                );
                self.add::<B, N>(&mut all, (group, number), products, inputs);
            }
            sums.write::<__m512i, N>(all);
        }
    }
}

impl Tiled {
    /// Adds the products of a group of the part to the sums; `number` counts the row's.
    #[inline(always)]
    unsafe fn add<B: PanelBlock, const N: usize>(
        &self,
        sums: &mut [__m512; N],
        (group, number): (usize, usize),
        products: *const i32,
        inputs: &QuantizedRow<'_>,
    ) {
        // SAFETY: the caller's checks.
        unsafe {
            let factors = _mm512_loadu_ps(self.panel.scales.as_ptr().add(group * PANEL));
            let mins = _mm512_loadu_ps(self.panel.mins.as_ptr().add(group * PANEL));
            let scales = inputs.scales.as_ptr().add(number * B::GROUP / 32 * N);
            let input_sums = inputs.sums.as_ptr().add(number * N);
            for (n, sum) in sums.iter_mut().enumerate() {
                let products = _mm512_loadu_si512(products.add(n * PANEL).cast());
                let factor = _mm512_mul_ps(factors, _mm512_set1_ps(*scales.add(n)));
                *sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(products), factor, *sum);
                if B::HAS_MIN {
                    *sum = _mm512_fnmadd_ps(mins, _mm512_set1_ps(*input_sums.add(n)), *sum);
                }
            }
        }
    }
}

/// What LDTILECFG reads (Intel's Software Developer's Manual, volume 1, section 18): lines of each register and their bytes.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    line_bytes: [u16; 16],
    lines: [u8; 16],
}

/// Shapes the registers of [`multiply`]: products, inputs and weights.
///
/// # Safety
/// Needs AMX and permission; at most sixteen inputs, a group of at most 64 codes.
#[inline(always)]
unsafe fn configure(inputs: usize, group: usize) {
    let mut configuration =
        Configuration { palette: 1, start_row: 0, reserved: [0; 14], line_bytes: [0; 16], lines: [0; 16] };
    configuration.line_bytes[..3].copy_from_slice(&[LINE as u16, group as u16, LINE as u16]);
    configuration.lines[..3].copy_from_slice(&[inputs as u8, inputs as u8, (group / WORD) as u8]);
    // SAFETY: the caller's promises; the instruction reads these 64 bytes.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &configuration, options(readonly, nostack, preserves_flags)) }
}

/// The products of a group: inputs `(N, GROUP)` times weights `(GROUP / 4, 16, 4)` are `(N, 16)`.
///
/// # Safety
/// After [`configure`] for `N` and the group; what is read and written must be whole.
#[inline(always)]
unsafe fn multiply<B: PanelBlock>(inputs: *const i8, weights: *const i8, products: *mut i32) {
    // SAFETY: the caller's promises; tile registers are used nowhere else.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tileloadd tmm1, [{inputs} + {group}]",
            "tileloadd tmm2, [{weights} + {line}]",
            "tdpbssd tmm0, tmm1, tmm2",
            "tilestored [{products} + {line}], tmm0",
            inputs = in(reg) inputs,
            weights = in(reg) weights,
            products = in(reg) products,
            group = in(reg) B::GROUP,
            line = in(reg) LINE,
            out("tmm0") _,
            out("tmm1") _,
            out("tmm2") _,
            options(nostack, preserves_flags)
        );
    }
}
