//! Event files for TensorBoard, in `tensorboard/`: scalars, expert load as histograms, samples as text.
//!
//! A file is a row of TFRecords, each a protobuf `Event` of TensorFlow's event.proto and summary.proto; the field
//! numbers below are theirs. Each start opens a new file and declares later steps of older files void.

use super::protobuf::Message;
use super::{Event, ExpertLoad, Settings, Sink, Start, StepReport, Validation};
use crate::{Error, Result};
use moewe_engine::os::host;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

struct TensorBoard {
    file: File,    // written record by record
    path: PathBuf, // for messages
}

/// Opens a new event file in the folder `tensorboard`.
pub(super) fn open(settings: &Settings) -> Result<Box<dyn Sink>> {
    let folder = settings.folder.join("tensorboard");
    std::fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, "create", e))?;
    let (file, path) = new_file(&folder)?;
    let mut sink = TensorBoard { file, path };
    sink.write(&Message::new().double(1, now()).bytes(3, "brain.Event:2"))?;
    Ok(Box::new(sink))
}

/// A file that no other start has; TensorBoard reads the files of a folder in the order of their names.
fn new_file(folder: &Path) -> Result<(File, PathBuf)> {
    let stem = format!("events.out.tfevents.{:010}.{}.{}", now() as u64, host(), std::process::id());
    let mut names = std::iter::once(stem.clone()).chain((1..).map(|count| format!("{stem}.{count}")));
    loop {
        let path = folder.join(names.next().unwrap_or_default());
        match File::create_new(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::io(path, "create", error)),
            Ok(file) => return Ok((file, path)),
        }
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn host() -> String {
    let name = host::name().unwrap_or_default();
    let name = name.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    if name.is_empty() { "localhost".into() } else { name }
}

impl TensorBoard {
    fn write(&mut self, event: &Message) -> Result<()> {
        self.file.write_all(&record(event.as_bytes())).map_err(|e| Error::io(&self.path, "write", e))
    }

    /// Writes values (encoded `Summary.Value`s) that belong to one step.
    fn summary(&mut self, step: u64, values: &[Message]) -> Result<()> {
        let summary = values.iter().fold(Message::new(), |summary, value| summary.message(1, value));
        self.write(&Message::new().double(1, now()).varint(2, step).message(5, &summary))
    }

    /// A `SessionLog` with status START: points of earlier files from this step on count as never written.
    fn void_from(&mut self, step: u64) -> Result<()> {
        let start = Message::new().varint(1, 1);
        self.write(&Message::new().double(1, now()).varint(2, step).message(7, &start))
    }

    fn start(&mut self, start: &Start) -> Result<()> {
        self.void_from(start.step + 1)?;
        self.summary(start.step, &[text("training", &start.description)])
    }
}

impl Sink for TensorBoard {
    fn record(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::Start(start) => self.start(start),
            Event::Step(report) => self.summary(report.step, &step_values(report)),
            Event::Validation(validation) => self.summary(validation.step, &validation_values(validation)),
            Event::Sample { step, prompt, text: written } => {
                self.summary(*step, &[text(&sample_tag(prompt), &format!("{prompt}{written}"))])
            }
            Event::Checkpoint { .. } => Ok(()),
            Event::End { .. } => self.file.sync_all().map_err(|e| Error::io(&self.path, "flush", e)),
        }
    }
}

fn step_values(report: &StepReport) -> Vec<Message> {
    let mut values = vec![
        scalar("train/loss", report.loss),
        scalar("train/cross_entropy", report.cross_entropy),
        scalar("train/load_balance", report.load_balance),
        scalar("train/router_z", report.router_z),
        scalar("train/learning_rate", report.learning_rate),
        scalar("train/gradient_norm", report.gradient_norm),
        scalar("train/tokens_per_second", report.tokens_per_second),
        scalar("train/memory_bytes", report.memory_bytes as f64),
    ];
    values.extend(report.experts.iter().flat_map(expert_values));
    values
}

fn expert_values(load: &ExpertLoad) -> [Message; 3] {
    let tag = |name: &str| format!("experts/layer_{}/{name}", load.layer);
    [
        scalar(&tag("entropy"), load.entropy),
        scalar(&tag("dropped"), load.dropped as f64),
        Message::new().bytes(1, tag("load")).message(5, &histogram(&load.counts)),
    ]
}

fn validation_values(validation: &Validation) -> Vec<Message> {
    let mut values = vec![
        scalar("validation/loss", validation.loss),
        scalar("validation/perplexity", validation.perplexity),
    ];
    values.extend(validation.bits_per_byte.map(|bits| scalar("validation/bits_per_byte", bits)));
    values
}

