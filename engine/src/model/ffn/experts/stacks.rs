//! Where the experts' matrices are in a file: 3-D tensors, joined ones, or one tensor for each.

use super::super::super::binder::LayerBinder;
use super::super::super::matrix::Matrix;
use super::Shape;
use crate::error::{Error, Result};
use crate::experts::{ExpertLayer, Stack};

/// The experts' matrices, for the store.
pub(in crate::model) fn bind_stacks(shape: &Shape, layer: &LayerBinder<'_>) -> Result<ExpertLayer> {
    let (length, width) = (shape.length, shape.width(layer.width()));
    let (gate, up) = match joined_gate_up(shape, layer)? {
        Some((gate, up)) => (Some(gate), up),
        None => (optional_stack("gate", shape, length, layer)?, stack("up", shape, (length, width), layer)?),
    };
    Ok(ExpertLayer { gate, up, down: stack("down", shape, (width, length), layer)? })
}

/// `ffn_gate_up_exps` holds each expert's gate rows, then its up rows.
fn joined_gate_up(shape: &Shape, layer: &LayerBinder<'_>) -> Result<Option<(Stack, Stack)>> {
    const NAME: &str = "ffn_gate_up_exps.weight";
    if !layer.has(NAME) {
        return Ok(None);
    }
    let (rows, cols) = (shape.length, shape.width(layer.width()));
    let joined = layer.slices(NAME, shape.expert_count, 2 * rows, cols)?;
    let half = |second: usize| {
        let part = |matrix: &Matrix| {
            let len = matrix.bytes.len() / 2;
            matrix.bytes.slice(second * len..(second + 1) * len)
        };
        let experts = joined.iter().map(part).collect();
        let name = ["ffn_gate_exps", "ffn_up_exps"][second];
        let low_ranks = layer.low_ranks(name, shape.expert_count, rows, cols)?;
        Ok::<_, Error>(Stack { format: joined[0].format, rows, cols, experts, bias: None, low_ranks })
    };
    Ok(Some((half(0)?, half(1)?)))
}

fn optional_stack(part: &str, shape: &Shape, rows: usize, layer: &LayerBinder<'_>) -> Result<Option<Stack>> {
    let present = layer.has(&format!("ffn_{part}_exps.weight")) || layer.has(&format!("ffn_{part}.0.weight"));
    present.then(|| stack(part, shape, (rows, shape.width(layer.width())), layer)).transpose()
}

/// One stack from a 3-D tensor, or from one tensor per expert as files before April 2024 have them.
fn stack(part: &str, shape: &Shape, (rows, cols): (usize, usize), layer: &LayerBinder<'_>) -> Result<Stack> {
    let (joined, count) = (format!("ffn_{part}_exps"), shape.expert_count);
    let slices = if layer.has(&format!("ffn_{part}.0.weight")) {
        let single = |e: usize| layer.matrix(&format!("ffn_{part}.{e}.weight"), rows, cols);
        (0..count).map(single).collect::<Result<Vec<_>>>()?
    } else {
        layer.slices(&format!("{joined}.weight"), count, rows, cols)?
    };
    let format = slices[0].format;
    if let Some(other) = slices.iter().find(|slice| slice.format != format) {
        let place = format!("experts of `{}`", layer.name(&joined));
        return Err(Error::malformed(place, format!("one format, {format}"), other.format));
    }
    let bias = layer.optional_table(&format!("{joined}.bias"), count, rows)?;
    let low_ranks = layer.low_ranks(&joined, count, rows, cols)?;
    let experts = slices.into_iter().map(|slice| slice.bytes).collect();
    Ok(Stack { format, rows, cols, experts, bias, low_ranks })
}
