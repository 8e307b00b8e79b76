//! AdamW (Loshchilov and Hutter 2017) on FP32 masters, clipping by the global norm, and learning-rate schedules.

mod adamw;
mod schedule;

pub use adamw::{AdamW, AdamWSettings};
pub use schedule::{Schedule, ScheduleKind};
