//! Granite MoE: Llama's layout with factors on embeddings, residuals, attention and logits, all read from keys.

use super::Architecture;

pub(super) static ARCHITECTURE: Architecture = Architecture { name: "granitemoe", ..Architecture::LLAMA };
