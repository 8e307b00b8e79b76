//! What a step and a sequence have on the device: the step's rows, a sequence's pages, a routing.

use super::super::super::kv_cache::{KvCache, PAGE};
use super::super::super::pool::{Claim, Pool};
use super::super::super::state::{self, Pages};
use super::super::super::step::{Row, Wants};
use crate::cuda::{ChoicesAt, Device, Memory, Mode, Pinned, StepAt};
use crate::error::Result;
use crate::quant::Format;
use bytemuck::cast_slice;
use std::sync::Arc;

/// Bytes of a piece of the staging memory.
const STAGE: usize = 1 << 20;

/// One sequence's keys and values on the device, in pages of [`PAGE`] positions.
pub struct State {
    device: Device,
    format: &'static Format,
    shapes: Vec<Pages>,                    // one per layer
    pages: Vec<Arc<(Vec<Memory>, Claim)>>, // of all layers and sides each
    table: Vec<u64>,                       // (layers, 2, max_pages): their addresses
    home: Option<Memory>,                  // of the table, made when a step first needs it
    has_changed: bool,                     // since the table was copied
    max_pages: usize,
    pool: Arc<Pool>,
    len: usize,
}

impl State {
    /// # Errors
    /// When the format does not fit the heads.
    pub(super) fn new(
        device: &Device,
        layers: &[state::Memory],
        format: &'static Format,
        max_pages: usize,
        pool: &Arc<Pool>,
    ) -> Result<Self> {
        KvCache::page_bytes(layers, format)?; // which checks the widths
        let shapes: Vec<_> = layers.iter().filter_map(|layer| layer.into_pages()).collect();
        Ok(Self {
            device: device.clone(),
            format,
            table: vec![0; shapes.len() * 2 * max_pages],
            shapes,
            pages: vec![],
            home: None,
            has_changed: true,
            max_pages,
            pool: pool.clone(),
            len: 0,
        })
    }

    /// Tells it from others; where its table is.
    pub(super) fn place(&self) -> u64 {
        self.home.as_ref().map_or(0, Memory::address)
    }

    fn add_page(&mut self) -> Result<()> {
        let claim = self.pool.claim()?;
        let mut sides = vec![];
        for shape in &self.shapes {
            for width in [shape.key_length, shape.value_length].into_iter().filter(|width| *width > 0) {
                sides.push(self.device.allocate(PAGE * shape.heads * self.format.row_bytes(width))?);
            }
        }
        self.keep(Arc::new((sides, claim)));
        Ok(())
    }

    /// Puts a page behind the others.
    fn keep(&mut self, page: Arc<(Vec<Memory>, Claim)>) {
        let mut sides = page.0.iter().map(Memory::address);
        for (layer, shape) in self.shapes.iter().enumerate() {
            for (side, width) in [shape.key_length, shape.value_length].into_iter().enumerate() {
                if width > 0 {
                    let place = (layer * 2 + side) * self.max_pages + self.pages.len();
                    self.table[place] = sides.next().expect("a side for each width");
                }
            }
        }
        self.pages.push(page);
        self.has_changed = true;
    }
}

impl super::super::State for State {
    fn len(&self) -> usize {
        self.len
    }

    fn extend_to(&mut self, len: usize) -> Result<()> {
        while self.pages.len() < len.div_ceil(PAGE) {
            self.add_page()?;
        }
        self.len = self.len.max(len);
        Ok(())
    }

    fn pages_for(&self, len: usize) -> usize {
        len.div_ceil(PAGE).saturating_sub(self.pages.len())
    }

    /// Pages of its own stay for what comes next; of a shared one nothing is kept, for nobody may write to it.
    fn rewind(&mut self, len: usize) -> usize {
        if len < self.len {
            let is_shared = |page: &Arc<_>| Arc::strong_count(page) > 1;
            let from = len / PAGE;
            self.len = len;
            if self.pages[from..].iter().any(is_shared) {
                self.pages.truncate(from);
                self.len = from * PAGE;
            }
        }
        self.len
    }

