//! Chooses the next token: a chain of steps that lower or exclude scores, then one draw.
//!
//! The steps are one file and one line in [`STEPS`] each and follow Hugging Face (`generation/logits_process.py`) in
//! meaning and order. An excluded token has the score -infinity. Nothing here allocates per token, and `exp` and the
//! random numbers are our own, so the same seed chooses the same tokens on every machine. What ends an answer is not
//! decided here.

mod bias;
mod grammar;
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

use crate::grammar::Mask;
use crate::model::{Best, Wants};
use crate::ops::exp;
use crate::{Error, Result};

pub use random::Random;
pub use sampling::Sampling;

/// One link of the chain.
pub struct Step {
    /// Its name, as in the flags of the command.
    pub name: &'static str,
    /// What it does, for help texts.
    pub about: &'static str,
    /// Whether it changes which token is the best one; the others are left out when temperature is 0.
    pub before_greedy: bool,
    /// Whether these settings ask for it, or that a grammar allows some tokens only.
    pub is_on: fn(&Sampling, Option<&Mask>) -> bool,
    apply: fn(&Sampling, &mut Turn),
}

/// All steps, in the order in which they are applied.
pub static STEPS: &[Step] = &[
    grammar::STEP,
    bias::STEP,
    penalties::STEP,
    temperature::STEP,
    top_k::STEP,
    top_p::STEP,
    min_p::STEP,
    typical::STEP,
];

/// What the steps of one choice work on.
struct Turn<'a> {
    scores: &'a mut [f32],     // (vocabulary), -infinity = excluded, never NaN or +infinity
    history: &'a [u32],        // prompt and answer so far
    answer: &'a [u32],         // its end that the model has written
    allowed: Option<&'a Mask>, // tokens that may come; all where there is no grammar
    scratch: &'a mut Buffers,  // buffers of the steps
    rest: Option<Rest>,
}

/// Candidates that are not among the scores, where these are the best tokens only.
struct Rest {
    bound: f32, // all of them are below
    total: f32, // of the weights of all candidates, the best one 1, after the temperature
}

/// Buffers that live as long as the sampler.
#[derive(Default)]
struct Buffers {
    weights: Vec<f32>,       // (vocabulary)
    ranked: Vec<(f32, u32)>, // value and token
    counts: Vec<u32>,        // (vocabulary), all zero between steps
    sums: Vec<f64>,          // (vocabulary / CHUNK), of the weights
    masses: Vec<f64>,        // sums of weights by size
}

/// Chooses tokens by one set of settings.
pub struct Sampler {
    sampling: Sampling,
    seed: u64,
    random: Random,
    answer_start: usize,
    scores: Vec<f32>, // (vocabulary)
    scratch: Buffers,
}

