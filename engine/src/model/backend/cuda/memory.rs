//! What a step and a sequence have on the device: the step's rows, a sequence's pages and states, a routing.

use super::super::super::kv_cache::KvCache;
use super::super::super::pool::{Claim, PAGE, Pool};
use super::super::super::recurrent::{Recurrent, SNAPSHOTS};
use super::super::super::state::{self, Memory as Shape, Pages};
use super::super::super::step::{Row, Wants, runs};
use crate::cuda::{CHUNK, ChoicesAt, Device, Memory, Mode, Pinned, StepAt};
use crate::error::Result;
use crate::quant::Format;
use bytemuck::cast_slice;
use std::sync::Arc;

/// Bytes of a piece of the staging memory.
const STAGE: usize = 1 << 20;

/// One sequence's keys and values on the device, in pages of [`PAGE`] positions, and its recurrent states.
pub struct State {
    device: Device,
    format: &'static Format,
    layers: Vec<Shape>,
    pages: Vec<Arc<(Vec<Memory>, Claim)>>, // of all layers and sides each
    recurrent: Recurrent<Memory>,
    table: Vec<u64>,      // see `BEHIND_PAGES`
    home: Option<Memory>, // of the table, made when a step first needs it
    has_changed: bool,    // since the table was copied
    max_pages: usize,
    pool: Arc<Pool>,
    len: usize,
}

/// What a table of addresses holds: `(layers, 2, max_pages)` pages of keys and values, a layer's state in the place of its
/// first page; behind them where all states begin, and for each snapshot after how many positions it is made and where it
/// begins.
const BEHIND_PAGES: usize = 1 + 2 * SNAPSHOTS;

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
        let size = KvCache::states(layers, format)?; // which checks the widths
        let empty = Self {
            device: device.clone(),
            format,
            layers: layers.to_vec(),
            pages: vec![],
            recurrent: Recurrent::new(size),
            table: vec![],
            home: None,
            has_changed: true,
            max_pages,
            pool: pool.clone(),
            len: 0,
        };
        Ok(empty.with_table())
    }

    fn with_table(mut self) -> Self {
        self.table = vec![0; self.layers.len() * 2 * self.max_pages + BEHIND_PAGES];
        self
    }

    /// Tells it from others; where its table is.
    pub(super) fn place(&self) -> u64 {
        self.home.as_ref().map_or(0, Memory::address)
    }

    /// Pages in a table.
    fn behind_pages(&self) -> usize {
        self.table.len() - BEHIND_PAGES
    }

    /// Bytes of a page's sides.
    fn sides(&self) -> impl Iterator<Item = usize> {
        let widths = self.layers.iter().flat_map(|layer| match *layer {
            Shape::Pages(Pages { heads, key_length, value_length, .. }) => {
                [(heads, key_length), (heads, value_length)]
            }
            Shape::State(_) | Shape::Entries(_) => [(0, 0); 2],
        });
        let present = widths.filter(|(_, width)| *width > 0);
        present.map(|(heads, width)| PAGE * heads * self.format.row_bytes(width))
    }

    fn new_page(&mut self) -> Result<Arc<(Vec<Memory>, Claim)>> {
        let claim = self.recurrent.claim(&self.pool)?;
        let sides = self.sides().map(|bytes| self.device.allocate(bytes)).collect::<Result<_>>()?;
        Ok(Arc::new((sides, claim)))
    }

    /// A page of its own for the positions that come next, with what was there of those before.
    fn own_last_page(&mut self) -> Result<()> {
        let (number, held) = (self.len / PAGE, self.len % PAGE);
        if held == 0 || Arc::strong_count(&self.pages[number]) == 1 {
            return Ok(());
        }
        let own = self.new_page()?;
        for (from, to) in self.pages[number].0.iter().zip(&own.0) {
            self.device.copy_within(from, to)?;
        }
        self.pages[number] = own;
        self.write_page(number);
        Ok(())
    }

    /// Puts a page behind the others.
    fn keep(&mut self, page: Arc<(Vec<Memory>, Claim)>) {
        self.pages.push(page);
        self.write_page(self.pages.len() - 1);
    }

    /// Writes a page's addresses into the table.
    fn write_page(&mut self, number: usize) {
        let mut sides = self.pages[number].0.iter().map(Memory::address);
        for (layer, shape) in self.layers.iter().enumerate() {
            let Shape::Pages(pages) = shape else { continue };
            for (side, width) in [pages.key_length, pages.value_length].into_iter().enumerate() {
                if width > 0 {
                    let place = (layer * 2 + side) * self.max_pages + number;
                    self.table[place] = sides.next().expect("a side for each width");
                }
            }
        }
        self.has_changed = true;
    }

    /// Writes into the table where states are and become snapshots.
    fn write_states(&mut self) {
        if !self.recurrent.is_any() {
            return;
        }
        let start = self.recurrent.now().map_or(0, Memory::address);
        let mut at = start;
        for (layer, shape) in self.layers.iter().enumerate() {
            if let Shape::State(numbers) = shape {
                self.table[layer * 2 * self.max_pages] = at;
                at += (numbers * size_of::<f32>()) as u64;
            }
        }
        let behind = self.behind_pages();
        self.table[behind..].fill(0);
        self.table[behind] = start;
        for (i, snapshot) in self.recurrent.snapshots().iter().enumerate() {
            // One that lies behind the last position has been made, and one that others share with this was before.
            if snapshot.len > self.len {
                self.table[behind + 1 + 2 * i] = snapshot.len as u64;
                self.table[behind + 2 + 2 * i] = snapshot.states.values.address();
            }
        }
        self.has_changed = true;
    }

    fn state_bytes(&self) -> usize {
        self.recurrent.size().numbers * size_of::<f32>()
    }

    /// Its own states for the positions that come next; whether they are others than before.
    fn own_states(&mut self) -> Result<bool> {
        let (device, bytes) = (&self.device, self.state_bytes());
        let copied = |states: Option<&Memory>| {
            let Some(states) = states else { return device.zeros(bytes) };
            let copy = device.allocate(bytes)?;
            device.copy_within(states, &copy).map(|()| copy)
        };
        self.recurrent.own(&self.pool, copied)
    }
}

