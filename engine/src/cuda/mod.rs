//! NVIDIA's cards: the driver found at run time, memory, and kernels that are part of the program as PTX.
//!
//! `driver.rs` is the table of functions, `device.rs` memory and streams, `modules.rs` the kernels by name, `launch.rs`
//! starts them with `arguments.rs` on `rows.rs`, as `spans.rs` and `recurrence.rs` do those of their kind and `low_rank.rs`
//! those of adapters, and `prompts.rs` products of many rows; `vector.rs` has numbers with a home on a device besides, `survey.rs` asks which cards there are.
//! `kernels/` has their sources and `ptx/` what nvcc made of them. No CUDA is needed to build, and none but the driver to run. What the kernels compute for a model is the backend's matter
//! (`model/backend/cuda.rs`).
#![allow(unsafe_code)]

mod arguments;
mod device;
mod driver;
mod join;
mod kernels;
mod launch;
mod low_rank;
mod modules;
mod prompts;
mod recurrence;
mod rows;
mod spans;
mod survey;
mod vector;
mod written;

pub use arguments::{AttentionBy, ChoicesAt, MatrixAt, NormAt, Pieces, RouteBy, StepAt};
pub use device::{Device, Graph, Memory, Pinned};
pub use driver::LIBRARY_VARIABLE;
pub(crate) use kernels::lock;
pub use kernels::{Kernels, MOST_ROWS, Mode};
pub use launch::{CHUNK, kind_of, tokens_of};
pub use recurrence::{ConvolutionAt, MOST_TAPS, ScanAt, scan_shared};
pub use rows::Rows;
pub use survey::{Card, Survey, survey};
pub use vector::Vector;
