//! `moewe list`: the models in the model folders, those of other programs, and some that one can get. Reads headers only.

use super::models::{self, Found, Place};
use super::output::{self, Table};
use super::{Command, catalogue, folders, inspect};
use crate::embedded;
use anyhow::Result;
use clap::Parser;
use moewe_engine::gguf::Gguf;
use serde::Serialize;
use std::path::PathBuf;

/// List the models in $MOEWE_MODELS and the user's data folder.
#[derive(Parser)]
#[command(name = "list")]
pub(super) struct List {
    /// Also what Hugging Face's cache, Ollama and LM Studio hold; it runs from there, and nothing there is changed
    #[arg(long)]
    all: bool,
    /// Some MoE models that can be pulled, with what they take
    #[arg(long, conflicts_with = "all")]
    remote: bool,
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
}

impl Command for List {
    fn run(self) -> Result<()> {
        if self.remote {
            return catalogue::print(self.json);
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
        for found in found {
            match Gguf::open(&found.path) {
                Ok(gguf) => all.push(describe(found, &gguf)),
                Err(error) => output::note(error),
            }
        }
        if self.json {
            return output::json(&all);
        }
        if all.len() == 1 {
            output::note(models::ways(&folders));
        }
        table(&all).print()
    }
}

fn describe(found: Found, gguf: &Gguf) -> Listed {
    Listed {
        name: found.name,
        architecture: inspect::architecture(gguf),
        format: inspect::main_format(gguf).to_owned(),
        parameters: inspect::model(gguf).weights,
        bytes: gguf.file_len(),
        path: found.path.display().to_string(),
    }
}

fn table(all: &[Listed]) -> Table {
    let mut table = Table::new(&["NAME", "ARCHITECTURE", "FORMAT", "PARAMETERS", "SIZE", "PATH"], &[3, 4]);
    for model in all {
        table.row([
            output::excerpt(&model.name, 60),
            output::excerpt(&model.architecture, 20),
            model.format.clone(),
            output::count(model.parameters),
            output::bytes(model.bytes),
            model.path.clone(),
        ]);
    }
    table
}
