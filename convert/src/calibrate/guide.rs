//! What a conversion knows of the model at work, and what of it helps to choose a format and to round a tensor.

use super::calibration::{Calibration, Told};
use super::inputs::Inputs;
use crate::recipe::Question;
use crate::report::Fallback;
use crate::tensor::Subject;
use moewe_engine::Result;
use moewe_engine::eval::Importance;
use moewe_engine::quant::{Factor, Format};
use std::collections::HashMap;
use std::sync::Arc;

/// Divergence per relative error, by tensor.
pub(crate) type Sensitivities = HashMap<String, f64>;

/// What a conversion knows of the model at work: nothing, importance, or all that a text tells.
#[derive(Default)]
pub(crate) struct Guide {
    importance: Option<Arc<Importance>>,
    pub(crate) calibration: Option<Calibration>,
    pub(crate) sensitivities: Sensitivities,
}

/// What it knows of one tensor's.
#[derive(Default)]
pub(crate) struct Guidance {
    /// Mean squares of the inputs, `(experts, padded columns)`.
    pub(crate) importance: Option<Vec<f32>>,
    /// How to make up for errors, by expert; `None` for one that saw too little.
    pub(crate) factors: Vec<Option<Arc<Vec<Factor>>>>,
    /// Experts that saw too little.
    pub(crate) fallbacks: Vec<Fallback>,
}

impl Guide {
    /// What is known without a text to read.
    pub(crate) fn with(importance: Option<Arc<Importance>>) -> Self {
        Self { importance, ..Self::default() }
    }

    /// What a recipe asks about a tensor.
    pub(crate) fn question<'a>(&self, subject: &'a Subject, head: &str) -> Question<'a> {
        Question {
            name: &subject.name,
            shape: &subject.shape,
            stored: subject.stored,
            kept: subject.stored.or(subject.float),
            is_original: subject.is_original,
            is_head: subject.name == head,
            matters: self.sensitivities.get(&subject.name).copied(),
        }
    }

    /// Whether it knows how much inputs matter.
    pub(crate) fn has_importance(&self) -> bool {
        self.importance.is_some()
    }

    /// Mean squares of a tensor's inputs, `(experts, padded columns)`.
    pub(crate) fn importance(&self, inputs: &Inputs) -> Option<Vec<f32>> {
        let Inputs { experts, columns, padded_columns, .. } = *inputs;
        let known = self.importance.as_ref()?.of(inputs.observed(), experts, columns)?;
        let zeros = vec![0.0; padded_columns - columns];
        Some(known.chunks_exact(columns).flat_map(|row| row.iter().chain(&zeros)).copied().collect())
    }

    /// Everything for a tensor that is to be written in `format`.
    pub(crate) fn guidance(
        &mut self,
        inputs: &Inputs,
        format: &Format,
        heard: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<Guidance> {
        let importance = self.importance(inputs);
        let told = match &mut self.calibration {
            Some(calibration) if format.compensates() => calibration.of(inputs, heard)?,
            _ => Told::default(),
        };
        Ok(Guidance { importance, factors: told.factors, fallbacks: told.fallbacks })
    }
}
