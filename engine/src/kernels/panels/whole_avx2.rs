//! Products on AVX2 of formats whose group scales are small whole numbers: whole numbers all through a block.
//!
//! What `whole.rs` does on AVX-512, to the same bits: the inputs of a block share a scale, so floats come once per block.
//! Without VNNI a group's products are added up in 16 bits, and the instruction that widens them multiplies them by the
//! group's scale, which costs nothing.

use super::super::activations::{GROUP, QuantizedRow};
use super::super::matrix::PANEL;
use super::codes::{Factors, Head, PanelBlock, Scheme, each_step, open, stored_codes, unrolled};
use super::dots_x86::settle_products;
use super::products::{self, Ahead, Strip, SumPlaces, prefetch};
use super::steps::LINE;
use super::unpacked::Unpacked;
use super::words::Words;
use super::words_x86::Pair;
use std::arch::x86_64::*;

/// A register of words of sixteen rows.
type Row = Pair<false>;

/// Fours of codes in a group, groups in a step.
const QUADS: usize = 4;
const GROUPS: usize = 2;

/// The body of [`Passes::begin`](super::products::Passes::begin), where columns come out of their bits.
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn unpack<B: PanelBlock, const VNNI: bool>(panel: &mut Unpacked, strip: &Strip<'_>) {
    // SAFETY: both want of the caller what this function wants.
    unsafe {
        if const { Scheme::of::<B, Pair<VNNI>>().is_whole } {
            panel.fill_whole::<B>(strip);
        } else {
            panel.fill::<B, Pair<VNNI>>(strip);
        }
    }
}

/// The body of [`Passes::pass`](super::products::Passes::pass), with the columns that have been unpacked, if they have.
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn pass<B: PanelBlock, const VNNI: bool, const N: usize>(
    panel: Option<&Unpacked>,
    strip: &Strip<'_>,
    inputs: &QuantizedRow<'_>,
    sums: &SumPlaces<'_>,
) {
    // SAFETY: all of them want of the caller what this function wants.
    unsafe {
        if const { Scheme::of::<B, Pair<VNNI>>().is_whole } {
            match panel {
                Some(panel) => panel.pass_whole::<B, N>(strip, inputs, sums),
                None => pass_blocks::<B, N>(strip, inputs, sums),
            }
        } else {
            match panel {
                Some(panel) => panel.pass_body::<B, Pair<VNNI>, N>(strip, inputs, sums),
                None => products::pass_body::<B, Pair<VNNI>, N>(strip, inputs, sums),
            }
        }
    }
}

/// A block of sixteen rows.
trait WholeBlock {
    /// Leads to all that is read of its codes.
    fn address(&mut self) -> &mut *const u8;

    /// A group's four codes of each row from `4 * quad` on.
    ///
    /// # Safety
    /// Here and below: needs AVX2, and a whole block behind the address.
    unsafe fn codes(&self, group: usize, quad: usize) -> Row;

    /// See [`Head`](super::codes::Head), here and below.
    unsafe fn whole_scales(&self, group: usize) -> Row;
    unsafe fn whole_mins(&self, pair: usize) -> Row;
    unsafe fn units(&self) -> Factors<Row>;
}

/// Whole numbers of sixteen rows and `N` inputs.
struct Dots<const N: usize> {
    codes: [[__m256i; 2]; N],
    mins: [[__m256i; 2]; N],
}