impl super::super::State for State {
    fn len(&self) -> usize {
        self.len
    }

    fn extend_to(&mut self, len: usize) -> Result<()> {
        if len > self.len {
            let is_new = self.own_states()?;
            self.own_last_page()?;
            while self.pages.len() < len.div_ceil(PAGE) {
                let page = self.new_page()?;
                self.keep(page);
            }
            let (device, bytes) = (&self.device, self.state_bytes());
            // Last, so that no page takes one of them away.
            let has_more = self.recurrent.pass_marks(&self.pool, len, || device.allocate(bytes))?;
            if is_new || has_more {
                self.write_states();
            }
            self.len = len;
        }
        Ok(())
    }

    fn pages_for(&self, len: usize) -> usize {
        self.recurrent.pages_for(len, self.len, &self.pages)
    }

    fn rewind(&mut self, len: usize) -> usize {
        if len < self.len {
            self.len = self.recurrent.rewind(len, self.len);
            self.pages.truncate(self.len.div_ceil(PAGE));
            self.write_states();
        }
        self.len
    }

    fn mark(&mut self, len: usize) {
        self.recurrent.mark(len, self.len);
    }

    fn reach(&self, len: usize) -> usize {
        self.recurrent.reach(len, self.len)
    }

    fn fork(&self, len: usize) -> Self {
        let reached = self.reach(len);
        let fork = Self {
            device: self.device.clone(),
            format: self.format,
            layers: self.layers.clone(),
            pages: vec![],
            recurrent: self.recurrent.fork(len, self.len, reached),
            table: vec![],
            home: None,
            has_changed: true,
            max_pages: self.max_pages,
            pool: self.pool.clone(),
            len: reached,
        };
        let mut fork = fork.with_table();
        self.pages[..reached.div_ceil(PAGE)].iter().for_each(|page| fork.keep(page.clone()));
        fork.write_states();
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
        for state in states.iter_mut().filter(|state| state.has_changed && state.len > 0) {
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
        let runs_at = words.len() + best_at(rows).map_or(0, |temperatures| temperatures.len());
        words.extend(best_at(rows).into_iter().flatten().map(|temperature| temperature.to_bits() as i32));
        let run_count = runs(rows).count();
        words.extend(runs(rows).flat_map(|run| [run.start as i32, run.len() as i32]));
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
                runs: place(runs_at),
                run_count,
                chunks: chunks_of(rows),
                tables: place(words.len()),
                behind_pages: states.first().map_or(0, State::behind_pages),
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

/// Rows of a step up to which a head has a block for each chunk of its positions.
const FEW_ROWS: usize = 16;

/// How many: powers of two, for every other number is another graph.
pub(super) fn chunks_of(rows: &[Row]) -> usize {
    let most = rows.iter().map(|row| row.position / CHUNK + 1).max().unwrap_or(1);
    if rows.len() <= FEW_ROWS { most.next_power_of_two() } else { 1 }
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
        ChoicesAt { choices, scores, rows: self.rows, used: self.used, tiles: None }
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
