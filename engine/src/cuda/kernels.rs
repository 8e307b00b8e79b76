//! Kernels that are loaded: what has failed, and what becomes of launches.

use super::arguments::Argument;
use super::device::{Device, Function, Memory};
use super::modules::Modules;
use super::written::{Launch, What};
use crate::error::{Error, Result};
use crate::quant::Format;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Rows of a step up to which it pays that every row reads the weights for itself.
pub const MOST_ROWS: usize = 4;
/// Threads of a block.
const THREADS: u32 = 128;
/// Counters of blocks that have arrived, each of which goes back to zero.
const COUNTERS: usize = 1 << 13;

/// Kernels of a model on a device.
pub struct Kernels {
    device: Device,
    modules: Modules,
    points: HashMap<u32, Memory>, // of formats with a grid, by their number
    failure: Mutex<Option<Error>>,
    counters: Memory,
    slots: Mutex<Option<Memory>>, // sorted by experts
    mode: Mutex<Mode>,
    written: Mutex<Vec<Launch>>,
}

/// What becomes of a step's launches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// They are started.
    Start,
    /// They wait for [`Kernels::start_written`], which joins neighbours.
    Write,
    /// Nothing: a graph of them will be launched as a whole.
    Replay,
}

impl Kernels {
    /// Loads the kernels for these formats.
    ///
    /// # Errors
    /// When the driver refuses, or the device has no room.
    pub fn load(device: Device, formats: &[&'static Format]) -> Result<Self> {
        let modules = Modules::load(&device, formats.iter().copied())?;
        let mut points = HashMap::new();
        for format in formats {
            let grid = crate::quant::points_of(format);
            if !grid.is_empty() {
                points.insert(format.id, device.upload(bytemuck::cast_slice(&grid))?);
            }
        }
        let counters = device.upload(&[0; COUNTERS * size_of::<i32>()])?;
        let (failure, written, slots) = Default::default();
        Ok(Self { device, modules, points, failure, counters, slots, mode: Mutex::new(Mode::Start), written })
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Says what is to become of launches from here on.
    pub fn set_mode(&self, mode: Mode) {
        *lock(&self.mode) = mode;
    }

    /// Remembers a failure, unless there was one before.
    pub fn fail(&self, error: Error) {
        lock(&self.failure).get_or_insert(error);
    }

    /// Keeps what succeeded.
    pub fn ok<T>(&self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.fail(error)).ok()
    }

    /// The first failure since the last time, if any.
    ///
    /// # Errors
    /// That.
    pub fn take_failure(&self) -> Result<()> {
        match lock(&self.failure).take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn has_failed(&self) -> bool {
        lock(&self.failure).is_some()
    }

    /// Starts a kernel, or writes it down.
    pub(super) fn run(
        &self,
        kernel: &Function,
        grid: (usize, usize),
        shared: usize,
        arguments: &[Argument],
        what: What,
    ) {
        let mode = *lock(&self.mode);
        if grid.0 == 0 || grid.1 == 0 || mode == Mode::Replay || self.has_failed() {
            return;
        }
        if mode == Mode::Start {
            return self.start(kernel, grid, shared, arguments);
        }
        let (kernel, arguments) = (kernel.clone(), arguments.to_vec());
        lock(&self.written).push(Launch { kernel, grid, shared, arguments, what });
    }

    fn start(&self, kernel: &Function, grid: (usize, usize), shared: usize, arguments: &[Argument]) {
        // SAFETY: `launch.rs` and `join.rs` give a kernel what its signature says; buffers have the shapes that they are
        // asked to have, and those freed meanwhile are freed after a wait of the driver's.
        self.ok(unsafe { self.device.launch(kernel, grid, THREADS, shared, arguments) });
    }

    /// Starts what was written down; of steps with few rows neighbours are joined.
    pub fn start_written(&self, rows: usize) {
        let mut written = std::mem::take(&mut *lock(&self.written));
        if rows <= MOST_ROWS {
            written = self.joined(written);
        }
        for launch in written.iter().take_while(|_| !self.has_failed()) {
            self.start(&launch.kernel, launch.grid, launch.shared, &launch.arguments);
        }
    }

    pub(super) fn modules(&self) -> &Modules {
        &self.modules
    }

    /// Room for slots sorted by experts.
    pub(super) fn slots(&self) -> &Mutex<Option<Memory>> {
        &self.slots
    }

    /// Zeros for blocks to count themselves in, if there are so many.
    pub(super) fn counters(&self, count: usize) -> Option<u64> {
        (count <= COUNTERS).then(|| self.counters.address())
    }

    pub(super) fn points(&self, format: &Format) -> u64 {
        self.points.get(&format.id).map_or(0, Memory::address)
    }
}

/// What a thread that panicked has left is as good as any.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
