//! Products with panels on AMX: tiles of BF16 inputs times tiles of BF16 weights, summed in f32 by the tile unit.
//!
//! Byte tiles would be twice as fast, but every group of 32 has a scale per row and per input, which is applied outside
//! the tile: storing whole numbers, loading and converting them made prompts slower than with the vector unit alone
//! (measured on Emerald Rapids). With BF16 the scales are in the weights and in the inputs, both rounded to eight bits
//! of mantissa.

use super::super::avx512::Vnni;
use super::super::blocks;
use super::super::cache::{grow, prefetch};
use super::super::job::{Job, Pick};
use super::super::matrix::PANEL;
use super::avx512;
use super::bf16::{COLUMNS, InputTiles, LINES, Line, Meanwhile, SIDE, WeightTiles};
use super::codes::{PanelBlock, Scheme};
use super::products::end_of_panels;
use super::unit::{Amx, RowSums, Unit};
use std::arch::x86_64::__m512i;
use std::cell::RefCell;
use std::ops::Range;

/// From so many inputs on, making BF16 of a panel pays.
pub(super) const FEWEST: usize = 24;

/// Bytes of input tiles that stay in the second-level cache while panels pass.
const INPUT_BYTES: usize = 1 << 20;

/// Columns of a strip: its weights and those of the next strip stay in the nearest cache while inputs pass.
const STRIP: usize = 256;

/// Buffers that grow to the largest job once per thread.
#[derive(Default)]
struct Buffers {
    inputs: InputTiles,
    /// Those that pass and those that are made for the next pass.
    weights: [WeightTiles; 2],
    /// `(tiles of inputs, SIDE, LINES)`
    sums: Vec<RowSums>,
}

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::default();
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn rows_of_panels<B: PanelBlock>(job: &Job<'_>, range: Range<usize>) {
    // SAFETY: compiled for the instructions, and chosen where the system lets this process use the unit; the rows of
    // these outputs are this task's own, as `RowsFn` has it.
    unsafe {
        if job.picks.len() < FEWEST {
            avx512::rows_of_panels::<B>(job, range);
        } else {
            rows_body::<B, Amx>(job, range);
        }
    }
}

/// Whole panels, and the rows behind them.
///
/// # Safety
/// Needs AVX-512 and the unit; the rows of the outputs must be this task's own.
#[inline(always)]
unsafe fn rows_body<B: PanelBlock, U: Unit>(job: &Job<'_>, range: Range<usize>) {
    let whole = end_of_panels(job, &range);
    let at_once = (INPUT_BYTES / (2 * job.matrix.cols)).max(1).next_multiple_of(SIDE * LINES);
    let mut buffers = BUFFERS.take();
    // SAFETY: the caller has AVX-512, the unit, and the outputs of the range: whole panels of it, and the rows behind them.
    unsafe {
        let mut unit = U::begin();
        for picks in job.picks.chunks(at_once) {
            buffers.inputs.fill::<B>(&job.inputs, picks);
            panels::<B, U>(job, picks, range.start..whole, &mut buffers, &mut unit);
        }
        unit.end();
        if whole < range.end {
            blocks::rows_body::<B, Vnni>(job, whole..range.end);
        }
    }
    BUFFERS.set(buffers);
}

