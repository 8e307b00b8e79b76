//! Packing, and panel kernels against the kernels of rows, bit for bit.

use super::super::Layout;
use super::super::matrix::PANEL;
use super::super::tests::Case;
use super::codes::PanelBlock;
use super::packing::WORD;
use super::*;
use crate::quant::{self, FORMATS, Kind};
use crate::simd::Isa;
use half::f16;

/// Formats with panels and the instruction sets of this machine that have them.
fn panelled() -> impl Iterator<Item = (&'static Format, Isa)> {
    let have_panels = |(format, isa): &(&'static Format, Isa)| Layout::of(*isa, format) == Layout::Panels;
    Isa::available().flat_map(|isa| FORMATS.iter().map(move |format| (format, isa))).filter(have_panels)
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
            let odd = format.block_bytes % WORD;
            let words = format.block_bytes / WORD;
            let order = Box::leak(Box::new([1..words, 0..1]));
            Packing { odd_first, order }.pack(matrix, &mut packed);
            for (row, column) in [(0, 0), (5, 1), (15, 0), (16, 1), (31, 1)] {
                let block = &bytes[row * row_bytes + column * format.block_bytes..][..format.block_bytes];
                let offset = row / PANEL * PANEL * row_bytes + column * PANEL * format.block_bytes;
                let out = &packed[offset..][..PANEL * format.block_bytes];
                let (first_word, odds) = if odd_first { (odd, 0) } else { (0, words * WORD) };
                let is_on_line = offset.is_multiple_of(64);
                let (out_odds, out) =
                    out.split_at(if is_on_line { words * WORD * PANEL } else { odd * PANEL });
                let (out_odds, out) = if is_on_line { (out, out_odds) } else { (out_odds, out) };
                assert_eq!(&out_odds[row % PANEL * odd..][..odd], &block[odds..odds + odd], "{format}");
                for place in 0..words {
                    let expected = &block[first_word + (place + 1) % words * WORD..][..WORD];
                    assert_eq!(&out[(place * PANEL + row % PANEL) * WORD..][..WORD], expected, "{format}");
                }
            }
            assert_eq!(
                packed[32 * row_bytes..],
                bytes[32 * row_bytes..],
                "{format}: rows after the last panel"
            );
        }
    }
}

#[test]
fn every_word_has_a_place() {
    for panels in TABLE {
        let format = FORMATS.iter().find(|format| format.id == panels.id).unwrap();
        let mut words: Vec<usize> = panels.packing.order.iter().cloned().flatten().collect();
        words.sort_unstable();
        assert_eq!(words, Vec::from_iter(0..format.block_bytes / WORD), "{format}");
    }
}

/// What every load of codes relies on.
fn names_words_of_its_block<B: PanelBlock>() {
    for (group, quad) in
        (0..B::LEN / B::GROUP).flat_map(|group| (0..B::GROUP / 4).map(move |quad| (group, quad)))
    {
        let upper = B::upper(group, quad).map_or(0, |bits| bits.word);
        assert!(B::low(group, quad).word.max(upper) < size_of::<B>() / WORD, "{}: {group}, {quad}", B::NAME);
    }
}

#[test]
fn formats_name_words_of_their_blocks() {
    let checks = [
        names_words_of_its_block::<quant::Q4_0>,
        names_words_of_its_block::<quant::Q8_0>,
        names_words_of_its_block::<quant::Q2K>,
        names_words_of_its_block::<quant::Q3K>,
        names_words_of_its_block::<quant::Q4K>,
        names_words_of_its_block::<quant::Q5K>,
        names_words_of_its_block::<quant::Q6K>,
        names_words_of_its_block::<quant::Iq4Nl>,
        names_words_of_its_block::<quant::Iq4Xs>,
        names_words_of_its_block::<quant::Mxfp4>,
    ];
    assert_eq!(checks.len(), TABLE.len(), "every format with panels");
    checks.iter().for_each(|check| check());
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

/// What AVX2 and AVX-512 compute of Q2_K, in plain numbers: codes times their groups' scales meet the inputs, a block at
/// a time.
fn whole_blocks(case: &Case, isa: Isa) -> Vec<f32> {
    /// Numbers of a block whose scale and whose scale of mins are replaced.
    fn weights(block: &[u8], d: f32, dmin: f32) -> [f32; 256] {
        let (mut block, mut out) = (block.to_vec(), [0.0; 256]);
        block[80..82].copy_from_slice(&f16::from_f32(d).to_le_bytes());
        block[82..84].copy_from_slice(&f16::from_f32(dmin).to_le_bytes());
        (Format::by_name("Q2_K").unwrap().dequantize)(&block, &mut out);
        out
    }
    let (codes, extras) = case.quantized(isa);
    let inputs = case.inputs(&codes, &extras);
    let mut out = vec![0f32; case.rows * case.inputs];
    for (row, blocks) in case.bytes.chunks(case.cols / 256 * 84).enumerate() {
        for (column, block) in blocks.chunks(84).enumerate() {
            let f16_at = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
            let (d, dmin) = (f16_at(80), f16_at(82));
            let (whole, mins) = (weights(block, 1.0, 0.0), weights(block, 0.0, -1.0));
            for input in 0..case.inputs {
                let x = inputs.quantized::<quant::Q2K>(input as u32);
                let sum = &mut out[input * case.rows + row];
                let dot = |weights: &[f32; 256]| -> i32 {
                    let codes = &x.codes[column * 256..];
                    weights.iter().zip(codes).map(|(weight, code)| *weight as i32 * *code as i32).sum()
                };
                let (dot, mins) = (dot(&whole) as f32, dot(&mins) as f32);
                *sum = (-dmin).mul_add(mins, d * dot).mul_add(x.scales[column * 8], *sum);
            }
        }
    }
    out
}

#[test]
fn panels_have_the_bits_of_rows() {
    for (format, isa) in panelled() {
        for inputs in [1, 2, 3, 4, 7, 8, 13, 16, 29, 70, 203] {
            for is_adversarial in [false, true] {
                #[cfg(target_arch = "x86_64")]
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
                let is_whole = format.name == "Q2_K" && isa != Isa::AvxVnni;
                let expected = if is_whole { whole_blocks(&case, isa) } else { padded.compute(isa) };
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
