//! What one conversation keeps, layer by layer: keys and values in pages of [`PAGE`] positions, or a recurrent state.
//!
//! Within a page each head's positions lie together, in the cache's block format (F16, Q8_0 or F32). Pages are
//! allocated when positions are first written, so a long context costs nothing until it is used.

use super::backend::State;
use super::config::Config;
use crate::error::{Error, Result};
use crate::quant::Format;
use std::ops::Range;

/// Positions per page.
pub const PAGE: usize = 256;

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

#[derive(Default)]
struct LayerPages {
    keys: Vec<Vec<u8>>,
    values: Vec<Vec<u8>>,
    state: Vec<f32>,
}

/// One conversation's cache.
pub struct KvCache {
    format: &'static Format,
    shapes: Vec<Memory>,
    layers: Vec<LayerPages>,
    len: usize,
}

impl KvCache {
    /// An empty cache for models of this shape.
    ///
    /// # Errors
    /// When a head's width is no multiple of the format's block.
    pub fn new(config: &Config, format: &'static Format) -> Result<Self> {
        let shapes: Vec<_> = config.layers.iter().map(|layer| layer.mixer.memory()).collect();
        for shape in shapes.iter().filter_map(Memory::pages) {
            if shape.key_length % format.block_len != 0 || shape.value_length % format.block_len != 0 {
                return Err(Error::request(format!(
                    "a {format} cache needs head widths in multiples of {}, this model has {}; use f16",
                    format.block_len, shape.key_length
                )));
            }
        }
        let layers = shapes.iter().map(LayerPages::new).collect();
        Ok(Self { format, shapes, layers, len: 0 })
    }

    /// The format of keys and values.
    pub fn format(&self) -> &'static Format {
        self.format
    }

    /// Bytes per position over all layers.
    pub fn bytes_per_position(&self) -> usize {
        let row = |width| self.format.row_bytes(width);
        let pages = self.shapes.iter().filter_map(Memory::pages);
        pages.map(|s| s.heads * (row(s.key_length) + row(s.value_length))).sum()
    }

    /// Writes one position of one layer: all key heads one after the other, likewise the values.
    pub(super) fn store(&mut self, layer: usize, position: usize, keys: &[f32], values: &[f32]) {
        let Some(shape) = self.shapes[layer].pages() else { return };
        let (page, at) = (position / PAGE, position % PAGE);
        let pages = &mut self.layers[layer];
        store_heads(self.format, shape.key_length, at, keys, &mut pages.keys[page]);
        if shape.value_length > 0 {
            store_heads(self.format, shape.value_length, at, values, &mut pages.values[page]);
        }
    }

    /// The recurrent state of a layer; empty where it keeps pages.
    pub(super) fn state(&mut self, layer: usize) -> &mut [f32] {
        &mut self.layers[layer].state
    }

    /// Pages of a layer's keys, `(head, position in page, key_length)` each.
    pub(super) fn keys(&self, layer: usize) -> &[Vec<u8>] {
        &self.layers[layer].keys
    }

    /// Pages of a layer's values; `None` where the keys hold them.
    pub(super) fn values(&self, layer: usize) -> Option<&[Vec<u8>]> {
        (!self.layers[layer].values.is_empty()).then_some(self.layers[layer].values.as_slice())
    }
}

impl State for KvCache {
    fn len(&self) -> usize {
        self.len
    }

    fn rewind(&mut self, len: usize) -> usize {
        if len < self.len {
            let is_recurrent = self.shapes.iter().any(|shape| matches!(shape, Memory::State(_)));
            self.len = if is_recurrent { 0 } else { len };
            self.layers.iter_mut().for_each(|layer| layer.state.fill(0.0));
        }
        self.len
    }

    /// Pages stay from what was forgotten for what comes next.
    fn extend_to(&mut self, len: usize) -> Result<()> {
        let pages = len.div_ceil(PAGE);
        let format = self.format;
        for (shape, layer) in self.shapes.iter().zip(&mut self.layers) {
            let Some(shape) = shape.pages() else { continue };
            let bytes = |width: usize| vec![0u8; PAGE * shape.heads * format.row_bytes(width)];
            while layer.keys.len() < pages {
                layer.keys.push(bytes(shape.key_length));
                if shape.value_length > 0 {
                    layer.values.push(bytes(shape.value_length));
                }
            }
        }
        self.len = self.len.max(len);
        Ok(())
    }
}

impl Memory {
    fn pages(&self) -> Option<&Pages> {
        match self {
            Self::Pages(pages) => Some(pages),
            Self::State(_) => None,
        }
    }
}

impl LayerPages {
    fn new(shape: &Memory) -> Self {
        let state = if let Memory::State(len) = *shape { vec![0.0; len] } else { vec![] };
        Self { state, ..Self::default() }
    }
}

fn store_heads(format: &Format, width: usize, at: usize, heads: &[f32], page: &mut [u8]) {
    let bytes = format.row_bytes(width);
    let quantize = format.quantize.expect("cache formats can be written");
    for (head, values) in heads.chunks_exact(width).enumerate() {
        let place: Range<usize> = (head * PAGE + at) * bytes..(head * PAGE + at + 1) * bytes;
        quantize(values, None, &mut page[place]);
    }
}