/// All panels of some rows with inputs that are tiles by now. While the weights of a strip pass, those of the next are
/// made: the tile unit and the vector unit work at the same time.
#[inline(always)]
unsafe fn panels<B: PanelBlock, U: Unit>(
    job: &Job<'_>,
    picks: &[Pick],
    rows: Range<usize>,
    buffers: &mut Buffers,
    unit: &mut U,
) {
    let Buffers { inputs, weights: [now, next], sums } = buffers;
    let tiles = picks.len().div_ceil(LINES);
    grow(sums, tiles * SIDE * LINES);
    let sums = &mut sums[..tiles * SIDE * LINES];
    let strips = Strips::of::<B>(job, rows);
    // SAFETY: the caller has AVX-512, the unit, and the outputs of these rows; `Passage::new` checks what its unit reads.
    unsafe {
        if strips.len() > 0 {
            strips.fill::<B>(0, now, &mut ());
        }
        for number in 0..strips.len() {
            let steps = strips.steps(number);
            if steps.first == 0 {
                sums.fill(RowSums::default());
            }
            if strips.is_last_of_rows(number) {
                ask_for_outputs(job, picks, &strips.rows(number));
            }
            let mut pass = Passage::new(unit, &inputs.0, steps, &now.0, sums);
            if number + 1 < strips.len() {
                pass.shares = strips.shares::<B>(number + 1);
                strips.fill::<B>(number + 1, next, &mut pass);
            }
            pass.finish();
            if strips.is_last_of_rows(number) {
                put(job, picks, &strips.rows(number), sums);
            }
            std::mem::swap(now, next);
        }
    }
}

/// Writes the sums of some panels to the outputs.
///
/// # Safety
/// These rows of these outputs must belong to this task, here and below.
unsafe fn put(job: &Job<'_>, picks: &[Pick], rows: &Range<usize>, sums: &[RowSums]) {
    for (sums, picks) in sums.chunks_exact(SIDE * LINES).zip(picks.chunks(LINES)) {
        for (number, pick) in picks.iter().enumerate() {
            // SAFETY: the caller has these rows of these outputs.
            let places = unsafe { job.output.slice(pick.output, rows.clone()) };
            let sides = sums[number..].iter().step_by(LINES);
            places.as_chunks_mut().0.iter_mut().zip(sides).for_each(|(places, sums)| *places = sums.0);
        }
    }
}

/// Asks for the places that [`put`] will write: other outputs lie between them, and none is in a cache by now.
unsafe fn ask_for_outputs(job: &Job<'_>, picks: &[Pick], rows: &Range<usize>) {
    for pick in picks {
        // SAFETY: the caller has these rows of these outputs, of which nothing is read or written.
        let places = unsafe { job.output.slice(pick.output, rows.clone()) };
        places.chunks(PANEL).for_each(|line| prefetch(line.as_ptr().cast()));
    }
}

/// The strips that panels are cut into: [`STRIP`] columns of [`SIDE`] panels, columns first.
struct Strips<'a> {
    bytes: &'a [u8],
    rows: Range<usize>,
    columns: usize,
    panel_bytes: usize,
    /// Columns and bytes of a panel's strip.
    strip: usize,
    strip_bytes: usize,
}

impl<'a> Strips<'a> {
    fn of<B: PanelBlock>(job: &Job<'a>, rows: Range<usize>) -> Self {
        let blocks = (STRIP / B::LEN).max(1);
        Self {
            bytes: job.matrix.bytes,
            rows,
            columns: job.matrix.cols,
            panel_bytes: job.matrix.row_bytes() * PANEL,
            strip: blocks * B::LEN,
            strip_bytes: blocks * size_of::<B>() * PANEL,
        }
    }

    fn per_rows(&self) -> usize {
        self.columns.div_ceil(self.strip)
    }

    fn len(&self) -> usize {
        self.rows.len().div_ceil(SIDE * PANEL) * self.per_rows()
    }

    /// Its rows, the last may have fewer panels.
    fn rows(&self, number: usize) -> Range<usize> {
        let start = self.rows.start + number / self.per_rows() * SIDE * PANEL;
        start..self.rows.end.min(start + SIDE * PANEL)
    }

    fn is_last_of_rows(&self, number: usize) -> bool {
        (number + 1).is_multiple_of(self.per_rows())
    }

    /// Its tiles of columns, of how many.
    fn steps(&self, number: usize) -> TileColumns {
        let start = number % self.per_rows() * self.strip;
        let end = self.columns.min(start + self.strip);
        TileColumns { first: start / COLUMNS, count: (end - start) / COLUMNS, all: self.columns / COLUMNS }
    }

