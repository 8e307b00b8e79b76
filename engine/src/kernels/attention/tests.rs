//! Attention over pages on every instruction set against plain sums in f64, products of BF16 against the same in plain
//! numbers, and the bits of a row against those of the same row computed alone.

use super::*;
use crate::quant::{F16, F32};
use std::sync::Arc;

const PAGE: usize = 64;
const ROWS: usize = 37;

/// Queries, keys and values of one key head, made of a few different numbers.
struct Case {
    heads: usize,
    key_length: usize,
    value_length: usize,
    /// Position of the first row.
    position: usize,
    window: Option<usize>,
    sinks: Option<Vec<f32>>,
    /// Whether values have pages of their own.
    has_values: bool,
}

fn number(i: usize, j: usize, seed: usize) -> f32 {
    ((i * 31 + j * 17 + seed * 7) % 23) as f32 / 16.0 - 0.625
}

impl Case {
    fn positions(&self) -> usize {
        self.position + ROWS
    }

    fn queries(&self) -> Vec<f32> {
        let width = self.heads * self.key_length;
        (0..ROWS * width).map(|i| number(i / width, i % width, 1)).collect()
    }

    /// Pages in a format that holds these numbers exactly.
    fn pages<F: Float>(&self, width: usize, seed: usize) -> Vec<Arc<Vec<u8>>> {
        let value = |i: usize| F::from_f32(number(i / width, i % width, seed));
        let page = |page: usize| {
            let values: Vec<F> = (page * PAGE * width..(page + 1) * PAGE * width).map(value).collect();
            Arc::new(bytemuck::cast_slice(&values).to_vec())
        };
        (0..self.positions().div_ceil(PAGE)).map(page).collect()
    }

    /// Results of the kernel that is chosen, with `rows` in a task.
    fn run<F: Float>(&self, isa: Isa, rows: usize) -> Vec<f32> {
        let kernel = select_attention(Format::by_name(F::NAME).unwrap(), isa);
        // SAFETY: one task after the other.
        self.run_with::<F>(rows, |task| unsafe { kernel(task) })
    }

    /// Results `(rows, heads, value_length)` with `rows` of them in a task.
    fn run_with<F: Float>(&self, rows: usize, kernel: impl Fn(&AttentionTask<'_>)) -> Vec<f32> {
        let (queries, keys) = (self.queries(), self.pages::<F>(self.key_length, 2));
        let values = self.has_values.then(|| self.pages::<F>(self.value_length, 3));
        let width = self.heads * self.value_length;
        let mut out = vec![f32::NAN; ROWS * width];
        let output = Output::new(&mut out, width, 0).places(width);
        for row in (0..ROWS).step_by(rows) {
            let of = Attended {
                keys: CachedPages { pages: &keys, at: 0 },
                values: values.as_deref().map(|pages| CachedPages { pages, at: 0 }),
                page_len: PAGE,
                key_length: self.key_length,
                value_length: self.value_length,
                scale: 0.3,
                window: self.window,
                sinks: self.sinks.as_deref(),
                queries: Queries {
                    values: &queries,
                    width: self.heads * self.key_length,
                    at: 0,
                    first: 0,
                    count: self.heads,
                    stride: self.key_length,
                },
            };
            let (rows, position) = (rows.min(ROWS - row), self.position + row);
            kernel(&AttentionTask { of, head: 0, row, rows, position, output });
        }
        out
    }

    /// The same from its definition.
    fn expected(&self) -> Vec<f64> {
        let queries = self.queries();
        let value_seed = if self.has_values { 3 } else { 2 };
        let mut out = vec![];
        for (i, query) in queries.chunks_exact(self.key_length).enumerate() {
            let (position, head) = (self.position + i / self.heads, i % self.heads);
            let first = self.window.map_or(0, |window| (position + 1).saturating_sub(window));
            let logit = |t: usize| {
                let products = query.iter().enumerate().map(|(j, q)| f64::from(q * number(t, j, 2)));
                f64::from(0.3f32) * products.sum::<f64>()
            };
            let weights: Vec<f64> = (first..=position).map(|t| logit(t).exp()).collect();
            let sink = self.sinks.as_ref().map_or(0.0, |sinks| f64::from(sinks[head]).exp());
            let sum = weights.iter().sum::<f64>() + sink;
            out.extend((0..self.value_length).map(|j| {
                let weighted = weights.iter().enumerate();
                weighted.map(|(t, w)| w * f64::from(number(first + t, j, value_seed))).sum::<f64>() / sum
            }));
        }
        out
    }
}

fn cases() -> Vec<Case> {
    let case = |heads, key_length, position| Case {
        heads,
        key_length,
        value_length: key_length,
        position,
        window: None,
        sinks: None,
        has_values: true,
    };
    vec![
        case(1, 64, 0),
        case(3, 128, 70),
        case(8, 128, 31),
        case(5, 40, 100),
        Case { window: Some(20), ..case(2, 96, 90) },
        Case { window: Some(3), sinks: Some(vec![0.5, -1.0, 2.0]), ..case(3, 64, 0) },
        Case { value_length: 80, has_values: false, ..case(4, 96, 10) },
        Case { value_length: 16, ..case(7, 32, 5) },
    ]
}

/// How far results are from the definition at most.
fn distance(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let off = found.iter().zip(expected).map(|(found, expected)| (f64::from(*found) - expected).abs());
    off.fold(0.0, |most, off| if off.is_nan() { f64::INFINITY } else { off.max(most) })
}

/// Weights are rounded to eight bits; values are below 1.
const NEAR: f64 = 1.0 / 512.0;

#[test]
fn results_follow_the_definition_on_every_isa() {
    for (number, case) in cases().iter().enumerate() {
        let expected = case.expected();
        for isa in Isa::available() {
            let off = distance(&case.run::<F32>(isa, ROWS), &expected);
            assert!(off < 2e-6, "case {number} on {isa}: {off}");
            let off = distance(&case.run::<F16>(isa, ROWS), &expected);
            let most = if isa.has_pairs() { NEAR } else { 2e-6 };
            assert!(off < most, "case {number} on {isa} in F16: {off}");
        }
    }
}

fn plain_pairs(isa: Isa, task: &AttentionTask<'_>) {
    isa.run(Attend::<Floats<F16>, Pairs>::new(task));
}

fn pairs(isa: Isa, task: &AttentionTask<'_>) {
    isa.run_with_pairs(Attend::<Floats<F16>, Pairs>::new(task));
}

#[test]
fn products_of_bf16_have_the_bits_of_plain_numbers() {
    for (number, case) in cases().iter().enumerate() {
        let expected = case.expected();
        for isa in Isa::available() {
            let plain = case.run_with::<F16>(ROWS, |task| plain_pairs(isa, task));
            let off = distance(&plain, &expected);
            assert!(off < NEAR, "case {number} on {isa}: {off}");
            let found = case.run_with::<F16>(ROWS, |task| pairs(isa, task));
            assert!(bits(&found) == bits(&plain), "case {number} on {isa}");
        }
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn a_row_has_the_same_bits_whatever_is_computed_with_it() {
    for (number, case) in cases().iter().enumerate() {
        for isa in Isa::available() {
            let exact = |rows| bits(&case.run::<F32>(isa, rows));
            let paired = |rows| bits(&case.run_with::<F16>(rows, |task| pairs(isa, task)));
            let alone = (exact(1), paired(1));
            for rows in [2, 8, ROWS] {
                assert!(exact(rows) == alone.0, "case {number} on {isa}: {rows} rows together");
                assert!(paired(rows) == alone.1, "case {number} on {isa} in pairs: {rows} rows together");
            }
        }
    }
}
