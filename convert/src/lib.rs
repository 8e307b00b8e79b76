//! Checkpoints (safetensors, PyTorch pickles) to GGUF. Sees the engine only for formats and the container.

pub mod checkpoint;
