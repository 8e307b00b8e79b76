//! Qwen 3.5 and 3.6 with experts; the tensors say which layers have some, which are all.

use super::{Architecture, qwen35};

pub(super) static ARCHITECTURE: Architecture = Architecture { name: "qwen35moe", ..qwen35::ARCHITECTURE };
