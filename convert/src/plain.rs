//! The plain way: a source as it is, with what is known of its inputs at best, becomes a file.

use crate::calibrate::Guide;
use crate::open::Opened;
use crate::options::Options;
use crate::report::Progress;
use crate::source::Source;
use crate::stream::{Job, Written};
use moewe_engine::Result;
use moewe_engine::gguf::Destination;

/// Writes what was opened into a file that has no name yet; a dry run writes nothing.
pub(crate) fn write(
    opened: &Opened,
    guide: Guide,
    out: Option<Destination>,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Written> {
    let source = opened.source(options)?;
    write_source(&*source, guide, out, options, progress).map_err(|error| error.in_file(&opened.path))
}

/// The same of any source.
pub(crate) fn write_source(
    source: &dyn Source,
    guide: Guide,
    out: Option<Destination>,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Written> {
    let job = Job { source, options, progress };
    let (mut report, mut out) = job.write(guide, out)?;
    if let Some(out) = &mut out
        && let Some(file) = out.unfinished()?
    {
        job.source.accept(file)?;
    }
    job.source.tell(&mut report);
    Ok((report, out))
}
