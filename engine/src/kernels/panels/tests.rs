//! Packing, and panel kernels against the kernels of rows, bit for bit.

use super::super::Layout;
use super::super::tests::Case;
use super::*;
use crate::quant::{FORMATS, Kind};
use crate::simd::Isa;

/// Formats with panels and the instruction sets of this machine that have them.
fn panelled() -> impl Iterator<Item = (&'static Format, Isa)> {
    let has_panels = |isa: &Isa| Layout::of(*isa) == Layout::Panels;
    Isa::available()
        .filter(has_panels)
        .flat_map(|isa| FORMATS.iter().filter(|format| of(format).is_some()).map(move |format| (format, isa)))
}

#[test]
fn a_panel_holds_the_words_of_its_rows_in_turn() {
    for format in FORMATS.iter().filter(|format| format.kind == Kind::Blocks) {
        for odd_first in [false, true] {
            let (cols, rows) = (2 * format.block_len, 35);
            let row_bytes = 2 * format.block_bytes;
            let bytes: Vec<u8> = (0..rows * row_bytes).map(|i| (i * 7 + i / 251) as u8).collect();
            let matrix = MatrixRef { format, rows, cols, layout: Layout::Rows, bytes: &bytes };
            let mut packed = vec![0; bytes.len()];
            let panels = Panels { id: format.id, odd_first, rows: |_| |_, _| () };
            panels.pack(matrix, &mut packed);
            let odd = format.block_bytes % WORD;
            let words = format.block_bytes / WORD;
            for (row, column) in [(0, 0), (5, 1), (15, 0), (16, 1), (31, 1)] {
                let block = &bytes[row * row_bytes + column * format.block_bytes..][..format.block_bytes];
                let out = &packed[row / PANEL * PANEL * row_bytes + column * PANEL * format.block_bytes..];
                let (first_word, odds) = if odd_first { (odd, 0) } else { (0, words * WORD) };
                for word in 0..words {
                    let expected = &block[first_word + word * WORD..][..WORD];
                    assert_eq!(&out[(word * PANEL + row % PANEL) * WORD..][..WORD], expected, "{format}");
                }
                let out = &out[words * WORD * PANEL + row % PANEL * odd..][..odd];
                assert_eq!(out, &block[odds..odds + odd], "{format}");
            }
            assert_eq!(
                packed[32 * row_bytes..],
                bytes[32 * row_bytes..],
                "{format}: rows after the last panel"
            );
        }
    }
}

/// Blocks of bytes that random ones rarely are. Scales and mins become zeros, NaN, infinite, subnormal and very large.
fn adversarial(case: &mut Case) {
    let patterns: [fn(usize) -> u8; 6] = [
        |_| 0,
        |_| 0xff,
        |i| [0xff, 0x7b][i % 2],
        |i| if i % 2 == 0 { 1 } else { 0 },
        |_| 0x80,
        |i| (i * 91) as u8,
    ];
    let block_bytes = case.format.block_bytes;
    for (number, block) in case.bytes.chunks_exact_mut(block_bytes).enumerate() {
        if number % 3 > 0 {
            let pattern = patterns[number % patterns.len()];
            block.iter_mut().enumerate().for_each(|(i, byte)| *byte = pattern(i));
        }
    }
}

/// Numbers that can be compared: all NaN are one.
fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| if value.is_nan() { u32::MAX } else { value.to_bits() }).collect()
}

#[test]
fn panels_have_the_bits_of_rows() {
    for (format, isa) in panelled() {
        for inputs in [1, 2, 3, 4, 7, 8, 13, 16, 29, 70] {
            for is_adversarial in [false, true] {
                if isa == Isa::Amx && inputs >= super::amx::FEWEST {
                    continue; // tiles of BF16, which have a test of their own
                }
                let mut case = Case::new(format, 32, 3 * format.block_len.max(256), inputs);
                if is_adversarial {
                    adversarial(&mut case);
                }
                // Many inputs take the panel that is unpacked from rows: one result for any number of them.
                let mut padded =
                    Case { inputs: inputs.max(4), ..Case::new(format, 32, case.cols, inputs.max(4)) };
                padded.bytes.clone_from(&case.bytes);
                padded.values[..case.values.len()].copy_from_slice(&case.values);
                let expected = padded.compute(isa);
                let found = case.compute_packed(isa);
                assert_eq!(
                    bits(&found),
                    bits(&expected[..found.len()]),
                    "{format} on {isa}, {inputs} inputs, {is_adversarial}"
                );
            }
        }
    }
}