    fn reach(&self, len: usize) -> usize {
        len.min(self.len) / PAGE * PAGE
    }

    /// Whole pages are shared.
    fn fork(&self, len: usize) -> Self {
        let pages = self.reach(len) / PAGE;
        let mut fork = Self {
            device: self.device.clone(),
            format: self.format,
            shapes: self.shapes.clone(),
            pages: vec![],
            table: vec![0; self.table.len()],
            home: None,
            has_changed: true,
            max_pages: self.max_pages,
            pool: self.pool.clone(),
            len: pages * PAGE,
        };
        self.pages[..pages].iter().for_each(|page| fork.keep(page.clone()));
        fork
    }
}

/// What the kernels read of a step's rows, and the memory that copies go through.
pub(super) struct Step {
    device: Device,
    stages: Vec<Pinned>,
    at: (usize, usize), // stage, and how much of it is in use until the step is done
    block: Option<Memory>,
    places: Places,
    is_replay: bool, // the copies are part of a graph
}

/// Addresses in the block.
#[derive(Clone, Copy, Default)]
pub(super) struct Places {
    pub(super) tokens: u64,
    pub(super) selected: u64, // rows that want logits
    pub(super) selected_count: usize,
    pub(super) temperatures: u64, // of these rows, where they want no more than the best tokens
    pub(super) step: Option<StepAt>,
}

impl Step {
    pub(super) fn new(device: &Device) -> Self {
        Self {
            device: device.clone(),
            stages: vec![],
            at: (0, 0),
            block: None,
            places: Places::default(),
            is_replay: false,
        }
    }

    pub(super) fn places(&self) -> Places {
        self.places
    }

    /// Copies the page tables that have changed: no part of a graph.
    ///
    /// # Errors
    /// When the driver refuses.
    pub(super) fn copy_tables(&mut self, states: &mut [State]) -> Result<()> {
        for state in states.iter_mut().filter(|state| state.has_changed && !state.pages.is_empty()) {
            if state.home.is_none() {
                state.home = Some(self.device.allocate(state.table.len() * size_of::<u64>())?);
            }
            self.device.copy_now(state.place(), cast_slice(&state.table))?;
            state.has_changed = false;
        }
        Ok(())
    }

    /// Copies the rows of a step.
    ///
    /// # Errors
    /// When the device has no room, or the driver refuses.
    pub(super) fn begin(&mut self, rows: &[Row], states: &[State], mode: Mode) -> Result<()> {
        if self.at != (0, 0) {
            // The step before ended early; its copies may be under way.
            let _ = self.device.wait();
            self.end();
        }
        self.is_replay = mode == Mode::Replay;
        let numbers = |of: fn(&Row) -> usize| rows.iter().map(move |row| of(row) as i32);
        let selected = rows.iter().enumerate().filter(|(_, row)| row.wants.logits()).map(|(i, _)| i as i32);
        let mut words: Vec<i32> = numbers(|row| row.token as usize).collect();
        words.extend(numbers(|row| row.position).chain(numbers(|row| row.sequence)));
        words.extend(selected);
        let selected_count = words.len() - 3 * rows.len();
        words.extend(best_at(rows).into_iter().flatten().map(|temperature| temperature.to_bits() as i32));
        words.resize(words.len().next_multiple_of(2), 0);
        let tables: Vec<u64> = states.iter().map(State::place).collect();
        let bytes = [cast_slice(&words), cast_slice::<u64, u8>(&tables)].concat();
        if self.block.as_ref().is_none_or(|block| block.len() < bytes.len()) {
            self.block = Some(self.device.allocate(bytes.len().next_power_of_two())?);
        }
        let block = self.block.as_ref().map_or(0, Memory::address);
        self.copy(block, &bytes)?;
        let place = |words: usize| block + words as u64 * 4;
        let cache_format = states.first().map_or(0, |state| cache_format(state.format));
        self.places = Places {
            tokens: block,
            selected: place(3 * rows.len()),
            selected_count,
            temperatures: place(3 * rows.len() + selected_count),
            step: Some(StepAt {
                positions: place(rows.len()),
                sequences: place(2 * rows.len()),
                tables: place(words.len()),
                max_pages: states.first().map_or(0, |state| state.max_pages),
                cache_format,
            }),
        };
        Ok(())
    }

