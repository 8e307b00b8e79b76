//! How fast a file is read: in order, as at a first start, and an expert here and there, as where experts do not all fit.
//!
//! As many threads read as the expert store has, in pieces as large, past the page cache where the system can. What a disk does between
//! requests is not known here.

use crate::error::{Error, Result};
use crate::experts::{READ_PIECE, READ_THREADS};
use crate::os::mapping::Mapping;
use crate::os::read::{ReadBuffer, ReadFile};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes of a request, and the multiple at which each begins.
const REQUEST: u64 = READ_PIECE as u64;
const ALIGNMENT: u64 = 4096;

/// Rates in bytes per second.
#[derive(Clone, Copy, Debug)]
pub struct DiskRates {
    /// One request behind the other.
    pub sequential: f64,
    /// Pieces of [`DiskRates::piece`] bytes anywhere.
    pub random: f64,
    /// Bytes of such a piece.
    pub piece: u64,
    /// Bytes read in all.
    pub bytes: u64,
    /// Whether the page cache was left out.
    pub is_past_cache: bool,
}

/// Reads the file for twice at most `limit`, pieces of `piece` bytes first.
///
/// # Errors
/// When the file cannot be read, or [`Error::Stopped`] once `stop` is up.
pub fn disk_rates(mapping: &Mapping, piece: u64, limit: Duration, stop: &AtomicBool) -> Result<DiskRates> {
    let file = ReadFile::open(mapping, true)?;
    let len = mapping.len() as u64;
    let piece = piece.clamp(1, len);
    let probe = Probe { file: &file, len, limit, stop };
    let places = (len - piece) / ALIGNMENT + 1;
    let (random, random_bytes) = probe.rate(piece, |number| scattered(number) % places * ALIGNMENT)?;
    let request = REQUEST.min(len);
    let requests = len / request;
    let (sequential, bytes) = probe.rate(request, |number| number % requests * request)?;
    let bytes = bytes + random_bytes;
    Ok(DiskRates { sequential, random, piece, bytes, is_past_cache: file.is_direct() })
}

/// A number without order for each of 0, 1, 2, …: the finalizer of SplitMix64 (Steele, Lea and Flood 2014).
fn scattered(number: u64) -> u64 {
    let mut state = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

struct Probe<'a> {
    file: &'a ReadFile,
    len: u64,
    limit: Duration,
    stop: &'a AtomicBool,
}

impl Probe<'_> {
    /// Bytes per second, and bytes, of pieces that begin where `place` says of each number, until the time is up; at least
    /// one.
    fn rate(&self, piece: u64, place: impl Fn(u64) -> u64 + Sync) -> Result<(f64, u64)> {
        let (next, done) = (AtomicU64::new(0), AtomicU64::new(0));
        let start = Instant::now();
        let read = || -> Result<()> {
            let mut buffer = ReadBuffer::new(REQUEST.min(piece) as usize)?;
            while start.elapsed() < self.limit || done.load(Ordering::Relaxed) == 0 {
                if self.stop.load(Ordering::Relaxed) {
                    return Err(Error::Stopped);
                }
                self.read(place(next.fetch_add(1, Ordering::Relaxed)), piece, &mut buffer)?;
                done.fetch_add(piece, Ordering::Relaxed);
            }
            Ok(())
        };
        let outcomes: Vec<Result<()>> = thread::scope(|scope| {
            let threads: Vec<_> = (1..READ_THREADS).map(|_| scope.spawn(read)).collect();
            let own = read();
            threads.into_iter().filter_map(|thread| thread.join().ok()).chain([own]).collect()
        });
        outcomes.into_iter().collect::<Result<()>>()?;
        let bytes = done.into_inner();
        Ok((bytes as f64 / start.elapsed().as_secs_f64(), bytes))
    }

    /// A piece, request by request.
    fn read(&self, start: u64, len: u64, buffer: &mut ReadBuffer) -> Result<()> {
        let end = (start + len).min(self.len);
        let mut position = start;
        while position < end {
            let request = REQUEST.min(end - position);
            self.file.read(position, request as usize, buffer)?;
            position += request;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(len: usize) -> (tempfile::TempDir, Mapping) {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = folder.path().join("bytes");
        std::fs::write(&path, vec![7; len]).unwrap();
        let mapping = Mapping::open(&path).unwrap();
        (folder, mapping)
    }

    #[test]
    fn files_of_every_length_have_rates() {
        for len in [1, 4097, 3 << 20] {
            let (_folder, mapping) = file(len);
            let rates = disk_rates(&mapping, 1 << 20, Duration::ZERO, &AtomicBool::new(false)).unwrap();
            assert!(rates.sequential > 0.0 && rates.random > 0.0, "{rates:?}");
            assert_eq!(rates.piece, (len as u64).min(1 << 20));
            assert!(rates.bytes >= 2 * rates.piece.min(REQUEST), "{rates:?}");
        }
    }

    #[test]
    fn pieces_lie_within_the_file_and_all_over_it() {
        let places: Vec<u64> = (0..1000).map(|number| scattered(number) % 10).collect();
        assert!((0..10).all(|place| places.contains(&place)));
        assert_ne!(scattered(0), scattered(1));
    }

    #[test]
    fn whoever_stops_it_gets_no_rates() {
        let (_folder, mapping) = file(1 << 20);
        let stopped = disk_rates(&mapping, 4096, Duration::from_secs(60), &AtomicBool::new(true));
        assert!(matches!(stopped, Err(Error::Stopped)));
    }

    #[test]
    fn a_file_that_has_become_shorter_is_an_error() {
        let (folder, mapping) = file(1 << 20);
        std::fs::File::options().write(true).open(folder.path().join("bytes")).unwrap().set_len(5).unwrap();
        assert!(disk_rates(&mapping, 4096, Duration::ZERO, &AtomicBool::new(false)).is_err());
    }
}