/// `Summary.Value` with a simple_value.
fn scalar(tag: &str, value: f64) -> Message {
    Message::new().bytes(1, tag).float(2, value as f32)
}

/// `HistogramProto` in which expert `e` is the interval from `e` to `e + 1`.
fn histogram(counts: &[u64]) -> Message {
    let moment = |power: i32| -> f64 {
        counts.iter().enumerate().map(|(e, &n)| n as f64 * (e as f64 + 0.5).powi(power)).sum()
    };
    Message::new()
        .double(1, 0.0)
        .double(2, counts.len() as f64)
        .double(3, moment(0))
        .double(4, moment(1))
        .double(5, moment(2))
        .doubles(6, (1..=counts.len()).map(|limit| limit as f64))
        .doubles(7, counts.iter().map(|&count| count as f64))
}

/// `Summary.Value` for the text plugin: metadata that names it, and a string tensor of shape `[1]`.
fn text(tag: &str, text: &str) -> Message {
    const STRING: u64 = 7; // DT_STRING
    let plugin = Message::new().message(1, &Message::new().bytes(1, "text"));
    let shape = Message::new().message(2, &Message::new().varint(1, 1));
    let tensor = Message::new().varint(1, STRING).message(2, &shape).bytes(8, text);
    Message::new().bytes(1, tag).message(9, &plugin).message(8, &tensor)
}

/// One tag per prompt, so that its texts over the training stand one after the other.
fn sample_tag(prompt: &str) -> String {
    let name: String = prompt.trim().chars().take(60).map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!("samples/{name}")
}

/// A TFRecord: length, its checksum, the data, its checksum; all little-endian
/// (<https://www.tensorflow.org/tutorials/load_data/tfrecord>).
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked_crc(&length), data, &masked_crc(data)].concat()
}

/// CRC-32C, rotated and shifted as TFRecord wants it, because a checksum of data that holds checksums is weak.
fn masked_crc(data: &[u8]) -> [u8; 4] {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CRC-32C bit by bit: polynomial 0x1EDC6F41 reflected.
    fn plain_crc(data: &[u8]) -> u32 {
        let shift = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        !data.iter().fold(!0u32, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), |crc, _| shift(crc)))
    }

    fn check(data: &[u8], stored: &[u8]) {
        let mask = plain_crc(data).rotate_right(15).wrapping_add(0xa282_ead8);
        assert_eq!(u32::from_le_bytes(stored.try_into().unwrap()), mask);
    }

    /// The payloads of a file of TFRecords, every checksum proven.
    fn parse(mut file: &[u8]) -> Vec<&[u8]> {
        let mut records = vec![];
        while !file.is_empty() {
            let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
            check(&file[..8], &file[8..12]);
            check(&file[12..12 + length], &file[12 + length..16 + length]);
            records.push(&file[12..12 + length]);
            file = &file[16 + length..];
        }
        records
    }

    #[test]
    fn checksums_and_frames_are_those_of_the_specification() {
        assert_eq!(plain_crc(b"123456789"), 0xe306_9283, "the check value of CRC-32C");
        assert_eq!(plain_crc(&[0; 32]), 0x8a91_36aa, "RFC 3720, B.4");
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        let head = [0x18, 0, 0, 0, 0, 0, 0, 0, 0xa3, 0x7f, 0x4b, 0x22];
        assert_eq!(record(&[0; 24])[..12], head, "how every event file of TensorFlow begins");
        assert_eq!(parse(&[record(b"one"), record(b"")].concat()), [&b"one"[..], b""]);
    }

    #[test]
    fn files_begin_with_their_version_and_starts_do_not_share_one() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings { folder: folder.path().to_owned(), step: 0, log_every: 1 };
        for step in [1, 2] {
            let mut sink = open(&settings).unwrap();
            sink.record(&Event::Validation(Validation { step, ..Default::default() })).unwrap();
        }
        let files: Vec<_> = std::fs::read_dir(folder.path().join("tensorboard")).unwrap().collect();
        assert_eq!(files.len(), 2);
        for file in files {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            let records = parse(&bytes);
            assert_eq!(records.len(), 2);
            assert!(records[0].ends_with(b"\x1a\x0dbrain.Event:2"), "{:?}", records[0]);
            assert!(records[1].windows(15).any(|bytes| bytes == b"validation/loss"));
        }
    }

    #[test]
    fn tags_of_prompts_are_one_short_line() {
        assert_eq!(sample_tag(" Es\nwar "), "samples/Es war");
        assert_eq!(sample_tag(&"ä".repeat(99)).chars().count(), 68);
    }
}
