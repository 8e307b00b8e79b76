//! How often each expert of a layer was wanted lately: counts that fade, so that a topic that was left is forgotten.

/// Rows after which a use counts half. From 64 to 4096 the hits of a replay differ by less than half a point; this
/// remembers about a page of text.
const HALF_LIFE: usize = 256;

/// Fading counts of one layer.
#[derive(Clone, Debug)]
pub(super) struct Frequency {
    counts: Vec<u64>, // in sixteenths, so that halving keeps an order among the rare
    rows: usize,      // since the last halving
}

impl Frequency {
    pub(super) fn new(experts: usize) -> Self {
        Self { counts: vec![0; experts], rows: 0 }
    }

    /// `rows` rows passed the layer.
    pub(super) fn pass(&mut self, rows: usize) {
        self.rows += rows;
        while self.rows >= HALF_LIFE {
            self.rows -= HALF_LIFE;
            self.counts.iter_mut().for_each(|count| *count /= 2);
        }
    }

    /// So many of them wanted the expert.
    pub(super) fn add(&mut self, expert: u32, rows: usize) {
        self.counts[expert as usize] += 16 * rows as u64;
    }

    pub(super) fn of(&self, expert: usize) -> u64 {
        self.counts[expert]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_fade_by_half() {
        let mut frequency = Frequency::new(2);
        frequency.pass(5);
        frequency.add(0, 5);
        assert_eq!((frequency.of(0), frequency.of(1)), (80, 0));
        frequency.pass(HALF_LIFE - 6);
        assert_eq!(frequency.of(0), 80);
        frequency.pass(1 + HALF_LIFE);
        assert_eq!(frequency.of(0), 20);
    }
}
