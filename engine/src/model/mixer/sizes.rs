//! Sizes of mixers that keep a matrix per head, as the keys `ssm.*` say them for all layers of a file.

use super::super::keys::Keys;
use super::super::limit;
use crate::error::Result;

/// What delta nets and Mamba-2 have alike.
pub(super) struct Sizes {
    pub(super) heads: usize,        // a multiple of `groups`
    pub(super) head_length: usize,  // columns of a state
    pub(super) groups: usize,       // of heads that share keys
    pub(super) state_length: usize, // rows of a state, the width of a key
    pub(super) taps: usize,         // inputs of the convolution
}

impl Sizes {
    pub(super) fn read(keys: &Keys<'_>) -> Result<Self> {
        let heads = keys.require("ssm.time_step_rank", limit::HEADS)?;
        let groups = keys.require("ssm.group_count", limit::HEADS)?;
        if heads % groups != 0 {
            return Err(keys.wrong("ssm.group_count", format!("a divisor of {heads}"), groups));
        }
        let inner = keys.require("ssm.inner_size", limit::WIDTH)?;
        if inner % heads != 0 {
            return Err(keys.wrong("ssm.inner_size", format!("a multiple of {heads}"), inner));
        }
        Ok(Self {
            heads,
            head_length: inner / heads,
            groups,
            state_length: keys.require("ssm.state_size", limit::WIDTH)?,
            taps: keys.require("ssm.conv_kernel", limit::TAPS)?,
        })
    }
}
