//! What one conversation keeps, layer by layer: keys and values in pages of [`PAGE`] positions, or a recurrent state.
//!
//! A page has all layers' keys and values; within it each head's positions lie together, in the cache's block format
//! (F16, Q8_0 or F32). Pages are claimed from the pool when positions are first written, so a long context costs nothing
//! until it is used, and sequences with the same beginning share them: who writes to a shared page copies it first.

use super::backend::State;
use super::config::Config;
use super::pool::{Claim, Pool};
use crate::error::{Error, Result};
use crate::kernels::CachedPages;
use crate::quant::Format;
use std::ops::Range;
use std::sync::Arc;

/// Positions per page.
pub const PAGE: usize = 256;
/// Layers begin at multiples of this in a page.
const ALIGNMENT: usize = 64;

/// What a sequence keeps of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Memory {
    /// Keys and values of every position.
    Pages(Pages),
    /// So many numbers that every position changes: a recurrent state, zero before the first.
    State(usize),
}

/// Sizes of one layer's keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pages {
    /// Key and value heads.
    pub(super) heads: usize,
    /// Width of a key.
    pub(super) key_length: usize,
    /// Width of a value; 0 where values are the head of the key (latent attention).
    pub(super) value_length: usize,
}

/// Where a layer's keys and values begin in a page.
#[derive(Clone, Copy)]
struct Place {
    keys: usize,
    values: usize,
}

/// What all caches of a model have in common.
struct Shape {
    format: &'static Format,
    layers: Vec<(Memory, Place)>,
    page_bytes: usize,
}

/// One conversation's cache.
pub struct KvCache {
    shape: Arc<Shape>,
    pool: Arc<Pool>,
    pages: Vec<Arc<Vec<u8>>>,
    claims: Vec<Arc<Claim>>, // of the pages
    states: Vec<Vec<f32>>,   // of the layers
    len: usize,
}

impl KvCache {
    /// An empty cache for models of this shape.
    ///
    /// # Errors
    /// When a head's width is no multiple of the format's block.
    pub fn new(config: &Config, format: &'static Format, pool: &Arc<Pool>) -> Result<Self> {
        let shape = Shape::new(config, format)?;
        let states = shape.layers.iter().map(|(memory, _)| memory.state()).collect();
        Ok(Self { shape: Arc::new(shape), pool: pool.clone(), pages: vec![], claims: vec![], states, len: 0 })
    }

    /// Bytes of a page of every layer, [`PAGE`] positions.
    ///
    /// # Errors
    /// As [`KvCache::new`].
    pub fn page_bytes(config: &Config, format: &'static Format) -> Result<usize> {
        Shape::new(config, format).map(|shape| shape.page_bytes)
    }

    /// The format of keys and values.
    pub fn format(&self) -> &'static Format {
        self.shape.format
    }

    /// Writes one position of one layer: all key heads one after the other, likewise the values. The sequence has been
    /// extended to it.
    pub(super) fn store(&mut self, layer: usize, position: usize, keys: &[f32], values: &[f32]) {
        let Shape { format, ref layers, .. } = *self.shape;
        let (Memory::Pages(shape), place) = layers[layer] else { return };
        let page = Arc::get_mut(&mut self.pages[position / PAGE]).expect("what is written to is not shared");
        let at = position % PAGE;
        store_heads(format, shape.key_length, at, keys, &mut page[place.keys..]);
        if shape.value_length > 0 {
            store_heads(format, shape.value_length, at, values, &mut page[place.values..]);
        }
    }

    /// The recurrent state of a layer; empty where it keeps pages.
    pub(super) fn state(&mut self, layer: usize) -> &mut [f32] {
        &mut self.states[layer]
    }

    /// Pages of a layer's keys, `(head, position in page, key_length)` each.
    pub(super) fn keys(&self, layer: usize) -> CachedPages<'_> {
        CachedPages { pages: &self.pages, at: self.shape.layers[layer].1.keys }
    }

    /// Pages of a layer's values; `None` where the keys hold them.
    pub(super) fn values(&self, layer: usize) -> Option<CachedPages<'_>> {
        let (memory, place) = self.shape.layers[layer];
        let has_values = matches!(memory, Memory::Pages(pages) if pages.value_length > 0);
        has_values.then_some(CachedPages { pages: &self.pages, at: place.values })
    }

    fn is_recurrent(&self) -> bool {
        self.states.iter().any(|state| !state.is_empty())
    }

    /// A page of its own for the positions that come next, with what was there of those before.
    fn own_last_page(&mut self) -> Result<()> {
        let (number, held) = (self.len / PAGE, self.len % PAGE);
        if held > 0 && Arc::get_mut(&mut self.pages[number]).is_none() {
            self.claims[number] = Arc::new(self.pool.claim()?);
            self.pages[number] = Arc::new(self.pages[number].to_vec());
        }
        Ok(())
    }
}

