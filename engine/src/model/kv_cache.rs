//! What one conversation keeps, layer by layer: keys and values in pages of [`PAGE`] positions, or a recurrent state.
//!
//! A page has all layers' keys and values; within it each head's positions lie together, in the cache's block format
//! (F16, Q8_0 or F32). Pages are claimed from the pool when positions are first written, so a long context costs nothing
//! until it is used, and sequences with the same beginning share them: who writes to a shared page copies it first.
//!
//! States are one array for all layers and count for as many pages as they are large; `recurrent.rs` says how they come
//! and go.

use super::pool::{Claim, PAGE, Pool};
use super::recurrent::{Recurrent, Size};
use super::state::{Entries, Memory, State};
use crate::error::{Error, Result};
use crate::kernels::CachedPages;
use crate::quant::Format;
use std::ops::Range;
use std::sync::Arc;

/// Layers begin at multiples of this in a page.
const ALIGNMENT: usize = 64;

/// Where a layer's keys, values and index, or its entries and their index, begin in a page, and its state among all.
#[derive(Clone, Copy, Default)]
struct Place {
    keys: usize,
    values: usize,
    index: usize,
    state: usize,
}

/// What all caches of a model have in common.
struct Shape {
    format: &'static Format,
    layers: Vec<(Memory, Place)>,
    page_bytes: usize,
    state_len: usize, // numbers of all recurrent layers
}

/// One conversation's cache.
pub struct KvCache {
    shape: Arc<Shape>,
    pool: Arc<Pool>,
    pages: Vec<Arc<Vec<u8>>>,
    claims: Vec<Arc<Claim>>, // of the pages
    recurrent: Recurrent<Vec<f32>>,
    len: usize,
}

impl KvCache {
    /// An empty cache for models whose layers keep so much.
    ///
    /// # Errors
    /// When a head's width is no multiple of the format's block.
    pub fn new(layers: &[Memory], format: &'static Format, pool: &Arc<Pool>) -> Result<Self> {
        Ok(Self::empty(Arc::new(Shape::new(layers, format)?), pool.clone()))
    }

    fn empty(shape: Arc<Shape>, pool: Arc<Pool>) -> Self {
        let recurrent = Recurrent::new(shape.state_size());
        Self { shape, pool, pages: vec![], claims: vec![], recurrent, len: 0 }
    }

    /// Bytes of a page of every layer, [`PAGE`] positions.
    ///
    /// # Errors
    /// As [`KvCache::new`].
    pub fn page_bytes(layers: &[Memory], format: &'static Format) -> Result<usize> {
        Shape::new(layers, format).map(|shape| shape.page_bytes)
    }

    /// Pages for which the recurrent state of a sequence counts, and so does each of its snapshots; and their bytes.
    ///
    /// # Errors
    /// As [`KvCache::new`].
    pub fn state_size(layers: &[Memory], format: &'static Format) -> Result<(usize, usize)> {
        let Size { numbers, pages } = Self::states(layers, format)?;
        Ok((pages, numbers * size_of::<f32>()))
    }

    /// The same, for whoever keeps them elsewhere.
    ///
    /// # Errors
    /// As [`KvCache::new`].
    pub(super) fn states(layers: &[Memory], format: &'static Format) -> Result<Size> {
        Shape::new(layers, format).map(|shape| shape.state_size())
    }

