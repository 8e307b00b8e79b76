//! What goes through a model: tokens in rows, how texts lie in them and what of them is learned; how a pass treats them,
//! and the losses that come of it.

use super::router::{Average, ExpertLoad};
use crate::ops::IGNORED;
use crate::{Error, Result};

/// Token ids `(rows, length)`. Without a packing each row is its own text, and all of it is learned.
#[derive(Clone, Copy)]
pub struct Batch<'a> {
    /// `(rows, length)`.
    pub tokens: &'a [u32],
    /// How many rows.
    pub rows: usize,
    /// How texts lie in the rows.
    pub packing: Option<&'a Packing>,
}

/// A row of several texts.
#[derive(Clone, Copy, Debug)]
pub struct PackedRow<'a> {
    /// Its tokens.
    pub tokens: &'a [u32],
    /// Whether each of them is learned.
    pub trained: &'a [bool],
    /// How long each text is, one after the other.
    pub segments: &'a [usize],
}

/// How texts lie in the rows of a batch. Shorter rows are filled up; what fills them is no text and counts nowhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packing {
    tokens: Vec<u32>, // (N)
    rows: usize,
    pub(super) starts: Vec<u32>, // (N), where the text of each token begins in its row
    pub(super) positions: Vec<u32>, // (N), in the text
    pub(super) real: Vec<bool>,  // (N), whether it is a token of a text
    targets: Vec<u32>,           // (N), what is to be predicted after each token
}

impl Packing {
    /// Of these rows, filled up to the longest. The first token of a text is never learned: nothing is before it.
    ///
    /// # Errors
    /// Segments that do not add up to their row, or as many marks as tokens are missing.
    pub fn new(rows: &[PackedRow]) -> Result<Self> {
        let length = rows.iter().map(|row| row.tokens.len()).max().unwrap_or_default();
        let mut all = Self { rows: rows.len(), ..Self::default() };
        for row in rows {
            let (tokens, total) = (row.tokens.len(), row.segments.iter().sum::<usize>());
            if total != tokens || row.trained.len() != tokens {
                let marks = row.trained.len();
                return Err(Error::request(format!(
                    "a row of {tokens} tokens has {total} in texts and {marks} marks"
                )));
            }
            all.add(row, length);
        }
        Ok(all)
    }

    fn add(&mut self, row: &PackedRow, length: usize) {
        let fill = length - row.tokens.len();
        self.tokens.extend(row.tokens);
        self.tokens.extend(std::iter::repeat_n(0, fill));
        self.real.extend((0..length).map(|i| i < row.tokens.len()));
        let mut start = 0;
        for &segment in row.segments.iter().chain((fill > 0).then_some(&fill)) {
            self.starts.extend(std::iter::repeat_n(start as u32, segment));
            self.positions.extend(0..segment as u32);
            start += segment;
        }
        let mut end = 0;
        for &segment in row.segments {
            end += segment;
            let next = |i: usize| i + 1 < end && row.trained[i + 1];
            self.targets
                .extend((end - segment..end).map(|i| if next(i) { row.tokens[i + 1] } else { IGNORED }));
        }
        self.targets.extend(std::iter::repeat_n(IGNORED, fill));
    }

    /// The batch of these rows.
    pub fn batch(&self) -> Batch<'_> {
        Batch { tokens: &self.tokens, rows: self.rows, packing: Some(self) }
    }

    /// How many tokens are predicted.
    pub fn targets(&self) -> usize {
        self.targets.iter().filter(|&&target| target != IGNORED).count()
    }

    /// How many tokens are those of texts.
    pub fn tokens(&self) -> usize {
        self.real.iter().filter(|&&real| real).count()
    }
}

