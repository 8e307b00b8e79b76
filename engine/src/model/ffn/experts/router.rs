//! What chooses and weighs experts, and how their input comes out of a half of a layer and their sum into it.

use super::super::super::backend::Backend;
use super::super::super::binder::LayerBinder;
use super::super::super::kinds::{Half, Pass};
use super::super::super::matrix::{Linear, NormWeights};
use super::super::super::moe::{ChosenBy, Inner, Router, Shape, Table};
use super::super::super::observe::Observe;
use crate::error::{Error, Result};

impl Router {
    pub(super) fn bind(shape: &Shape, layer: &LayerBinder<'_>) -> Result<Self> {
        let (experts, width) = (shape.expert_count, layer.width());
        let norm = || {
            let scale = layer.vector("ffn_gate_inp.scale", &[width])?;
            Ok(layer.norm_with(scale.iter().map(|scale| scale / (width as f32).sqrt()).collect()))
        };
        Ok(Self {
            norm: (shape.inner == Inner::Normed).then(norm).transpose()?,
            linear: layer.linear("ffn_gate_inp", experts, width)?,
            choice_bias: layer.optional_vector("exp_probs_b.bias", experts)?,
            expert_scale: layer.optional_vector("ffn_down_exps.scale", experts)?,
            table: match shape.chosen_by {
                ChosenBy::Scores => None,
                ChosenBy::Token { vocab_size } => Some(Table::bind(shape, vocab_size, layer)?),
            },
        })
    }

    /// Scores of the batch's rows.
    pub(super) fn logits<B: Backend, O: Observe>(
        &self,
        pass: &mut Pass<'_, B, O>,
        half: &mut Half<'_, B::Buffer>,
        input: &mut B::Buffer,
        logits: &mut B::Buffer,
    ) {
        pass.resize(logits, self.linear.matrix.rows);
        let input = match &self.norm {
            None => &mut *half.normed,
            Some(norm) => {
                pass.backend.norm(norm, half.x, input);
                input
            }
        };
        pass.linear(&self.linear, input, logits, 0);
    }
}

impl Table {
    fn bind(shape: &Shape, vocab_size: usize, layer: &LayerBinder<'_>) -> Result<Self> {
        let (name, width) = ("ffn_gate_tid2eid.weight", shape.expert_used_count);
        let numbers = layer.vector(name, &[width, vocab_size])?;
        let index = |&number: &f32| {
            let is_one = number >= 0.0 && number < shape.expert_count as f32 && number.fract() == 0.0;
            let expected = || format!("numbers of experts, below {}", shape.expert_count);
            let place = || format!("tensor `{}`", layer.name(name));
            is_one.then_some(number as u32).ok_or_else(|| Error::malformed(place(), expected(), number))
        };
        Ok(Self { width, experts: numbers.iter().map(index).collect::<Result<_>>()? })
    }
}

/// How the routed experts' input comes out of the half, and their sum into it.
pub(super) enum Ways {
    Same,
    Normed { input: NormWeights, sum: NormWeights, shared: NormWeights },
    Latent { down: Linear, up: Linear },
}

impl Ways {
    pub(super) fn bind(shape: &Shape, layer: &LayerBinder<'_>) -> Result<Self> {
        let width = layer.width();
        Ok(match shape.inner {
            Inner::Same => Self::Same,
            Inner::Normed => Self::Normed {
                input: layer.norm("pre_ffw_norm_2", width)?,
                sum: layer.norm("post_ffw_norm_2", width)?,
                shared: layer.norm("post_ffw_norm_1", width)?,
            },
            Inner::Latent(latent) => Self::Latent {
                down: layer.linear("ffn_latent_down", latent, width)?,
                up: layer.linear("ffn_latent_up", width, latent)?,
            },
        })
    }
}