    /// Copies bytes that may go as soon as this returns.
    ///
    /// # Errors
    /// When the system or the driver refuses.
    pub(super) fn copy(&mut self, to: u64, bytes: &[u8]) -> Result<()> {
        for piece in (0..bytes.len()).step_by(STAGE) {
            let part = &bytes[piece..bytes.len().min(piece + STAGE)];
            self.copy_piece(to + piece as u64, part)?;
        }
        Ok(())
    }

    fn copy_piece(&mut self, to: u64, bytes: &[u8]) -> Result<()> {
        if self.at.1 + bytes.len() > STAGE {
            self.at = (self.at.0 + 1, 0);
        }
        if self.stages.len() <= self.at.0 {
            self.stages.push(self.device.pinned(STAGE)?);
        }
        let start = self.at.1;
        self.at.1 = (start + bytes.len()).next_multiple_of(16);
        let stage = &mut self.stages[self.at.0];
        stage.write(start, bytes);
        if self.is_replay { Ok(()) } else { stage.send(start, bytes.len(), to) }
    }

    /// The device has done all of it.
    pub(super) fn end(&mut self) {
        self.at = (0, 0);
    }
}

/// The temperatures of the rows that want something, if all of these want no more than the best tokens.
pub(super) fn best_at(rows: &[Row]) -> Option<Vec<f32>> {
    let wanted = rows.iter().filter(|row| row.wants.logits());
    let temperatures: Option<Vec<f32>> = wanted
        .map(|row| match row.wants {
            Wants::Best { temperature } => Some(temperature),
            _ => None,
        })
        .collect();
    temperatures.filter(|temperatures| !temperatures.is_empty())
}

/// The kernels' number of a cache's format.
fn cache_format(format: &Format) -> i32 {
    match format.name {
        "F32" => 0,
        "F16" => 1,
        "Q8_0" => 2,
        _ => 3,
    }
}

/// A routing on the device.
#[derive(Default)]
pub struct DeviceRouting {
    pub(super) choices: Option<Memory>,
    pub(super) scores: Option<Memory>,
    pub(super) rows: usize,
    pub(super) used: usize,
    pub(super) experts: usize,
}

impl DeviceRouting {
    /// Makes room for so many rows.
    ///
    /// # Errors
    /// When the device has none.
    pub(super) fn resize(&mut self, device: &Device, rows: usize, used: usize, experts: usize) -> Result<()> {
        (self.rows, self.used, self.experts) = (rows, used, experts);
        for memory in [&mut self.choices, &mut self.scores] {
            if memory.as_ref().is_none_or(|memory| memory.len() < rows * used * 4) {
                *memory = Some(device.allocate((rows * used * 4).next_power_of_two())?);
            }
        }
        Ok(())
    }

    pub(super) fn at(&self) -> ChoicesAt {
        let address = |memory: &Option<Memory>| memory.as_ref().map_or(0, Memory::address);
        let (choices, scores) = (address(&self.choices), address(&self.scores));
        ChoicesAt { choices, scores, rows: self.rows, used: self.used }
    }

    /// Experts of all slots, -1 for what is left out; waits for them.
    ///
    /// # Errors
    /// The first failure of what was asked for.
    pub(super) fn experts(&self, device: &Device) -> Result<Vec<i32>> {
        let mut experts = vec![0i32; self.rows * self.used];
        if let Some(choices) = &self.choices {
            device.copy_out(choices, bytemuck::cast_slice_mut(&mut experts))?;
        }
        Ok(experts)
    }

    /// Weights of all slots.
    ///
    /// # Errors
    /// As above.
    pub(super) fn weights(&self, device: &Device) -> Result<Vec<f32>> {
        let mut weights = vec![0f32; self.rows * self.used];
        if let Some(scores) = &self.scores {
            device.copy_out(scores, bytemuck::cast_slice_mut(&mut weights))?;
        }
        Ok(weights)
    }
}
