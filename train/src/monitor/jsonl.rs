//! `metrics.jsonl`: every event as one line of JSON, for scripts and notebooks.
//!
//! A resumed training cuts what was written beyond its checkpoint, so no step stands there twice.

use super::{Event, Settings, Sink};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Serialize)]
struct Line<'a> {
    unix_time: f64, // seconds
    #[serde(flatten)]
    event: &'a Event,
}

/// All that cutting needs to know of a line.
#[derive(Deserialize)]
struct Place {
    step: u64,
}

struct Jsonl {
    file: File,    // opened for appending
    path: PathBuf, // for messages
}

/// Opens `metrics.jsonl` for appending, cut back to the settings' step.
pub(super) fn open(settings: &Settings) -> Result<Box<dyn Sink>> {
    let path = settings.folder.join("metrics.jsonl");
    if path.exists() {
        cut(&path, settings.step)?;
    }
    let file = File::options().create(true).append(true).open(&path);
    let file = file.map_err(|e| Error::io(&path, "open", e))?;
    Ok(Box::new(Jsonl { file, path }))
}

impl Sink for Jsonl {
    fn record(&mut self, event: &Event) -> Result<()> {
        let unix_time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let io = |e| Error::io(&self.path, "write", e);
        let mut line = serde_json::to_vec(&Line { unix_time, event }).map_err(|e| io(e.into()))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(io)
    }
}

/// Drops the lines of steps after `step` and those that are no JSON, such as a last line that a kill cut short.
fn cut(path: &Path, step: u64) -> Result<()> {
    let partial = path.with_extension("jsonl.partial");
    keep_lines(path, &partial, step).map_err(|e| Error::io(path, format!("cut back to step {step}"), e))?;
    std::fs::rename(&partial, path).map_err(|e| Error::io(path, "replace", e))
}

fn keep_lines(from: &Path, to: &Path, step: u64) -> std::io::Result<()> {
    let (mut input, mut output) = (BufReader::new(File::open(from)?), BufWriter::new(File::create(to)?));
    let mut line = vec![];
    while input.read_until(b'\n', &mut line)? > 0 {
        let text = line.trim_ascii_end();
        if serde_json::from_slice::<Place>(text).is_ok_and(|place| place.step <= step) {
            output.write_all(text)?;
            output.write_all(b"\n")?;
        }
        line.clear();
    }
    output.into_inner()?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::super::{ExpertLoad, Start, StepReport};
    use super::*;

    fn lines(folder: &Path) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn train(folder: &Path, from: u64, to: u64) {
        let settings = Settings { folder: folder.to_owned(), step: from, log_every: 1 };
        let mut sink = open(&settings).unwrap();
        sink.record(&Event::Start(Start { step: from, ..Default::default() })).unwrap();
        for step in from + 1..=to {
            let experts = vec![ExpertLoad { counts: vec![1, 2], ..Default::default() }];
            let report = StepReport { step, loss: f64::NAN, experts, ..Default::default() };
            sink.record(&Event::Step(report)).unwrap();
        }
    }

    #[test]
    fn a_resumed_training_doubles_no_step_and_drops_a_half_line() {
        let folder = tempfile::tempdir().unwrap();
        train(folder.path(), 0, 5);
        let path = folder.path().join("metrics.jsonl");
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 20]).unwrap();
        train(folder.path(), 3, 6);
        let steps: Vec<_> = lines(folder.path()).iter().map(|line| line["step"].as_u64().unwrap()).collect();
        assert_eq!(steps, [0, 1, 2, 3, 3, 4, 5, 6], "3 twice: as a step and as the new start");
        let last = &lines(folder.path())[7];
        assert_eq!((&last["event"], &last["loss"]), (&"step".into(), &serde_json::Value::Null));
        assert_eq!(last["experts"][0]["counts"][1], 2);
        assert!(last["unix_time"].as_f64().unwrap() > 1.7e9);
    }

    #[test]
    fn a_whole_last_line_without_its_newline_stays() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("metrics.jsonl"), "{\"step\":1}\nrubbish\n{\"step\":2}").unwrap();
        train(folder.path(), 2, 2);
        let steps: Vec<_> = lines(folder.path()).iter().map(|line| line["step"].as_u64().unwrap()).collect();
        assert_eq!(steps, [1, 2, 2]);
    }
}