    /// The format of keys and values.
    pub fn format(&self) -> &'static Format {
        self.shape.format
    }

    /// Writes one position of one layer: all key heads one after the other, likewise the values, and the key by which it is
    /// chosen. The sequence has been extended to it.
    pub(super) fn store(&mut self, layer: usize, position: usize, [keys, values, index]: [&[f32]; 3]) {
        let Shape { format, ref layers, .. } = *self.shape;
        let (Memory::Pages(shape), place) = layers[layer] else { return };
        let page = Arc::get_mut(&mut self.pages[position / PAGE]).expect("what is written to is not shared");
        let at = position % PAGE;
        store_heads(format, shape.key_length, at, keys, &mut page[place.keys..]);
        if shape.value_length > 0 {
            store_heads(format, shape.value_length, at, values, &mut page[place.values..]);
        }
        if shape.index_length > 0 {
            store_heads(format, shape.index_length, at, index, &mut page[place.index..]);
        }
    }

    /// Writes an entry of a layer, and the indexer's where it has one. The sequence has been extended to its positions.
    pub(super) fn store_entry(&mut self, layer: usize, number: usize, entry: &[f32], index: &[f32]) {
        let Shape { format, ref layers, .. } = *self.shape;
        let (Memory::Entries(entries), place) = layers[layer] else { return };
        let (page, at) = entries.place(number);
        let page = Arc::get_mut(&mut self.pages[page]).expect("what is written to is not shared");
        write_row(format, at, entry, &mut page[place.keys..]);
        write_row(format, at, index, &mut page[place.index..]);
    }

    /// Reads an entry of a layer.
    pub(super) fn entry(&self, layer: usize, number: usize, out: &mut [f32]) {
        self.read_entry((layer, number), self.shape.layers[layer].1.keys, out);
    }

    /// Reads an entry of a layer's indexer.
    pub(super) fn index_entry(&self, layer: usize, number: usize, out: &mut [f32]) {
        self.read_entry((layer, number), self.shape.layers[layer].1.index, out);
    }

    fn read_entry(&self, (layer, number): (usize, usize), start: usize, out: &mut [f32]) {
        let (Memory::Entries(entries), _) = self.shape.layers[layer] else { return };
        let (page, at) = entries.place(number);
        let bytes = self.shape.format.row_bytes(out.len());
        let row = &self.pages[page][start + at * bytes..][..bytes];
        (self.shape.format.dequantize)(row, out);
    }

    /// [`KvCache::state`] to be read.
    pub(super) fn state_now(&self, layer: usize) -> &[f32] {
        self.recurrent.now().map_or(&[], |states| &states[self.shape.state(layer)])
    }

    /// The recurrent state of a layer; empty where it keeps pages. The sequence has been extended.
    pub(super) fn state(&mut self, layer: usize) -> &mut [f32] {
        let range = self.shape.state(layer);
        self.recurrent.now_mut().map_or(&mut [], |states| &mut states[range])
    }

    /// How many of `count` positions from `position` on are before the next one at whose end states are kept.
    pub(super) fn until_kept(&self, position: usize, count: usize) -> usize {
        let ends = self.recurrent.snapshots().iter().map(|snapshot| snapshot.len);
        ends.filter(|end| (position + 1..=position + count).contains(end))
            .min()
            .map_or(count, |end| end - position)
    }

    /// Keeps a part of a layer's state, which now stands at `position`, where that was marked.
    pub(super) fn keep(&mut self, layer: usize, part: Range<usize>, position: usize) {
        let start = self.shape.state(layer).start;
        let part = start + part.start..start + part.end;
        if let Some((now, kept)) = self.recurrent.kept_at(position) {
            kept[part.clone()].copy_from_slice(&now[part]);
        }
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

    /// Pages of a layer's keys by which positions are chosen, `(position in page, index_length)` each.
    pub(super) fn index(&self, layer: usize) -> CachedPages<'_> {
        CachedPages { pages: &self.pages, at: self.shape.layers[layer].1.index }
    }

    /// A page of its own for the positions that come next, with what was there of those before.
    fn own_last_page(&mut self) -> Result<()> {
        let (number, held) = (self.len / PAGE, self.len % PAGE);
        if held > 0 && Arc::get_mut(&mut self.pages[number]).is_none() {
            self.claims[number] = Arc::new(self.recurrent.claim(&self.pool)?);
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
            self.len = self.recurrent.rewind(len, self.len);
            let pages = self.len.div_ceil(PAGE);
            self.pages.truncate(pages);
            self.claims.truncate(pages);
        }
        self.len
    }

    fn mark(&mut self, len: usize) {
        self.recurrent.mark(len, self.len);
    }

    fn reach(&self, len: usize) -> usize {
        self.recurrent.reach(len, self.len)
    }

    fn extend_to(&mut self, len: usize) -> Result<()> {
        if len > self.len {
            let numbers = self.shape.state_len;
            let copied =
                |states: Option<&Vec<f32>>| Ok(states.map_or_else(|| vec![0.0; numbers], Vec::clone));
            self.recurrent.own(&self.pool, copied)?;
            self.own_last_page()?;
            while self.pages.len() < len.div_ceil(PAGE) {
                let claim = self.recurrent.claim(&self.pool)?;
                self.claims.push(Arc::new(claim));
                self.pages.push(Arc::new(vec![0; self.shape.page_bytes]));
            }
            self.recurrent.pass_marks(&self.pool, len, || Ok(vec![0.0; numbers]))?;
            self.len = len;
        }
        Ok(())
    }

    fn pages_for(&self, len: usize) -> usize {
        self.recurrent.pages_for(len, self.len, &self.pages)
    }

    fn fork(&self, len: usize) -> Self {
        let mut fork = Self::empty(self.shape.clone(), self.pool.clone());
        fork.len = self.reach(len);
        fork.recurrent = self.recurrent.fork(len, self.len, fork.len);
        let pages = fork.len.div_ceil(PAGE);
        (fork.pages, fork.claims) = (self.pages[..pages].to_vec(), self.claims[..pages].to_vec());
        fork
    }
}

