//! Qwen 3.5 and 3.6, dense: Qwen3-Next's mixers, value heads in turns.

use super::step::KeyHeads;
use super::{Architecture, qwen3next};

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "qwen35",
    mixer: |keys, architecture, layer| qwen3next::mixer(keys, architecture, layer, KeyHeads::Turns),
    ..qwen3next::ARCHITECTURE
};
