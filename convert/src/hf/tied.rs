//! Whether the head is the embedding. transformers ties both where the configuration says so, unless the checkpoint
//! holds two matrices that differ (`tie_weights`): then it keeps the checkpoint's.

use super::names::Names;
use super::params::Params;
use super::view::{Elements, View};
use crate::checkpoint::{Checkpoint, Tensor};
use moewe_engine::{Error, Result};

/// Rows that are compared at a time.
const ROWS: u64 = 256;

/// The configuration with its head as the checkpoint has it, and what to say about that.
pub(super) fn settle(
    params: &Params,
    checkpoint: &Checkpoint,
    names: &Names<'_>,
    embedding: &str,
) -> Result<(Params, Option<String>)> {
    let both = names.find(embedding).zip(names.find("lm_head.weight"));
    let is_tied = params.flag(&["tie_word_embeddings"], false)?;
    let Some((table, head)) = both.filter(|_| is_tied) else { return Ok((params.clone(), None)) };
    if are_equal(checkpoint, table, head)? {
        return Ok((params.clone(), None));
    }
    if params.class().is_some_and(|class| !class.is_foreign) {
        let expected = format!("the weights of {}, which is the head", table.name);
        return Err(Error::malformed(format!("tensor {}", head.name), expected, "others"));
    }
    let note =
        format!("tie_word_embeddings is true, but {} differs from {}: both are kept", head.name, table.name);
    Ok((params.clone().with_tied(false), Some(note)))
}

fn are_equal(checkpoint: &Checkpoint, a: &Tensor, b: &Tensor) -> Result<bool> {
    if a.shape != b.shape {
        return Ok(false);
    }
    if (a.dtype, &a.strides) == (b.dtype, &b.strides) {
        return Ok(checkpoint.elements(a) == checkpoint.elements(b));
    }
    let view = |tensor: &Tensor| {
        let elements = Elements::plain(tensor.dtype, checkpoint.elements(tensor), &tensor.name)?;
        Ok::<_, Error>(View::new(elements, &tensor.shape, &tensor.strides))
    };
    let (a, b) = (view(a)?, view(b)?);
    let (rows, columns) = (a.rows(), a.columns() as usize);
    let mut sides = [vec![0f32; columns * ROWS as usize], vec![0f32; columns * ROWS as usize]];
    for start in (0..rows).step_by(ROWS as usize) {
        let end = (start + ROWS).min(rows);
        let len = columns * (end - start) as usize;
        a.read(start..end, &mut sides[0][..len], columns);
        b.read(start..end, &mut sides[1][..len], columns);
        if sides[0][..len].iter().zip(&sides[1][..len]).any(|(a, b)| a.to_bits() != b.to_bits()) {
            return Ok(false);
        }
    }
    Ok(true)
}
