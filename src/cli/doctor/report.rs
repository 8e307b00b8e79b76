//! A report as text, in lines of at most 80 columns: facts by name, two tables of models, advice.

use super::super::output::{self, Table, bytes, counted};
use super::disk::Rates;
use super::machine::Tiles;
use super::outlook::{Fit, Outlook, Speed};
use super::{Report, device};
use anyhow::Result;
use std::path::{Path, PathBuf};

const WIDTH: usize = 80;
const INDENT: usize = 14; // of what stands behind a name

pub(super) fn print(report: &Report) -> Result<()> {
    for (name, text) in facts(report) {
        output::print(hanging(name, &text, INDENT))?;
    }
    output::print("")?;
    let limit = report.memory.default_limit_bytes.map_or("memory".to_owned(), bytes);
    output::print(hanging(
        "",
        &format!(
            "WELL-KNOWN MODELS at 4 bits in {limit}. FITS: how many of the experts do; the others are read from the \
             disk when they are needed. TOKENS/S: computed"
        ),
        0,
    ))?;
    table(&report.known_models).print()?;
    if !report.own_models.is_empty() {
        output::print("\nYOUR MODELS")?;
        let (broken, whole): (Vec<_>, Vec<_>) =
            report.own_models.iter().partition(|model| model.why_not.is_some());
        if !whole.is_empty() {
            table(whole).print()?;
        }
        for model in broken {
            let why = model.why_not.as_deref().unwrap_or_default();
            output::print(hanging(
                "",
                &format!("{}: {}", output::excerpt(&model.name, 60), at_home(why)),
                2,
            ))?;
        }
    }
    if report.own_models_left_out > 0 {
        output::print(format!("{} more, which there was no time to open", report.own_models_left_out))?;
    }
    output::print("\nADVICE")?;
    if report.advice.is_empty() {
        return output::print("none; nothing is amiss");
    }
    report.advice.iter().try_for_each(|advice| {
        output::print(hanging("-", &format!("{}: {}", advice.problem, advice.remedy), 2))
    })
}

/// Names and what is known, in order.
fn facts(report: &Report) -> Vec<(&'static str, String)> {
    let mut all = vec![
        ("program", program(report)),
        ("system", joined([report.system.name.clone(), report.system.kernel.clone()])),
        ("processor", processor(report)),
        ("instructions", instructions(report)),
        ("memory", memory(report)),
        ("bandwidth", bandwidth(report)),
        ("disk", disk(report)),
        ("reading", report.disk.rates.as_ref().map_or_else(|| not_measured(&report.disk.why_not), reading)),
        ("GPU", gpu(report)),
    ];
    all.extend(report.folders.iter().map(|folder| {
        let room = folder.models.map(|models| format!("{}, ", counted(models, "model")));
        let room =
            folder.bytes.map(|room_bytes| format!("{}{}", room.unwrap_or_default(), bytes(room_bytes)));
        let state = room.unwrap_or_else(|| if folder.exists { "there" } else { "not there" }.to_owned());
        ("folder", format!("{}: {} ({state})", folder.what, at_home(&folder.path)))
    }));
    all.extend(
        report
            .environment
            .iter()
            .map(|set| ("environment", format!("{}={}", set.name, output::excerpt(&set.value, 200)))),
    );
    all
}

fn program(report: &Report) -> String {
    let build = &report.build;
    let features = match build.features.is_empty() {
        true => String::new(),
        false => format!(", {}", build.features.join(" ")),
    };
    format!(
        "moewe {}, {} build (level {}) for {}{features}",
        report.version, build.profile, build.opt_level, build.target
    )
}

fn processor(report: &Report) -> String {
    let cpu = &report.cpu;
    let cores = cpu.physical_cores.map(|cores| counted(cores, "core"));
    let logical = cpu.logical_cores.map(|threads| counted(threads, "thread"));
    let kinds = cpu.performance_cores.zip(cpu.efficiency_cores);
    let kinds = kinds.map(|(fast, slow)| format!("{fast} of them fast, {slow} slow"));
    let allowed = cpu.allowed_cores.filter(|allowed| Some(*allowed) != cpu.logical_cores);
    let allowed = allowed.map(|allowed| format!("{allowed} allowed for this process"));
    let quota = cpu.quota_cores.map(|quota| format!("time of {quota:.1} by its control group"));
    let used = Some(format!("{} used by default", counted(cpu.threads, "thread")));
    joined([cpu.name.clone(), cores, logical, kinds, allowed, quota, used])
}

