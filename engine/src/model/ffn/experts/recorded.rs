//! Choices out of a recording in the place of a router's: what a benchmark of the expert store needs, as files of random
//! weights route too evenly.
//!
//! They are laid out as scores by which the layer's own way of choosing finds them, so nothing behind the router differs.

use super::super::super::backend::Backend;
use super::super::super::kinds::Pass;
use super::super::super::matrix::Matrix;
use super::super::super::moe::{Router, Shape};
use super::super::super::observe::Observe;
use super::super::super::step::Row;
use crate::error::{Error, Result};
use crate::experts::Trace;
use crate::quant::Format;
use std::sync::OnceLock;

/// The score of the strongest choice, and by how much the next ones are below it. What was not chosen has 0.
const STRONGEST: f32 = 4.0;
const STEP: f32 = 1.0 / 64.0;

/// A layer's recorded choices.
pub(super) struct Recorded {
    scores: Matrix, // (tokens, expert_count)
}

impl Recorded {
    pub(super) fn new(shape: &Shape, router: &Router, trace: &Trace, place: usize) -> Result<Self> {
        let (experts, used) = (shape.expert_count, shape.expert_used_count);
        let traced = &trace.layers[place];
        if shape.groups.is_some() || router.choice_bias.is_some() {
            let reason =
                "this model's routers choose in groups or with a bias, which a recording cannot stand in for";
            return Err(Error::request(reason));
        }
        let mut scores = vec![0f32; trace.tokens.len() * experts];
        for (token, scores) in trace.tokens.iter().zip(scores.chunks_exact_mut(experts)) {
            let chosen = &token[place];
            if traced.expert_count != experts || chosen.len() < used {
                return Err(Error::request(format!(
                    "the recording has {} of {} experts in layer {}, the model {used} of {experts}",
                    chosen.len(),
                    traced.expert_count,
                    traced.layer
                )));
            }
            for (number, &expert) in chosen.iter().take(used).enumerate() {
                scores[expert as usize] = STRONGEST - STEP * number as f32;
            }
        }
        let bytes: Vec<u8> = scores.iter().flat_map(|score| score.to_le_bytes()).collect();
        let format = Format::by_name("f32").expect("f32 is in the table");
        let (packed, home) = (OnceLock::new(), OnceLock::new());
        let rows = trace.tokens.len();
        Ok(Self { scores: Matrix { format, rows, cols: experts, bytes: bytes.into(), packed, home } })
    }

    /// Puts the recorded scores of the rows' positions into `logits`.
    pub(super) fn overwrite<B: Backend, O: Observe>(&self, pass: &Pass<'_, B, O>, logits: &mut B::Buffer) {
        let at = |row: &Row| Row { token: (row.position % self.scores.rows) as u32, ..*row };
        let rows: Vec<Row> = pass.rows.iter().map(at).collect();
        pass.backend.embed(&self.scores, &rows, 1.0, logits);
    }
}
