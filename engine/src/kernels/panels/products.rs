//! Products with panels: a register of weights serves all rows of a panel, inputs are broadcast.
//!
//! Codes meet the inputs as they come out of their bits. Inputs pass in tiles (`tiles.rs`), so that unpacking is shared;
//! the arithmetic and its order are those of one input, so a row's result does not depend on how many inputs there are.
//! Written once over [`Words`]; `avx2.rs`, `avx512.rs` and `neon.rs` compile it for their
//! instructions.

use super::super::activations::QuantizedRow;
use super::super::blocks::{self, ByteDots};
use super::super::cache::{prefetch as prefetch_near, prefetch_far};
use super::super::job::{Job, Pick};
use super::super::matrix::PANEL;
use super::codes::{PanelBlock, Scheme, each_step, open};
use super::dots::{Dots, dots};
use super::steps::{PackedStep, Step};
use super::tiles::{self, Cut, TILES};
use super::words::Words;
use std::ops::Range;

/// How far ahead weights are asked for, in bytes.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    /// For the second-level cache, which keeps more requests open than the nearest one.
    far: usize,
    /// For the nearest, later.
    near: usize,
}

impl Ahead {
    /// What makes up for a processor that loses the stream.
    pub(super) const FAR: Self = Self { far: 16 << 10, near: 4 << 10 };

    /// For the second-level cache alone: the nearest one is asked for what is there, which costs less than a branch.
    #[cfg(target_arch = "x86_64")]
    pub(super) const SECOND_LEVEL: Self = Self { far: 8 << 10, near: 0 };

    /// Asks for what is there.
    #[cfg(target_arch = "x86_64")]
    pub(super) const NOT: Self = Self { far: 0, near: 0 };
}

/// Some columns of a panel: all, or as many as stay in the nearest cache once they are out of their bits.
pub(super) struct Strip<'a> {
    /// Whole blocks.
    pub(super) blocks: &'a [u8],
    /// Where they begin in their matrix, in bytes.
    pub(super) offset: usize,
    /// Their steps, counted from the row's first.
    pub(super) steps: Range<usize>,
    /// What follows it is asked for.
    pub(super) ahead: Ahead,
}

/// How one instruction set passes a tile of inputs over a panel.
pub(super) trait Passes {
    /// The registers of rows' words.
    type Words: Dots;
    /// The kernel of rows that are in no panel.
    type Rows: ByteDots;
    /// How inputs are cut into tiles.
    const CUT: &'static Cut;

    /// Columns to take together where so many inputs pass.
    fn columns<B: PanelBlock>(_inputs: usize) -> usize {
        usize::MAX
    }

    /// How far ahead so many inputs ask for weights.
    fn ahead<B: PanelBlock>(_inputs: usize) -> Ahead {
        Ahead::FAR
    }

    /// Gets a strip ready for its passes.
    ///
    /// # Safety
    /// Here and below: needs the instruction set.
    unsafe fn begin<B: PanelBlock>(&mut self, _strip: &Strip<'_>, _inputs: usize) {}

    /// Adds the products of the strip's columns with a tile of so many inputs, as the cut makes them, to the tile's sums.
    unsafe fn pass<B: PanelBlock>(
        &mut self,
        len: usize,
        strip: &Strip<'_>,
        inputs: &QuantizedRow<'_>,
        sums: &SumPlaces<'_>,
    );
}

/// Where the sums of a pass are: in the outputs that they become, which belong to this task.
pub(super) struct SumPlaces<'a> {
    job: &'a Job<'a>,
    /// The panel's first row.
    start: usize,
    /// Of these outputs, one per input of the tile.
    picks: &'a [Pick],
}

