//! Products with panels on AMX: a tile of inputs times a tile of weights, a group of codes at a time.
//!
//! A panel's words already lie as the tile unit wants its second operand: four codes of each of sixteen rows, one line
//! after the other. They are unpacked once for all inputs of a job (`unpacked.rs`). The unit's whole-number products are
//! exact, and what follows is `products.rs`, so both have the same bits.

use super::super::Job;
use super::super::activations::QuantizedRow;
use super::avx512;
use super::products::{Group, PanelBlock, Part, Passes, Sums, add_dots, rows_body};
use super::tiles::{Cut, GROUPS, LINES};
use super::unpacked::{COLUMNS, LINE, UNPACKED, Unpacked};
use super::words::Words;
use super::{PANEL, WORD};
use std::arch::asm;
use std::arch::x86_64::__m512i;
use std::ops::Range;

/// From so many inputs on, unpacking a panel for the tile unit pays.
const FEWEST: usize = 8;

/// A part of a panel, and what the tile unit makes of two of its groups.
struct Tiled {
    panel: Unpacked,
    products: [i32; 2 * LINES * PANEL], // (two groups, inputs of a tile, 16)
    /// Inputs and group that the registers are shaped for: shaping takes as long as some groups.
    shape: (usize, usize),
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn rows_of_panels<B: PanelBlock>(job: &Job<'_>, range: Range<usize>) {
    // SAFETY: compiled for the instructions; outputs by the caller's promise.
    unsafe {
        if job.picks.len() < FEWEST {
            return avx512::rows_of_panels::<B>(job, range);
        }
        let mut tiled = Tiled { panel: UNPACKED.take(), products: [0; 2 * LINES * PANEL], shape: (0, 0) };
        rows_body::<B, _>(job, range, &mut tiled);
        UNPACKED.set(tiled.panel);
        asm!("tilerelease", options(nomem, nostack, preserves_flags));
    }
}

impl Passes for Tiled {
    type Words = __m512i;
    const CUT: &'static Cut = &GROUPS;

    fn columns<B: PanelBlock>(_inputs: usize) -> usize {
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
        sums: &Sums<'_>,
    ) {
        const { assert!(N <= LINES) };
        self.panel.check(part.groups.len(), B::GROUP);
        // SAFETY: the checks bound all that is read of a group; products have room for two tiles.
        unsafe {
            let mut all = sums.read::<B, __m512i, N>(part, inputs);
            if self.shape != (N, B::GROUP) {
                configure(N, B::GROUP);
                self.shape = (N, B::GROUP);
            }
            for place in 0..part.groups.len() {
                let (group, number) = (self.panel.group::<B>(place), part.groups.start + place);
                // By turns, so that a group's products are made while the last one's are added.
                let products = self.products.as_mut_ptr().add(place % 2 * N * PANEL);
                multiply::<B>(inputs.codes.as_ptr().add(number * N * B::GROUP), group.codes, products);
                let mut dots = [__m512i::splat(0); N];
                for (n, dots) in dots.iter_mut().enumerate() {
                    *dots = __m512i::load(products.add(n * PANEL).cast());
                }
                add_dots::<B, __m512i, N>(&mut all, &group.factors(), dots, number, inputs);
            }
            sums.write::<__m512i, N>(all);
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
