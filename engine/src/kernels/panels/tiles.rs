//! Tiles: a few inputs side by side, so that a kernel finds a place of all of them behind one pointer.
//!
//! Owns how a job's inputs are cut into tiles and copied; what is done with them is the kernels' matter. A tile has the
//! arrays of a [`QuantizedRow`], with `N` numbers (four codes being one) where a row has one.

use super::super::activations::{GROUP, Inputs, QuantizedRow};
use super::super::cache::grow;
use super::super::job::Pick;
use super::codes::{PanelBlock, Scheme};
use super::words::Words;
use bytemuck::{NoUninit, Pod};
use std::cell::RefCell;
use std::ops::Range;

/// How inputs are cut into tiles: how many inputs one may have, the most first.
pub(super) struct Cut(&'static [usize]);

/// For registers that hold four codes of each row: as many sums and products as fit into 32 registers.
#[cfg(target_arch = "x86_64")]
pub(super) static FOURS: Cut = Cut(&[12, 8, 4, 2, 1]);

/// For 16 registers, of which sixteen rows take two, or 32, of which they take four.
pub(super) static FEW_FOURS: Cut = Cut(&[4, 2, 1]);

/// Inputs whose tiles are made at once stay in the second-level cache, and the panels that they meet in the first.
const CODES: usize = 256 << 10;

impl Cut {
    /// The tiles that so many inputs are cut into.
    #[inline(always)]
    pub(super) fn tiles(&'static self, inputs: usize) -> impl Iterator<Item = Range<usize>> {
        let next = move |start: usize| {
            let fits = |tile: &usize| *tile <= inputs - start;
            self.0.iter().copied().find(fits).map(|tile| start..start + tile)
        };
        std::iter::successors(next(0), move |last| next(last.end))
    }

    /// The most inputs of a tile.
    fn largest(&self) -> usize {
        self.0[0]
    }

    /// Inputs of `width` numbers that are cut into tiles together.
    pub(super) fn at_once(&self, width: usize) -> usize {
        (CODES / width.max(1) / self.largest()).max(1) * self.largest()
    }
}

/// Tiles of some inputs, one after the other. Input `i` begins at `i` times what an input needs.
#[derive(Default)]
pub(super) struct Tiles {
    codes: Vec<i8>,
    scales: Vec<f32>,
    sums: Vec<f32>,
    offsets: Vec<i32>,
    pairs: Vec<i32>,
}

thread_local! {
    /// Grows to the largest job once per thread.
    pub(super) static TILES: RefCell<Tiles> = RefCell::default();
}

impl Tiles {
    /// Copies what a format's kernel reads of the picked inputs. Of a tile of one there is nothing to lay side by side:
    /// only its offsets are copied, which are made to fit the codes' bias.
    ///
    /// # Safety
    /// Needs the instructions of `W`.
    #[inline(always)]
    pub(super) unsafe fn fill<B: PanelBlock, W: Words>(
        &mut self,
        cut: &'static Cut,
        inputs: &Inputs<'_>,
        picks: &[Pick],
    ) {
        let scheme = const { Scheme::of::<B, W>() };
        let (width, groups) = (inputs.width(), inputs.width() / B::GROUP);
        grow(&mut self.codes, picks.len() * width);
        grow(&mut self.scales, picks.len() * (width / GROUP));
        grow(&mut self.sums, if scheme.reads_sums { picks.len() * groups } else { 0 });
        grow(&mut self.offsets, if scheme.reads_offsets { picks.len() * groups } else { 0 });
        grow(&mut self.pairs, if scheme.is_whole { picks.len() * (width / GROUP) } else { 0 });
        for tile in cut.tiles(picks.len()) {
            let first = tile.start;
            // SAFETY: the caller has the instructions.
            unsafe {
                match tile.len() {
                    12 => self.copy::<B, W, 12>(inputs, picks, first),
                    8 => self.copy::<B, W, 8>(inputs, picks, first),
                    4 => self.copy::<B, W, 4>(inputs, picks, first),
                    2 => self.copy::<B, W, 2>(inputs, picks, first),
                    _ if scheme.reads_offsets => {
                        let offsets = inputs.quantized::<B>(picks[first].input).offsets;
                        self.offsets[first * groups..][..groups].copy_from_slice(offsets);
                    }
                    _ => {}
                }
            }
        }
        if scheme.reads_offsets {
            // Offsets come for a bias of 128.
            let shift = 7 - B::BIAS.ilog2();
            for offset in &mut self.offsets[..picks.len() * groups] {
                *offset >>= shift;
            }
        }
    }

    #[inline(always)]
    unsafe fn copy<B: PanelBlock, W: Words, const N: usize>(
        &mut self,
        inputs: &Inputs<'_>,
        picks: &[Pick],
        first: usize,
    ) {
        let scheme = const { Scheme::of::<B, W>() };
        let (width, groups) = (inputs.width(), inputs.width() / B::GROUP);
        let mut rows = [inputs.quantized::<B>(picks[first].input); N];
        for (row, pick) in rows.iter_mut().zip(&picks[first..]) {
            *row = inputs.quantized::<B>(pick.input);
        }
        let (groups, scales) = (first * groups, first * (width / GROUP));
        // SAFETY: the caller has the instructions; slices are checked inside.
        unsafe {
            if W::TAKES_EIGHTS {
                interleave_eights(&rows.map(|row| row.codes), &mut self.codes[first * width..]);
            } else {
                interleave::<W, N>(&rows.map(|row| row.codes), &mut self.codes[first * width..]);
            }
            interleave::<W, N>(&rows.map(|row| bytes(row.scales)), bytes_mut(&mut self.scales[scales..]));
            if scheme.reads_sums {
                interleave::<W, N>(&rows.map(|row| bytes(row.sums)), bytes_mut(&mut self.sums[groups..]));
            }
            if scheme.reads_offsets {
                let offsets = &mut self.offsets[groups..];
                interleave::<W, N>(&rows.map(|row| bytes(row.offsets)), bytes_mut(offsets));
            }
            if scheme.is_whole {
                interleave::<W, N>(&rows.map(|row| bytes(row.pairs)), bytes_mut(&mut self.pairs[scales..]));
            }
        }
    }

    /// A tile whose first input is `input`; a tile of one is that, but for its offsets.
    #[inline(always)]
    pub(super) fn get<'a, B: PanelBlock, W: Words>(
        &'a self,
        tile: Range<usize>,
        input: QuantizedRow<'a>,
    ) -> QuantizedRow<'a> {
        let scheme = const { Scheme::of::<B, W>() };
        let per_input = |numbers: usize| tile.start * numbers..tile.end * numbers;
        let groups = per_input(input.sums.len());
        let offsets: &[i32] = if scheme.reads_offsets { &self.offsets[groups.clone()] } else { &[] };
        if tile.len() == 1 {
            return QuantizedRow { offsets, ..input };
        }
        let scales = per_input(input.scales.len());
        QuantizedRow {
            codes: &self.codes[per_input(input.codes.len())],
            scales: &self.scales[scales.clone()],
            sums: if scheme.reads_sums { &self.sums[groups] } else { &[] },
            offsets,
            pairs: if scheme.is_whole { &self.pairs[scales] } else { &[] },
        }
    }
}

