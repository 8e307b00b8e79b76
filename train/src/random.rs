//! Random numbers that are a function of their place: seed, step, layer, use. No generator has a state to save.
//!
//! SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators") over a hashed start.

/// Numbers for one place.
pub struct Random {
    state: u64,
}

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15; // 2^64 / golden ratio, the increment of SplitMix64

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Random {
    /// The numbers that belong to `place` (such as step, layer, use) under `seed`; equal places give equal numbers.
    pub fn at(seed: u64, place: &[u64]) -> Self {
        let fold = |state: u64, &part: &u64| mix(state.wrapping_add(GOLDEN) ^ mix(part.wrapping_add(GOLDEN)));
        Self { state: place.iter().fold(mix(seed.wrapping_add(GOLDEN)), fold) }
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN);
        mix(self.state)
    }

    /// Passes over the next `count` draws of 64 bits.
    pub fn skip(&mut self, count: u64) {
        self.state = self.state.wrapping_add(GOLDEN.wrapping_mul(count));
    }

    /// A number in `[0, 1)`, with 53 random bits.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (-53f64).exp2()
    }

    /// A number in `0..bound` (`bound` at least 1), by multiplication: the bias is below `bound / 2^64`.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }

    /// A number of the normal distribution with mean 0 and deviation 1 (Box and Muller 1958).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// A normal number within `limit` deviations, drawn again until it is.
    pub fn truncated_normal(&mut self, limit: f64) -> f64 {
        loop {
            let number = self.normal();
            if number.abs() <= limit {
                return number;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_independent_and_repeatable() {
        let first = |place: &[u64]| Random::at(7, place).bits();
        assert_eq!(first(&[1, 2]), first(&[1, 2]));
        assert_ne!(first(&[1, 2]), first(&[2, 1]));
        assert_ne!(first(&[1, 2]), first(&[1, 2, 0]));
        assert_ne!(first(&[1]), Random::at(8, &[1]).bits());
        let (mut drawn, mut passed) = (Random::at(7, &[3]), Random::at(7, &[3]));
        let _ = [(); 5].map(|()| drawn.bits());
        passed.skip(5);
        assert_eq!(drawn.bits(), passed.bits());
    }

    #[test]
    fn distributions_have_their_moments() {
        let mut random = Random::at(1, &[]);
        let draws: Vec<f64> = (0..100_000).map(|_| random.normal()).collect();
        let mean = draws.iter().sum::<f64>() / 1e5;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
        assert!((0..1000).all(|_| random.truncated_normal(2.0).abs() <= 2.0));
        let sum: u64 = (0..10_000).map(|_| random.below(10)).sum();
        assert!((44_000..46_000).contains(&sum), "{sum}");
    }
}
