//! `moewe pack`: a side file with a model's experts as the kernels want them, so that one read brings one.
//!
//! It takes as much disk as the experts do, so what that gains here is measured and told before anything is written.

use super::consent::{self, Usual};
use super::{Command, models, output, progress};
use anyhow::{Context, Result, bail};
use clap::Parser;
use moewe_engine::experts::pack::{Probed, SideFile};
use moewe_engine::gguf::Gguf;
use moewe_engine::model::Model;
use moewe_engine::os::interrupt::{self, Listener};
use moewe_engine::simd::Isa;
use serde_json::json;
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

/// How long each of the two ways of reading is tried.
const PROBE: Duration = Duration::from_millis(1500);

/// Write a model's experts once more, beside it, as they are computed with: they are then read faster.
#[derive(Parser)]
#[command(name = "pack")]
pub(super) struct Pack {
    /// A GGUF file, the first part of a split one, or a name from `moewe list`
    model: OsString,
    /// Compare the file that is there with the model instead
    #[arg(long)]
    verify: bool,
    /// For another instruction set than this machine's fastest; --isa of the other commands has to name it then, too
    #[arg(long, value_name = "NAME")]
    isa: Option<String>,
    /// Write without asking
    #[arg(short = 'y', long, conflicts_with = "verify")]
    yes: bool,
    /// Say nothing on the way
    #[arg(short = 'q', long)]
    quiet: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Command for Pack {
    fn run(self) -> Result<()> {
        let place = models::resolve(Some(&self.model), false)?;
        let gguf = place.open()?;
        let isa = self.isa.as_deref().map(Isa::parse).transpose()?.unwrap_or_else(Isa::detect);
        let model = Model::bind(&gguf).with_context(|| place.to_string())?;
        let path = SideFile::path(&gguf).context("a model in the program has no file to lie beside")?;
        if model.weights.experts.is_empty() {
            bail!("{place}: this model has no experts to pack");
        }
        let listener = interrupt::listen_to_all();
        if self.verify {
            return self.verify(&gguf, &model, isa, (&path, &listener));
        }
        if model.weights.experts.side_file(&gguf, isa).is_some() {
            output::note(format!("{} is there and fits; --verify compares it", path.display()));
            return Ok(());
        }
        self.ask(&gguf, &model, isa, (&path, &listener))?;
        let bar = progress::bar(self.quiet, "{bar:30} {bytes} of {total_bytes}, {eta} left");
        let written = model.weights.experts.pack(&gguf, isa, |done, all| {
            bar.set_length(all);
            bar.set_position(done);
            !listener.is_raised()
        });
        bar.finish_and_clear();
        let written = written?;
        if self.json {
            return output::json(&json!({
                "path": path.display().to_string(), "bytes": written.bytes, "kept_layers": written.kept_layers,
            }));
        }
        let kept = match written.kept_layers {
            0 => String::new(),
            kept => format!(", of which {} were there already", output::counted(kept, "layer")),
        };
        output::print(format!("{}: {}{kept}", path.display(), output::bytes(written.bytes)))
    }
}

impl Pack {
    fn verify(
        &self,
        gguf: &Gguf,
        model: &Model,
        isa: Isa,
        (path, listener): (&Path, &Listener),
    ) -> Result<()> {
        let bar = progress::bar(self.quiet, "{bar:30} {bytes} of {total_bytes}, {eta} left");
        let compared = model.weights.experts.verify(gguf, isa, |done, all| {
            bar.set_length(all);
            bar.set_position(done);
            !listener.is_raised()
        });
        bar.finish_and_clear();
        let bytes = compared?;
        if self.json {
            return output::json(
                &json!({ "path": path.display().to_string(), "bytes": bytes, "is_same": true }),
            );
        }
        output::print(format!("{}: all experts are the model's, {}", path.display(), output::bytes(bytes)))
    }

    /// Tells what it costs and gains, and asks.
    fn ask(&self, gguf: &Gguf, model: &Model, isa: Isa, (path, listener): (&Path, &Listener)) -> Result<()> {
        let store = &model.weights.experts;
        let bytes = store.packed_bytes(gguf, isa)?;
        let Probed { from_model, from_side_file } = store.probe_packing(isa, PROBE, &listener.flag())?;
        let seconds = bytes as f64 / from_model + bytes as f64 / from_side_file;
        let said = format!(
            "{}: {} on the disk besides the model, in about {}; experts are read at {}/s from it and {}/s without it, \
             {:.2} times as fast",
            path.display(),
            output::bytes(bytes),
            time(seconds),
            output::bytes(from_side_file as u64),
            output::bytes(from_model as u64),
            from_side_file / from_model.max(f64::MIN_POSITIVE)
        );
        if self.yes {
            if !self.quiet {
                output::note(said);
            }
            return Ok(());
        }
        if !consent::can_ask() {
            bail!("{said}; --yes writes it where nobody can be asked");
        }
        output::note(said);
        consent::ask("Write it", Usual::No)
    }
}

fn time(seconds: f64) -> String {
    if seconds < 90.0 {
        format!("{:.0} s", seconds.max(1.0))
    } else {
        format!("{:.0} minutes", seconds / 60.0)
    }
}