    /// How often the making of its weights goes on with something else.
    fn shares<B: PanelBlock>(&self, number: usize) -> usize {
        self.steps(number).count * COLUMNS / const { Scheme::of::<B, __m512i>().columns }
            * self.rows(number).len()
            / PANEL
    }

    /// Makes its weights.
    ///
    /// # Safety
    /// Needs AVX-512, and what `meanwhile` needs.
    #[inline(always)]
    unsafe fn fill<B: PanelBlock>(
        &self,
        number: usize,
        out: &mut WeightTiles,
        meanwhile: &mut impl Meanwhile,
    ) {
        let start = number % self.per_rows() * self.strip_bytes;
        let end = self.panel_bytes.min(start + self.strip_bytes);
        for (side, row) in self.rows(number).step_by(PANEL).enumerate() {
            let panel = row / PANEL * self.panel_bytes;
            let blocks = &self.bytes[panel + start..panel + end];
            // SAFETY: the caller has AVX-512, and what `meanwhile` needs.
            unsafe { out.fill::<B>(side, (blocks, panel + start), meanwhile) };
        }
    }
}

/// Tiles of columns.
struct TileColumns {
    first: usize,
    count: usize,
    all: usize,
}

/// All inputs on their way past the weights of a strip, tile by tile of columns.
struct Passage<'a, U> {
    unit: &'a mut U,
    /// All columns of the inputs.
    inputs: &'a [Line],
    steps: TileColumns,
    weights: &'a [Line],
    sums: &'a mut [RowSums],
    /// Tiles of inputs that are done, and steps of the next ones.
    tiles: usize,
    step: usize,
    /// In how many shares the pass is divided, and what of a step the shares so far have left over.
    shares: usize,
    left_over: usize,
}

impl<'a, U: Unit> Passage<'a, U> {
    fn new(
        unit: &'a mut U,
        inputs: &'a [Line],
        steps: TileColumns,
        weights: &'a [Line],
        sums: &'a mut [RowSums],
    ) -> Self {
        assert!(steps.first + steps.count <= steps.all && weights.len() >= steps.count * SIDE * LINES);
        let pass = Self { unit, inputs, steps, weights, sums, tiles: 0, step: 0, shares: 1, left_over: 0 };
        assert!(inputs.len() >= pass.all_tiles() * LINES * pass.steps.all);
        pass
    }

    /// Tiles of inputs.
    fn all_tiles(&self) -> usize {
        self.sums.len() / (SIDE * LINES)
    }

    /// One or two tiles of inputs take a step.
    ///
    /// # Safety
    /// Here and below: there must be the unit. `TILES` must be left, or 2 of more.
    #[inline(always)]
    unsafe fn advance<const TILES: usize>(&mut self) {
        let TileColumns { first, count, all } = self.steps;
        // SAFETY: inside, by the checks of `new`: so many tiles and steps are left.
        unsafe {
            let sums = self.sums.as_mut_ptr().add(self.tiles * SIDE * LINES);
            if self.step == 0 {
                self.unit.load::<TILES>(sums);
            }
            let line = self.tiles * all + (first + self.step) * TILES;
            let inputs = self.inputs.as_ptr().add(line * LINES);
            self.unit.step::<TILES>(inputs, self.weights.as_ptr().add(self.step * SIDE * LINES));
            self.step += 1;
            if self.step == count {
                self.unit.store::<TILES>(sums);
                (self.tiles, self.step) = (self.tiles + TILES, 0);
            }
        }
    }

    /// So many steps, or as many as there are.
    #[inline(never)]
    unsafe fn steps(&mut self, count: usize) {
        for _ in 0..count {
            // SAFETY: the caller has the unit; one tile takes a step where one is left, two where there are more.
            unsafe {
                match self.all_tiles() - self.tiles {
                    0 => break,
                    1 => self.advance::<1>(),
                    _ => self.advance::<2>(),
                }
            }
        }
    }

    unsafe fn finish(mut self) {
        // SAFETY: the caller has the unit.
        unsafe { self.steps(usize::MAX) }
    }
}

