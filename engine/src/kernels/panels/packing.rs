//! Packing: sixteen rows become a panel.
//!
//! Every expert passes here on its way from the file into its slot, so this is part of the time that a model takes to
//! start and of every expert that memory does not hold. Words go by fours of four rows, sixteen bytes at a time.

use super::super::cache::prefetch;
use super::super::matrix::{MatrixRef, PANEL};
use std::ops::Range;

/// Bytes of a word.
pub(super) const WORD: usize = 4;

/// Whether the words of a column of blocks come before the bytes that make no whole word: where the column begins, so many
/// bytes behind its matrix, a line of the cache does, too.
pub(super) fn words_come_first(offset: usize) -> bool {
    offset.is_multiple_of(64)
}

/// How the blocks of a format lie in panels.
pub(super) struct Packing {
    /// Whether the bytes that make no whole word are a block's first; otherwise they are its last.
    pub(super) odd_first: bool,
    /// The words of a block, in the order in which they lie in a panel.
    pub(super) order: &'static [Range<usize>],
}

/// Words that are turned together, of as many rows.
const FOUR: usize = 4;

/// Four neighbouring words of a row, or the same word of four rows.
pub(super) type Four = [u8; FOUR * WORD];

/// A word of all rows.
type Line = [Four; PANEL / FOUR];

impl Packing {
    /// Packs all whole panels of `rows`; the rows after the last one stay rows. Rows before them must be
    /// [`Layout::ROWS_TOGETHER`](super::super::Layout::ROWS_TOGETHER) or none.
    pub(super) fn pack(&self, rows: MatrixRef<'_>, out: &mut [u8]) {
        assert_eq!(rows.bytes.len(), out.len());
        let (row_bytes, block_bytes) = (rows.row_bytes(), rows.format.block_bytes);
        let panel_bytes = (row_bytes * PANEL).max(1);
        let (from, to) = (rows.bytes.chunks_exact(panel_bytes), out.chunks_exact_mut(panel_bytes));
        for (panel_number, (panel, out)) in from.zip(to).enumerate() {
            for (number, out) in out.chunks_exact_mut(block_bytes * PANEL).enumerate() {
                let offset = panel_number * panel_bytes + number * out.len();
                // Sixteen rows side by side are more streams than a processor looks ahead on.
                let next = panel.as_ptr().wrapping_add(panel_bytes + number * out.len());
                (0..out.len()).step_by(64).for_each(|line| prefetch(next.wrapping_add(line)));
                let mut blocks = [&panel[..0]; PANEL];
                for (block, row) in blocks.iter_mut().zip(panel.chunks_exact(row_bytes)) {
                    *block = &row[number * block_bytes..][..block_bytes];
                }
                self.place(blocks, out, words_come_first(offset));
            }
        }
        let done = out.len() / panel_bytes * panel_bytes;
        out[done..].copy_from_slice(&rows.bytes[done..]);
    }

    /// Lays a column of blocks side by side.
    #[inline(always)]
    fn place(&self, mut blocks: [&[u8]; PANEL], out: &mut [u8], words_first: bool) {
        let odd = blocks[0].len() % WORD;
        let (odds, lines) = match words_first {
            true => {
                let (lines, odds) = out.split_at_mut(out.len() - odd * PANEL);
                (odds, lines)
            }
            false => out.split_at_mut(odd * PANEL),
        };
        for (lane, block) in blocks.iter_mut().enumerate() {
            let bytes;
            (bytes, *block) = match self.odd_first {
                true => block.split_at(odd),
                false => {
                    let (words, bytes) = block.split_at(block.len() - odd);
                    (bytes, words)
                }
            };
            // One or two bytes, for which a call of `memcpy` would be much.
            odds[lane * odd..].iter_mut().zip(bytes).for_each(|(place, byte)| *place = *byte);
        }
        let mut lines = lines.as_chunks_mut().0.as_chunks_mut::<{ PANEL / FOUR }>().0;
        for range in self.order {
            let (own, others) = lines.split_at_mut(range.len());
            lines = others;
            let (fours, ones) = own.as_chunks_mut();
            for (lines, word) in fours.iter_mut().zip(range.clone().step_by(FOUR)) {
                place_four(&blocks, word, lines);
            }
            for (line, word) in ones.iter_mut().zip(range.end - range.len() % FOUR..) {
                let places = line.as_flattened_mut().as_chunks_mut::<WORD>().0;
                places.iter_mut().zip(&blocks).for_each(|(place, block)| *place = *words(block, word));
            }
        }
    }
}

