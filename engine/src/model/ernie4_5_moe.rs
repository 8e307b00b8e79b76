//! ERNIE 4.5 with experts: weighed by softmax, chosen with a bias, always normalised.

use super::ffn::{self, experts::Gating};
use super::{Architecture, Keys};
use crate::error::Result;

pub(super) static ARCHITECTURE: Architecture =
    Architecture { name: "ernie4_5-moe", ffn, ..Architecture::LLAMA };

/// Elsewhere a bias on the choice tells of sigmoids; llama.cpp writes no key for this family.
fn ffn(keys: &Keys<'_>, architecture: &Architecture, layer: usize) -> Result<Option<ffn::Shape>> {
    let mut shape = ffn::read(keys, architecture, layer)?;
    if let Some(ffn::Shape::Experts(experts)) = &mut shape
        && keys.number("expert_gating_func", 255)?.unwrap_or(0) == 0
    {
        experts.gating = Gating::Softmax;
    }
    Ok(shape)
}
