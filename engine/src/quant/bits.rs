//! Bit patterns that several block formats share: halves of bytes, a fifth bit, 16-entry tables.
//!
//! All are straight loops without branches, so that they become vector code inside a caller that enables the
//! instruction set. What only one format does stays in that format's file.

/// The first `N` elements as an array: one bounds check per block instead of one per element.
#[inline(always)]
pub(super) fn array<T, const N: usize>(slice: &mut [T]) -> &mut [T; N] {
    slice.first_chunk_mut().expect("room for a whole block")
}

/// Splits 16 bytes into 32 codes: the low halves of all bytes, then the high halves.
#[inline(always)]
pub(super) fn nibbles(packed: &[u8; 16], codes: &mut [i8; 32]) {
    for j in 0..16 {
        codes[j] = (packed[j] & 15) as i8;
        codes[j + 16] = (packed[j] >> 4) as i8;
    }
}

/// Joins 32 codes below 16 into 16 bytes: the reverse of [`nibbles`].
#[inline(always)]
pub(super) fn join_nibbles(codes: &[u8; 32]) -> [u8; 16] {
    std::array::from_fn(|j| codes[j] & 15 | codes[j + 16] << 4)
}

/// Joins 32 codes below 32: the low 4 bits as in [`join_nibbles`], and the fifth bits.
#[inline(always)]
pub(super) fn join_nibbles_and_fifth(codes: &[u8; 32]) -> ([u8; 16], [u8; 4]) {
    let fifth = (0..32).fold(0u32, |fifth, i| fifth | u32::from(codes[i] >> 4) << i);
    (join_nibbles(codes), fifth.to_le_bytes())
}

/// Joins 256 codes below 4 as Q2_K and Q3_K do: four codes that lie 32 apart share a byte.
#[inline(always)]
pub(super) fn join_pairs(codes: &[u8; 256]) -> [u8; 64] {
    let mut joined = [0; 64];
    for (codes, packed) in codes.as_chunks::<128>().0.iter().zip(joined.as_chunks_mut::<32>().0) {
        *packed =
            std::array::from_fn(|j| codes[j] | codes[j + 32] << 2 | codes[j + 64] << 4 | codes[j + 96] << 6);
    }
    joined
}

/// As [`nibbles`], with bit `i` of `fifth` (little endian) as bit 4 of code `i`; `SIGNED` codes are 16 less.
#[inline(always)]
pub(super) fn nibbles_and_fifth<const SIGNED: bool>(packed: &[u8; 16], fifth: [u8; 4], codes: &mut [i8; 32]) {
    let word = u128::from_le_bytes(*packed);
    let (a, b) = (word as u64, (word >> 64) as u64);
    let halves = [a, b, a >> 4, b >> 4];
    for (i, out) in codes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let one_each = (u64::from(fifth[i]) * 0x0101_0101_0101_0101) & 0x8040_2010_0804_0201;
        let sixteens = (one_each + 0x7f7f_7f7f_7f7f_7f7f) >> 3 & 0x1010_1010_1010_1010;
        // Sixteen less is all upper bits set where the fifth is missing, none where it is there.
        let upper = if SIGNED { (sixteens ^ 0x1010_1010_1010_1010) * 15 } else { sixteens };
        *out = (halves[i] & 0x0f0f_0f0f_0f0f_0f0f | upper).to_le_bytes().map(|code| code as i8);
    }
}

/// Replaces indices below 16 by the values of a table.
///
/// A tree of bitwise selects: a load per index would not become vector code.
#[inline(always)]
pub(super) fn look_up(table: [i8; 16], codes: &mut [i8]) {
    for code in codes {
        let mut values = table.map(|value| value as u8);
        for bit in 0..4 {
            let chosen = (*code as u8 >> bit & 1).wrapping_neg();
            for i in 0..8 >> bit {
                let (zero, one) = (values[2 * i], values[2 * i + 1]);
                values[i] = zero ^ (chosen & (zero ^ one));
            }
        }
        *code = values[0] as i8;
    }
}

/// Sixteen numbers below 16 from the low and high halves of 8 bytes.
#[inline(always)]
pub(super) fn halves(packed: &[u8; 8]) -> [u8; 16] {
    std::array::from_fn(|i| packed[i / 2] >> (4 * (i % 2)) & 15)
}

/// The reverse of [`halves`].
#[inline(always)]
pub(super) fn join_halves(numbers: &[u8; 16]) -> [u8; 8] {
    std::array::from_fn(|i| numbers[2 * i] | numbers[2 * i + 1] << 4)
}

/// Seven signs with an eighth that makes the number of ones even.
#[inline(always)]
pub(super) fn even(signs: u8) -> u8 {
    let folded = signs ^ signs >> 4;
    // Bit n of the constant is 1 where n has an odd number of ones.
    signs | ((0x6996u16 >> (folded & 15) & 1) << 7) as u8
}

/// Eight positive codes, negative where the sign bit is 1.
#[inline(always)]
pub(super) fn signed(codes: [i8; 8], signs: u8) -> [i8; 8] {
    let one_each = (u64::from(signs) * 0x0101_0101_0101_0101) & 0x8040_2010_0804_0201;
    let ones = (one_each + 0x7f7f_7f7f_7f7f_7f7f) >> 7 & 0x0101_0101_0101_0101;
    let codes = u64::from_le_bytes(codes.map(|code| code as u8));
    // The complement plus one; no positive code carries into its neighbour.
    ((codes ^ (ones * 255)) + ones).to_le_bytes().map(|code| code as i8)
}

/// Two fours side by side.
#[inline(always)]
pub(super) fn join(first: [i8; 4], second: [i8; 4]) -> [i8; 8] {
    let [first, second] = [first, second].map(|four| u32::from_le_bytes(four.map(|code| code as u8)));
    (u64::from(first) | u64::from(second) << 32).to_le_bytes().map(|code| code as i8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nibbles_join_again() {
        let packed: [u8; 16] = std::array::from_fn(|i| (i * 37 + 11) as u8);
        let mut codes = [0; 32];
        nibbles(&packed, &mut codes);
        assert_eq!(join_nibbles(&codes.map(|code| code as u8)), packed);
    }

    #[test]
    fn signs_turn_codes_and_come_out_even() {
        let codes = [1, 8, 25, 43, 62, 127, 4, 15];
        for signs in 0..=255u8 {
            let expected: [i8; 8] =
                std::array::from_fn(|i| if signs >> i & 1 == 1 { -codes[i] } else { codes[i] });
            assert_eq!(signed(codes, signs), expected, "{signs:#b}");
            assert_eq!(even(signs & 127).count_ones() % 2, 0);
            assert_eq!(even(signs & 127) & 127, signs & 127);
        }
    }

    #[test]
    fn look_up_equals_indexing() {
        let table: [i8; 16] = std::array::from_fn(|i| (i as i8 - 8) * 15);
        let mut codes: [i8; 64] = std::array::from_fn(|i| (i * 7 % 16) as i8);
        let expected = codes.map(|code| table[code as usize]);
        look_up(table, &mut codes);
        assert_eq!(codes, expected);
    }
}
