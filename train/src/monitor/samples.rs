//! `samples.txt`: the texts that the model wrote during training, one after the other, for reading.

use super::{Event, Settings, Sink};
use crate::{Error, Result};
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

struct Samples {
    file: File,    // opened for appending
    path: PathBuf, // for messages
}

/// Opens `samples.txt` for appending.
pub(super) fn open(settings: &Settings) -> Result<Box<dyn Sink>> {
    let path = settings.folder.join("samples.txt");
    let file = File::options().create(true).append(true).open(&path);
    let file = file.map_err(|e| Error::io(&path, "open", e))?;
    Ok(Box::new(Samples { file, path }))
}

impl Sink for Samples {
    fn record(&mut self, event: &Event) -> Result<()> {
        let Event::Sample { step, prompt, text } = event else { return Ok(()) };
        let entry = format!("=== step {step} === {prompt:?}\n{prompt}{text}\n\n");
        self.file.write_all(entry.as_bytes()).map_err(|e| Error::io(&self.path, "write", e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_appended_over_restarts() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings { folder: folder.path().to_owned(), step: 0, log_every: 1 };
        for step in [1, 2] {
            let event = Event::Sample { step, prompt: "Es war".into(), text: " einmal".into() };
            open(&settings).unwrap().record(&event).unwrap();
        }
        let text = std::fs::read_to_string(folder.path().join("samples.txt")).unwrap();
        let entry = |step| format!("=== step {step} === \"Es war\"\nEs war einmal\n\n");
        assert_eq!(text, entry(1) + &entry(2));
    }
}
