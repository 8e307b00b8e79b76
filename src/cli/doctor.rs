//! `moewe doctor`: what this machine is, what it makes of well-known models and of a person's own, and what is amiss.
//!
//! A [`Report`] is gathered first; text and JSON are two ways to print the same. Nothing goes to the network, and nothing
//! is written but, where a models' folder holds no model to read, a temporary file in it.

mod advice;
mod device;
mod disk;
mod machine;
mod outlook;
mod places;
mod report;

use super::{Command, output};
use anyhow::Result;
use clap::Parser;
use moewe_engine::Error;
use moewe_engine::os::interrupt;
use serde::Serialize;
use std::io::{IsTerminal, stderr};

/// Tell what this machine is, which models it runs and how fast, and what is amiss: for you, and for bug reports.
#[derive(Parser)]
#[command(name = "doctor")]
pub(super) struct Doctor {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// All that is told. Sizes are in bytes, rates in bytes per second; what is not known is null.
#[derive(Debug, Default, Serialize)]
struct Report {
    version: &'static str,
    build: machine::Build,
    system: machine::System,
    cpu: machine::Cpu,
    instruction_sets: machine::InstructionSets,
    memory: machine::Memory,
    bandwidth: machine::Bandwidth,
    disk: disk::Disk,
    gpu: device::Gpu,
    folders: Vec<places::Folder>,
    environment: Vec<places::Variable>,
    known_models: Vec<outlook::Outlook>,
    own_models: Vec<outlook::Outlook>,
    /// Models of the person that there was no time to open.
    own_models_left_out: usize,
    advice: Vec<advice::Advice>,
}

impl Command for Doctor {
    fn run(self) -> Result<()> {
        if stderr().is_terminal() {
            output::note("measuring memory and disk, which takes up to four seconds");
        }
        let report = Report::gather()?;
        if self.json { output::json(&report) } else { report::print(&report) }
    }
}

impl Report {
    /// Asks and measures; Ctrl-C ends it without leaving anything behind.
    fn gather() -> Result<Self> {
        let listener = interrupt::listen_to_all();
        let stop = listener.flag();
        let (cpu, instruction_sets, memory) =
            (machine::cpu(), machine::instruction_sets(), machine::memory());
        let folders = places::folders();
        let disk = disk::examine(&stop)?;
        let bandwidth = machine::bandwidth(memory.available_bytes);
        if listener.is_raised() {
            return Err(Error::Stopped.into());
        }
        let machine = outlook::Machine {
            memory: memory.default_limit_bytes,
            weights: bandwidth.kernel_bytes_per_second,
            disk: disk.rates.as_ref().map(|rates| rates.random_bytes_per_second),
            room: disk.free_bytes,
        };
        let (own_models, own_models_left_out) = outlook::own(&machine);
        let mut report = Self {
            version: env!("CARGO_PKG_VERSION"),
            build: machine::build(),
            system: machine::system(),
            cpu,
            instruction_sets,
            memory,
            bandwidth,
            disk,
            gpu: device::gpu(),
            folders,
            environment: places::environment(),
            known_models: outlook::known(&machine),
            own_models,
            own_models_left_out,
            advice: vec![],
        };
        report.advice = advice::all(&report);
        Ok(report)
    }
}