/// Adds the products of a block's codes to the sums; `number` counts the row's blocks. Its steps are written out where
/// the strip is given, of which each asks for its share of what follows.
///
/// # Safety
/// Needs AVX2 and FMA; block and inputs must be whole.
#[inline(always)]
unsafe fn add_block<B: PanelBlock, const N: usize>(
    sums: &mut [(__m256, __m256); N],
    mut block: impl WholeBlock,
    number: usize,
    inputs: &QuantizedRow<'_>,
    asked: Option<(&[u8], Ahead)>,
) {
    const { assert!(!B::WHOLE || (B::GROUP == 4 * QUADS && Scheme::of::<B, Row>().columns == GROUPS * B::GROUP)) };
    // SAFETY: the caller has the instructions, a whole block behind `block`, and inputs with scales for each of the
    // row's blocks.
    unsafe {
        let zero = _mm256_setzero_si256();
        let mut dots = Dots { codes: [[zero; 2]; N], mins: [[zero; 2]; N] };
        let first = number * const { Scheme::of::<B, Row>().steps };
        if let Some((bytes, ahead)) = asked
            && N <= Row::WRITTEN_OUT
        {
            each_step!(B, Row, |step| {
                prefetch::<B, Row>(bytes, step, ahead);
                add_step::<N>(&mut dots, &mut block, step, first, inputs);
            });
        } else {
            for step in 0..const { Scheme::of::<B, Row>().steps } {
                if let Some((bytes, ahead)) = asked {
                    prefetch::<B, Row>(bytes, step, ahead);
                }
                add_step::<N>(&mut dots, &mut block, step, first, inputs);
            }
        }
        let units = block.units();
        let scales = inputs.scales.as_ptr().add(number * (B::LEN / GROUP) * N);
        for (n, sum) in sums.iter_mut().enumerate() {
            let ([low, high], [low_mins, high_mins]) = (dots.codes[n], dots.mins[n]);
            let scale = _mm256_broadcast_ss(&*scales.add(n));
            sum.0 = add_scaled(sum.0, (low, low_mins), (units.scales.0, units.mins.0), scale);
            sum.1 = add_scaled(sum.1, (high, high_mins), (units.scales.1, units.mins.1), scale);
        }
    }
}

/// `sum + (unit * dot - unit of mins * dot of mins) * scale`.
#[inline(always)]
unsafe fn add_scaled(
    sum: __m256,
    (dot, mins): (__m256i, __m256i),
    (unit, min_unit): (__m256, __m256),
    scale: __m256,
) -> __m256 {
    // SAFETY: the caller has the instructions, and there is no pointer.
    unsafe {
        let product = _mm256_mul_ps(unit, _mm256_cvtepi32_ps(dot));
        let product = _mm256_fnmadd_ps(min_unit, _mm256_cvtepi32_ps(mins), product);
        _mm256_fmadd_ps(product, scale, sum)
    }
}

/// Adds the products of a step, which has the number `step` in its block; `first` is that of the block's first.
#[inline(always)]
unsafe fn add_step<const N: usize>(
    dots: &mut Dots<N>,
    block: &mut impl WholeBlock,
    step: usize,
    first: usize,
    inputs: &QuantizedRow<'_>,
) {
    // SAFETY: the caller has the instructions and a whole block; inputs have `GROUPS * QUADS * N` words and `N` pairs
    // for each step.
    unsafe {
        let mut fours = inputs.codes.as_ptr().cast::<i32>().add((first + step) * GROUPS * QUADS * N);
        add_group::<N>(dots, block, step * GROUPS, &mut fours);
        fours = fours.add(QUADS * N);
        add_group::<N>(dots, block, step * GROUPS + 1, &mut fours);
        let mins = block.whole_mins(step);
        let pairs = inputs.pairs.as_ptr().add((first + step) * N);
        for (n, [low, high]) in dots.mins.iter_mut().enumerate() {
            let pair = _mm256_set1_epi32(pairs.add(n).read());
            *low = _mm256_add_epi32(*low, _mm256_madd_epi16(mins.0, pair));
            *high = _mm256_add_epi32(*high, _mm256_madd_epi16(mins.1, pair));
        }
    }
}

