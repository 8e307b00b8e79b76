//! Row maths on f32: norms, rotary positions, activations, softmax, top-k. Sequential and allocation-free;
//! who calls them decides what runs in parallel.

mod activation;
mod exp;
mod norm;
mod rope;
mod route;

pub use activation::Activation;
pub use exp::{exp, exp_of_negatives, sigmoid, softplus};
pub use norm::{layer_norm, rms_norm};
pub use rope::{Rope, RopeStyle, rotate};
pub use route::{Choice, best, softmax, top_k};
