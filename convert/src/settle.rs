//! Settles what the file will be before a byte is written: hidden widths first, then formats.
//!
//! A hidden width is widened (`pad.rs`) where that pays. Within a budget of bits (which counts the source's weights,
//! so zeros are not free) it must leave less noise than substituted formats do, by a fiftieth at least, for zeros cost
//! time in every token. With one format for all it must make the file smaller. The named mixes do to the letter what
//! `llama-quantize` does, so they are padded only when that is asked for.

use crate::calibrate::Guide;
use crate::pad::{Padded, Padding, Width, padded, widths};
use crate::recipe::{Choice, Facts, Question, noise};
use crate::stream::Rows;
use crate::{Options, Recipe};
use moewe_engine::gguf::Metadata;
use moewe_engine::quant::Format;
use moewe_engine::{Error, Result};
use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

/// Weights of a tensor on which formats are compared.
const SAMPLE: u64 = 16 << 10;
/// Padding must be better by so much.
const GAIN: f64 = 0.98;
/// The key that holds how many weights the model has without padding.
pub(crate) const WEIGHTS: &str = "moewe.weights_without_padding";

/// When hidden widths are padded with zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pad {
    /// Where it pays.
    #[default]
    Auto,
    /// To a multiple of 256 wherever it is exact.
    Always,
    /// Not at all.
    Never,
}

/// What the file will be.
pub(crate) struct Settled<'r, R> {
    pub(crate) tensors: Vec<Padded<'r, R>>,
    pub(crate) choices: Vec<Choice>,
    pub(crate) paddings: Vec<Padding>,
    /// Weights of the model, zeros of padding not counted.
    pub(crate) weights: u64,
    /// The tensor that makes the logits.
    pub(crate) head: &'static str,
}

/// Chooses widths and formats.
pub(crate) fn settle<'r, R: Rows>(
    metadata: &Metadata,
    tensors: &'r [R],
    options: &Options,
    guide: &Guide,
) -> Result<Settled<'r, R>> {
    let head = head_of(tensors);
    let settler = Settler {
        options,
        guide,
        head,
        facts: Facts::of(metadata, guide.has_importance()),
        tensors,
        weights: weights_without_padding(metadata, count(tensors)),
        errors: Mutex::default(),
    };
    let is_mix = matches!(options.recipe, Recipe::Mix(_));
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

fn count<R: Rows>(tensors: &[R]) -> u64 {
    tensors.iter().map(Rows::weights).sum()
}

struct Settler<'a, 'r, R> {
    options: &'a Options,
    guide: &'a Guide,
    head: &'static str,
    facts: Facts,
    tensors: &'r [R],
    weights: u64,
    errors: Mutex<HashMap<(usize, u64, &'static str), f64>>, // of a tensor with rows so long, in a format
}

/// One way to write the file.
struct Attempt<'w, 'r, R> {
    widened: Vec<(&'w Width, u64)>,
    tensors: Vec<Padded<'r, R>>,
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

impl<'r, R: Rows> Settler<'_, 'r, R> {
    fn attempt<'w>(&self, widened: Vec<(&'w Width, u64)>) -> Result<Attempt<'w, 'r, R>> {
        let tensors = padded(self.tensors, &widened);
        let questions: Vec<Question> =
            tensors.iter().map(|tensor| question(tensor, self.head, self.guide)).collect();
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
        if self.is_stopped() {
            return Err(Error::Stopped);
        }
        Ok(Attempt { widened, tensors, choices, cost })
    }

    fn is_stopped(&self) -> bool {
        self.options.stop.load(Ordering::Relaxed)
    }

    /// The relative error of a format on a tensor, measured once; anything once the conversion is to stop.
    fn error(&self, tensors: &[Padded<R>], i: usize, format: &'static Format) -> f64 {
        let key = (i, tensors[i].columns(), format.name);
        if let Some(error) = self.errors.lock().ok().and_then(|errors| errors.get(&key).copied()) {
            return error;
        }
        let is_kept = tensors[i].is_original() && tensors[i].stored() == Some(format);
        if self.is_stopped() || is_kept {
            return 0.0;
        }
        let importance = self.guide.importance(&tensors[i].subject(self.head));
        let error = relative_error(&tensors[i], format, importance.as_deref());
        if let Ok(mut errors) = self.errors.lock() {
            errors.insert(key, error);
        }
        error
    }
}

/// The tensor that makes the logits.
pub(crate) fn head_of<R: Rows>(tensors: &[R]) -> &'static str {
    let untied = tensors.iter().any(|tensor| tensor.name() == "output.weight");
    if untied { "output.weight" } else { "token_embd.weight" }
}

/// What a recipe asks about a tensor.
pub(crate) fn question<'a, R: Rows>(tensor: &'a R, head: &str, guide: &Guide) -> Question<'a> {
    Question {
        name: tensor.name(),
        shape: tensor.shape(),
        stored: tensor.stored(),
        is_original: tensor.is_original(),
        is_head: tensor.name() == head,
        matters: guide.matters(tensor.name()),
    }
}

/// The mean square of what `format` changes in some rows of `tensor`, over that of their weights, each column weighed by
/// the `importance` `(experts, columns)` of its inputs.
pub(crate) fn relative_error<R: Rows>(
    tensor: &R,
    format: &'static Format,
    importance: Option<&[f32]>,
) -> f64 {
    let (columns, rows) = (tensor.columns(), tensor.rows());
    let sampled = (SAMPLE / columns).clamp(1, rows.max(1));
    let (Some(quantize), Some(row_bytes)) = (format.quantize, format.bytes_for(columns)) else { return 0.0 };
    let (mut weights, mut back) = (vec![0f32; columns as usize], vec![0f32; columns as usize]);
    let mut bytes = vec![0u8; row_bytes as usize];
    let (mut difference, mut total) = (0f64, 0f64);
    for i in 0..sampled {
        let row = i * rows / sampled;
        tensor.read(row..row + 1, &mut weights);
        let start = (row / tensor.rows_per_expert() * columns) as usize;
        let own = importance.map(|all| &all[start..start + columns as usize]);
        quantize(&weights, own, &mut bytes);
        (format.dequantize)(&bytes, &mut back);
        let pairs = weights.iter().zip(&back).enumerate().filter(|(_, (weight, _))| weight.is_finite());
        for (k, (&weight, &back)) in pairs {
            let matters = own.map_or(1.0, |own| f64::from(own[k]));
            difference += matters * f64::from(weight - back).powi(2);
            total += matters * f64::from(weight).powi(2);
        }
    }
    if total > 0.0 { difference / total } else { 0.0 }
}
