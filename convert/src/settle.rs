//! Settles what the file will be before a byte is written: hidden widths first, then formats.
//!
//! A hidden width is widened (`pad.rs`) where that pays. Within a budget of bits (which counts the source's weights,
//! so zeros are not free) it must leave less noise than substituted formats do, by a fiftieth at least, for zeros cost
//! time in every token. With one format for all it must make the file smaller. The named mixes do to the letter what
//! `llama-quantize` does, so they are padded only when that is asked for.

use crate::calibrate::{Guide, Inputs};
use crate::options::{Options, Pad};
use crate::pad::{Width, padded, widths};
use crate::recipe::{Choice, Facts, Question, Recipe, noise};
use crate::report::Padding;
use crate::sample::relative_error;
use crate::source::Source;
use crate::tensor::{Tensor, head_of};
use moewe_engine::gguf::Metadata;
use moewe_engine::quant::Format;
use moewe_engine::{Error, Result};
use std::collections::HashMap;
use std::sync::Mutex;

/// Padding must be better by so much.
const GAIN: f64 = 0.98;
/// The key that holds how many weights the model has without padding.
pub(crate) const WEIGHTS: &str = "moewe.weights_without_padding";

/// What the file will be.
pub(crate) struct Settled<'s> {
    pub(crate) tensors: Vec<Tensor<'s>>,
    pub(crate) choices: Vec<Choice>,
    pub(crate) paddings: Vec<Padding>,
    /// Weights of the model, zeros of padding not counted.
    pub(crate) weights: u64,
    /// The tensor that makes the logits.
    pub(crate) head: &'static str,
}

/// Chooses widths and formats.
pub(crate) fn settle<'s>(source: &'s dyn Source, options: &Options, guide: &Guide) -> Result<Settled<'s>> {
    let (metadata, tensors) = (source.metadata(), source.tensors());
    let head = head_of(tensors);
    let settler = Settler {
        options,
        guide,
        head,
        facts: Facts::of(metadata, guide.has_importance()),
        tensors,
        weights: weights_without_padding(metadata, count(tensors)),
        errors: Mutex::default(),
        failure: Mutex::default(),
    };
    let is_mix = matches!(options.recipe, Recipe::Mix(_) | Recipe::Keep);
    let widths = match options.pad {
        Pad::Never => vec![],
        Pad::Auto if is_mix => vec![],
        Pad::Auto | Pad::Always => widths(metadata, tensors),
    };
    let mut best = settler.attempt(vec![])?;
    for width in &widths {
        let before = best.widened.clone();
        for to in width.candidates() {
            let attempt = settler.attempt([&before[..], &[(width, to)]].concat())?;
            if options.pad == Pad::Always || attempt.cost.is_below(best.cost) {
                best = attempt;
            }
        }
    }
    let paddings = best.widened.iter().map(|(width, to)| width.padding(*to)).collect();
    Ok(Settled { tensors: best.tensors, choices: best.choices, paddings, weights: settler.weights, head })
}

/// Weights of a model with `all` in its file: one that was padded says how many are no zeros.
pub fn weights_without_padding(metadata: &Metadata, all: u64) -> u64 {
    metadata.u64(WEIGHTS).ok().flatten().filter(|&weights| weights > 0).unwrap_or(all).min(all)
}

fn count(tensors: &[Tensor]) -> u64 {
    tensors.iter().map(|tensor| tensor.subject.weights()).sum()
}

struct Settler<'a, 's> {
    options: &'a Options,
    guide: &'a Guide,
    head: &'static str,
    facts: Facts,
    tensors: &'s [Tensor<'s>],
    weights: u64,
    errors: Mutex<HashMap<(usize, u64, &'static str), f64>>, // of a tensor with rows so long, in a format
    failure: Mutex<Option<Error>>,                           // of reading, since measuring has no way to tell
}

/// One way to write the file.
struct Attempt<'w, 's> {
    widened: Vec<(&'w Width, u64)>,
    tensors: Vec<Tensor<'s>>,
    choices: Vec<Choice>,
    cost: Cost,
}

/// What a way to write the file costs.
#[derive(Clone, Copy)]
struct Cost {
    bits: f64,  // beyond what is free
    noise: f64, // of all tensors, by their roles
}

impl Cost {
    fn is_below(self, other: Self) -> bool {
        self.bits < other.bits || (self.bits == other.bits && self.noise < GAIN * other.noise)
    }
}

impl<'s> Settler<'_, 's> {
    fn attempt<'w>(&self, widened: Vec<(&'w Width, u64)>) -> Result<Attempt<'w, 's>> {
        let tensors = padded(self.tensors, &widened);
        let questions: Vec<Question> =
            tensors.iter().map(|tensor| self.guide.question(&tensor.subject, self.head)).collect();
        let measure = |i: usize, format: &'static Format| self.error(&tensors, i, format);
        let share = self.weights as f64 / count(&tensors).max(1) as f64;
        let recipe = match self.options.recipe {
            Recipe::Bits(bits) => Recipe::Bits(bits * share),
            other => other,
        };
        let choices = recipe.choose(&questions, &self.facts, &self.options.overrides, &measure)?;
        let bits = |(question, choice): (&Question, &Choice)| {
            question.weights() as f64 * choice.format.bits_per_weight()
        };
        let bits: f64 = questions.iter().zip(&choices).map(bits).sum();
        let cost = match self.options.recipe {
            Recipe::Bits(budget) => Cost {
                bits: (bits - budget * self.weights as f64).max(0.0),
                noise: noise(&questions, &choices, &measure),
            },
            _ => Cost { bits, noise: 0.0 },
        };
        drop(questions);
        if self.options.is_stopped() {
            return Err(Error::Stopped);
        }
        if let Some(failure) = self.failure.lock().ok().and_then(|mut failure| failure.take()) {
            return Err(failure);
        }
        Ok(Attempt { widened, tensors, choices, cost })
    }

    /// The relative error of a format on a tensor, measured once; anything once the conversion is to stop.
    fn error(&self, tensors: &[Tensor], i: usize, format: &'static Format) -> f64 {
        let subject = &tensors[i].subject;
        let key = (i, subject.columns(), format.name);
        if let Some(error) = self.errors.lock().ok().and_then(|errors| errors.get(&key).copied()) {
            return error;
        }
        if self.options.is_stopped() || subject.is_original && subject.is_in(format) {
            return 0.0;
        }
        let importance = self.guide.importance(&Inputs::of(subject, self.head));
        let error = match relative_error(&tensors[i], format, importance.as_deref()) {
            Ok(error) => error,
            Err(failure) => {
                if let Ok(mut place) = self.failure.lock() {
                    place.get_or_insert(failure);
                }
                return 0.0;
            }
        };
        if let Ok(mut errors) = self.errors.lock() {
            errors.insert(key, error);
        }
        error
    }
}
