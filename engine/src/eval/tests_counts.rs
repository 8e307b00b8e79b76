//! A product of a matrix between two marks, for a script that counts the instructions in between.
//!
//! `tests/cross/counts.sh` asks for it by its name, under an emulator that writes down each instruction, and knows the
//! marks by their symbol. How long products take is the matter of `moewe bench --kernels`, whether they are right that of
//! the tests of the kernels; here one output of the last input is checked, so that what was counted was computed.

use super::product::Rows;
use crate::kernels::{Layout, MatrixRef, select};
use crate::os::pages::Pages;
use crate::quant::Format;
use crate::simd::Isa;
use crate::threads::Team;
use std::hint::black_box;

/// Rows of the matrix; a task takes all of them.
const ROWS: usize = 256;

/// Columns of the matrix.
const COLS: usize = 1024;

/// Where counting begins, and where it ends.
#[inline(never)]
fn mark() {
    black_box(());
}

fn setting(name: &str, otherwise: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| otherwise.to_owned())
}

/// Every row of the matrix, as weights and as the format has them: instructions are the same whatever a weight is, and
/// quantizing takes a hundred times those of a product.
fn row_of(format: &Format) -> (Vec<f32>, Vec<u8>) {
    let mut weights: Vec<f32> = (0..COLS).map(|i| ((i * 7919) % 997) as f32 / 498.0 - 1.0).collect();
    let mut bytes = vec![0; format.row_bytes(COLS)];
    format.quantize.expect("a format that can be written")(&weights, None, &mut bytes);
    (format.dequantize)(&bytes, &mut weights);
    (weights, bytes)
}

#[test]
#[ignore = "counts nothing by itself"]
fn a_product_between_marks() {
    let format = Format::by_name(&setting("MOEWE_COUNT_FORMAT", "Q4_K")).expect("a format's name");
    let isa = Isa::parse(&setting("MOEWE_COUNT_ISA", Isa::detect().name())).unwrap();
    let inputs: usize = setting("MOEWE_COUNT_INPUTS", "1").parse().expect("a number of inputs");

    let (weights, row) = row_of(format);
    let bytes = &row.repeat(ROWS);
    let matrix = MatrixRef { format, rows: ROWS, cols: COLS, layout: Layout::Rows, bytes };
    let mut packed = Pages::new(bytes.len()).unwrap();
    Layout::of(isa, format).pack(matrix, &mut packed);
    let matrix = MatrixRef { layout: Layout::of(isa, format), bytes: &packed, ..matrix };

    let kernel = select(format, isa);
    let values: Vec<f32> = (0..inputs * COLS).map(|i| (i % 17) as f32 - 8.0).collect();
    let rows = Rows::new(kernel, values.clone(), COLS);
    let mut out = vec![f32::NAN; inputs * ROWS];
    let team = Team::new(1);
    let mut product = || rows.meet(&team, kernel, matrix, &mut out);
    // The first makes room for what later ones use again.
    product();
    mark();
    product();
    mark();

    let terms = weights.iter().zip(&values[(inputs - 1) * COLS..]).map(|(weight, x)| (weight * x) as f64);
    let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
    let found = *out.last().unwrap() as f64;
    // Inputs are rounded to bytes.
    assert!((found - sum).abs() <= 0.01 * size, "{found} instead of {sum}");
}
