//! Matrix kernels: weights in any format times activations, for every instruction set.
//!
//! One generic body per kind (`blocks.rs`, `floats.rs`) is compiled for each instruction set (`portable.rs`,
//! `avx2.rs`, `avx512.rs`, `neon.rs`), which supply the inner loops. `matrix.rs` and `job.rs` say what there is to compute,
//! `kernel.rs` chooses the code for it. Packed matrices (`layout.rs`) have kernels of their own in `panels/`. This file
//! owns nothing: it says what the rest of the engine sees.
#![allow(unsafe_code)]
#![cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    allow(dead_code, reason = "no set of instructions there has panels")
)]

mod activations;
mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod blocks;
mod cache;
mod experts;
mod floats;
mod gathered;
mod index;
mod job;
mod kernel;
mod layout;
mod low_rank;
mod matrix;
#[cfg(target_arch = "aarch64")]
mod neon;
mod panels;
mod portable;
mod recurrence;
#[cfg(test)]
mod tests;

pub(crate) use activations::{Inputs, Quantized};
pub(crate) use attention::{
    Attended, AttentionKernel, CachedPages, Choice, Heads, Queries, RowBlock, attention, attention_to,
    select_attention,
};
pub(crate) use cache::{grow, prefetch};
pub(crate) use experts::{
    Dispatch, ExpertKernel, ExpertMatrices, Hidden, Share, SlotCodes, down, hidden, quantize_slots,
};
pub(crate) use gathered::{Gathered, Relevance, attend_gathered, relevance};
pub(crate) use index::{IndexJob, score_page};
pub(crate) use job::{Job, Output, Pick, Picks};
pub(crate) use kernel::{Kernel, matmul, select};
pub(crate) use low_rank::LowRank;
pub(crate) use matrix::{Layout, MatrixRef, PANEL};
pub(crate) use recurrence::{Convolution, STATE_COLUMNS, Scan, ScanHead, Taken, convolve, scan};
