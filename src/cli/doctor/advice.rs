//! What is amiss on this machine, and what to do about it: one rule each.

use super::super::output;
use super::Report;
use super::machine::Tiles;
use serde::Serialize;

/// Swap in use that is worth a word.
const SWAPPED: u64 = 256 << 20;
/// A disk that gives experts no faster makes them the slowest part by far.
const SLOW: f64 = 500e6;
/// Room on the disk below which few models fit.
const LITTLE_ROOM: u64 = 5 << 30;

#[derive(Serialize)]
pub(super) struct Advice {
    pub(super) problem: String,
    pub(super) remedy: &'static str,
}

type Rule = fn(&Report) -> Option<Advice>;

static RULES: &[Rule] = &[
    unoptimized,
    portable,
    tiles,
    quota,
    limit,
    addresses,
    swap,
    huge_pages,
    remote_disk,
    slow_disk,
    full_disk,
    cards,
    no_models,
];

pub(super) fn all(report: &Report) -> Vec<Advice> {
    RULES.iter().filter_map(|rule| rule(report)).collect()
}

/// Advice where something holds.
fn when(holds: bool, problem: impl FnOnce() -> String, remedy: &'static str) -> Option<Advice> {
    holds.then(|| Advice { problem: problem(), remedy })
}

fn unoptimized(report: &Report) -> Option<Advice> {
    when(
        !report.build.is_optimized(),
        || {
            format!(
                "this build is not optimized (level {}), and the speeds above are its own",
                report.build.opt_level
            )
        },
        "build with cargo build --release",
    )
}

fn portable(report: &Report) -> Option<Advice> {
    when(
        report.instruction_sets.chosen == "portable",
        || "no fast kernels run on this processor, and portable code takes many times as long".to_owned(),
        "use a machine with AVX2 (x86 since 2013); in a virtual machine, pass the host's processor through",
    )
}

fn tiles(report: &Report) -> Option<Advice> {
    when(
        report.instruction_sets.tiles == Tiles::Refused,
        || {
            "the processor has AMX, and the system does not grant its tiles, so prompts take up to twice as long".to_owned()
        },
        "take Linux 5.16 or later, and let the container call arch_prctl",
    )
}

fn quota(report: &Report) -> Option<Advice> {
    let cpu = &report.cpu;
    let (quota, logical) = cpu.quota_cores.zip(cpu.logical_cores)?;
    when(
        quota < logical as f64,
        || format!("the control group gives this process the time of {quota:.1} of {logical} processors"),
        "raise the quota (docker run --cpus), or leave --threads at its default, which keeps to it",
    )
}

fn limit(report: &Report) -> Option<Advice> {
    let (limit, total) = report.memory.limit_bytes.zip(report.memory.total_bytes)?;
    when(
        limit < total / 2,
        || {
            format!(
                "the control group gives this process {} of {}",
                output::bytes(limit),
                output::bytes(total)
            )
        },
        "raise its limit of memory (docker run --memory), if larger models are to fit",
    )
}

fn addresses(report: &Report) -> Option<Advice> {
    let limit = report.memory.address_limit_bytes?;
    when(
        true,
        || {
            format!(
                "this process may have {} of addresses, against which files of models count",
                output::bytes(limit)
            )
        },
        "ulimit -v unlimited",
    )
}

fn swap(report: &Report) -> Option<Advice> {
    let used = report.memory.swap_used_bytes?;
    when(
        used > SWAPPED,
        || format!("{} of memory are swapped out", output::bytes(used)),
        "close what is not needed, or give less with --memory: experts from the file are faster than swapped ones",
    )
}

fn huge_pages(report: &Report) -> Option<Advice> {
    when(
        report.memory.huge_pages == Some(false),
        || "huge pages are off, so that the processor looks up addresses more often".to_owned(),
        "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled",
    )
}

fn remote_disk(report: &Report) -> Option<Advice> {
    let kind = report.disk.file_system.as_deref().unwrap_or_default();
    when(
        report.disk.medium == Some("remote"),
        || format!("models are on another machine's disk ({kind}), or on that of this one's host"),
        "name a folder on a disk of this machine in $MOEWE_MODELS",
    )
}

fn slow_disk(report: &Report) -> Option<Advice> {
    let rates = report.disk.rates.as_ref()?;
    let rate = rates.random_bytes_per_second;
    when(
        rate < SLOW && report.disk.medium != Some("remote"),
        || {
            format!(
                "the disk gives experts at {:.0} MB/s, which models that do not fit in memory will feel",
                rate / 1e6
            )
        },
        "put models on an NVMe disk, and name its folder in $MOEWE_MODELS",
    )
}

fn full_disk(report: &Report) -> Option<Advice> {
    let free = report.disk.free_bytes?;
    when(
        free < LITTLE_ROOM,
        || format!("{} are free where models are", output::bytes(free)),
        "moewe list --remove clears what was converted on the way; or name another folder in $MOEWE_MODELS",
    )
}

fn cards(report: &Report) -> Option<Advice> {
    match (&report.gpu.why_not, report.gpu.cards.as_slice(), &report.gpu.driver) {
        (None, [card, ..], _) => when(
            true,
            || format!("{} is there and not used by default", card.name),
            "--device cuda computes on it",
        ),
        (Some(why), _, Some(_)) => when(
            true,
            || format!("NVIDIA's driver is loaded, and no card computes: {why}"),
            "see On an NVIDIA card in the README",
        ),
        (Some(why), [_, ..], None) => when(true, || why.clone(), "compute with --device cpu, the default"),
        _ => None,
    }
}

fn no_models(report: &Report) -> Option<Advice> {
    when(
        report.own_models.is_empty() && report.own_models_left_out == 0,
        || "there is no model but the small one in the program".to_owned(),
        "moewe list --remote names some; moewe pull gets one",
    )
}