/// Adds the products of a group with the inputs at the address.
#[inline(always)]
unsafe fn add_group<const N: usize>(
    dots: &mut Dots<N>,
    block: &mut impl WholeBlock,
    group: usize,
    fours: &mut *const i32,
) {
    // SAFETY: the caller has the instructions and a whole block, and `QUADS * N` words of inputs at the address.
    unsafe {
        let mut narrow = [[_mm256_setzero_si256(); 2]; N];
        unrolled!(QUADS, |quad| {
            let codes = block.codes(group, quad);
            for (n, [low, high]) in narrow.iter_mut().enumerate() {
                let input = _mm256_set1_epi32(fours.add(quad * N + n).read_unaligned());
                *low = _mm256_add_epi16(*low, _mm256_maddubs_epi16(codes.0, input));
                *high = _mm256_add_epi16(*high, _mm256_maddubs_epi16(codes.1, input));
            }
            for narrow in &mut narrow {
                settle_products(narrow, block.address(), fours);
            }
        });
        let scales = block.whole_scales(group);
        for ([low, high], [low_sum, high_sum]) in narrow.into_iter().zip(&mut dots.codes) {
            *low_sum = _mm256_add_epi32(*low_sum, _mm256_madd_epi16(low, scales.0));
            *high_sum = _mm256_add_epi32(*high_sum, _mm256_madd_epi16(high, scales.1));
        }
    }
}

/// A block as it is.
struct Packed<'a, B: PanelBlock> {
    words: *const u8,
    head: &'a B::Head<Row>,
}

impl<B: PanelBlock> WholeBlock for Packed<'_, B> {
    #[inline(always)]
    fn address(&mut self) -> &mut *const u8 {
        &mut self.words
    }

    #[inline(always)]
    unsafe fn codes(&self, group: usize, quad: usize) -> Row {
        // SAFETY: the caller has AVX2; `words` leads to a packed column of blocks, and the group is one of it.
        unsafe { stored_codes::<B, Row>(self.words, group, quad) }
    }

    #[inline(always)]
    unsafe fn whole_scales(&self, group: usize) -> Row {
        // SAFETY: the caller has AVX2, and the group is one of the block.
        unsafe { self.head.whole_scales(group) }
    }

    #[inline(always)]
    unsafe fn whole_mins(&self, pair: usize) -> Row {
        // SAFETY: the caller has AVX2, and the pair is one of the block.
        unsafe { self.head.whole_mins(pair) }
    }

    #[inline(always)]
    unsafe fn units(&self) -> Factors<Row> {
        // SAFETY: the caller has AVX2.
        unsafe { self.head.units() }
    }
}

/// [`pass`] for these formats and a panel as it is.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn pass_blocks<B: PanelBlock, const N: usize>(
    strip: &Strip<'_>,
    inputs: &QuantizedRow<'_>,
    sums: &SumPlaces<'_>,
) {
    // SAFETY: a block has the bytes of sixteen, and the inputs are checked to have as many; outputs by the caller's
    // promise.
    unsafe {
        let mut all = sums.read::<B, Row, N>(strip, inputs);
        let ahead = if N == 1 { strip.ahead } else { Ahead::FAR };
        for (number, bytes) in strip.blocks.chunks_exact(size_of::<B>() * PANEL).enumerate() {
            let (head, words) = open::<B, Row>(bytes.as_ptr(), strip.offset + number * bytes.len());
            let block = Packed::<B> { words, head: &head };
            let number = strip.steps.start / const { Scheme::of::<B, Row>().steps } + number;
            add_block::<B, N>(&mut all, block, number, inputs, Some((bytes, ahead)));
        }
        sums.write::<Row, N>(all);
    }
}

/// Where a block is in [`Unpacked`].
struct Plain {
    codes: *const u8,
    scales: *const i32,
    mins: *const i32,
    units: *const f32,
}

impl WholeBlock for Plain {
    #[inline(always)]
    fn address(&mut self) -> &mut *const u8 {
        &mut self.codes
    }

    #[inline(always)]
    unsafe fn codes(&self, group: usize, quad: usize) -> Row {
        // SAFETY: the pointers lead to all numbers of the block, here and below.
        unsafe { Row::load(self.codes.add((group * QUADS + quad) * LINE)) }
    }

    #[inline(always)]
    unsafe fn whole_scales(&self, group: usize) -> Row {
        // SAFETY: the pointer leads to sixteen scales of each group of the block.
        unsafe { Row::load(self.scales.add(group * PANEL).cast()) }
    }

    #[inline(always)]
    unsafe fn whole_mins(&self, pair: usize) -> Row {
        // SAFETY: the pointer leads to sixteen mins of each pair of groups of the block.
        unsafe { Row::load(self.mins.add(pair * PANEL).cast()) }
    }

