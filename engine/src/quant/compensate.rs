//! Quantization that makes up for its own errors: GPTQ (Frantar et al. 2023, arXiv 2210.17323), also known as LDLQ
//! (Chee et al. 2023, arXiv 2307.13304), into the block formats as they are.
//!
//! Columns are chosen from left to right. What a column's rounding does to the outputs is taken back by the columns
//! after it, as far as inputs that go together allow. A block's scales are searched when its turn comes, for the
//! weights as they then stand. Sixteen rows go side by side, one per lane. Formats differ in data only, so this is
//! compiled once per instruction set. Where the inputs' statistics come from is not known here.

use super::search::{BlockCodes, Coder, Octet, Octets, Scalars, Settle};
use super::{Portable, Quantize, QuantizeRow, quantize_blocks};
use crate::simd::{Isa, LANES, Lanes, Work};

/// A block format whose codes can be chosen again while its scales stay.
pub(super) trait Recode: Quantize {
    /// How codes are chosen.
    const CODER: Coder;
    /// Writes other codes into the block.
    fn recode(&mut self, codes: &BlockCodes);
}

/// How errors are carried on among consecutive columns of a matrix: the second moments of its inputs, split into
/// `(1 + U) * diagonal(weights) * transpose(1 + U)` with `U` strictly upper triangular.
#[derive(Clone, Debug)]
pub struct Factor {
    columns: usize,
    carried: Vec<f32>, // (columns, columns): row k holds column k of U
    weights: Vec<f32>, // (columns)
    /// The same for columns that are chosen with the rest of their eight, whose errors they cannot answer.
    weights_in_eights: Vec<f32>,
}

impl Factor {
    /// `carried` is `(columns, columns)`; its row k, as far as k, is column k of `U`: what column k takes over of the
    /// errors of the columns before it. `weights` say what an error in a column costs when all columns after it have
    /// made up for it.
    ///
    /// # Panics
    /// When lengths do not fit.
    pub fn new(carried: Vec<f32>, weights: Vec<f32>) -> Self {
        let columns = weights.len();
        assert_eq!(carried.len(), columns * columns);
        let mut weights_in_eights = weights.clone();
        for k in 0..columns {
            for j in k / 8 * 8..k {
                weights_in_eights[j] += weights[k] * carried[k * columns + j].powi(2);
            }
        }
        Self { columns, carried, weights, weights_in_eights }
    }

    /// The same with `more` columns behind, whose inputs are always zero.
    pub fn widened(&self, more: usize) -> Self {
        let mut carried: Vec<f32> = Vec::with_capacity((self.columns + more).pow(2));
        for row in self.carried.chunks_exact(self.columns) {
            carried.extend(row);
            carried.resize(carried.len() + more, 0.0);
        }
        carried.resize((self.columns + more).pow(2), 0.0);
        Self::new(carried, [&self.weights[..], &vec![0.0; more]].concat())
    }

    /// Columns that it is about.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// What an error in each column costs when all columns after it have made up for it.
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// What column `k` takes over from those before it.
    #[inline(always)]
    pub fn carried(&self, k: usize) -> &[f32] {
        &self.carried[k * self.columns..][..k]
    }

    /// What errors in columns cost that are chosen `together`.
    #[inline(always)]
    fn costs(&self, together: usize) -> &[f32] {
        if together == 1 { &self.weights } else { &self.weights_in_eights }
    }
}

/// What the loop needs to know of a format.
#[derive(Debug)]
pub(super) struct Recoding {
    coder: Coder,
    block_len: usize,
    block_bytes: usize,
    group: usize,
    quantize: QuantizeRow,
    steps: fn(&[u8], &mut Steps),
    recode: fn(&mut [u8], &BlockCodes),
}

/// Scales and mins of one block's groups.
struct Steps {
    scales: [f32; 16],
    mins: [f32; 16],
}

impl Recoding {
    /// The row of the table for a format.
    pub(super) const fn of<B: Recode>() -> Self {
        Self {
            coder: B::CODER,
            block_len: B::LEN,
            block_bytes: size_of::<B>(),
            group: B::GROUP,
            quantize: quantize_blocks::<B>,
            steps: |bytes, out| {
                let block = bytemuck::pod_read_unaligned::<B>(bytes);
                let (mut codes, groups) = ([0; 256], B::LEN / B::GROUP);
                let (scales, mins) = (&mut out.scales[..groups], &mut out.mins[..groups]);
                block.unpack::<Portable>(&mut codes[..B::LEN], scales, mins);
            },
            recode: |bytes, codes| {
                let mut block = bytemuck::pod_read_unaligned::<B>(bytes);
                block.recode(codes);
                bytes.copy_from_slice(bytemuck::bytes_of(&block));
            },
        }
    }

