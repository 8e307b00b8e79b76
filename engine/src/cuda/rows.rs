//! Rows of numbers on a device, with their twins in bytes, each made when a product first asks for it.

use super::device::{Device, Memory};
use crate::error::Result;
use crate::quant::Grain;

/// Numbers per group of 32 inputs: the scale, and its sums over 32 and over each 16.
const EXTRAS: usize = 4;

/// Row-major f32 rows.
pub struct Rows {
    memory: Option<Memory>, // grown when first needed
    rows: usize,
    width: usize,
    coded: [Coded; 2], // by `Grain`
    host: Vec<f32>,    // what was fetched last
}

/// Rows rounded to bytes.
#[derive(Default)]
pub(super) struct Coded {
    codes: Option<Memory>,
    extras: Option<Memory>,
    /// Whether they are those of the values.
    is_current: bool,
}

impl Rows {
    /// None, `width` wide.
    pub fn new(width: usize) -> Self {
        Self { memory: None, rows: 0, width, coded: Default::default(), host: vec![] }
    }

    /// Rows held.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Gives them another shape; contents are undefined.
    ///
    /// # Errors
    /// When the device has no room.
    pub fn resize(&mut self, device: &Device, rows: usize, width: usize) -> Result<()> {
        (self.rows, self.width) = (rows, width);
        self.touch();
        grow(device, &mut self.memory, rows * width * size_of::<f32>())
    }

    /// Says that the values have changed.
    pub(super) fn touch(&mut self) {
        self.coded.iter_mut().for_each(|coded| coded.is_current = false);
    }

    /// Where values may be written; they count as changed.
    pub fn place(&mut self) -> u64 {
        self.touch();
        self.address()
    }

    /// Where the values are; 0 where there are none.
    pub(super) fn address(&self) -> u64 {
        self.memory.as_ref().map_or(0, Memory::address)
    }

    /// Where codes and extras are; `None` once per change of the values, when they have to be made.
    pub(super) fn coded(&mut self, device: &Device, grain: Grain) -> Result<(u64, u64, bool)> {
        let (rows, width) = (self.rows, self.width);
        let coded = &mut self.coded[grain as usize];
        if !coded.is_current {
            grow(device, &mut coded.codes, rows * width)?;
            grow(device, &mut coded.extras, rows * width / 32 * EXTRAS * size_of::<f32>())?;
        }
        let was_current = std::mem::replace(&mut coded.is_current, true);
        let address = |memory: &Option<Memory>| memory.as_ref().map_or(0, Memory::address);
        Ok((address(&coded.codes), address(&coded.extras), was_current))
    }

    /// Copies the values to the program; waits for what makes them.
    ///
    /// # Errors
    /// The first failure of what was asked for.
    pub fn fetch(&mut self, device: &Device) -> Result<&[f32]> {
        let mut host = std::mem::take(&mut self.host);
        host.resize(self.rows * self.width, 0.0);
        let copied = self.copy_to(device, &mut host);
        self.host = host;
        copied.map(|()| self.host.as_slice())
    }

    /// The same into other memory.
    ///
    /// # Errors
    /// As [`Rows::fetch`].
    pub fn copy_to(&self, device: &Device, host: &mut [f32]) -> Result<()> {
        match &self.memory {
            Some(memory) if !host.is_empty() => device.copy_out(memory, bytemuck::cast_slice_mut(host)),
            _ => Ok(()),
        }
    }

    /// Writes some rows, in the order of what is asked for; done when it returns.
    ///
    /// # Errors
    /// When the driver refuses, or something before it failed.
    pub fn write_rows(&mut self, device: &Device, rows: &[(usize, &[f32])]) -> Result<()> {
        self.touch();
        for (row, values) in rows {
            assert!(*row < self.rows && values.len() == self.width);
            let to = self.address() + (row * self.width * size_of::<f32>()) as u64;
            // SAFETY: `rows` are borrowed until the wait below, and the row is one of these.
            unsafe { device.copy_in(to, bytemuck::cast_slice(values))? };
        }
        device.wait()
    }

    /// Forgets what was fetched.
    pub fn forget(&mut self) {
        self.host.clear();
    }

    /// A row as it was fetched; `None` where it was not.
    pub fn fetched(&self, row: usize) -> Option<&[f32]> {
        self.host.chunks_exact(self.width.max(1)).nth(row)
    }
}

/// Makes sure of room for `bytes`; what was there is lost.
pub(super) fn grow(device: &Device, memory: &mut Option<Memory>, bytes: usize) -> Result<()> {
    if memory.as_ref().is_none_or(|memory| memory.len() < bytes) {
        *memory = None; // first, so that both are never there at once
        *memory = Some(device.allocate(bytes)?);
    }
    Ok(())
}