impl<U: Unit> Meanwhile for Passage<'_, U> {
    #[inline(always)]
    unsafe fn go_on(&mut self) {
        self.left_over += self.all_tiles().div_ceil(SIDE) * self.steps.count;
        let count = self.left_over / self.shares;
        self.left_over %= self.shares;
        // SAFETY: the caller has the unit.
        unsafe { self.steps(count) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::Case;
    use super::super::super::{Layout, MatrixRef, Output, Picks};
    use super::super::unit::Plain;
    use super::*;
    use crate::quant::{Format, Iq4Nl, Iq4Xs, Mxfp4, Q2K, Q3K, Q4_0, Q4K, Q5K, Q6K, Q8_0};
    use crate::simd::Isa;

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn rows_by<B: PanelBlock, U: Unit>(job: &Job<'_>, range: Range<usize>) {
        // SAFETY: compiled for AVX-512; the caller has the unit and the outputs.
        unsafe { rows_body::<B, U>(job, range) }
    }

    fn compute<B: PanelBlock, U: Unit>(case: &Case) -> Vec<f32> {
        let bytes = &case.packed(Isa::Avx512Vnni);
        let matrix = MatrixRef { layout: Layout::Panels, bytes, ..case.matrix() };
        let (codes, extras) = case.quantized(Isa::Avx512Vnni);
        let inputs = case.inputs(&codes, &extras);
        let picks: Vec<Pick> =
            (0..case.inputs as u32).map(|i| Pick { input: case.inputs as u32 - 1 - i, output: i }).collect();
        let mut out = vec![f32::NAN; case.rows * case.inputs];
        let job = Job::new(matrix, inputs, Picks::new(&picks), Output::new(&mut out, case.rows, 0));
        // SAFETY: the test asks for the instructions first; it is the only task.
        unsafe { rows_by::<B, U>(&job, 0..case.rows) };
        out.chunks(case.rows).rev().flatten().copied().collect()
    }

    fn check<B: PanelBlock>() {
        let format = Format::by_id(B::ID).unwrap();
        for (rows, inputs, cols) in [(35, 24, 256), (48, 33, 1280), (16, 70, 768), (64, 16, 544)] {
            if cols % B::LEN > 0 {
                continue;
            }
            let case = Case::new(format, rows, cols, inputs);
            let expected = case.expected();
            let units =
                [Some(compute::<B, Plain>(&case)), Isa::Amx.is_available().then(|| compute::<B, Amx>(&case))];
            for (unit, found) in units.into_iter().flatten().enumerate() {
                let errors =
                    found.iter().zip(&expected).enumerate().filter_map(|(i, (found, (sum, size)))| {
                        // Rows behind the last panel meet inputs of bytes.
                        let is_tiled = i % rows < rows / PANEL * PANEL;
                        is_tiled.then(|| (f64::from(*found) - sum).abs() / size)
                    });
                let (sum, worst) = errors.fold((0.0, 0f64), |(sum, worst), error: f64| {
                    (sum + error, worst.max(if error.is_nan() { f64::INFINITY } else { error }))
                });
                let mean = sum / (rows / PANEL * PANEL * inputs) as f64;
                // Both roundings err by 2^-9 at most; the errors of many products cancel.
                let shown =
                    format!("{format}, unit {unit}, {rows}x{cols}, {inputs} inputs: {mean:e}, {worst:e}");
                assert!(worst < 1.0 / 256.0 && mean < 5e-4, "{shown}");
            }
        }
    }

    #[test]
    fn tiles_compute_what_the_file_says() {
        let checks = [
            check::<Q4_0>,
            check::<Q8_0>,
            check::<Q2K>,
            check::<Q3K>,
            check::<Q4K>,
            check::<Q5K>,
            check::<Q6K>,
            check::<Iq4Nl>,
            check::<Iq4Xs>,
            check::<Mxfp4>,
        ];
        assert_eq!(checks.len(), super::super::TABLE.len(), "every format with panels");
        if Isa::Avx512Vnni.is_available() {
            checks.iter().for_each(|check| check());
        }
    }
}