    #[inline(always)]
    unsafe fn units(&self) -> Factors<Row> {
        // SAFETY: the pointer leads to sixteen units of scales and sixteen of mins.
        unsafe {
            Factors { scales: Row::load_floats(self.units), mins: Row::load_floats(self.units.add(PANEL)) }
        }
    }
}

impl Unpacked {
    /// Takes a strip out of its bits, scales and mins as whole numbers.
    ///
    /// # Safety
    /// Needs AVX2.
    #[inline(always)]
    unsafe fn fill_whole<B: PanelBlock>(&mut self, strip: &Strip<'_>) {
        self.make_room::<B>(strip.steps.len() / const { Scheme::of::<B, Row>().steps });
        let bytes = strip.blocks.chunks_exact(size_of::<B>() * PANEL);
        for (number, bytes) in bytes.enumerate() {
            let groups = number * (B::LEN / B::GROUP);
            // SAFETY: a block has the bytes of sixteen; there is room for all numbers of as many.
            unsafe {
                let (codes, scales) =
                    (self.codes.as_mut_ptr(), self.whole_scales.as_mut_ptr().add(groups * PANEL));
                let codes = codes.add(groups * QUADS * LINE);
                let mins = self.whole_mins.as_mut_ptr().add(groups / GROUPS * PANEL);
                let units = self.units.as_mut_ptr().add(number * 2 * PANEL);
                let (head, words) = open::<B, Row>(bytes.as_ptr(), strip.offset + number * bytes.len());
                Row::store(head.units().scales, units);
                Row::store(head.units().mins, units.add(PANEL));
                each_step!(B, Row, |step| {
                    prefetch::<B, Row>(bytes, step, strip.ahead);
                    head.whole_mins(step).store_words(mins.add(step * PANEL).cast());
                    for group in step * GROUPS..(step + 1) * GROUPS {
                        head.whole_scales(group).store_words(scales.add(group * PANEL).cast());
                        for quad in 0..QUADS {
                            let four = stored_codes::<B, Row>(words, group, quad);
                            four.store_words(codes.add((group * QUADS + quad) * LINE));
                        }
                    }
                });
            }
        }
    }

    /// Room for so many blocks, no more and no less.
    fn make_room<B: PanelBlock>(&mut self, blocks: usize) {
        let groups = blocks * (B::LEN / B::GROUP);
        self.codes.resize(groups * QUADS * LINE, 0);
        self.whole_scales.resize(groups * PANEL, 0);
        self.whole_mins.resize(groups / GROUPS * PANEL, 0);
        self.units.resize(blocks * 2 * PANEL, 0.0);
    }

    /// [`pass`] for what [`Unpacked::fill_whole`] took out.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn pass_whole<B: PanelBlock, const N: usize>(
        &self,
        strip: &Strip<'_>,
        inputs: &QuantizedRow<'_>,
        sums: &SumPlaces<'_>,
    ) {
        let scheme = const { Scheme::of::<B, Row>() };
        let blocks = strip.steps.len() / scheme.steps;
        let groups = blocks * (B::LEN / B::GROUP);
        assert!(self.codes.len() == groups * QUADS * LINE && self.whole_scales.len() == groups * PANEL);
        assert!(self.whole_mins.len() == groups / GROUPS * PANEL && self.units.len() == blocks * 2 * PANEL);
        // SAFETY: the checks bound all that is read of a block; the sums are at this task's outputs.
        unsafe {
            let mut all = sums.read::<B, Row, N>(strip, inputs);
            for number in 0..blocks {
                let groups = number * (B::LEN / B::GROUP);
                let block = Plain {
                    codes: self.codes.as_ptr().add(groups * QUADS * LINE).cast(),
                    scales: self.whole_scales.as_ptr().add(groups * PANEL),
                    mins: self.whole_mins.as_ptr().add(groups / GROUPS * PANEL),
                    units: self.units.as_ptr().add(number * 2 * PANEL),
                };
                let number = strip.steps.start / scheme.steps + number;
                add_block::<B, N>(&mut all, block, number, inputs, None);
            }
            sums.write::<Row, N>(all);
        }
    }
}
