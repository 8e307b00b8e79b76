//! How likely a token and the likeliest ones were: by the model itself, before anything was done to its distribution, or
//! by what the token was drawn from. What is told of them to whom is not decided here.

use moewe_engine::sampler::Sampler;

/// The odds that are told beside tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Telling {
    /// How many of the likeliest tokens.
    pub(crate) top: usize,
    pub(crate) by: By,
}

/// Whose odds they are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum By {
    /// The model's own.
    Model,
    /// Those of the draw: after penalties, temperature and all that excludes.
    Draw,
}

impl Telling {
    /// The model's own odds, of so many tokens.
    pub(crate) fn of_model(top: usize) -> Self {
        Self { top, by: By::Model }
    }

    /// Of a token that this sampler has chosen by these logits just now.
    pub(crate) fn odds(self, logits: &[f32], sampler: &Sampler, token: u32) -> TokenOdds {
        match self.by {
            By::Model => TokenOdds::new(logits, token, self.top),
            By::Draw if sampler.sampling().temperature == 0.0 => {
                TokenOdds::new(sampler.scores(), token, self.top).certain()
            }
            By::Draw => TokenOdds::new(sampler.scores(), token, self.top),
        }
    }
}

/// Natural logarithms of probabilities.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TokenOdds {
    pub(crate) token: u32,
    pub(crate) chosen: f32,
    /// The likeliest tokens, the first one first; of equal ones the lower ids.
    pub(crate) top: Vec<(u32, f32)>,
}

impl TokenOdds {
    /// The logarithm of softmax over `(vocabulary)`, for a token and the `top` likeliest. NaN counts as impossible.
    pub(crate) fn new(logits: &[f32], token: u32, top: usize) -> Self {
        let numbers = || logits.iter().copied().filter(|logit| !logit.is_nan());
        let largest = numbers().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = numbers().map(|logit| f64::from(logit - largest).exp()).sum();
        let of = |logit: f32| {
            if logit > f32::NEG_INFINITY {
                (f64::from(logit - largest) - sum.ln()) as f32
            } else {
                f32::NEG_INFINITY
            }
        };
        let mut best: Vec<(u32, f32)> = vec![];
        for (token, &logit) in (0..).zip(logits) {
            let worst = best.last().map_or(f32::NEG_INFINITY, |(_, logit)| *logit);
            if !logit.is_nan() && (best.len() < top || logit > worst) {
                best.insert(best.partition_point(|(_, other)| *other >= logit), (token, logit));
                best.truncate(top);
            }
        }
        let top = best.into_iter().map(|(token, logit)| (token, of(logit))).collect();
        Self { token, chosen: of(logits[token as usize]), top }
    }

    /// The same where the token was taken without a draw: nothing else could be.
    fn certain(mut self) -> Self {
        self.chosen = 0.0;
        let token = self.token;
        let odds = |other: u32| if other == token { 0.0 } else { f32::NEG_INFINITY };
        self.top.iter_mut().for_each(|entry| entry.1 = odds(entry.0));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use moewe_engine::sampler::Sampling;

    #[test]
    fn odds_of_a_draw() {
        let logits = [1f32, 3.0, 2.0, f32::NEG_INFINITY];
        let drawn = |temperature: f32| {
            let sampling = Sampling { temperature, top_k: 2, seed: Some(1), ..Sampling::default() };
            let mut sampler = Sampler::new(sampling, logits.len()).unwrap();
            let token = sampler.sample(&logits, &[]).unwrap();
            let telling = Telling { top: 3, by: By::Draw };
            (token, telling.odds(&logits, &sampler, token))
        };
        let (token, odds) = drawn(0.5);
        // Twice the distance, and the third is out.
        let sum = 1.0 + (-2f64).exp();
        assert!((f64::from(odds.top[0].1) - (1.0 / sum).ln()).abs() < 1e-6);
        assert!((f64::from(odds.top[1].1) - (-2.0 - sum.ln())).abs() < 1e-6);
        assert_eq!(odds.top[2], (0, f32::NEG_INFINITY));
        assert!(token == 1 || token == 2);
        let (token, odds) = drawn(0.0);
        assert_eq!((token, odds.chosen), (1, 0.0));
        assert_eq!(odds.top, [(1, 0.0), (2, f32::NEG_INFINITY), (0, f32::NEG_INFINITY)]);
    }

    #[test]
    fn odds_of_a_distribution() {
        let logits = [1f32, 3.0, f32::NAN, 2.0, 3.0, f32::NEG_INFINITY];
        let sum = [1f64, 3.0, 2.0, 3.0].map(f64::exp).iter().sum::<f64>().ln();
        let odds = TokenOdds::new(&logits, 3, 3);
        assert!((f64::from(odds.chosen) - (2.0 - sum)).abs() < 1e-6);
        assert_eq!(odds.top.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [1, 4, 3]);
        assert_eq!(odds.top[2].1, odds.chosen, "one expression for both");
        assert!(TokenOdds::new(&logits, 0, 0).top.is_empty());
        assert_eq!(TokenOdds::new(&logits, 2, 1).chosen, f32::NEG_INFINITY);
        assert_eq!(TokenOdds::new(&logits, 5, 9).top.len(), 5);
    }
}
