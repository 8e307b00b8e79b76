//! Rows of the cache, and how the numbers of each format become f32.

use crate::quant::{Block, Float};
use crate::simd::{LANES, Lanes};
use std::marker::PhantomData;

/// Sixteen lanes. Rows are filled up with zeros.
pub(super) type Columns = [f32; LANES];

/// Cache elements: how a run of them becomes f32.
pub(super) trait Cached {
    /// Whether values may become BF16, and runs of 32 can be loaded.
    const IS_SHORT: bool;
    fn load<L: Lanes>(bytes: &[u8], out: &mut [f32]);
    /// A run of 32.
    #[inline(always)]
    fn load_run<L: Lanes>(bytes: &[u8]) -> [L; 2] {
        let mut out = [0.0; 2 * LANES];
        Self::load::<L>(bytes, &mut out);
        halves(&out)
    }
    fn bytes(len: usize) -> usize;
}

#[inline(always)]
pub(super) fn halves<L: Lanes>(run: &[f32; 2 * LANES]) -> [L; 2] {
    let [lower, upper] = run.as_chunks().0 else { unreachable!("a run has two halves") };
    [L::load(lower), L::load(upper)]
}

pub(super) struct Floats<F>(PhantomData<F>);
pub(super) struct Blocks<B>(PhantomData<B>);

impl<F: Float> Cached for Floats<F> {
    const IS_SHORT: bool = size_of::<F>() == 2;
    #[inline(always)]
    fn load_run<L: Lanes>(bytes: &[u8]) -> [L; 2] {
        let (lower, upper) = bytes.split_at(LANES * size_of::<F>());
        [F::load(lower), F::load(upper)]
    }
    #[inline(always)]
    fn load<L: Lanes>(bytes: &[u8], out: &mut [f32]) {
        let (chunks, rest) = out.as_chunks_mut();
        let (chunk_bytes, rest_bytes) = bytes.split_at(chunks.len() * LANES * size_of::<F>());
        for (out, bytes) in chunks.iter_mut().zip(chunk_bytes.chunks_exact(LANES * size_of::<F>())) {
            *out = F::load::<L>(bytes).store();
        }
        for (out, bytes) in rest.iter_mut().zip(rest_bytes.chunks_exact(size_of::<F>())) {
            *out = bytemuck::pod_read_unaligned::<F>(bytes).to_f32();
        }
    }
    fn bytes(len: usize) -> usize {
        len * size_of::<F>()
    }
}

impl<B: Block> Cached for Blocks<B> {
    const IS_SHORT: bool = B::LEN == 32;
    #[inline(always)]
    fn load<L: Lanes>(bytes: &[u8], out: &mut [f32]) {
        for (out, bytes) in out.chunks_exact_mut(B::LEN).zip(bytes.chunks_exact(size_of::<B>())) {
            bytemuck::pod_read_unaligned::<B>(bytes).dequantize(out);
        }
    }
    fn bytes(len: usize) -> usize {
        len / B::LEN * size_of::<B>()
    }
}

/// Rows of which the first columns are wanted.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) row_bytes: usize,
    pub(super) width: usize,
}

impl<'a> Rows<'a> {
    #[inline(always)]
    pub(super) fn iter(&self) -> std::slice::ChunksExact<'a, u8> {
        self.bytes.chunks_exact(self.row_bytes)
    }

    #[inline(always)]
    pub(super) fn row(&self, at: usize) -> Option<&'a [u8]> {
        self.bytes.get(at * self.row_bytes..(at + 1) * self.row_bytes)
    }
}
