//! Granite MoE: Llama's layout with factors on embeddings, residuals, attention and logits, all read from keys.

use super::{Architecture, Config, Keys};
use crate::error::{Error, Result};

pub(super) static ARCHITECTURE: Architecture =
    Architecture { name: "granitemoe", adjust, ..Architecture::LLAMA };

/// llama.cpp takes this key of Granite for a switch of the rotation.
fn adjust(keys: &Keys<'_>, _: &mut Config) -> Result<()> {
    if keys.flag("rope.scaling.finetuned")? == Some(false) {
        let what = "key `granitemoe.rope.scaling.finetuned` is false: a Granite model without positions";
        return Err(Error::unsupported(what, "only those with a rotation are computed here"));
    }
    Ok(())
}
