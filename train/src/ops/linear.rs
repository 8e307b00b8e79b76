//! Linear layers: `y = x * w^T + b`. Their backward is two products, see [`Gradient::add_product`].

use crate::Result;
use candle_core::Tensor;

/// `x (N, in)` times `weight (out, in)` transposed, plus `bias (out)`: `(N, out)`.
///
/// # Errors
/// The shapes do not fit.
///
/// [`Gradient::add_product`]: super::Gradient::add_product
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let y = x.matmul(&weight.t()?)?;
    Ok(match bias {
        Some(bias) => y.broadcast_add(bias)?,
        None => y,
    })
}