impl SumPlaces<'_> {
    /// What has been added before this strip, after a check of what bounds every load of the inputs. Asks for the
    /// places: many inputs have more of them than the processor foresees.
    ///
    /// # Safety
    /// Here and below: needs the instructions of `W`.
    #[inline(always)]
    pub(super) unsafe fn read<B: PanelBlock, W: Words, const N: usize>(
        &self,
        strip: &Strip<'_>,
        inputs: &QuantizedRow<'_>,
    ) -> [W::Floats; N] {
        let cols = self.job.matrix.cols;
        tiles::check::<B, W>(inputs, N * cols);
        assert!(strip.steps.end <= cols / const { Scheme::of::<B, W>().columns });
        // SAFETY: the caller has the instructions; a place is sixteen floats of an output.
        unsafe {
            let places = self.places::<N>();
            for place in places {
                prefetch_near(place.cast());
                prefetch_near(place.add(PANEL - 1).cast());
            }
            let mut sums = [W::zero(); N];
            if strip.steps.start > 0 {
                for (sums, place) in sums.iter_mut().zip(places) {
                    *sums = W::load_floats(place);
                }
            }
            sums
        }
    }

    /// Keeps the sums for the next strip, or for good.
    #[inline(always)]
    pub(super) unsafe fn write<W: Words, const N: usize>(&self, sums: [W::Floats; N]) {
        // SAFETY: the caller has the instructions; a place is sixteen floats of an output.
        unsafe {
            for (sums, place) in sums.into_iter().zip(self.places::<N>()) {
                W::store(sums, place);
            }
        }
    }

    /// The panel's rows of each output.
    #[inline(always)]
    unsafe fn places<const N: usize>(&self) -> [*mut f32; N] {
        let picks: &[Pick; N] = self.picks.try_into().expect("a tile has a pick per input");
        let mut places = [std::ptr::null_mut(); N];
        for (place, pick) in places.iter_mut().zip(picks) {
            // SAFETY: these rows of these outputs belong to this task.
            *place =
                unsafe { self.job.output.slice(pick.output, self.start..self.start + PANEL).as_mut_ptr() };
        }
        places
    }
}

/// Where the whole panels of a range end: it starts at one, and ends at one or at the last row.
pub(super) fn end_of_panels(job: &Job<'_>, range: &Range<usize>) -> usize {
    let rows = job.matrix.rows;
    let whole = range.end.min(rows / PANEL * PANEL).max(range.start);
    assert!(range.start.is_multiple_of(PANEL) && (range.end == whole || range.end == rows));
    whole
}

/// Whole panels by `passes`, and the rows behind them.
///
/// # Safety
/// Needs the instructions of `P`; the rows of the outputs must be this task's own, as [`RowsFn`](super::super::job::RowsFn)
/// has it.
#[inline(always)]
pub(super) unsafe fn rows_body<B: PanelBlock, P: Passes>(job: &Job<'_>, range: Range<usize>, passes: &mut P) {
    let whole = end_of_panels(job, &range);
    if range.start < whole {
        for picks in job.picks.chunks(P::CUT.at_once(job.matrix.cols)) {
            // SAFETY: the caller has the instructions of `P` and the outputs of these rows, whole panels of them.
            unsafe { panels_of_picks::<B, P>(job, picks, range.start..whole, passes) };
        }
    }
    if whole < range.end {
        // SAFETY: the instructions of `P` include those of its rows; these are the last rows of the range.
        unsafe { blocks::rows_body::<B, P::Rows>(job, whole..range.end) }
    }
}

/// The same for as many picks as are cut into tiles together.
#[inline(always)]
unsafe fn panels_of_picks<B: PanelBlock, P: Passes>(
    job: &Job<'_>,
    picks: &[Pick],
    rows: Range<usize>,
    passes: &mut P,
) {
    let panel_bytes = job.matrix.row_bytes() * PANEL;
    let blocks_at_once = (P::columns::<B>(picks.len()) / B::LEN).clamp(1, job.matrix.cols / B::LEN);
    let strip_bytes = blocks_at_once * size_of::<B>() * PANEL;
    let steps = const { Scheme::of::<B, P::Words>().steps };
    let ahead = P::ahead::<B>(picks.len());
    let mut tiles = TILES.take();
    // SAFETY: the caller has the instructions of `P` and these rows of the picks' outputs; a strip has whole blocks,
    // and a tile is what `fill` made for the same picks.
    unsafe {
        tiles.fill::<B, P::Words>(P::CUT, &job.inputs, picks);
        for start in rows.step_by(PANEL) {
            let offset = start / PANEL * panel_bytes;
            let panel = &job.matrix.bytes[offset..][..panel_bytes];
            for (number, blocks) in panel.chunks(strip_bytes).enumerate() {
                let first = number * blocks_at_once * steps;
                let steps = first..first + blocks.len() / PANEL / size_of::<B>() * steps;
                let offset = offset + number * strip_bytes;
                let strip = Strip { blocks, offset, steps, ahead };
                passes.begin::<B>(&strip, picks.len());
                for tile in P::CUT.tiles(picks.len()) {
                    let (len, picks) = (tile.len(), &picks[tile.clone()]);
                    let first = job.inputs.quantized::<B>(picks[0].input);
                    let inputs = tiles.get::<B, P::Words>(tile, first);
                    let sums = SumPlaces { job, start, picks };
                    passes.pass::<B>(len, &strip, &inputs, &sums);
                }
            }
        }
    }
    TILES.set(tiles);
}

