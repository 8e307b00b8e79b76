//! Upper bounds of hyper-parameters, far above every published model: they size buffers.

pub(in crate::model) const LAYERS: usize = 4096;
pub(in crate::model) const WIDTH: usize = 1 << 20;
pub(in crate::model) const HEADS: usize = 1 << 14;
pub(in crate::model) const EXPERTS: usize = 1 << 16;
pub(in crate::model) const EXPERTS_USED: usize = 1 << 10;
pub(in crate::model) const CONTEXT: usize = 1 << 28;
pub(in crate::model) const TAPS: usize = 1 << 6;
