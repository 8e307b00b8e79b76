//! What models lie on: the file system, its room, and how fast it is read, by a probe of at most two seconds.
//!
//! The probe reads the largest model. Where there is none it writes a temporary file into a models' folder, which goes
//! again whatever happens; it makes no folder.

use super::super::{folders, models};
use anyhow::{Context, Result};
use moewe_engine::Error;
use moewe_engine::eval::disk::disk_rates;
use moewe_engine::os::disk::{self, Medium};
use moewe_engine::os::mapping::Mapping;
use serde::Serialize;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tempfile::NamedTempFile;

/// Models below this size tell little.
const LEAST: u64 = 64 << 20;
/// The size of a temporary file, and the time in which as much of it is written as can be.
const MOST: u64 = 256 << 20;
const WRITING: Duration = Duration::from_millis(600);
/// The part of a disk's free room that a temporary file may take.
const SHARE: u64 = 20;
/// An expert of a common size.
const PIECE: u64 = 4 << 20;
/// Time for reading in order, and for reading pieces.
const READING: Duration = Duration::from_millis(550);

#[derive(Debug, Default, Serialize)]
pub(super) struct Disk {
    /// The models' folder that was looked at.
    pub(super) folder: Option<String>,
    pub(super) file_system: Option<String>,
    pub(super) device: Option<String>,
    /// `solid`, `rotating`, `remote`, `memory`.
    pub(super) medium: Option<&'static str>,
    pub(super) free_bytes: Option<u64>,
    pub(super) rates: Option<Rates>,
    pub(super) why_not: Option<String>,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Rates {
    pub(super) file: String,
    pub(super) is_temporary: bool,
    pub(super) is_past_cache: bool,
    pub(super) bytes_read: u64,
    pub(super) sequential_bytes_per_second: f64,
    pub(super) random_bytes_per_second: f64,
    /// Bytes of a random read.
    pub(super) piece_bytes: u64,
}

/// Looks at the folder of the largest model, else at the first folder that is there.
///
/// # Errors
/// [`Error::Stopped`] once `stop` is up; whatever else goes wrong is part of what is told.
pub(super) fn examine(stop: &AtomicBool) -> Result<Disk> {
    let all = folders::models();
    let largest = largest(&all);
    let folder = match &largest {
        Some((_, path)) => path.parent(),
        None => all.iter().find(|folder| folder.is_dir()).or(all.last()).map(PathBuf::as_path),
    };
    let there = folder.and_then(|folder| folder.ancestors().find(|folder| folder.is_dir()));
    let known = there.and_then(disk::of);
    let mut disk = Disk {
        folder: folder.map(|folder| folder.display().to_string()),
        file_system: known.as_ref().map(|disk| disk.file_system.clone()),
        device: known.as_ref().and_then(|disk| disk.device.clone()),
        medium: known.and_then(|disk| name(disk.medium)),
        free_bytes: folder.and_then(folders::free),
        rates: None,
        why_not: None,
    };
    let measured = match (&largest, folder) {
        (Some((bytes, path)), _) if *bytes >= LEAST => of_model(path, stop),
        (_, Some(folder)) => of_temporary(folder, disk.free_bytes, stop),
        (_, None) => Err(anyhow::anyhow!("no folder for models is known")),
    };
    match measured {
        Ok(rates) => disk.rates = Some(rates),
        Err(error) if matches!(error.downcast_ref(), Some(Error::Stopped)) => return Err(error),
        Err(error) => disk.why_not = Some(format!("{error:#}")),
    }
    Ok(disk)
}

/// The largest file of a model, of those that are split their first.
fn largest(folders: &[PathBuf]) -> Option<(u64, PathBuf)> {
    let sized =
        |path: PathBuf| Some((fs::metadata(&path).ok().filter(|status| status.is_file())?.len(), path));
    models::find(folders).into_iter().filter_map(|found| sized(found.path)).max_by_key(|(bytes, _)| *bytes)
}

fn name(medium: Medium) -> Option<&'static str> {
    match medium {
        Medium::Solid => Some("solid"),
        Medium::Rotating => Some("rotating"),
        Medium::Remote => Some("remote"),
        Medium::Memory => Some("memory"),
        Medium::Unknown => None,
    }
}