/// The body of [`Passes::pass`] for code that takes a panel as it is.
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn pass_body<B: PanelBlock, W: Dots, const N: usize>(
    strip: &Strip<'_>,
    inputs: &QuantizedRow<'_>,
    sums: &SumPlaces<'_>,
) {
    let scheme = const { Scheme::of::<B, W>() };
    // SAFETY: the caller has the instructions; a strip has whole packed columns of blocks, `read` checks that inputs have as
    // many steps, and the sums are at this task's outputs.
    unsafe {
        let mut all = sums.read::<B, W, N>(strip, inputs);
        // What tiles ask for is the same always: a constant, for registers are few.
        let ahead = if N == 1 { strip.ahead } else { Ahead::FAR };
        for (number, block) in strip.blocks.chunks_exact(size_of::<B>() * PANEL).enumerate() {
            let first = strip.steps.start + number * scheme.steps;
            let (head, words) = open::<B, W>(block.as_ptr(), strip.offset + number * block.len());
            if N <= W::WRITTEN_OUT {
                each_step!(B, W, |step| {
                    prefetch::<B, W>(block, step, ahead);
                    add_packed::<B, W, N>(&mut all, words, &head, (first, step), inputs)
                });
            } else {
                for step in 0..scheme.steps {
                    prefetch::<B, W>(block, step, ahead);
                    add_packed::<B, W, N>(&mut all, words, &head, (first, step), inputs);
                }
            }
        }
        sums.write::<W, N>(all);
    }
}

/// Asks for the step's share of what follows this block: all at once would wait for each other. Without a branch if the
/// step's place in its stretch is constant.
#[inline(always)]
pub(super) fn prefetch<B: PanelBlock, W: Words>(block: &[u8], step: usize, ahead: Ahead) {
    let scheme = const { Scheme::of::<B, W>() };
    let stretch = scheme.stretch;
    let stretches = scheme.steps / stretch;
    let lines = (size_of::<B>() * PANEL / stretches).div_ceil(64);
    let (first, number) = (step / stretch * lines, step % stretch);
    for line in number * lines / stretch..(number + 1) * lines / stretch {
        let line = block.as_ptr().wrapping_add((first + line) * 64);
        prefetch_far(line.wrapping_add(ahead.far));
        if W::ASKS_TWICE {
            prefetch_near(line.wrapping_add(ahead.near));
        }
    }
}

/// Adds the products of a step of a packed block, whose first step is `first`.
#[inline(always)]
unsafe fn add_packed<B: PanelBlock, W: Dots, const N: usize>(
    sums: &mut [W::Floats; N],
    mut words: *const u8,
    head: &B::Head<W>,
    (first, number): (usize, usize),
    inputs: &QuantizedRow<'_>,
) {
    // SAFETY: the caller has the instructions; `words` and `head` are those of one packed column of blocks, and the
    // step is one of it.
    unsafe {
        for sums in sums.iter_mut() {
            (*sums, words) = W::settle(*sums, words);
        }
        let step = PackedStep::<B, W> { words, head, number };
        add_step::<B, W, N>(sums, &step, first + number, inputs)
    }
}

/// Adds a step to the sums; `number` counts the row's steps.
#[inline(always)]
unsafe fn add_step<B: PanelBlock, W: Dots, const N: usize>(
    sums: &mut [W::Floats; N],
    step: &impl Step<W>,
    number: usize,
    inputs: &QuantizedRow<'_>,
) {
    // SAFETY: the caller has the instructions and a whole step; `SumPlaces::read` checked that the inputs have as many
    // steps.
    unsafe {
        let scales = step.scales();
        let dots = dots::<B, W, N>(step, number, inputs);
        add_dots::<B, W, N>(sums, (dots, scales), step, number, inputs);
    }
}

/// The same with the products of the step's codes and their scales.
#[inline(always)]
pub(super) unsafe fn add_dots<B: PanelBlock, W: Dots, const N: usize>(
    sums: &mut [W::Floats; N],
    (dots, scales): ([W; N], W::Floats),
    step: &impl Step<W>,
    number: usize,
    inputs: &QuantizedRow<'_>,
) {
    let scheme = const { Scheme::of::<B, W>() };
    let columns = scheme.columns;
    // SAFETY: the caller has the instructions; a row has a scale per 32 columns and a sum per group, for each of `N`
    // inputs, so those of a step below the row's last are there.
    unsafe {
        let input_scales = inputs.scales.as_ptr().add(number * columns / 32 * N);
        for (n, (sums, dots)) in sums.iter_mut().zip(dots).enumerate() {
            *sums = W::add_product(*sums, dots.to_floats(), W::scaled(scales, input_scales.add(n)));
        }
        if scheme.reads_sums {
            let mins = step.mins(0);
            let input_sums = inputs.sums.as_ptr().add(number * N);
            for (n, sums) in sums.iter_mut().enumerate() {
                *sums = W::subtract_scaled(*sums, mins, input_sums.add(n));
            }
        }
    }
}
