//! The models that can be trained: one configurable forward and backward, one file per architecture with its
//! config.json keys and tensor names as data.

mod adapter;
mod apply;
mod architectures;
mod batch;
mod config;
mod family;
mod keys;
mod layer;
mod llama;
mod mistral;
mod mixtral;
mod moe_124m;
mod moe_gpt;
mod names;
mod olmoe;
mod parameters;
mod presets;
mod qwen3;
mod qwen3_moe;
mod roles;
mod router;
mod tachyon;
#[cfg(test)]
mod tests;
mod transformer;
mod weights;

pub use adapter::{Lora, Target, Trained};
pub use architectures::ARCHITECTURES;
pub use batch::{Batch, Losses, PackedRow, Packing, Pass};
pub use config::{Architecture, Balance, Biases, Config, Experts, HeadNorms, Initialisation, Position};
pub use keys::Keys;
use names::{GatedNames, qkv_pieces};
pub use parameters::Spec;
pub use presets::{PRESETS, Preset};
pub use roles::{Piece, Role};
pub use router::{Average, ExpertLoad};
pub use weights::{Model, Parameter, Values};