fn of_model(path: &Path, stop: &AtomicBool) -> Result<Rates> {
    rates(path, stop).map(|rates| Rates { is_temporary: false, ..rates })
}

fn of_temporary(folder: &Path, free: Option<u64>, stop: &AtomicBool) -> Result<Rates> {
    if !folder.is_dir() {
        anyhow::bail!("there is no folder {} yet", folder.display());
    }
    let most = free.map_or(MOST, |free| (free / SHARE).min(MOST));
    if most < LEAST {
        anyhow::bail!("no model is there to read, and no room for a temporary file of 64 MiB");
    }
    // From here on every way out of the function removes the file.
    let file = tempfile::Builder::new().prefix(".moewe-doctor-").tempfile_in(folder);
    let mut file = file.context("cannot write a temporary file")?;
    fill(&mut file, most, stop)?;
    rates(file.path(), stop)
}

/// Writes what does not compress, and on to the disk, so that reading it is no reading of memory.
fn fill(file: &mut NamedTempFile, most: u64, stop: &AtomicBool) -> Result<()> {
    const CHUNK: usize = 8 << 20;
    // Xorshift (Marsaglia 2003).
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let words = (0..CHUNK / size_of::<u64>()).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    let chunk: Vec<u8> = words.collect();
    let start = Instant::now();
    for _ in 0..most / CHUNK as u64 {
        if stop.load(Ordering::Relaxed) {
            return Err(Error::Stopped.into());
        }
        let written = file.write_all(&chunk).and_then(|()| file.as_file().sync_data());
        written.context("cannot write a temporary file")?;
        if start.elapsed() > WRITING {
            break;
        }
    }
    Ok(())
}

fn rates(path: &Path, stop: &AtomicBool) -> Result<Rates> {
    let rates = disk_rates(&Mapping::open(path)?, PIECE, READING, stop)?;
    Ok(Rates {
        file: path.display().to_string(),
        is_temporary: true,
        is_past_cache: rates.is_past_cache,
        bytes_read: rates.bytes,
        sequential_bytes_per_second: rates.sequential,
        random_bytes_per_second: rates.random,
        piece_bytes: rates.piece,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn go_on() -> AtomicBool {
        AtomicBool::new(false)
    }

    #[test]
    fn a_temporary_file_is_read_and_gone() {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let rates = of_temporary(folder.path(), None, &go_on()).unwrap();
        assert!(rates.is_temporary && rates.bytes_read > 0 && rates.random_bytes_per_second > 0.0);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn nothing_stays_of_a_probe_that_is_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let stopped = of_temporary(folder.path(), None, &AtomicBool::new(true)).unwrap_err();
        assert!(matches!(stopped.downcast_ref(), Some(Error::Stopped)));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn where_nothing_can_be_written_the_reason_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let full = of_temporary(folder.path(), Some(MOST), &go_on()).err().unwrap();
        assert!(full.to_string().contains("no room"), "{full}");
        let absent = of_temporary(&folder.path().join("absent"), None, &go_on()).err().unwrap();
        assert!(absent.to_string().contains("no folder"), "{absent}");
    }

    #[test]
    fn the_largest_model_is_read() {
        let folder = tempfile::tempdir().unwrap();
        assert!(largest(&[folder.path().to_owned()]).is_none());
        for (name, bytes) in [("a.gguf", 10), ("b.gguf", 20), ("c.txt", 30)] {
            fs::write(folder.path().join(name), vec![0; bytes]).unwrap();
        }
        let found = largest(&[folder.path().join("absent"), folder.path().to_owned()]);
        assert_eq!(found, Some((20, folder.path().join("b.gguf"))));
    }
}
