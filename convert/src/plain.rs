//! The plain way: a source as it is, with what is known of its inputs at best, becomes a file.

use crate::calibrate::Guide;
use crate::open::Opened;
use crate::options::Options;
use crate::report::Progress;
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
    let job = Job { source: &*source, options, progress };
    written(&job, guide, out).map_err(|error| error.in_file(&opened.path))
}

fn written(job: &Job, guide: Guide, out: Option<Destination>) -> Result<Written> {
    let (mut report, mut out) = job.write(guide, out)?;
    if let Some(out) = &mut out
        && let Some(file) = out.unfinished()?
    {
        job.source.accept(file)?;
    }
    job.source.tell(&mut report);
    Ok((report, out))
}