impl Sampler {
    /// A sampler for logits of `vocabulary` tokens.
    ///
    /// # Errors
    /// Settings out of range, by name.
    pub fn new(sampling: Sampling, vocabulary: usize) -> Result<Self> {
        sampling.check()?;
        let seed = sampling.seed.unwrap_or_else(random::seed_from_clock);
        let scratch = Buffers {
            weights: Vec::with_capacity(vocabulary),
            ranked: Vec::with_capacity(vocabulary),
            counts: vec![0; vocabulary],
            sums: Vec::with_capacity(vocabulary.div_ceil(CHUNK)),
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

    /// What the steps made of the scores of the latest choice among all tokens, `(vocabulary)`: -infinity for those that
    /// could not be drawn. With temperature 0 only those steps were applied that can change which token is the best one.
    pub fn scores(&self) -> &[f32] {
        &self.scores
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
        self.sample_among(logits, history, None)
    }

    /// [`Sampler::sample`] among the tokens that a grammar allows.
    ///
    /// # Errors
    /// No token is left to choose from.
    pub fn sample_among(&mut self, logits: &[f32], history: &[u32], allowed: Option<&Mask>) -> Result<u32> {
        self.scores.clear();
        self.scores.extend(
            logits.iter().map(|&logit| if logit.is_nan() { f32::NEG_INFINITY } else { logit.min(f32::MAX) }),
        );
        self.scratch.counts.resize(logits.len(), 0);
        let mut turn = Turn {
            scores: &mut self.scores,
            history,
            answer: &history[self.answer_start.min(history.len())..],
            allowed,
            scratch: &mut self.scratch,
            rest: None,
        };
        let is_greedy = self.sampling.temperature == 0.0;
        let steps = STEPS
            .iter()
            .filter(|step| (step.is_on)(&self.sampling, allowed) && (step.before_greedy || !is_greedy));
        steps.for_each(|step| (step.apply)(&self.sampling, &mut turn));
        let chosen = if is_greedy { turn.best() } else { turn.draw(self.random.unit()) };
        chosen.ok_or_else(|| {
            Error::request("no token is left to choose: all logits are NaN, -infinity or excluded")
        })
    }
}

impl Sampler {
    /// What a choice needs of the last row: these settings may get by with the best tokens.
    pub fn wants(&self) -> Wants {
        let Sampling { temperature, top_k, top_p, min_p, typical_p, .. } = self.sampling;
        let is_on = |step: &&Step| (step.is_on)(&self.sampling, None);
        if STEPS.iter().filter(|step| step.before_greedy).any(|step| is_on(&step)) {
            return Wants::Logits;
        }
        match temperature {
            0.0 => Wants::Best { temperature: 1.0 },
            _ if typical_p < 1.0 => Wants::Logits,
            _ if top_k > 0 || top_p < 1.0 || min_p > 0.0 => Wants::Best { temperature },
            _ => Wants::Logits,
        }
    }

    /// [`Sampler::sample`] from the best tokens of a row that wanted what [`Sampler::wants`] says, where none of the others
    /// could be chosen; nothing is drawn elsewhere.
    ///
    /// The same choices from the same probabilities; since these are summed up otherwise, a draw that falls on the border
    /// of two tokens may take the other one.
    pub fn sample_best(&mut self, best: &Best<'_>) -> Option<u32> {
        let is_greedy = self.sampling.temperature == 0.0;
        let k = self.sampling.top_k as usize;
        if best.tokens.is_empty() || !is_greedy && k > best.tokens.len() {
            return None;
        }
        self.scores.clear();
        self.scores.extend_from_slice(best.logits);
        let mut turn = Turn {
            scores: &mut self.scores,
            history: &[],
            answer: &[],
            allowed: None,
            scratch: &mut self.scratch,
            rest: Some(Rest { bound: best.bound, total: best.total }),
        };
        let place = if is_greedy {
            turn.best()?
        } else {
            let steps = STEPS.iter().filter(|step| (step.is_on)(&self.sampling, None));
            steps.for_each(|step| (step.apply)(&self.sampling, &mut turn));
            if turn.rest.is_some() {
                return None;
            }
            turn.draw(self.random.unit())?
        };
        best.tokens.get(place as usize).copied()
    }
}

/// Scores and weights are summed and compared in chunks of this length, everywhere alike.
const CHUNK: usize = 256;

/// The highest of `scores`, which are not NaN, in lanes that the compiler can keep in one register.
fn highest(scores: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = scores.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &score) in lanes.iter_mut().zip(chunk) {
            *lane = if score > *lane { score } else { *lane };
        }
    }
    rest.iter().chain(&lanes).copied().fold(f32::NEG_INFINITY, f32::max)
}

/// The sum of a chunk, in lanes.
fn sum(weights: &[f32]) -> f64 {
    const LANES: usize = 16;
    let mut lanes = [0.0; LANES];
    let chunks = weights.chunks_exact(LANES);
    let rest: f32 = chunks.remainder().iter().sum();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, weight)| *lane += weight);
    }
    f64::from(lanes.iter().sum::<f32>() + rest)
}

impl Turn<'_> {
    /// The highest score; -infinity without candidates.
    fn highest(&self) -> f32 {
        highest(self.scores)
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
        let Buffers { weights, sums, .. } = &mut *self.scratch;
        weights.clear();
        sums.clear();
        for chunk in self.scores.chunks(CHUNK) {
            let start = weights.len();
            // After other steps most chunks hold excluded tokens only.
            if self::highest(chunk) == f32::NEG_INFINITY {
                weights.resize(start + chunk.len(), 0.0);
            } else {
                weights.extend(chunk.iter().map(|&score| exp(score - highest)));
            }
            sums.push(sum(&weights[start..]));
        }
        sums.iter().sum()
    }

    /// The token at `unit` (0 to 1) of the summed probabilities.
    fn draw(&mut self, unit: f64) -> Option<u32> {
        let target = unit * self.weigh();
        // Whole chunks are passed over by their sums; the last one with any weight holds the end.
        let mut reached = 0.0;
        let mut start = None;
        for (chunk, &sum) in self.scratch.sums.iter().enumerate().filter(|entry| *entry.1 > 0.0) {
            if start.is_some() && reached > target {
                break;
            }
            start = Some((chunk, reached));
            reached += sum;
        }
        let (chunk, mut reached) = start?;
        let first = chunk * CHUNK;
        let mut chosen = None;
        for (place, &weight) in
            self.scratch.weights[first..].iter().take(CHUNK).enumerate().filter(|entry| *entry.1 > 0.0)
        {
            chosen = Some((first + place) as u32);
            reached += f64::from(weight);
            if reached > target {
                break;
            }
        }
        chosen
    }

    fn exclude(&mut self, excluded: impl Fn(f32) -> bool) {
        // Without a branch, so that it vectorises.
        self.scores
            .iter_mut()
            .for_each(|score| *score = if excluded(*score) { f32::NEG_INFINITY } else { *score });
    }
}
