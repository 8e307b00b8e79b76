//! Products with panels on AMX: a tile of inputs times a tile of weights, a group of codes at a time.
//!
//! A panel's words already lie as the tile unit wants its second operand: four codes of each of sixteen rows, one line
//! after the other. They are unpacked once for all inputs of a job. The unit's whole-number products are exact, and what
//! follows is the arithmetic of `avx512.rs` in its order, so both have the same bits.

use super::super::activations::QuantizedRow;
use super::super::{Job, Pick};
use super::avx512::{self, Head, PanelBlock, codes};
use super::tiles::{GROUPS, TILES};
use super::{PANEL, WORD};
use std::arch::asm;
use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

/// From so many inputs on, unpacking a panel for the tile unit pays.
const FEWEST: usize = 8;

/// Bytes of a line of weights, of products and of sums: four codes, or one number, of sixteen rows.
const LINE: usize = WORD * PANEL;

/// A panel as the tile unit reads it.
#[derive(Default)]
struct Unpacked {
    codes: Vec<i8>,     // (groups, GROUP / 4, 16, 4)
    scales: Vec<f32>,   // (groups, 16)
    mins: Vec<f32>,     // (groups, 16)
    products: Vec<i32>, // (two groups, inputs of a tile, 16)
}

thread_local! {
    /// Grows to the widest matrix once per thread.
    static UNPACKED: RefCell<Unpacked> = RefCell::default();
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn rows_of_panels<B: PanelBlock>(job: &Job<'_>, range: Range<usize>) {
    // SAFETY: compiled for the instructions; outputs by the caller's promise.
    unsafe {
        if job.picks.len() < FEWEST {
            return avx512::rows_of_panels::<B>(job, range);
        }
        avx512::rows_body::<B>(job, range, &GROUPS, panels_of_picks::<B>);
        asm!("tilerelease", options(nomem, nostack, preserves_flags));
    }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn panels_of_picks<B: PanelBlock>(job: &Job<'_>, picks: &[Pick], rows: Range<usize>) {
    let panel_bytes = job.matrix.row_bytes() * PANEL;
    let (mut tiles, mut unpacked) = (TILES.take(), UNPACKED.take());
    // SAFETY: the caller's promises, for every tile.
    unsafe {
        tiles.fill(&GROUPS, &job.inputs, picks, B::GROUP, B::BIAS);
        for start in rows.step_by(PANEL) {
            unpacked.fill::<B>(&job.matrix.bytes[start / PANEL * panel_bytes..][..panel_bytes]);
            for tile in GROUPS.tiles(picks.len()) {
                let (rest, len) = (&picks[tile.start..], tile.len());
                let inputs = tiles.get(tile, job.inputs.quantized(rest[0].input, B::GROUP));
                match len {
                    16 => unpacked.pass::<B, 16>(job, start, &inputs, rest),
                    12 => unpacked.pass::<B, 12>(job, start, &inputs, rest),
                    8 => unpacked.pass::<B, 8>(job, start, &inputs, rest),
                    4 => unpacked.pass::<B, 4>(job, start, &inputs, rest),
                    2 => unpacked.pass::<B, 2>(job, start, &inputs, rest),
                    _ => unpacked.pass::<B, 1>(job, start, &inputs, rest),
                }
            }
        }
    }
    TILES.set(tiles);
    UNPACKED.set(unpacked);
}

impl Unpacked {
    /// Takes the codes of a panel, with their signs, and its factors out of their bits.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn fill<B: PanelBlock>(&mut self, panel: &[u8]) {
        let blocks = panel.chunks_exact(size_of::<B>() * PANEL);
        let groups = blocks.len() * (B::LEN / B::GROUP);
        self.codes.resize(groups * B::GROUP * PANEL, 0);
        self.scales.resize(groups * PANEL, 0.0);
        self.mins.resize(groups * PANEL, 0.0);
        self.products.resize(2 * GROUPS.largest() * PANEL, 0);
        let bias = _mm512_set1_epi8(B::BIAS as i8);
        let lines = self.codes.chunks_exact_mut(B::LEN * PANEL);
        let factors = self.scales.chunks_exact_mut(B::LEN / B::GROUP * PANEL);
        let factors = factors.zip(self.mins.chunks_exact_mut(B::LEN / B::GROUP * PANEL));
        for ((block, lines), (scales, mins)) in blocks.zip(lines).zip(factors) {
            // SAFETY: a block has the bytes of sixteen; every line and every sixteen factors are stored inside theirs.
            unsafe {
                let head = B::Head::read(block.as_ptr());
                for group in 0..B::LEN / B::GROUP {
                    let factors = head.factors(group);
                    _mm512_storeu_ps(scales[group * PANEL..][..PANEL].as_mut_ptr(), factors.scales);
                    _mm512_storeu_ps(mins[group * PANEL..][..PANEL].as_mut_ptr(), factors.mins);
                    for quad in 0..B::GROUP / WORD {
                        let codes = _mm512_sub_epi8(codes::<B>(block.as_ptr(), group, quad), bias);
                        let line = &mut lines[(group * B::GROUP / WORD + quad) * LINE..][..LINE];
                        _mm512_storeu_si512(line.as_mut_ptr().cast(), codes);
                    }
                }
            }
        }
    }

    /// The panel's rows times a tile of `N` inputs, whose results go where the first `N` picks say.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn pass<B: PanelBlock, const N: usize>(
        &mut self,
        job: &Job<'_>,
        start: usize,
        inputs: &QuantizedRow<'_>,
        picks: &[Pick],
    ) {
        let groups = job.matrix.cols / B::GROUP;
        inputs.check(N * job.matrix.cols, B::GROUP);
        assert!(self.codes.len() == groups * B::GROUP * PANEL && self.scales.len() == groups * PANEL);
        let mut sums = [_mm512_setzero_ps(); N];
        // SAFETY: the checks above bound all that is read of a group; products have room for two tiles.
        unsafe {
            configure(N, B::GROUP);
            for group in 0..groups {
                // By turns, so that a group's products are made while the last one's are added.
                let products = self.products.as_mut_ptr().add(group % 2 * N * PANEL);
                multiply::<B>(
                    inputs.codes.as_ptr().add(group * N * B::GROUP),
                    self.codes.as_ptr().add(group * B::GROUP * PANEL),
                    products,
                );
                self.add::<B, N>(&mut sums, group, products, inputs);
            }
        }
        for (pick, sums) in picks.iter().zip(sums) {
            // SAFETY: these rows of this output belong to this task.
            unsafe {
                let places = job.output.slice(pick.output, start..start + PANEL);
                _mm512_storeu_ps(places.as_mut_ptr(), sums);
            }
        }
    }

    /// Adds a group's products to the sums.
    #[inline(always)]
    unsafe fn add<B: PanelBlock, const N: usize>(
        &self,
        sums: &mut [__m512; N],
        group: usize,
        products: *const i32,
        inputs: &QuantizedRow<'_>,
    ) {
        // SAFETY: the caller's checks.
        unsafe {
            let factors = _mm512_loadu_ps(self.scales.as_ptr().add(group * PANEL));
            let mins = _mm512_loadu_ps(self.mins.as_ptr().add(group * PANEL));
            let scales = inputs.scales.as_ptr().add(group * B::GROUP / 32 * N);
            let input_sums = inputs.sums.as_ptr().add(group * N);
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