    /// Quantizes up to sixteen rows; `factors` follow each other over the columns. What is no number counts as 0.
    pub(super) fn run(&self, isa: Isa, weights: &[f32], factors: &[Factor], bytes: &mut [u8]) {
        let columns: usize = factors.iter().map(Factor::columns).sum();
        let whole = factors.iter().all(|factor| factor.columns.is_multiple_of(self.block_len));
        assert!(whole && columns > 0 && weights.len().is_multiple_of(columns));
        assert!(weights.len() <= columns * LANES, "at most sixteen rows");
        assert_eq!(bytes.len() / self.block_bytes, weights.len() / self.block_len);
        isa.run(Rows { recoding: self, weights, factors, columns, bytes });
    }
}

/// Up to sixteen rows.
struct Rows<'a> {
    recoding: &'a Recoding,
    weights: &'a [f32],
    factors: &'a [Factor],
    columns: usize,
    bytes: &'a mut [u8],
}

impl Work for Rows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<L: Lanes>(self) {
        match self.recoding.coder {
            Coder::Scalars(scalars) => self.compensate::<L, Scalars>(scalars),
            Coder::Octets(lattice) => self.compensate::<L, Octets<L>>(Octets::new(lattice)),
        }
    }
}

impl Rows<'_> {
    #[inline(always)]
    fn compensate<L: Lanes, S: Settle<L>>(mut self, mut settle: S) {
        let (mut first, mut errors) = (0, vec![]);
        for factor in self.factors {
            errors.clear();
            for start in (0..factor.columns).step_by(self.recoding.block_len) {
                let mut pass =
                    BlockOfRows { factor, start, group: self.recoding.group, x: [[0.0; LANES]; 256] };
                self.gather(first + start, &mut pass.x);
                self.block::<L, S>(&pass, first + start, &mut settle, &mut errors);
            }
            first += factor.columns;
        }
    }

    /// A block of each row, from column `at` on.
    fn gather(&self, at: usize, x: &mut [[f32; LANES]; 256]) {
        for (row, weights) in self.weights.chunks_exact(self.columns).enumerate() {
            for (x, &weight) in x.iter_mut().zip(&weights[at..][..self.recoding.block_len]) {
                x[row] = if weight.is_finite() { weight } else { 0.0 };
            }
        }
    }

    /// Searches for scales, chooses codes and writes the block of each row.
    #[inline(always)]
    fn block<L: Lanes, S: Settle<L>>(
        &mut self,
        pass: &BlockOfRows<'_>,
        at: usize,
        settle: &mut S,
        errors: &mut Vec<[f32; LANES]>,
    ) {
        let Recoding { block_len, block_bytes, quantize, steps, recode, .. } = *self.recoding;
        let row_bytes = self.columns / block_len * block_bytes;
        let rows = self.weights.len() / self.columns;
        let place = |row: usize| row * row_bytes + at / block_len * block_bytes;
        let importance = &pass.factor.costs(S::LEN)[pass.start..][..block_len];
        let targets: [[f32; LANES]; 256] = pass.targets::<L>(block_len, errors);
        let mut all = std::array::from_fn(|_| Steps { scales: [0.0; 16], mins: [0.0; 16] });
        for (row, found) in all[..rows].iter_mut().enumerate() {
            let weights: [f32; 256] = std::array::from_fn(|k| targets[k][row]);
            let bytes = &mut self.bytes[place(row)..][..block_bytes];
            quantize(&weights[..block_len], Some(importance), bytes);
            steps(bytes, found);
        }
        let mut codes =
            std::array::from_fn(|_| BlockCodes { scalars: [0; 256], octets: [Octet::default(); 32] });
        pass.run::<L, S>(&targets[..block_len], &all, settle, errors, &mut codes);
        for (row, codes) in codes[..rows].iter().enumerate() {
            recode(&mut self.bytes[place(row)..][..block_bytes], codes);
        }
    }
}

/// One block of each row.
struct BlockOfRows<'a> {
    factor: &'a Factor,
    start: usize, // the block's first column
    group: usize,
    x: [[f32; LANES]; 256],
}

