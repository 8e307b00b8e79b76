//! A file that another program has under its SHA-256 is copied in the place of a download.
//!
//! The other's file is only read, never linked to: what happens to it later does not touch ours. Its name is believed no
//! more than a server is, so the copy's digest is computed.

use super::Report;
use super::local::Others;
use super::part::Part;
use super::plan::Item;
use anyhow::Result;
use moewe_engine::Error;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Fills a part with what another program has, and says whether it did.
///
/// # Errors
/// The person asks to stop, or the part cannot be emptied again. Any other failure is what the download finds out.
pub(super) fn fill(
    part: &mut Part,
    item: &Item,
    others: &Others,
    stop: &Arc<AtomicBool>,
    report: &dyn Report,
) -> Result<bool> {
    let Some(sha256) = item.digest.as_ref().and_then(|digest| digest.as_sha256()) else { return Ok(false) };
    if part.done() > 0 {
        return Ok(false); // what has arrived would be given up for a file that may be another
    }
    for path in others.blobs(sha256) {
        let length = path.metadata().map(|data| data.len()).ok();
        if item.size.is_some_and(|size| length != Some(size)) {
            continue;
        }
        report.begin(&item.name, length, 0);
        let copied = copy(part, &path, stop, &|done| report.at(done, length));
        report.end();
        let why = match copied.and_then(|()| part.digest(stop)) {
            Ok(found) if Some(&found) == item.digest.as_ref() => {
                report.say(&format!(
                    "{}: copied from {}, where another program has it",
                    item.name,
                    path.display()
                ));
                return Ok(true);
            }
            Ok(found) => format!("has {found}"),
            Err(error) if matches!(error.downcast_ref(), Some(Error::Stopped)) => {
                part.restart()?; // half of a copy is no half of a download
                return Err(error);
            }
            Err(error) => format!("cannot be copied: {error:#}"),
        };
        part.restart()?;
        report.say(&format!("{} {why}; it is left alone", path.display()));
    }
    Ok(false)
}

fn copy(part: &mut Part, from: &Path, stop: &AtomicBool, at: &dyn Fn(u64)) -> Result<()> {
    part.take(&mut File::open(from)?, stop, at)
}
