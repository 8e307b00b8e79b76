//! `moewe list`: the models in the model folders, those converted on the way, those of other programs, and some that one
//! can get. Reads headers only.

use super::models::{self, Found, Place};
use super::output::{self, Table};
use super::{Command, catalogue, converted, folders};
use crate::{embedded, facts};
use anyhow::Result;
use clap::Parser;
use moewe_engine::experts::pack::SideFile;
use moewe_engine::gguf::Gguf;
use serde::Serialize;
use std::path::PathBuf;

/// List the models in $MOEWE_MODELS and the user's data folder, and those that were converted on the way.
#[derive(Parser)]
#[command(name = "list")]
pub(super) struct List {
    /// Also what Hugging Face's cache, Ollama and LM Studio hold; it runs from there, and nothing there is changed
    #[arg(long)]
    all: bool,
    /// Some MoE models that can be pulled, with what they take
    #[arg(long, conflicts_with = "all")]
    remote: bool,
    /// Remove models that were converted on the way; no others, for these can be made again
    #[arg(long, value_name = "NAME", num_args = 1.., conflicts_with_all = ["all", "remote", "json"])]
    remove: Vec<String>,
    /// Remove without asking
    #[arg(short = 'y', long, requires = "remove")]
    yes: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A model as it is listed.
#[derive(Serialize)]
struct Listed {
    name: String,
    architecture: String,
    format: String,
    parameters: u64,
    bytes: u64,
    path: String,
    /// Of its experts' side file.
    #[serde(skip_serializing_if = "Option::is_none")]
    packed_experts_bytes: Option<u64>,
    /// Whether that is of this very file.
    #[serde(skip_serializing_if = "Option::is_none")]
    are_packed_experts_current: Option<bool>,
    /// What it was converted from on the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
}

impl Command for List {
    fn run(self) -> Result<()> {
        if self.remote {
            return catalogue::print(self.json);
        }
        if !self.remove.is_empty() {
            return converted::remove(&self.remove, self.yes);
        }
        let folders = folders::models();
        let mut all = Vec::new();
        let embedded = Found { name: embedded::NAME.to_owned(), path: PathBuf::from("(in the program)") };
        all.push(describe(embedded, &Place::Embedded.open()?));
        let mut found = models::find(&folders);
        if self.all {
            let others = folders::others().all().into_iter();
            found.extend(others.map(|model| Found { name: model.name, path: model.path }));
        }
        all.extend(found.into_iter().filter_map(read));
        let own = all.len();
        let source = |source: Option<String>| source.or(Some("unknown".to_owned()));
        all.extend(converted::all().into_iter().filter_map(|model| {
            let listed = read(Found { name: model.name, path: model.path })?;
            Some(Listed { source: source(model.source), ..listed })
        }));
        if self.json {
            return output::json(&all);
        }
        if all.len() == 1 {
            output::note(models::ways(&folders));
        }
        let (own, converted) = all.split_at(own);
        table(own).print()?;
        if converted.is_empty() {
            return Ok(());
        }
        output::print("")?;
        table_of_converted(converted).print()
    }
}

/// What a file says of itself; why one cannot be read is said.
fn read(found: Found) -> Option<Listed> {
    match Gguf::open(&found.path) {
        Ok(gguf) => Some(describe(found, &gguf)),
        Err(error) => {
            output::note(error);
            None
        }
    }
}

fn describe(found: Found, gguf: &Gguf) -> Listed {
    let is_adapter = gguf.metadata().str("general.type").ok().flatten() == Some("adapter");
    let what = if is_adapter { "an adapter for " } else { "" };
    let side = SideFile::beside(gguf).unwrap_or_else(|error| {
        output::note(error);
        None
    });
    Listed {
        name: found.name,
        architecture: format!("{what}{}", facts::architecture(gguf)),
        format: facts::main_format(gguf).to_owned(),
        parameters: facts::model(gguf).weights,
        bytes: gguf.file_len(),
        path: found.path.display().to_string(),
        packed_experts_bytes: side.as_ref().map(SideFile::file_len),
        are_packed_experts_current: side.as_ref().map(|side| side.is_of(gguf)),
        source: None,
    }
}

fn table(all: &[Listed]) -> Table {
    let mut table = Table::new(&["NAME", "ARCHITECTURE", "FORMAT", "PARAMETERS", "SIZE", "PATH"], &[3, 4]);
    for model in all {
        table.row([
            output::excerpt(&model.name, 60),
            output::excerpt(&model.architecture, 32),
            model.format.clone(),
            output::count(model.parameters),
            size(model),
            model.path.clone(),
        ]);
    }
    table
}

/// Bytes of a model, and of its packed experts.
fn size(model: &Listed) -> String {
    let bytes = output::bytes(model.bytes);
    match (model.packed_experts_bytes, model.are_packed_experts_current) {
        (Some(packed), Some(true)) => format!("{bytes} + {} packed experts", output::bytes(packed)),
        (Some(packed), _) => format!("{bytes} + {} of another version", output::bytes(packed)),
        (None, _) => bytes,
    }
}

fn table_of_converted(all: &[Listed]) -> Table {
    let mut table =
        Table::new(&["CONVERTED", "ARCHITECTURE", "FORMAT", "PARAMETERS", "SIZE", "FROM"], &[3, 4]);
    for model in all {
        table.row([
            output::excerpt(&model.name, 120),
            output::excerpt(&model.architecture, 32),
            model.format.clone(),
            output::count(model.parameters),
            output::bytes(model.bytes),
            output::excerpt(model.source.as_deref().unwrap_or_default(), 200),
        ]);
    }
    table
}
