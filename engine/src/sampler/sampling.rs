//! The settings of the chain: defaults, what a file recommends, and their limits.

use crate::gguf::{Metadata, Value};
use crate::{Error, Result};

/// How tokens are chosen. The neutral value of each setting switches its step off.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the scores; 0 takes the best token always, 1 is neutral.
    pub temperature: f32,
    /// Keeps the best so many; 0 is neutral.
    pub top_k: u32,
    /// Keeps the best tokens that together have this probability; 1 is neutral.
    pub top_p: f32,
    /// Keeps tokens with at least this part of the best one's probability; 0 is neutral.
    pub min_p: f32,
    /// Keeps the tokens nearest to the expected surprise that together have this probability; 1 is neutral.
    pub typical_p: f32,
    /// Divides positive and multiplies negative scores of tokens in the history; 1 is neutral.
    pub repetition_penalty: f32,
    /// Is subtracted once from tokens that the answer contains; 0 is neutral.
    pub presence_penalty: f32,
    /// Is subtracted for each time that the answer contains a token; 0 is neutral.
    pub frequency_penalty: f32,
    /// How many of the latest tokens the three penalties look at; `None` = all.
    pub repeat_window: Option<usize>,
    /// Is added to the scores of single tokens; -infinity forbids one.
    pub logit_bias: Vec<(u32, f32)>,
    /// Makes choices repeatable; `None` takes the clock.
    pub seed: Option<u64>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.8, top_p: 0.95, min_p: 0.05, ..Self::neutral() }
    }
}

impl Sampling {
    /// Draws from the model's own distribution.
    pub fn neutral() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repeat_window: None,
            logit_bias: Vec::new(),
            seed: None,
        }
    }

    /// Always the best token.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::neutral() }
    }

    /// What the file recommends under `general.sampling.*` (llama.cpp's keys), the defaults where it is silent.
    ///
    /// Recommendations that make no sense are left out with a warning: a person can still run the model.
    pub fn from_metadata(metadata: &Metadata) -> Self {
        let mut sampling = Self::default();
        for (name, set) in RECOMMENDATIONS {
            let key = format!("general.sampling.{name}");
            let Some(value) = metadata.get(&key) else { continue };
            let mut changed = sampling.clone();
            match number(value).map(|number| set(&mut changed, number)).filter(|()| changed.check().is_ok()) {
                Some(()) => sampling = changed,
                None => tracing::warn!(
                    "the file recommends {key} = {value}, which makes no sense; it is not used"
                ),
            }
        }
        sampling
    }

    /// Whether all settings are in range.
    ///
    /// # Errors
    /// Names the first one that is not, and its range.
    pub fn check(&self) -> Result<()> {
        let finite = |value: f32| value.is_finite();
        let checks = [
            (
                "temperature",
                self.temperature,
                finite(self.temperature) && self.temperature >= 0.0,
                "0 or more",
            ),
            ("top-p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0 and at most 1"),
            ("min-p", self.min_p, (0.0..=1.0).contains(&self.min_p), "from 0 to 1"),
            (
                "typical-p",
                self.typical_p,
                self.typical_p > 0.0 && self.typical_p <= 1.0,
                "above 0 and at most 1",
            ),
            (
                "repetition penalty",
                self.repetition_penalty,
                finite(self.repetition_penalty) && self.repetition_penalty > 0.0,
                "above 0",
            ),
            ("presence penalty", self.presence_penalty, finite(self.presence_penalty), "a number"),
            ("frequency penalty", self.frequency_penalty, finite(self.frequency_penalty), "a number"),
        ];
        if let Some((name, value, _, range)) = checks.iter().find(|check| !check.2) {
            return Err(Error::request(format!("{name} is {value}; it must be {range}")));
        }
        match self.logit_bias.iter().find(|(_, bias)| bias.is_nan() || *bias == f32::INFINITY) {
            Some((token, bias)) => {
                Err(Error::request(format!("the bias of token {token} is {bias}; it must be a number")))
            }
            None => Ok(()),
        }
    }
}

/// A key under `general.sampling.` and what it sets.
type Recommendation = (&'static str, fn(&mut Sampling, f64));

const RECOMMENDATIONS: &[Recommendation] = &[
    ("temp", |sampling, value| sampling.temperature = value as f32),
    ("top_k", |sampling, value| sampling.top_k = value.max(0.0) as u32),
    ("top_p", |sampling, value| sampling.top_p = value as f32),
    ("min_p", |sampling, value| sampling.min_p = value as f32),
    ("penalty_repeat", |sampling, value| sampling.repetition_penalty = value as f32),
    ("penalty_last_n", |sampling, value| sampling.repeat_window = (value >= 0.0).then_some(value as usize)),
];

fn number(value: &Value) -> Option<f64> {
    value.as_f32().map(f64::from).or_else(|| value.as_i64().map(|integer| integer as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_recommend() {
        let metadata: Metadata = [
            ("general.sampling.temp", Value::F32(0.6)),
            ("general.sampling.top_k", Value::I32(20)),
            ("general.sampling.top_p", Value::F32(f32::NAN)),
            ("general.sampling.min_p", Value::from("much")),
            ("general.sampling.penalty_last_n", Value::I32(64)),
        ]
        .into_iter()
        .collect();
        let expected =
            Sampling { temperature: 0.6, top_k: 20, repeat_window: Some(64), ..Sampling::default() };
        assert_eq!(Sampling::from_metadata(&metadata), expected);
        assert_eq!(Sampling::from_metadata(&Metadata::new()), Sampling::default());
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let good = Sampling::default;
        let cases = [
            (Sampling { temperature: -0.1, ..good() }, "temperature is -0.1; it must be 0 or more"),
            (Sampling { temperature: f32::NAN, ..good() }, "temperature"),
            (Sampling { top_p: 0.0, ..good() }, "top-p"),
            (Sampling { min_p: 1.5, ..good() }, "min-p"),
            (Sampling { typical_p: f32::NAN, ..good() }, "typical-p"),
            (Sampling { repetition_penalty: 0.0, ..good() }, "repetition penalty"),
            (Sampling { presence_penalty: f32::INFINITY, ..good() }, "presence penalty"),
            (Sampling { logit_bias: vec![(3, f32::NAN)], ..good() }, "bias of token 3"),
        ];
        for (sampling, expected) in cases {
            let message = sampling.check().unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        assert!(good().check().is_ok() && Sampling::greedy().check().is_ok());
    }
}
