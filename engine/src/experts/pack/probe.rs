//! What a side file would gain on this disk and these cores, found out before one is written: experts read as the model
//! has them and packed, against stretches as long of the same file, read as they are.

use super::super::files::{Files, ReadFrom};
use super::super::readers::{PIECE, THREADS, largest_piece, piece_rows};
use super::super::slots::{ALIGNMENT, SlotShape, Which};
use super::super::{ExpertLayer, Layers};
use super::no_experts;
use crate::error::{Error, Result};
use crate::kernels::{Layout, MatrixRef};
use crate::os::pages::Pages;
use crate::os::read::{ReadBuffer, ReadFile};
use crate::simd::Isa;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes of experts per second.
#[derive(Clone, Copy, Debug)]
pub struct Probed {
    /// As the model has them, packed when they are read.
    pub from_model: f64,
    /// Side by side and packed already.
    pub from_side_file: f64,
}

/// Reads for `limit` in each of the two ways, without order, past the page cache where the system can.
///
/// # Errors
/// When the model has no experts in a file, or that cannot be read, or [`Error::Stopped`] once `stop` is up.
pub fn probe(layers: &Layers, isa: Isa, limit: Duration, stop: &AtomicBool) -> Result<Probed> {
    let all: Vec<&ExpertLayer> = layers.iter().flatten().collect();
    let first = *all.first().ok_or_else(no_experts)?;
    let Some((mapping, _)) = first.up.experts[0].file_position() else {
        return Err(Error::request("a model in memory has no side file"));
    };
    let (files, whole) = (Files::open(layers, true, ReadFrom::default())?, ReadFile::open(mapping, true)?);
    let len = SlotShape::of(first).len();
    let places = ((mapping.len().saturating_sub(len)) / ALIGNMENT).max(1) as u64;
    let longest = all.iter().map(|layer| SlotShape::of(layer).len()).max().unwrap_or(len);
    let race = Race { limit, stop, slot: longest, buffer: largest_piece(layers) };
    let from_model = race.rate(|number, pages, buffer| {
        let layer = all[(number % all.len() as u64) as usize];
        let expert = (number / all.len() as u64 % layer.expert_count() as u64) as u32;
        read_and_pack(layer, (expert, isa), &files, pages, buffer)
    })?;
    let from_side_file = race.rate(|number, pages, _| {
        let start = number % places * ALIGNMENT as u64;
        let pieces = pages[..len.min(mapping.len() / ALIGNMENT * ALIGNMENT)].chunks_mut(PIECE);
        pieces.enumerate().try_for_each(|(i, piece)| whole.read_into(start + (i * PIECE) as u64, piece))?;
        Ok(SlotShape::of(first).bytes())
    })?;
    Ok(Probed { from_model, from_side_file })
}

/// An expert as a reader brings it into a slot; its bytes.
fn read_and_pack(
    layer: &ExpertLayer,
    (expert, isa): (u32, Isa),
    files: &Files,
    pages: &mut Pages,
    buffer: &mut ReadBuffer,
) -> Result<usize> {
    let shape = SlotShape::of(layer);
    for which in Which::ALL {
        let Some(stack) = which.of(layer) else { continue };
        let (place, step) = (shape.range(which), piece_rows(stack) * stack.row_bytes());
        for start in place.clone().step_by(step) {
            let piece = start..place.end.min(start + step);
            let range = piece.start - place.start..piece.end - place.start;
            let bytes = files.read(&stack.experts[expert as usize], range, buffer)?;
            let rows = MatrixRef { rows: piece.len() / stack.row_bytes(), bytes, ..stack.matrix(expert) };
            Layout::of(isa, stack.format).pack(rows, &mut pages[piece]);
        }
    }
    Ok(shape.bytes())
}

/// A number without order for each of 0, 1, 2, …: Fibonacci hashing (Knuth, volume 3, section 6.4).
fn scattered(number: u64) -> u64 {
    number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16
}

/// As many threads as the store has, for a while.
struct Race<'a> {
    limit: Duration,
    stop: &'a AtomicBool,
    slot: usize,
    buffer: usize,
}

impl Race<'_> {
    /// Bytes per second of `read`, which is given numbers without order and tells what it read.
    fn rate(&self, read: impl Fn(u64, &mut Pages, &mut ReadBuffer) -> Result<usize> + Sync) -> Result<f64> {
        let (next, done, start) = (AtomicU64::new(0), AtomicU64::new(0), Instant::now());
        let run = || -> Result<()> {
            let (mut pages, mut buffer) = (Pages::new(self.slot)?, ReadBuffer::new(self.buffer)?);
            while start.elapsed() < self.limit || done.load(Ordering::Relaxed) == 0 {
                if self.stop.load(Ordering::Relaxed) {
                    return Err(Error::Stopped);
                }
                let number = scattered(next.fetch_add(1, Ordering::Relaxed));
                let bytes = read(number, &mut pages, &mut buffer)?;
                done.fetch_add(bytes as u64, Ordering::Relaxed);
            }
            Ok(())
        };
        let outcomes: Vec<Result<()>> = thread::scope(|scope| {
            let threads: Vec<_> = (1..THREADS).map(|_| scope.spawn(run)).collect();
            let own = run();
            threads.into_iter().filter_map(|thread| thread.join().ok()).chain([own]).collect()
        });
        outcomes.into_iter().collect::<Result<()>>()?;
        Ok(done.into_inner() as f64 / start.elapsed().as_secs_f64())
    }
}
