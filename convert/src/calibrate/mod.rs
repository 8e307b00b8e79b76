//! Calibration: quantization that knows what a text sends through every matrix, expert by expert.
//!
//! Sensitivities say where a budget of bits is spent (`sensitivity.rs`). Importance weighs the search for scales;
//! second moments of the inputs (`calibration.rs`) let it make up for its own errors (`factor.rs`; the algorithm is the
//! engine's `quant::compensate`). A [`Guide`] is all of it, as choosing and rounding ask for it.

mod calibration;
mod factor;
pub(crate) mod fit;
mod guide;
mod inputs;
pub(crate) mod sensitivity;

pub(crate) use calibration::Calibration;
pub(crate) use guide::{Guidance, Guide};
pub(crate) use inputs::Inputs;