impl Shape {
    fn new(layers: &[Memory], format: &'static Format) -> Result<Self> {
        let mut page_bytes = 0;
        let mut room = |width: usize, rows: usize| {
            let start = page_bytes;
            page_bytes += (rows * format.row_bytes(width)).next_multiple_of(ALIGNMENT);
            start
        };
        let (mut placed, mut state_len) = (vec![], 0);
        for &memory in layers {
            let mut place = Place { state: state_len, ..Place::default() };
            match memory {
                Memory::Pages(pages) => {
                    check_widths([pages.key_length, pages.value_length, pages.index_length], format)?;
                    place.keys = room(pages.key_length, PAGE * pages.heads);
                    place.values = room(pages.value_length, PAGE * pages.heads);
                    place.index = room(pages.index_length, PAGE);
                }
                Memory::State(len) => state_len += len,
                Memory::Entries(entries) => {
                    check_entries(&entries, format)?;
                    let rows = PAGE / entries.ratio;
                    place.keys = room(entries.key_length, rows);
                    place.index = room(entries.index_length, rows);
                    state_len += entries.state;
                }
            }
            placed.push((memory, place));
        }
        Ok(Self { format, layers: placed, page_bytes, state_len })
    }

    /// Where a layer's state is among those of all.
    fn state(&self, layer: usize) -> Range<usize> {
        let (memory, Place { state, .. }) = self.layers[layer];
        let len = match memory {
            Memory::State(len) => len,
            Memory::Entries(entries) => entries.state,
            Memory::Pages(_) => 0,
        };
        state..state + len
    }

    /// Of all states; a model without any attention has pages of no bytes.
    fn state_size(&self) -> Size {
        let pages = (self.state_len * size_of::<f32>()).div_ceil(self.page_bytes.max(ALIGNMENT));
        Size { numbers: self.state_len, pages }
    }
}

impl Entries {
    /// The page of an entry, and which it is there.
    fn place(&self, number: usize) -> (usize, usize) {
        let rows = PAGE / self.ratio;
        (number / rows, number % rows)
    }
}

fn check_widths(widths: [usize; 3], format: &Format) -> Result<()> {
    match widths.iter().find(|width| !width.is_multiple_of(format.block_len)) {
        None => Ok(()),
        Some(width) => Err(Error::request(format!(
            "a {format} cache needs head widths in multiples of {}, this model has {width}; use f16",
            format.block_len
        ))),
    }
}

fn check_entries(entries: &Entries, format: &Format) -> Result<()> {
    assert!(PAGE.is_multiple_of(entries.ratio), "entries do not cross pages");
    check_widths([entries.key_length, entries.index_length, 0], format)
}

fn write_row(format: &Format, at: usize, values: &[f32], page: &mut [u8]) {
    let bytes = format.row_bytes(values.len());
    let quantize = format.quantize.expect("cache formats can be written");
    quantize(values, None, &mut page[at * bytes..][..bytes]);
}

fn store_heads(format: &Format, width: usize, at: usize, heads: &[f32], page: &mut [u8]) {
    let bytes = format.row_bytes(width);
    let quantize = format.quantize.expect("cache formats can be written");
    for (head, values) in heads.chunks_exact(width).enumerate() {
        let place: Range<usize> = (head * PAGE + at) * bytes..(head * PAGE + at + 1) * bytes;
        quantize(values, None, &mut page[place]);
    }
}
