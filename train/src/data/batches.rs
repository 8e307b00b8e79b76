//! Documents in batches, the next one read while the last is worked on.
//!
//! Batches bound what is in memory; their borders mean nothing.

use super::corpus::{Documents, Separator, Source};
use super::progress::{Progress, Report};
use crate::Result;
use std::sync::atomic::{AtomicBool, Ordering};

const BATCH_BYTES: usize = 16 << 20;
const BATCH_DOCUMENTS: usize = 1 << 16;

/// What goes through documents.
pub(super) struct Pass<'a> {
    pub separator: Separator,
    pub stop: &'a AtomicBool, // raised to end the pass
    pub progress: Progress,
    pub report: Report<'a>,
}

impl Pass<'_> {
    /// Calls `each` with all documents of `source`, batch after batch.
    pub(super) fn run(
        &mut self,
        source: &Source,
        mut each: impl FnMut(Vec<String>) -> Result<()> + Send,
    ) -> Result<()> {
        source.name.clone_into(&mut self.progress.source);
        let mut documents = source.documents(self.separator);
        let mut batch = read(&mut documents)?;
        while !batch.is_empty() {
            if self.stop.load(Ordering::Relaxed) {
                return Err(moewe_engine::Error::Stopped.into());
            }
            self.progress.advance(&batch);
            let (next, done) = rayon::join(|| read(&mut documents), || each(batch));
            done?;
            batch = next?;
            (self.report)(&self.progress);
        }
        Ok(())
    }
}

/// The next documents, none at the end.
fn read(documents: &mut Documents) -> Result<Vec<String>> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while bytes < BATCH_BYTES && batch.len() < BATCH_DOCUMENTS {
        let Some(document) = documents.next().transpose()? else { break };
        bytes += document.len();
        batch.push(document);
    }
    Ok(batch)
}
