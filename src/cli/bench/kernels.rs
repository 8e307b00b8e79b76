//! `moewe bench --kernels`: what a product with a matrix of each format takes, against the rate at which the machine
//! reads memory.

use super::super::output::{self, Table};
use super::Bench;
use anyhow::{Context, Result};
use moewe_engine::eval::machine::{KernelBench, ReadBench, Stream};
use moewe_engine::quant::{FORMATS, Format, Kind};
use serde::Serialize;

/// Inputs that are multiplied together in the columns of arithmetic.
const INPUTS: [usize; 3] = [4, 16, 64];

/// A format's figures.
#[derive(Serialize)]
struct Figures {
    format: &'static str,
    /// Of weights, one input.
    bytes_per_second: f64,
    share_of_read_rate: f64,
    /// Multiplications and additions, for each of [`INPUTS`].
    products_per_second: Vec<f64>,
}

pub(super) fn run(bench: &Bench, names: &[String]) -> Result<()> {
    let (threads, isa) = bench.model.options()?.hardware();
    let reader = ReadBench::new(threads)?;
    let read_rate = reader.bytes_per_second() / 1e9;
    output::note(format!(
        "{}, {isa}; memory is read at {read_rate:.1} GB/s",
        output::counted(threads, "thread")
    ));
    let mut all = Vec::new();
    for format in formats(names)? {
        let kernel = KernelBench::new(format, isa, &reader)?;
        let Stream { bytes_per_second, share_of_read_rate } = kernel.stream();
        all.push(Figures {
            format: format.name,
            bytes_per_second,
            share_of_read_rate,
            products_per_second: INPUTS.map(|inputs| kernel.products_per_second(inputs)).to_vec(),
        });
    }
    if bench.json { output::json(&all) } else { print(&all) }
}

/// The block formats of these names; without names, all that can be written.
fn formats(names: &[String]) -> Result<Vec<&'static Format>> {
    let is_measured = |format: &&Format| format.kind == Kind::Blocks && format.quantize.is_some();
    if names.is_empty() {
        return Ok(FORMATS.iter().filter(is_measured).collect());
    }
    let find = |name: &String| Format::by_name(name).filter(is_measured);
    names.iter().map(|name| find(name).with_context(|| format!("{name} is not a block format"))).collect()
}

fn print(all: &[Figures]) -> Result<()> {
    let mut table = Table::new(
        &["FORMAT", "1 ROW GB/s", "OF READ RATE", "4 ROWS GMAC/s", "16 ROWS", "64 ROWS"],
        &[1, 2, 3, 4, 5],
    );
    for figures in all {
        let products = figures.products_per_second.iter().map(|products| format!("{:.0}", products / 1e9));
        let (rate, share) = (figures.bytes_per_second / 1e9, figures.share_of_read_rate);
        let first = [figures.format.to_owned(), format!("{rate:.1}"), format!("{:.0} %", share * 100.0)];
        table.row(first.into_iter().chain(products));
    }
    table.print()
}