impl BlockOfRows<'_> {
    /// The block's weights with what errors in earlier blocks leave to them.
    #[inline(always)]
    fn targets<L: Lanes>(&self, len: usize, errors: &[[f32; LANES]]) -> [[f32; LANES]; 256] {
        let mut targets = self.x;
        for (k, target) in targets[..len].iter_mut().enumerate() {
            let carried = &self.factor.carried(self.start + k)[..self.start];
            *target = (L::load(target) + total::<L>(carried, errors)).store();
        }
        targets
    }

    /// Chooses the codes from left to right and appends each column's errors. A cell is chosen as a whole, near the
    /// weights that would answer all errors before it.
    #[inline(always)]
    fn run<L: Lanes, S: Settle<L>>(
        &self,
        targets: &[[f32; LANES]],
        steps: &[Steps; LANES],
        settle: &mut S,
        errors: &mut Vec<[f32; LANES]>,
        codes: &mut [BlockCodes; LANES],
    ) {
        for at in (0..targets.len()).step_by(S::LEN) {
            let group = at / self.group;
            let scale = L::from_fn(|row| steps[row].scales[group]);
            let min = L::from_fn(|row| steps[row].mins[group]);
            let mut x = [L::splat(0.0); 8];
            for (x, k) in x[..S::LEN].iter_mut().zip(at..) {
                let carried = &self.factor.carried(self.start + k)[self.start..];
                *x = L::load(&targets[k]) + total::<L>(carried, &errors[self.start..]);
                errors.push((L::load(&self.x[k]) - *x).store());
            }
            let importance = &self.factor.costs(S::LEN)[self.start + at..][..S::LEN];
            let (cells, values) = settle.settle(&x, importance, (scale, min));
            for (codes, cell) in codes.iter_mut().zip(cells) {
                S::put(codes, at, cell);
            }
            for (value, k) in values[..S::LEN].iter().zip(at..) {
                errors[self.start + k] = (L::load(&self.x[k]) - *value).store();
            }
        }
    }
}

/// The sum of errors, each times what is carried of it. Four sums at a time hide the latency of one.
#[inline(always)]
fn total<L: Lanes>(carried: &[f32], errors: &[[f32; LANES]]) -> L {
    let mut sums = [L::splat(0.0); 4];
    let (fours, rest) = carried.as_chunks::<4>();
    let (four_errors, rest_errors) = errors.as_chunks::<4>();
    for (carried, errors) in fours.iter().zip(four_errors) {
        for ((sum, &carried), error) in sums.iter_mut().zip(carried).zip(errors) {
            *sum = *sum + L::splat(carried) * L::load(error);
        }
    }
    for ((sum, &carried), error) in sums.iter_mut().zip(rest).zip(rest_errors) {
        *sum = *sum + L::splat(carried) * L::load(error);
    }
    (sums[0] + sums[1]) + (sums[2] + sums[3])
}

#[cfg(test)]
mod tests {
    use super::super::FORMATS;
    use super::super::tests::isas;
    use super::*;

    const COLUMNS: usize = 512;

