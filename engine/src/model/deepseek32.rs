//! DeepSeek V3.2: V3 with latent attention that looks at chosen positions. What chooses them turns half against half, the
//! attention in neighbouring pairs.

use super::mixer::latent::{Choice, Indexer};
use super::{Architecture, Keys, deepseek2, mixer};
use crate::error::Result;
use crate::ops::{Rope, RopeStyle};

pub(super) static ARCHITECTURE: Architecture =
    Architecture { name: "deepseek32", ropes, mixer, ..deepseek2::ARCHITECTURE };

fn ropes(keys: &Keys<'_>, architecture: &Architecture) -> Result<Vec<Rope>> {
    let mut ropes = deepseek2::ropes(keys, architecture)?;
    ropes.push(Rope { style: RopeStyle::Neox, ..ropes[0].clone() });
    Ok(ropes)
}

fn mixer(keys: &Keys<'_>, architecture: &Architecture, layer: usize) -> Result<Option<mixer::Shape>> {
    let mut shape = deepseek2::shape(keys, architecture, layer)?;
    shape.indexer = Some(Indexer::read(keys, 1, Choice::Own)?);
    Ok(Some(mixer::Shape::Latent(shape)))
}