fn instructions(report: &Report) -> String {
    let sets = &report.instruction_sets;
    let tiles = match sets.tiles {
        Tiles::Absent => "no AMX",
        Tiles::Refused => "AMX without tiles",
        Tiles::Granted => "AMX with tiles",
    };
    format!("{} ({}); here are {}; {tiles}", sets.chosen, sets.why, sets.available.join(", "))
}

fn memory(report: &Report) -> String {
    let memory = &report.memory;
    let told = |bytes_of: Option<u64>, what: &str| bytes_of.map(|count| format!("{} {what}", bytes(count)));
    let swap = memory.swap_bytes.zip(memory.swap_used_bytes).map(|(all, used)| match all {
        0 => "no swap".to_owned(),
        _ => format!("{} of {} swap used", bytes(used), bytes(all)),
    });
    let huge = memory.huge_pages.map(|given| format!("huge pages {}", if given { "on" } else { "off" }));
    joined([
        told(memory.total_bytes, "in all"),
        told(memory.available_bytes, "free"),
        told(memory.limit_bytes, "at most by a control group"),
        told(memory.address_limit_bytes, "of addresses at most"),
        told(memory.default_limit_bytes, "taken by default (--memory)"),
        swap,
        huge,
    ])
}

fn bandwidth(report: &Report) -> String {
    let bandwidth = &report.bandwidth;
    let Some(read) = bandwidth.read_bytes_per_second else { return not_measured(&bandwidth.why_not) };
    let threads = counted(bandwidth.threads, "thread");
    let kernel = bandwidth.kernel_bytes_per_second;
    let kernel =
        kernel.map(|rate| format!("{} of {} weights past the kernels", rate_of(rate), bandwidth.format));
    joined([Some(format!("memory is read at {} by {threads}", rate_of(read))), kernel])
}

fn disk(report: &Report) -> String {
    let disk = &report.disk;
    let on = disk.device.as_ref().map(|device| format!(" on {device}")).unwrap_or_default();
    let kind = disk.file_system.as_ref().map(|kind| format!("{kind}{on}"));
    let medium = disk.medium.map(|medium| match medium {
        "solid" => "solid state".to_owned(),
        "rotating" => "rotating, the system says".to_owned(),
        "remote" => "not this machine's".to_owned(),
        other => other.to_owned(),
    });
    let free = disk.free_bytes.map(|free| format!("{} free", bytes(free)));
    let folder = disk.folder.as_deref().map(|folder| format!("under {}", at_home(folder)));
    joined([kind, medium, free, folder])
}

fn reading(rates: &Rates) -> String {
    let how =
        if rates.is_past_cache { "past the page cache" } else { "through the page cache, which may hold it" };
    let what =
        if rates.is_temporary { "a temporary file, removed again".to_owned() } else { at_home(&rates.file) };
    format!(
        "{} in order, {} in pieces of {}, {how}; {} of {what}",
        rate_of(rates.sequential_bytes_per_second),
        rate_of(rates.random_bytes_per_second),
        bytes(rates.piece_bytes),
        bytes(rates.bytes_read)
    )
}

fn gpu(report: &Report) -> String {
    let gpu = &report.gpu;
    let driver = gpu.driver.as_ref().map(|version| format!("driver {version}"));
    let cuda = gpu.cuda.as_ref().map(|version| format!("CUDA {version}"));
    let cards =
        Some(gpu.cards.iter().map(card).collect::<Vec<_>>().join("; ")).filter(|cards| !cards.is_empty());
    let why = gpu.why_not.as_ref().map(|why| format!("none in use: {why}"));
    joined([cards, driver, cuda, why])
}

fn card(card: &device::Device) -> String {
    let refusal = if card.is_served { "" } else { ", too old for the kernels" };
    format!(
        "{} with {}, capability {}{refusal}",
        card.name,
        bytes(card.memory_bytes),
        card.compute_capability
    )
}