    fn formats() -> impl Iterator<Item = &'static super::super::Format> {
        FORMATS.iter().filter(|format| format.compensates())
    }

    fn noise(seed: usize, i: usize) -> f32 {
        let mut bits = (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (seed as u64) << 32;
        let mut sum = 0.0;
        for _ in 0..4 {
            bits ^= bits >> 31;
            bits = bits.wrapping_mul(0xbf58_476d_1ce4_e5b9);
            sum += (bits >> 40) as f32 / (1 << 24) as f32 - 0.5;
        }
        sum
    }

    /// Inputs whose neighbours go together, and some of which are large.
    fn moments() -> Vec<f64> {
        let mut moments = vec![0.0; COLUMNS * COLUMNS];
        for token in 0..2 * COLUMNS {
            let mut input = [0f64; COLUMNS];
            for i in 0..COLUMNS {
                let before = if i > 0 { input[i - 1] } else { 0.0 };
                let size = if i % 37 == 0 { 5.0 } else { 1.0 };
                input[i] = 0.8 * before + size * f64::from(noise(token, i));
            }
            for i in 0..COLUMNS {
                (0..COLUMNS).for_each(|j| moments[i * COLUMNS + j] += input[i] * input[j]);
            }
        }
        moments
    }

    /// Column by column from the last, as the definition says.
    fn factor(moments: &[f64]) -> Factor {
        let (mut h, n) = (moments.to_vec(), COLUMNS);
        let (mut carried, mut weights) = (vec![0.0; n * n], vec![0.0; n]);
        for k in (0..n).rev() {
            let weight = h[k * n + k];
            weights[k] = weight as f32;
            let u: Vec<f64> = (0..k).map(|j| h[j * n + k] / weight).collect();
            for i in 0..k {
                carried[k * n + i] = u[i] as f32;
                (0..k).for_each(|j| h[i * n + j] -= u[i] * u[j] * weight);
            }
        }
        Factor::new(carried, weights)
    }

    /// The mean square of what changed in the outputs.
    fn output_error(moments: &[f64], weights: &[f32], back: &[f32]) -> f64 {
        let rows = weights.chunks(COLUMNS).zip(back.chunks(COLUMNS));
        rows.map(|(weights, back)| {
            let error: Vec<f64> = weights.iter().zip(back).map(|(a, b)| f64::from(a - b)).collect();
            let products = |i: usize| (0..COLUMNS).map(|j| moments[i * COLUMNS + j] * error[j]).sum::<f64>();
            (0..COLUMNS).map(|i| error[i] * products(i)).sum::<f64>()
        })
        .sum()
    }

    fn rows(count: usize) -> Vec<f32> {
        (0..count * COLUMNS).map(|i| noise(999, i)).collect()
    }

    #[test]
    fn errors_of_outputs_fall_far_below_those_of_rounding() {
        let (moments, weights) = (moments(), rows(5));
        let factor = factor(&moments);
        let importance: Vec<f32> = (0..COLUMNS).map(|i| moments[i * COLUMNS + i] as f32).collect();
        for format in formats() {
            let bytes = || vec![0; format.bytes_for(weights.len() as u64).unwrap() as usize];
            let (mut plain, mut better, mut back) = (bytes(), bytes(), weights.clone());
            format.quantize.unwrap()(&weights, Some(&importance), &mut plain);
            (format.dequantize)(&plain, &mut back);
            let before = output_error(&moments, &weights, &back);
            format.compensate(&weights, std::slice::from_ref(&factor), &mut better);
            (format.dequantize)(&better, &mut back);
            let after = output_error(&moments, &weights, &back);
            let most =
                if matches!(format.block_len, 256) && format.name.starts_with("IQ") { 0.8 } else { 0.55 };
            assert!(after < most * before, "{format}: {after} is {} of {before}", after / before);
        }
    }

    /// Codes one by one in f64, for scales that the format chose.
    #[test]
    fn codes_are_those_of_the_plain_algorithm() {
        let (weights, factor) = (rows(3), factor(&moments()));
        for format in
            formats().filter(|format| !format.name.starts_with("IQ2") && !format.name.starts_with("IQ3"))
        {
            let recoding = format.recoding.as_ref().unwrap();
            let mut bytes = vec![0; format.bytes_for(weights.len() as u64).unwrap() as usize];
            format.compensate(&weights, std::slice::from_ref(&factor), &mut bytes);
            let mut back = weights.clone();
            (format.dequantize)(&bytes, &mut back);
            let mut differing = 0;
            for (row, (weights, back)) in weights.chunks(COLUMNS).zip(back.chunks(COLUMNS)).enumerate() {
                for k in 0..COLUMNS {
                    let carried = factor.carried(k).iter().zip(weights).zip(back);
                    let left: f64 = carried.map(|((&u, &w), &q)| f64::from(u) * f64::from(w - q)).sum();
                    let block = (row * COLUMNS + k) / format.block_len * format.block_bytes;
                    let mut steps = Steps { scales: [0.0; 16], mins: [0.0; 16] };
                    (recoding.steps)(&bytes[block..][..format.block_bytes], &mut steps);
                    let group = k % format.block_len / recoding.group;
                    let (scale, min) = (f64::from(steps.scales[group]), f64::from(steps.mins[group]));
                    let Coder::Scalars(scalars) = recoding.coder else { panic!("{format} has single codes") };
                    let codes: Vec<f64> = match scalars {
                        Scalars::Whole(low, high) => (low as i32..=high as i32).map(f64::from).collect(),
                        Scalars::Listed(values) => values.iter().map(|&value| f64::from(value)).collect(),
                    };
                    let target = f64::from(weights[k]) + left;
                    let distance = |value: f64| (value - target).abs();
                    let nearest =
                        codes.iter().map(|code| distance(code * scale - min)).fold(f64::MAX, f64::min);
                    differing += usize::from(distance(f64::from(back[k])) > nearest + 1e-4 * scale.abs());
                }
            }
            assert!(differing <= 2, "{format}: {differing} codes");
        }
    }

    #[test]
    fn every_isa_and_every_number_of_rows_gives_the_same_bytes() {
        let (mut weights, factor) = (rows(16), factor(&moments()));
        (weights[3], weights[700]) = (f32::NAN, f32::INFINITY);
        let factors = [factor.clone(), factor];
        for format in formats() {
            let recoding = format.recoding.as_ref().unwrap();
            let row_bytes = format.bytes_for(2 * COLUMNS as u64).unwrap() as usize;
            let mut expected = vec![0; 8 * row_bytes];
            recoding.run(Isa::Portable, &weights, &factors, &mut expected);
            for isa in isas() {
                let mut bytes = vec![0; 3 * row_bytes];
                recoding.run(isa, &weights[..3 * 2 * COLUMNS], &factors, &mut bytes);
                assert!(bytes == expected[..3 * row_bytes], "{format} on {isa}");
            }
        }
    }
}
