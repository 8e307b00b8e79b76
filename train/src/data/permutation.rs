//! A permutation of `0..length` that is a function of a key: no table, any place in constant time.
//!
//! A Feistel network over the next even number of bits, walked until it lands below `length` (Black and Rogaway 2002,
//! "Ciphers with arbitrary finite domains"). Good enough to mix rows; not a cipher.

use crate::random::Random;

const ROUNDS: u64 = 6;

/// An order of `0..length`.
pub(super) struct Permutation {
    length: u64,
    half: u32, // bits of one half of the network's word
    key: u64,
}

impl Permutation {
    /// The order that belongs to `place` under `seed`; `length` is at least 1.
    pub(super) fn at(seed: u64, place: &[u64], length: u64) -> Self {
        assert!(length > 0, "nothing to permute");
        let bits = u64::BITS - (length - 1).leading_zeros();
        Self { length, half: bits.div_ceil(2).max(1), key: Random::at(seed, place).bits() }
    }

    /// What stands at `index`, below the length.
    pub(super) fn get(&self, index: u64) -> u64 {
        assert!(index < self.length, "index {index} of {}", self.length);
        let mut value = index;
        loop {
            value = self.encrypt(value);
            if value < self.length {
                return value;
            }
        }
    }

    fn encrypt(&self, value: u64) -> u64 {
        let mask = (1u64 << self.half) - 1;
        let (mut left, mut right) = (value >> self.half, value & mask);
        for round in 0..ROUNDS {
            let mixed = Random::at(self.key, &[round, right]).bits() >> (u64::BITS - self.half);
            (left, right) = (right, left ^ mixed);
        }
        left << self.half | right
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_permuted() {
        for length in [1, 2, 3, 4, 5, 16, 17, 255, 256, 257, 1000, 4097] {
            let order = Permutation::at(3, &[length], length);
            let mut seen: Vec<u64> = (0..length).map(|index| order.get(index)).collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..length).collect::<Vec<_>>(), "length {length}");
        }
    }

    #[test]
    fn keys_give_different_orders_that_look_random() {
        let order = |epoch| (0..1000).map(|i| Permutation::at(1, &[epoch], 1000).get(i)).collect::<Vec<_>>();
        let (first, second) = (order(0), order(1));
        let same = first.iter().zip(&second).filter(|(a, b)| a == b).count();
        assert!(same < 10, "{same} rows stay in place");
        // Of a random order half the steps go up, and about one element in all stays where it was.
        let ascents = first.windows(2).filter(|pair| pair[0] < pair[1]).count();
        assert!((450..550).contains(&ascents), "{ascents}");
        assert!(first.iter().enumerate().filter(|&(i, &row)| i as u64 == row).count() < 8);
    }

    #[test]
    fn the_largest_lengths_work() {
        let order = Permutation::at(1, &[], u64::MAX);
        assert_ne!(order.get(u64::MAX - 1), order.get(0));
    }
}