fn table<'a>(models: impl IntoIterator<Item = &'a Outlook>) -> Table {
    let mut table = Table::new(&["MODEL", "TOTAL", "ACTIVE", "MEMORY", "FITS", "TOKENS/S"], &[1, 2, 3, 5]);
    for model in models {
        let number = |count: Option<u64>, show: fn(u64) -> String| count.map_or_else(String::new, show);
        table.row([
            output::excerpt(&model.name, 26),
            number(model.parameters, output::count),
            number(model.active_parameters, output::count),
            number(model.memory_bytes, bytes),
            fit(model),
            model.tokens_per_second.map_or_else(|| "-".to_owned(), speed),
        ]);
    }
    table
}

fn fit(model: &Outlook) -> String {
    match model.fit {
        Some(Fit::Memory) => "whole".to_owned(),
        Some(Fit::ExpertsFromDisk) => {
            let share = model.share_of_experts_in_memory.unwrap_or(0.0) * 100.0;
            format!("{share:.0} %")
        }
        Some(Fit::TooLarge) => "no".to_owned(),
        Some(Fit::Unknown) | None => "unknown".to_owned(),
    }
}

fn speed(speed: Speed) -> String {
    let shown = |rate: f64| match rate {
        _ if rate >= 10.0 => format!("{rate:.0}"),
        _ if rate >= 0.1 => format!("{rate:.1}"),
        _ if rate >= 0.01 => format!("{rate:.2}"),
        _ => "0.00".to_owned(),
    };
    format!("{} to {}", shown(speed.least), shown(speed.most))
}

fn rate_of(rate: f64) -> String {
    if rate >= 1e9 { format!("{:.1} GB/s", rate / 1e9) } else { format!("{:.0} MB/s", rate / 1e6) }
}

fn not_measured(why: &Option<String>) -> String {
    format!("not measured: {}", why.as_deref().map_or("the reason is not known".to_owned(), at_home))
}

/// What is known of some things, or that nothing is.
fn joined<const N: usize>(parts: [Option<String>; N]) -> String {
    let known: Vec<String> = parts.into_iter().flatten().collect();
    if known.is_empty() { "unknown".to_owned() } else { known.join(", ") }
}

/// A text in which the home folder is called `~`, as whoever reads a bug report need not know who wrote it.
fn at_home(text: &str) -> String {
    let home = std::env::var_os("HOME").or_else(|| std::env::var_os("USERPROFILE")).map(PathBuf::from);
    let home = home.filter(|home| home.is_absolute() && home.parent().is_some());
    match home.as_deref().and_then(Path::to_str) {
        Some(home) => text.replace(&format!("{home}/"), "~/"),
        None => text.to_owned(),
    }
}

/// `name`, and behind it words in lines that begin at the same column.
fn hanging(name: &str, text: &str, indent: usize) -> String {
    let mut lines = vec![format!("{name:<indent$}")];
    let mut is_empty = true;
    for word in text.split(' ') {
        let line = lines.last_mut().expect("begins with one");
        let is_full = line.chars().count() + 1 + word.chars().count() > WIDTH;
        if !is_empty && is_full {
            lines.push(" ".repeat(indent) + word);
            continue;
        }
        if !is_empty {
            line.push(' ');
        }
        line.push_str(word);
        is_empty = false;
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_hang_and_end_in_time() {
        let text = "word ".repeat(30);
        let shown = hanging("name", text.trim(), 14);
        assert!(shown.lines().all(|line| line.len() <= WIDTH) && shown.lines().count() == 3, "{shown}");
        assert!(shown.starts_with("name          word word"));
        assert!(shown.lines().skip(1).all(|line| line.starts_with("              word")));
        let long = "x".repeat(100);
        assert_eq!(hanging("", &format!("{long} y"), 0), format!("{long}\ny"));
    }

    #[test]
    fn speeds_and_rates_have_few_digits() {
        for (least, most, expected) in
            [(12.34, 101.0, "12 to 101"), (0.123, 5.67, "0.1 to 5.7"), (0.012, 0.05, "0.01 to 0.05")]
        {
            assert_eq!(speed(Speed { least, most }), expected);
        }
        assert_eq!((rate_of(12.34e9).as_str(), rate_of(3.2e8).as_str()), ("12.3 GB/s", "320 MB/s"));
    }
}