impl State for KvCache {
    fn len(&self) -> usize {
        self.len
    }

    fn rewind(&mut self, len: usize) -> usize {
        if len < self.len {
            self.len = if self.is_recurrent() { 0 } else { len };
            self.states.iter_mut().for_each(|state| state.fill(0.0));
            let pages = self.len.div_ceil(PAGE);
            self.pages.truncate(pages);
            self.claims.truncate(pages);
        }
        self.len
    }

    fn extend_to(&mut self, len: usize) -> Result<()> {
        if len > self.len {
            self.own_last_page()?;
            while self.pages.len() < len.div_ceil(PAGE) {
                self.claims.push(Arc::new(self.pool.claim()?));
                self.pages.push(Arc::new(vec![0; self.shape.page_bytes]));
            }
            self.len = len;
        }
        Ok(())
    }

    fn pages_for(&self, len: usize) -> usize {
        let has_to_copy = len > self.len
            && !self.len.is_multiple_of(PAGE)
            && self.pages.last().is_some_and(|page| Arc::strong_count(page) > 1);
        len.div_ceil(PAGE).saturating_sub(self.pages.len()) + usize::from(has_to_copy)
    }

    fn fork(&self, len: usize) -> Self {
        let has_all = len == self.len;
        let len = if self.is_recurrent() && !has_all { 0 } else { len.min(self.len) };
        let states = match len {
            0 => self.states.iter().map(|state| vec![0.0; state.len()]).collect(),
            _ => self.states.clone(),
        };
        let pages = len.div_ceil(PAGE);
        let (shape, pool) = (self.shape.clone(), self.pool.clone());
        let (pages, claims) = (self.pages[..pages].to_vec(), self.claims[..pages].to_vec());
        Self { shape, pool, pages, claims, states, len }
    }
}

impl Memory {
    fn state(&self) -> Vec<f32> {
        match *self {
            Self::Pages(_) => vec![],
            Self::State(len) => vec![0.0; len],
        }
    }
}

impl Shape {
    fn new(config: &Config, format: &'static Format) -> Result<Self> {
        let mut page_bytes = 0;
        let mut room = |width: usize, heads: usize| {
            let start = page_bytes;
            page_bytes += (PAGE * heads * format.row_bytes(width)).next_multiple_of(ALIGNMENT);
            start
        };
        let mut layers = vec![];
        for layer in &config.layers {
            let memory = layer.mixer.memory();
            let mut place = Place { keys: 0, values: 0 };
            if let Memory::Pages(pages) = memory {
                check_widths(&pages, format)?;
                place.keys = room(pages.key_length, pages.heads);
                place.values = room(pages.value_length, pages.heads);
            }
            layers.push((memory, place));
        }
        Ok(Self { format, layers, page_bytes })
    }
}

fn check_widths(pages: &Pages, format: &Format) -> Result<()> {
    if pages.key_length.is_multiple_of(format.block_len)
        && pages.value_length.is_multiple_of(format.block_len)
    {
        return Ok(());
    }
    Err(Error::request(format!(
        "a {format} cache needs head widths in multiples of {}, this model has {}; use f16",
        format.block_len, pages.key_length
    )))
}

fn store_heads(format: &Format, width: usize, at: usize, heads: &[f32], page: &mut [u8]) {
    let bytes = format.row_bytes(width);
    let quantize = format.quantize.expect("cache formats can be written");
    for (head, values) in heads.chunks_exact(width).enumerate() {
        let place: Range<usize> = (head * PAGE + at) * bytes..(head * PAGE + at + 1) * bytes;
        quantize(values, None, &mut page[place]);
    }
}