/// Checks what bounds every load of a pass: inputs with `numbers` codes in all.
#[inline(always)]
pub(super) fn check<B: PanelBlock, W: Words>(inputs: &QuantizedRow<'_>, numbers: usize) {
    let scheme = const { Scheme::of::<B, W>() };
    let (scales, groups) = (numbers / GROUP, numbers / B::GROUP);
    assert!(inputs.codes.len() == numbers && inputs.scales.len() == scales);
    assert!(!scheme.reads_sums || inputs.sums.len() == groups);
    assert!(!scheme.reads_offsets || inputs.offsets.len() == groups);
    assert!(!scheme.is_whole || inputs.pairs.len() == scales);
}

fn bytes<T: NoUninit>(values: &[T]) -> &[i8] {
    bytemuck::cast_slice(values)
}

fn bytes_mut<T: Pod>(values: &mut [T]) -> &mut [i8] {
    bytemuck::cast_slice_mut(values)
}

/// A word of each row in turn: four codes or a float.
///
/// # Safety
/// Needs the instructions of `W`.
#[inline(always)]
unsafe fn interleave<W: Words, const N: usize>(rows: &[&[i8]; N], out: &mut [i8]) {
    let len = rows[0].len();
    assert!(rows.iter().all(|row| row.len() == len) && out.len() >= N * len);
    let whole = if N.is_multiple_of(4) { len / W::LINE * W::LINE } else { 0 };
    for start in (0..whole).step_by(W::LINE) {
        for (number, four) in rows.as_chunks::<4>().0.iter().enumerate() {
            // SAFETY: a line of each row lies below `whole`, and the destination is as long as all rows.
            unsafe {
                let out = out.as_mut_ptr().add(start * N + number * 16);
                let [a, b, c, d] = *four;
                let (a, b) = (a.as_ptr().add(start), b.as_ptr().add(start));
                let (c, d) = (c.as_ptr().add(start), d.as_ptr().add(start));
                W::interleave([a, b, c, d], out, 4 * N);
            }
        }
    }
    for at in (whole..len).step_by(4) {
        for (n, row) in rows.iter().enumerate() {
            out[at * N + n * 4..][..4].copy_from_slice(&row[at..at + 4]);
        }
    }
}

/// Eight codes of each row in turn.
fn interleave_eights<const N: usize>(rows: &[&[i8]; N], out: &mut [i8]) {
    let eights = rows.map(|row| row.as_chunks::<8>().0);
    let out = out.as_chunks_mut::<8>().0.as_chunks_mut::<N>().0;
    for (number, out) in out[..eights[0].len()].iter_mut().enumerate() {
        for (out, eights) in out.iter_mut().zip(eights) {
            *out = eights[number];
        }
    }
}