impl Batch<'_> {
    /// Tokens of a row.
    pub(super) fn length(&self) -> usize {
        self.tokens.len() / self.rows.max(1)
    }

    /// The position of each token in its text.
    pub(super) fn positions(&self) -> Vec<u32> {
        let length = self.length() as u32;
        let own = || (0..self.tokens.len() as u32).map(|i| i % length).collect();
        self.packing.map_or_else(own, |packing| packing.positions.clone())
    }

    /// What is to be predicted after each token, and how many of these there are.
    pub(super) fn targets(&self) -> (Vec<u32>, usize) {
        if let Some(packing) = self.packing {
            return (packing.targets.clone(), packing.targets());
        }
        let length = self.length();
        let row = |row: &[u32]| row[1..].iter().copied().chain([IGNORED]).collect::<Vec<_>>();
        (self.tokens.chunks_exact(length).flat_map(row).collect(), self.rows * (length - 1))
    }
}

/// How a batch goes through the model.
#[derive(Clone, Copy)]
pub struct Pass<'a> {
    /// Factor of the batch's losses in the gradients: 1 / (micro-batches of a step * ranks).
    pub scale: f64,
    /// Factor of the loss of each predicted token, where it is not its share of `scale`: 1 / (predicted tokens of a step).
    pub token_scale: Option<f64>,
    /// Where noise and dropout take their random numbers from; none while evaluating.
    pub seed: Option<u64>,
    /// The same for the dropout of adapters.
    pub adapter_seed: Option<u64>,
    /// Layers per segment whose activations are computed again in the backward; 0 keeps all of them.
    pub segment: usize,
    /// Makes means over all ranks.
    pub average: Option<&'a Average<'a>>,
}

impl Pass<'_> {
    /// A forward alone: no randomness.
    pub fn evaluation() -> Self {
        Self { scale: 1.0, token_scale: None, seed: None, adapter_seed: None, segment: 0, average: None }
    }

    pub(super) fn average(&self) -> &Average<'_> {
        self.average.unwrap_or(&|_| Ok(()))
    }
}

/// The losses of a batch.
#[derive(Clone, Debug, Default)]
pub struct Losses {
    /// What is trained: cross-entropy and the router's losses with their factors.
    pub loss: f64,
    /// Mean over the predicted tokens, in nats.
    pub cross_entropy: f64,
    /// Summed over layers, or of all layers together, without its factor.
    pub load_balance: f64,
    /// Summed over layers, without its factor.
    pub router_z: f64,
    /// Predicted tokens.
    pub targets: usize,
    /// Of each layer with experts.
    pub experts: Vec<ExpertLoad>,
}

impl Losses {
    /// Adds `share` of the losses of another batch, and its counts.
    pub fn add(&mut self, other: &Self, share: f64) {
        self.add_weighted(other, (share, share));
    }

    /// Adds a share of the cross-entropy of another batch, another share of its router's losses, and its counts.
    pub fn add_weighted(&mut self, other: &Self, (tokens, share): (f64, f64)) {
        self.loss += tokens * other.cross_entropy + share * (other.loss - other.cross_entropy);
        self.cross_entropy += tokens * other.cross_entropy;
        self.load_balance += share * other.load_balance;
        self.router_z += share * other.router_z;
        self.targets += other.targets;
        if self.experts.is_empty() {
            self.experts = other.experts.iter().map(ExpertLoad::zero).collect();
        }
        self.experts.iter_mut().zip(&other.experts).for_each(|(sum, load)| sum.add(load, share));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_end_where_the_next_begins() {
        let rows = [
            PackedRow {
                tokens: &[5, 6, 7, 8, 9],
                trained: &[true, false, true, true, true],
                segments: &[3, 2],
            },
            PackedRow { tokens: &[1, 2], trained: &[false, true], segments: &[2] },
        ];
        let packing = Packing::new(&rows).unwrap();
        assert_eq!(packing.tokens, [5, 6, 7, 8, 9, 1, 2, 0, 0, 0]);
        assert_eq!(packing.starts, [0, 0, 0, 3, 3, 0, 0, 2, 2, 2]);
        assert_eq!(packing.positions, [0, 1, 2, 0, 1, 0, 1, 0, 1, 2]);
        const NO: u32 = IGNORED;
        assert_eq!(packing.targets, [NO, 7, NO, 9, NO, 2, NO, NO, NO, NO]);
        assert_eq!((packing.targets(), packing.tokens()), (3, 7));
        let wrong = PackedRow { segments: &[2, 2], ..rows[0] };
        assert!(Packing::new(&[wrong]).is_err());
    }
}
