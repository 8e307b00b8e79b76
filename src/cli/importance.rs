//! `moewe importance`: how large the inputs of a model's matrices are on a text, for `moewe convert --importance` and for
//! llama.cpp. Measuring and the file formats are the engine's `eval::importance`.

use super::options::ModelOptions;
use super::output::{self, Table};
use super::progress::Reading;
use super::{Command, target, text::read};
use anyhow::{Result, bail};
use clap::Parser;
use moewe_engine::eval::{Importance, chunks_of};
use std::path::{Path, PathBuf};

/// Measure how much each column of a model's matrices matters, or look into such a file.
///
/// With a model and --text, the inputs of all matrices are measured. With an importance file of llama.cpp (.gguf or .dat)
/// in the place of the model, what it holds is printed; -o writes it as .gguf.
#[derive(Parser)]
#[command(name = "importance", mut_arg("context", |arg| arg.default_value("512").help("Tokens per piece")))]
pub(super) struct Measure {
    #[command(flatten)]
    model: ModelOptions,
    /// The text file; `-` reads stdin
    #[arg(long, short = 'f', value_name = "FILE")]
    text: Option<PathBuf>,
    /// The file to write
    #[arg(long, short = 'o', value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace an existing file
    #[arg(long)]
    force: bool,
}

impl Command for Measure {
    fn run(self) -> Result<()> {
        target::check(self.output.as_deref(), target::existing(self.force))?;
        let importance = match &self.text {
            Some(text) => self.measure(text)?,
            None => self.open()?,
        };
        if let Some(path) = &self.output {
            importance.write(path, target::existing(self.force))?;
        }
        print(&importance)
    }
}

impl Measure {
    fn measure(&self, text: &Path) -> Result<Importance> {
        let contents = read(text)?;
        let engine = self.model.open_to_score()?;
        if let Some(path) = &self.output {
            target::refuse_model(path, [engine.gguf()])?;
        }
        let chunks = chunks_of(&engine, &contents, engine.context_length())?;
        let reading = Reading::begin(self.model.quiet);
        let measured = Importance::measure(&engine, &chunks, &mut |done, all| reading.goes_on(done, all))?;
        Ok(Importance { datasets: vec![text.display().to_string()], ..measured })
    }

    fn open(&self) -> Result<Importance> {
        match self.model.model.as_deref().map(Path::new).filter(|path| path.is_file()) {
            Some(path) => Ok(Importance::open(path)?),
            None => bail!("name an importance file to look into, or a model and --text to measure"),
        }
    }
}

fn print(importance: &Importance) -> Result<()> {
    let mut table = Table::new(&["TENSOR", "EXPERTS", "ROWS", "FEWEST"], &[1, 2, 3]);
    for (name, entry) in &importance.entries {
        let fewest = entry.counts.iter().copied().fold(f64::INFINITY, f64::min);
        let rows: f64 = entry.counts.iter().sum();
        let experts = entry.counts.len().to_string();
        table.row([output::excerpt(name, 60), experts, format!("{rows:.0}"), format!("{fewest:.0}")]);
    }
    table.print()?;
    for (name, experts) in importance.unseen() {
        let experts: Vec<String> = experts.iter().map(usize::to_string).collect();
        output::note(format!(
            "{}: the text never reached experts {}; they lean on their layer",
            output::excerpt(name, 60),
            experts.join(", ")
        ));
    }
    Ok(())
}
