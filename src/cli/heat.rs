//! What the expert store counted, for people and for programs: a line, JSON, and a heat map of every expert's use.
//!
//! The map has a row per layer. Shades tell how an expert's use compares with an even share of its layer's.

use super::output;
use moewe_engine::experts::{LayerStatistics, Statistics};
use serde_json::{Value, json};
use std::time::Duration;

/// Columns of the map; experts beyond share one, and the column shows their mean.
const WIDTH: usize = 96;

/// From this multiple of an even share on, with a colour of the 256-colour palette and its plain stand-in.
const SHADES: &[(f64, u8, char)] = &[
    (0.0, 235, ' '),
    (f64::MIN_POSITIVE, 17, '.'),
    (0.25, 19, ':'),
    (0.5, 31, '-'),
    (1.0, 71, '+'),
    (2.0, 178, '*'),
    (4.0, 202, '#'),
    (8.0, 196, '@'),
];

/// Whether a model has experts to speak of.
pub(crate) fn has_experts(counted: &Statistics) -> bool {
    counted.layers.iter().any(|layer| !layer.uses.is_empty())
}

/// One line.
pub(crate) fn summary(counted: &Statistics) -> String {
    format!(
        "{} in memory; {:.1} % of those wanted were there; {} read, {:.0} ms waited{}",
        counted.resident(),
        counted.hit_rate() * 100.0,
        output::bytes(counted.bytes_read),
        counted.stall_ms(),
        reads(counted)
    )
}

/// What the disk did, where it did anything.
fn reads(counted: &Statistics) -> String {
    if counted.disk_busy.is_zero() {
        return String::new();
    }
    let share = |part: f64, whole: f64| 100.0 * part / whole.max(f64::MIN_POSITIVE);
    format!(
        "; disk busy {:.0} ms, {:.0} % of it while computing, {:.1} reads at a time; {:.0} % of misses asked for at \
         once; {} ({:.0} ms) for nothing",
        milliseconds(counted.disk_busy),
        share(counted.hidden.as_secs_f64(), counted.disk_busy.as_secs_f64()),
        counted.depth(),
        share(counted.asked as f64, counted.misses() as f64),
        output::bytes(counted.wasted_bytes),
        milliseconds(counted.wasted),
    )
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The same for programs.
pub(crate) fn figures(counted: &Statistics) -> Value {
    let slots: usize = counted.layers.iter().map(|layer| layer.slots).sum();
    json!({
        "slots": slots,
        "resident": counted.resident(),
        "hits": counted.hits(),
        "misses": counted.misses(),
        "hit_rate": counted.hit_rate(),
        "bytes_read": counted.bytes_read,
        "misses_asked_at_once": counted.asked,
        "stall_ms": counted.stall_ms(),
        "disk_busy_ms": milliseconds(counted.disk_busy),
        "disk_hidden_ms": milliseconds(counted.hidden),
        "reads_at_a_time": counted.depth(),
        "packing_ms": milliseconds(counted.packing),
        "wasted_bytes": counted.wasted_bytes,
        "wasted_ms": milliseconds(counted.wasted),
        "uses": counted.layers.iter().map(|layer| &layer.uses).collect::<Vec<_>>(),
    })
}

/// The map, line by line, with what the shades mean.
pub(crate) fn map(counted: &Statistics, has_colours: bool) -> Vec<String> {
    let layers = counted.layers.iter().enumerate().filter(|(_, layer)| !layer.uses.is_empty());
    let mut lines: Vec<String> =
        layers.map(|(i, layer)| format!("{i:>5}  {}", row(layer, has_colours))).collect();
    let meaning = SHADES.iter().skip(2).map(|&(from, ..)| format!("{} {from}", cell(from, has_colours)));
    lines.push(format!(
        "layer  one column per expert; times an even share: {}",
        meaning.collect::<Vec<_>>().join("  ")
    ));
    lines
}

fn row(layer: &LayerStatistics, has_colours: bool) -> String {
    let even = layer.uses.iter().sum::<u64>() as f64 / layer.uses.len() as f64;
    let per_column = layer.uses.len().div_ceil(WIDTH);
    let columns = layer.uses.chunks(per_column).map(|uses| {
        let mean = uses.iter().sum::<u64>() as f64 / uses.len() as f64;
        cell(if even > 0.0 { mean / even } else { 0.0 }, has_colours)
    });
    columns.collect()
}

fn cell(share: f64, has_colours: bool) -> String {
    let (_, colour, plain) = SHADES.iter().rfind(|&&(from, ..)| share >= from).unwrap_or(&SHADES[0]);
    if has_colours { format!("\u{1b}[48;5;{colour}m \u{1b}[0m") } else { plain.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(uses: &[&[u64]]) -> Statistics {
        let layer = |uses: &&[u64]| LayerStatistics { uses: uses.to_vec(), ..LayerStatistics::default() };
        Statistics { layers: uses.iter().map(layer).collect(), ..Statistics::default() }
    }

    #[test]
    fn shades_compare_with_an_even_share() {
        let lines = map(&counted(&[&[], &[0, 1, 9, 10, 20, 20], &[0, 0]]), false);
        assert_eq!(lines[..2], ["    1   .-+**".to_owned(), "    2    ".to_owned()]);
        assert_eq!(lines.len(), 3, "a dense layer has no row");
        let coloured = map(&counted(&[&[4, 0]]), true);
        assert!(coloured[0].contains("\u{1b}[48;5;178m \u{1b}[0m\u{1b}[48;5;235m"), "{coloured:?}");
    }

    #[test]
    fn a_line_tells_what_the_disk_did() {
        let mut all = counted(&[&[1, 1]]);
        assert!(summary(&all).ends_with("0 B read, 0 ms waited"), "{}", summary(&all));
        all.layers[0].misses = 8;
        (all.asked, all.wasted_bytes) = (6, 1 << 20);
        let seconds = Duration::from_secs_f64;
        (all.disk_busy, all.hidden, all.reading) = (seconds(0.4), seconds(0.1), seconds(1.2));
        let expected = "disk busy 400 ms, 25 % of it while computing, 3.0 reads at a time; 75 % of misses asked for at \
                        once; 1.0 MiB (0 ms) for nothing";
        assert!(summary(&all).ends_with(expected), "{}", summary(&all));
    }

    #[test]
    fn many_experts_share_columns() {
        let lines = map(&counted(&[&[3; 512]]), false);
        assert_eq!(lines[0].trim_start().split_once("  ").unwrap().1, "+".repeat(512usize.div_ceil(6)));
    }
}
