//! The collective of one rank: nothing to add, nobody to wait for.

use super::Collective;
use crate::Result;
use candle_core::Tensor;

/// One rank.
pub(super) struct Single;

impl Collective for Single {
    fn sum_f32(&self, _: &mut [f32]) -> Result<()> {
        Ok(())
    }

    fn sum_f64(&self, _: &mut [f64]) -> Result<()> {
        Ok(())
    }

    fn sum_tensor(&self, _: &mut Tensor) -> Result<()> {
        Ok(())
    }

    fn broadcast_bytes(&self, _: &mut Vec<u8>) -> Result<()> {
        Ok(())
    }

    fn barrier(&self) -> Result<()> {
        Ok(())
    }
}
