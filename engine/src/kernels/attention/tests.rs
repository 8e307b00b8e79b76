//! Attention over pages on every instruction set against plain sums in f64, and the bits of a row against those of the
//! same row computed alone.

use super::*;

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

    /// Pages in F16, which holds these numbers exactly.
    fn pages(&self, width: usize, seed: usize) -> Vec<Vec<u8>> {
        let value = |i: usize| crate::quant::f16_from_f32(number(i / width, i % width, seed)).to_le_bytes();
        let page = |page: usize| (page * PAGE * width..(page + 1) * PAGE * width).flat_map(value).collect();
        (0..self.positions().div_ceil(PAGE)).map(page).collect()
    }

    /// Results `(rows, heads, value_length)` with `rows` of them in a task.
    fn run(&self, isa: Isa, rows: usize) -> Vec<f32> {
        let (queries, keys) = (self.queries(), self.pages(self.key_length, 2));
        let values = self.has_values.then(|| self.pages(self.value_length, 3));
        let width = self.heads * self.value_length;
        let mut out = vec![f32::NAN; ROWS * width];
        let output = Output::new(&mut out, width, 0);
        for row in (0..ROWS).step_by(rows) {
            let task = AttentionTask {
                keys: &keys,
                values: values.as_deref(),
                head: 0,
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
                row,
                rows: rows.min(ROWS - row),
                position: self.position + row,
                output,
            };
            // SAFETY: one task after the other.
            unsafe { select_attention(Format::by_name("F16").unwrap(), isa)(&task) };
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

#[test]
fn results_follow_the_definition_on_every_isa() {
    for (number, case) in cases().iter().enumerate() {
        let expected = case.expected();
        for isa in Isa::available() {
            for (i, (found, expected)) in case.run(isa, ROWS).iter().zip(&expected).enumerate() {
                let off = (f64::from(*found) - expected).abs();
                assert!(off < 2e-6, "case {number} on {isa} at {i}: {found}, expected {expected}");
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_whatever_is_computed_with_it() {
    for (number, case) in cases().iter().enumerate() {
        for isa in Isa::available() {
            let bits = |rows| case.run(isa, rows).into_iter().map(f32::to_bits).collect::<Vec<_>>();
            let alone = bits(1);
            for rows in [2, 8, ROWS] {
                assert!(bits(rows) == alone, "case {number} on {isa}: {rows} rows together");
            }
        }
    }
}
