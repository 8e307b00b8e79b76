//! The forward: what every model computes, step by step, over any backend.
//!
//! Prefill, decode, several conversations and the checking of drafts are all shapes of [`forward`]. It names no
//! architecture and no kind of layer, and touches no float: those are the rooms' and the backend's.

use super::Model;
use super::backend::Backend;
use super::kinds::{Half, Pass};
use super::matrix::NormWeights;
use super::observe::Observe;
use super::step::Row;
use super::streams::Mixing;
use super::weights::{Layer, Sublayer, Weights};
use super::workspace::Workspace;
use crate::error::Result;

/// Computes one batch: fills the sequences' states at the rows' positions and the logits of the rows that want them.
///
/// Rows of one sequence stand together with rising positions, each state already long enough.
///
/// # Errors
/// When an expert cannot be read, or a device fails.
pub fn forward<B: Backend, O: Observe>(
    backend: &B,
    model: &Model,
    ws: &mut Workspace<B>,
    states: &mut [B::State],
    rows: &[Row],
    observe: &mut O,
) -> Result<()> {
    let (config, weights) = (&model.config, &model.weights);
    let _exclusive = backend.begin::<O>(rows, states)?;
    let mut pass = Pass {
        backend,
        rows,
        ropes: &config.ropes,
        experts: &weights.experts,
        drop_tokens: ws.drop_tokens,
        states,
        observe,
    };
    embed(&pass, model, ws);
    for (i, layer) in weights.layers.iter().enumerate() {
        if O::ACTIVE {
            pass.observe.hidden(i, &backend.host(&ws.x), config.residual_length());
        }
        let next = weights.layers.get(i + 1).and_then(Layer::choosing);
        if let Some(Sublayer { norm, kind, post_norm, mixing }) = &layer.mixer {
            let has_several = enter(&mut pass, weights, (norm, mixing.as_ref()), ws);
            let Workspace { x, normed, added, mixer, angles, streams, .. } = &mut *ws;
            let x = if has_several { &streams.input } else { &*x };
            let mut half = Half { layer: i, next, angles, x, normed, added };
            kind.step(&mut pass, &mut half, mixer)?;
            add(&pass, model, post_norm.as_ref(), ws);
        }
        if let Some(Sublayer { norm, kind, post_norm, mixing }) = &layer.ffn {
            let has_several = enter(&mut pass, weights, (norm, mixing.as_ref()), ws);
            let Workspace { x, normed, added, ffn, angles, streams, .. } = &mut *ws;
            let x = if has_several { &streams.input } else { &*x };
            let mut half = Half { layer: i, next, angles, x, normed, added };
            kind.step(&mut pass, &mut half, ffn)?;
            add(&pass, model, post_norm.as_ref(), ws);
        }
        if let Some(scale) = layer.output_scale {
            backend.scale(&mut ws.x, scale);
        }
    }
    if O::ACTIVE {
        pass.observe.hidden(weights.layers.len(), &backend.host(&ws.x), config.residual_length());
    }
    head(&mut pass, model, ws);
    backend.find_best(rows, &ws.logits, &mut ws.best);
    backend.finish(&mut ws.logits, &mut ws.best)
}

fn embed<B: Backend, O: Observe>(pass: &Pass<'_, B, O>, model: &Model, ws: &mut Workspace<B>) {
    let (config, weights) = (&model.config, &model.weights);
    pass.backend.embed(&weights.token_embedding, pass.rows, config.embedding_scale, &mut ws.x);
    if let Some(positions) = &weights.position_embedding {
        pass.backend.add_positions(positions, pass.rows, &mut ws.x);
    }
    if let Some(streams) = config.streams {
        ws.streams.begin(pass, (streams, config.embedding_length), &mut ws.x);
    }
    for (rope, angles) in config.ropes.iter().zip(&mut ws.angles) {
        pass.backend.angles(rope, pass.rows, angles);
    }
}

/// A half's input, out of the residual stream or of several; tells whether there are several.
fn enter<B: Backend, O: Observe>(
    pass: &mut Pass<'_, B, O>,
    weights: &Weights,
    (norm, mixing): (&NormWeights, Option<&Mixing>),
    ws: &mut Workspace<B>,
) -> bool {
    let Some((ends, mixing)) = weights.ends.as_ref().zip(mixing) else {
        pass.backend.norm(norm, &ws.x, &mut ws.normed);
        return false;
    };
    ws.streams.open(pass, (ends, mixing), &ws.x);
    pass.backend.norm(norm, &ws.streams.input, &mut ws.normed);
    true
}

/// Adds a half's output to the residual stream, or to each of several.
fn add<B: Backend, O: Observe>(
    pass: &Pass<'_, B, O>,
    model: &Model,
    post_norm: Option<&NormWeights>,
    ws: &mut Workspace<B>,
) {
    if let Some(norm) = post_norm {
        pass.backend.norm(norm, &ws.added, &mut ws.normed);
        std::mem::swap(&mut ws.added, &mut ws.normed);
    }
    match model.config.streams {
        None => pass.backend.add(&mut ws.x, &ws.added, model.config.residual_scale),
        Some(streams) => ws.streams.close(pass, streams, &ws.added, &mut ws.x),
    }
}

fn head<B: Backend, O: Observe>(pass: &mut Pass<'_, B, O>, model: &Model, ws: &mut Workspace<B>) {
    let (config, weights) = (&model.config, &model.weights);
    match &weights.ends {
        None => pass.backend.select(pass.rows, &ws.x, &mut ws.added),
        Some(ends) => ws.streams.end(pass, ends, &ws.x, &mut ws.added),
    }
    pass.backend.norm(&weights.output_norm, &ws.added, &mut ws.normed);
    pass.linear(&weights.output, &mut ws.normed, &mut ws.logits, 0);
    if config.logit_scale != 1.0 {
        pass.backend.scale(&mut ws.logits, config.logit_scale);
    }
    if let Some(cap) = config.logit_cap {
        pass.backend.cap(&mut ws.logits, cap);
    }
}
