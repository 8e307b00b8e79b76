//! The files that experts are read from, and a brake that makes them as slow as another machine's disk.
//!
//! What is read when, and what becomes of it, is the readers' matter.

use super::Layers;
use super::pack::SideFile;
use crate::error::{Error, Result};
use crate::gguf::Bytes;
use crate::os::mapping::Mapping;
use crate::os::read::{ReadBuffer, ReadFile};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Where experts are read from, besides the model's own files, and how fast.
#[derive(Clone, Default)]
pub struct ReadFrom {
    /// Experts as the kernels want them.
    pub side: Option<SideFile>,
    /// Bytes per second that reads are slowed down to.
    pub rate: Option<f64>,
}

/// The files that experts are in.
pub(super) struct Files {
    files: Vec<(Arc<Mapping>, ReadFile)>,
    side: Option<(SideFile, ReadFile)>,
    throttle: Option<Throttle>,
}

impl Files {
    /// Opens them all. `past_cache` asks for reads that leave no copy in the page cache.
    pub(super) fn open(layers: &Layers, past_cache: bool, from: ReadFrom) -> Result<Self> {
        let mut files: Vec<(Arc<Mapping>, ReadFile)> = vec![];
        for bytes in layers.iter().flatten().flat_map(|layer| layer.stacks()).flat_map(|stack| &stack.experts)
        {
            if let Some((mapping, _)) = bytes.file_position()
                && !files.iter().any(|(known, _)| Arc::ptr_eq(known, mapping))
            {
                files.push((mapping.clone(), ReadFile::open(mapping, past_cache)?));
            }
        }
        let open = |side: SideFile| {
            let file = ReadFile::open(side.mapping(), past_cache)?;
            Ok::<_, Error>((side, file))
        };
        let side = from.side.map(open).transpose()?;
        Ok(Self { files, side, throttle: from.rate.map(Throttle::new) })
    }

    /// Whether reads leave no copy in the page cache.
    pub(super) fn are_direct(&self) -> bool {
        match &self.side {
            Some((_, file)) => file.is_direct(),
            None => !self.files.is_empty() && self.files.iter().all(|(_, file)| file.is_direct()),
        }
    }

    /// Whether experts lie in a side file as slots have them.
    pub(super) fn has_side_file(&self) -> bool {
        self.side.is_some()
    }

    /// Fills a piece of a slot, which begins at `at`, from the side file.
    ///
    /// # Panics
    /// Where there is none.
    pub(super) fn fill(&self, (layer, expert): (usize, u32), at: usize, piece: &mut [u8]) -> Result<()> {
        let (side, file) = self.side.as_ref().expect("a side file");
        file.read_into(side.position(layer, expert) + at as u64, piece)?;
        self.throttle.iter().for_each(|throttle| throttle.pass(piece.len()));
        Ok(())
    }

    /// The bytes `range` of `bytes`, read where they are in a file.
    pub(super) fn read<'b>(
        &self,
        bytes: &'b Bytes,
        range: Range<usize>,
        buffer: &'b mut ReadBuffer,
    ) -> Result<&'b [u8]> {
        let file = bytes.file_position().and_then(|(mapping, position)| {
            let (_, file) = self.files.iter().find(|(known, _)| Arc::ptr_eq(known, mapping))?;
            Some((file, position + range.start as u64))
        });
        let len = range.len();
        let read = match file {
            Some((file, position)) => file.read(position, len, buffer)?,
            None => &bytes[range],
        };
        self.throttle.iter().for_each(|throttle| throttle.pass(len));
        Ok(read)
    }
}

/// A disk that serves one read after the other at a rate. Reads that come while it is busy wait for those before them.
struct Throttle {
    rate: f64, // bytes per second
    free: Mutex<Instant>,
}

impl Throttle {
    fn new(rate: f64) -> Self {
        Self { rate, free: Mutex::new(Instant::now()) }
    }

    /// Returns when the disk would have read so many bytes more.
    fn pass(&self, bytes: usize) {
        let now = Instant::now();
        let until = {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            *free = (*free).max(now) + Duration::from_secs_f64(bytes as f64 / self.rate);
            *free
        };
        thread::sleep(until.saturating_duration_since(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_at_a_time_share_the_rate() {
        let throttle = Throttle::new(1e6);
        let start = Instant::now();
        thread::scope(|scope| {
            (0..4).for_each(|_| _ = scope.spawn(|| throttle.pass(5000)));
        });
        assert!(start.elapsed() >= Duration::from_millis(20), "{:?}", start.elapsed());
    }
}
