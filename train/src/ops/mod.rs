//! Differentiable functions: each file has a forward and the backward that belongs to it, written by hand.
//!
//! Every function has a plain form in candle operations, which runs on any device and in any precision, and a fast
//! form for f32 and f64 on the CPU. The two are compared, and both are checked against finite differences in f64.
//! Candle's own automatic differentiation is not used: several of its fused operations have no gradient.
//! Shapes: N rows (tokens), B sequences of T tokens, H query heads and K key/value heads of D numbers, E experts.

mod activation;
mod attention;
mod cross_entropy;
mod dispatch;
mod dropout;
mod gemm;
mod gradient;
mod grouped;
mod heads;
mod host;
mod linear;
mod norm;
#[cfg(test)]
mod tests;

pub use activation::Activation;
pub use attention::{Attended, Attention, HeadGradients};
pub use cross_entropy::{CrossEntropy, IGNORED};
pub use dispatch::Dispatch;
pub use dropout::Dropout;
pub use gradient::Gradient;
pub use grouped::{GroupedLinear, GroupedLowRank, Groups};
pub use heads::{HeadNorm, Heads, Rotation, RotationStyle};
pub(crate) use host::{Loops, hold, is_host, modify, vectorized, wide};
pub use linear::{Learned, Linear, LowRank};
pub use norm::{Norm, NormGradients, NormKind};
