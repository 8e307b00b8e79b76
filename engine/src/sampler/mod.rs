//! Chooses the next token: a chain of steps that lower or exclude scores, then one draw.
//!
//! The steps are one file and one line in [`STEPS`] each and follow Hugging Face (`generation/logits_process.py`) in
//! meaning and order. An excluded token has the score -infinity. Nothing here allocates per token, and `exp` and the
//! random numbers are our own, so the same seed chooses the same tokens on every machine. What ends an answer is not
//! decided here.

mod bias;
mod min_p;
mod penalties;
mod random;
mod sampling;
mod temperature;
#[cfg(test)]
mod tests;
mod top_k;
mod top_p;
mod typical;

use crate::ops::exp;
use crate::{Error, Result};
use random::Random;

pub use sampling::Sampling;

/// One link of the chain.
pub struct Step {
    /// Its name, as in the flags of the command.
    pub name: &'static str,
    /// What it does, for help texts.
    pub about: &'static str,
    /// Whether it changes which token is the best one; the others are left out when temperature is 0.
    pub before_greedy: bool,
    /// Whether these settings ask for it.
    pub is_on: fn(&Sampling) -> bool,
    apply: fn(&Sampling, &mut Turn),
}

/// All steps, in the order in which they are applied.
pub static STEPS: &[Step] =
    &[bias::STEP, penalties::STEP, temperature::STEP, top_k::STEP, top_p::STEP, min_p::STEP, typical::STEP];

/// What the steps of one choice work on.
struct Turn<'a> {
    scores: &'a mut [f32],    // (vocabulary), -infinity = excluded, never NaN or +infinity
    history: &'a [u32],       // prompt and answer so far
    answer: &'a [u32],        // its end that the model has written
    scratch: &'a mut Scratch, // buffers of the steps
}

/// Buffers that live as long as the sampler.
#[derive(Default)]
struct Scratch {
    weights: Vec<f32>,       // (vocabulary)
    ranked: Vec<(f32, u32)>, // value and token
    counts: Vec<u32>,        // (vocabulary), all zero between steps
    masses: Vec<f64>,        // sums of weights by size
}

/// Chooses tokens by one set of settings.
pub struct Sampler {
    sampling: Sampling,
    seed: u64,
    random: Random,
    answer_start: usize,
    scores: Vec<f32>, // (vocabulary)
    scratch: Scratch,
}

impl Sampler {
    /// A sampler for logits of `vocabulary` tokens.
    ///
    /// # Errors
    /// Settings out of range, by name.
    pub fn new(sampling: Sampling, vocabulary: usize) -> Result<Self> {
        sampling.check()?;
        let seed = sampling.seed.unwrap_or_else(random::seed_from_clock);
        let scratch = Scratch {
            weights: Vec::with_capacity(vocabulary),
            ranked: Vec::with_capacity(vocabulary),
            counts: vec![0; vocabulary],
            masses: Vec::new(),
        };
        let scores = Vec::with_capacity(vocabulary);
        Ok(Self { seed, random: Random::new(seed), answer_start: 0, scores, scratch, sampling })
    }

    /// The settings.
    pub fn sampling(&self) -> &Sampling {
        &self.sampling
    }

    /// The seed in use, chosen from the clock where none was set.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Says that an answer begins after `position` tokens of history: presence and frequency count from there.
    pub fn begin_answer(&mut self, position: usize) {
        self.answer_start = position;
    }

    /// The next token after `history` (prompt and answer so far), given `logits` of `(vocabulary)`.
    ///
    /// NaN counts as excluded. Temperature 0 takes the highest score, of equal ones the lowest id.
    ///
    /// # Errors
    /// No token is left to choose from.
    pub fn sample(&mut self, logits: &[f32], history: &[u32]) -> Result<u32> {
        self.scores.clear();
        self.scores.extend(
            logits.iter().map(|&logit| if logit.is_nan() { f32::NEG_INFINITY } else { logit.min(f32::MAX) }),
        );
        self.scratch.counts.resize(logits.len(), 0);
        let mut turn = Turn {
            scores: &mut self.scores,
            history,
            answer: &history[self.answer_start.min(history.len())..],
            scratch: &mut self.scratch,
        };
        let is_greedy = self.sampling.temperature == 0.0;
        let steps =
            STEPS.iter().filter(|step| (step.is_on)(&self.sampling) && (step.before_greedy || !is_greedy));
        steps.for_each(|step| (step.apply)(&self.sampling, &mut turn));
        let chosen = if is_greedy { turn.best() } else { turn.draw(self.random.unit()) };
        chosen.ok_or_else(|| {
            Error::request("no token is left to choose: all logits are NaN, -infinity or excluded")
        })
    }
}

impl Turn<'_> {
    /// The highest score; -infinity without candidates.
    fn highest(&self) -> f32 {
        self.scores.iter().copied().fold(f32::NEG_INFINITY, f32::max)
    }

    /// The first token with the highest score.
    fn best(&self) -> Option<u32> {
        let highest = self.highest();
        let found = self.scores.iter().position(|&score| score == highest && score > f32::NEG_INFINITY)?;
        Some(found as u32)
    }

    /// Fills `scratch.weights` with probabilities times a common factor, the best one 1, and returns their sum.
    fn weigh(&mut self) -> f64 {
        let highest = self.highest();
        let weights = &mut self.scratch.weights;
        weights.clear();
        if highest == f32::NEG_INFINITY {
            weights.resize(self.scores.len(), 0.0);
            return 0.0;
        }
        weights.extend(self.scores.iter().map(|&score| exp(score - highest)));
        // Partial sums of a fixed length keep the result the same everywhere and let the loop vectorise.
        weights.chunks(256).map(|chunk| f64::from(chunk.iter().sum::<f32>())).sum()
    }

    /// The token at `unit` (0 to 1) of the summed probabilities.
    fn draw(&mut self, unit: f64) -> Option<u32> {
        let target = unit * self.weigh();
        let mut reached = 0.0;
        let mut last = None;
        for (token, &weight) in (0u32..).zip(&self.scratch.weights).filter(|entry| *entry.1 > 0.0) {
            reached += f64::from(weight);
            last = Some(token);
            if reached > target {
                break;
            }
        }
        last
    }

    fn exclude(&mut self, excluded: impl Fn(f32) -> bool) {
        self.scores.iter_mut().filter(|score| excluded(**score)).for_each(|score| *score = f32::NEG_INFINITY);
    }
}
