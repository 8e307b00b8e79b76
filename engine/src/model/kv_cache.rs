//! Keys and values of one conversation, layer by layer, in pages of [`PAGE`] positions.
//!
//! Within a page each head's positions lie together, in the cache's block format (F16, Q8_0 or F32). Pages are
//! allocated when positions are first written, so a long context costs nothing until it is used.

use super::config::{Attention, Config};
use crate::error::{Error, Result};
use crate::quant::Format;
use std::ops::Range;

/// Positions per page.
pub const PAGE: usize = 256;

/// Sizes of one layer's keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LayerShape {
    heads: usize,
    key_length: usize,
    /// 0 where values are the head of the key (latent attention).
    value_length: usize,
}

#[derive(Default)]
struct LayerPages {
    keys: Vec<Vec<u8>>,
    values: Vec<Vec<u8>>,
}

/// One conversation's cache.
pub struct KvCache {
    format: &'static Format,
    shapes: Vec<LayerShape>,
    layers: Vec<LayerPages>,
    len: usize,
}

impl KvCache {
    /// An empty cache for models of this shape.
    ///
    /// # Errors
    /// When a head's width is no multiple of the format's block.
    pub fn new(config: &Config, format: &'static Format) -> Result<Self> {
        let shapes: Vec<_> = config.layers.iter().map(|layer| LayerShape::of(&layer.attention)).collect();
        for shape in &shapes {
            if shape.key_length % format.block_len != 0 || shape.value_length % format.block_len != 0 {
                return Err(Error::request(format!(
                    "a {format} cache needs head widths in multiples of {}, this model has {}; use f16",
                    format.block_len, shape.key_length
                )));
            }
        }
        let layers = shapes.iter().map(|_| LayerPages::default()).collect();
        Ok(Self { format, shapes, layers, len: 0 })
    }

    /// Positions held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The format of keys and values.
    pub fn format(&self) -> &'static Format {
        self.format
    }

    /// Forgets all positions from `len` on; their pages stay for what comes next.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Makes room for positions up to `len` and counts them as held.
    pub(crate) fn extend_to(&mut self, len: usize) {
        let pages = len.div_ceil(PAGE);
        let format = self.format;
        for (shape, layer) in self.shapes.iter().zip(&mut self.layers) {
            let bytes = |width: usize| vec![0u8; PAGE * shape.heads * format.row_bytes(width)];
            while layer.keys.len() < pages {
                layer.keys.push(bytes(shape.key_length));
                if shape.value_length > 0 {
                    layer.values.push(bytes(shape.value_length));
                }
            }
        }
        self.len = self.len.max(len);
    }

    /// Bytes per position over all layers.
    pub fn bytes_per_position(&self) -> usize {
        self.shapes
            .iter()
            .map(|s| s.heads * (self.format.row_bytes(s.key_length) + self.format.row_bytes(s.value_length)))
            .sum()
    }

    /// Writes one position of one layer: all key heads one after the other, likewise the values.
    pub(super) fn store(&mut self, layer: usize, position: usize, keys: &[f32], values: &[f32]) {
        let shape = self.shapes[layer];
        let (page, at) = (position / PAGE, position % PAGE);
        let pages = &mut self.layers[layer];
        store_heads(self.format, shape.key_length, at, keys, &mut pages.keys[page]);
        if shape.value_length > 0 {
            store_heads(self.format, shape.value_length, at, values, &mut pages.values[page]);
        }
    }

    /// Pages of a layer's keys, `(head, position in page, key_length)` each.
    pub(super) fn keys(&self, layer: usize) -> &[Vec<u8>] {
        &self.layers[layer].keys
    }

    /// Pages of a layer's values; `None` where the keys hold them.
    pub(super) fn values(&self, layer: usize) -> Option<&[Vec<u8>]> {
        (self.shapes[layer].value_length > 0).then_some(self.layers[layer].values.as_slice())
    }
}

impl LayerShape {
    fn of(attention: &Attention) -> Self {
        match attention {
            Attention::Grouped(head) => Self {
                heads: head.head_count_kv,
                key_length: head.key_length,
                value_length: head.value_length,
            },
            Attention::Latent { kv_lora_rank, rope_length, .. } => {
                Self { heads: 1, key_length: kv_lora_rank + rope_length, value_length: 0 }
            }
        }
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
