//! Numbers of the program that a device has, too, from when it first needs them.

use super::device::{Device, Memory};
use crate::error::Result;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

/// A vector of weights; dereferences to its numbers.
#[derive(Clone)]
pub struct Vector {
    values: Vec<f32>,
    home: OnceLock<Arc<Memory>>, // on the device of the engine
}

impl From<Vec<f32>> for Vector {
    fn from(values: Vec<f32>) -> Self {
        Self { values, home: OnceLock::new() }
    }
}

impl Deref for Vector {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values
    }
}

impl Vector {
    /// Its address on the device.
    ///
    /// # Errors
    /// When the device has no room.
    pub fn on(&self, device: &Device) -> Result<u64> {
        if let Some(memory) = self.home.get() {
            return Ok(memory.address());
        }
        let memory = Arc::new(device.upload(bytemuck::cast_slice(&self.values))?);
        Ok(self.home.get_or_init(|| memory).address())
    }
}