/// Lays four words of all rows from `word` on side by side.
#[inline(always)]
fn place_four(blocks: &[&[u8]; PANEL], word: usize, lines: &mut [Line; FOUR]) {
    for (number, rows) in blocks.as_chunks::<FOUR>().0.iter().enumerate() {
        // Written out: `map` stays a call of its own here, for every four rows.
        let [a, b, c, d] = *rows;
        let turned = turn([words(a, word), words(b, word), words(c, word), words(d, word)]);
        for (line, words) in lines.iter_mut().zip(&turned) {
            line[number] = *words;
        }
    }
}

/// The bytes of a block from a word on.
#[inline(always)]
fn words<const BYTES: usize>(block: &[u8], word: usize) -> &[u8; BYTES] {
    block[word * WORD..].first_chunk().expect("an order names words of its block")
}

/// The first word of each row, then the second ones and so on.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn turn(rows: [&Four; FOUR]) -> [Four; FOUR] {
    use std::arch::x86_64::*;
    use std::mem::transmute;
    // SAFETY: every x86-64 has SSE2, and a register is sixteen bytes.
    unsafe {
        let [a, b, c, d]: [*const __m128i; FOUR] = [
            rows[0].as_ptr().cast(),
            rows[1].as_ptr().cast(),
            rows[2].as_ptr().cast(),
            rows[3].as_ptr().cast(),
        ];
        let (a, b, c, d) = (_mm_loadu_si128(a), _mm_loadu_si128(b), _mm_loadu_si128(c), _mm_loadu_si128(d));
        let (ab, cd) = (_mm_unpacklo_epi32(a, b), _mm_unpacklo_epi32(c, d));
        let (ab_high, cd_high) = (_mm_unpackhi_epi32(a, b), _mm_unpackhi_epi32(c, d));
        transmute([
            _mm_unpacklo_epi64(ab, cd),
            _mm_unpackhi_epi64(ab, cd),
            _mm_unpacklo_epi64(ab_high, cd_high),
            _mm_unpackhi_epi64(ab_high, cd_high),
        ])
    }
}

/// The first word of each row, then the second ones and so on.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
pub(super) fn turn(rows: [&Four; FOUR]) -> [Four; FOUR] {
    use std::arch::aarch64::*;
    use std::mem::transmute;
    // SAFETY: every aarch64 machine has NEON, and a register is sixteen bytes.
    unsafe {
        let [a, b, c, d] = rows;
        let (a, b) = (vld1q_u8(a.as_ptr()), vld1q_u8(b.as_ptr()));
        let (c, d) = (vld1q_u8(c.as_ptr()), vld1q_u8(d.as_ptr()));
        let [a, b, c, d] = [
            vreinterpretq_u32_u8(a),
            vreinterpretq_u32_u8(b),
            vreinterpretq_u32_u8(c),
            vreinterpretq_u32_u8(d),
        ];
        let (ac, bd) = (vzip1q_u32(a, c), vzip1q_u32(b, d));
        let (ac_high, bd_high) = (vzip2q_u32(a, c), vzip2q_u32(b, d));
        transmute([
            vzip1q_u32(ac, bd),
            vzip2q_u32(ac, bd),
            vzip1q_u32(ac_high, bd_high),
            vzip2q_u32(ac_high, bd_high),
        ])
    }
}

/// The first word of each row, then the second ones and so on.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(super) fn turn(rows: [&Four; FOUR]) -> [Four; FOUR] {
    std::array::from_fn(|word| {
        let mut turned = Four::default();
        for (place, row) in turned.as_chunks_mut::<WORD>().0.iter_mut().zip(&rows) {
            *place = *words(*row, word);
        }
        turned
    })
}
