//! What the model itself thinks of a token and of the likeliest ones, before anything was done to its distribution.

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
}

#[cfg(test)]
mod tests {
    use super::*;

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
