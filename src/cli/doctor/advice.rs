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

#[derive(Debug, Serialize)]
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
        "take one with AVX2 (x86 since 2013) or dotprod (ARM since 2018), or pass the host's through to the virtual machine",
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
    let limit = output::bytes(report.memory.address_limit_bytes?);
    let problem = format!("this process may have {limit} of addresses, against which files of models count");
    Some(Advice { problem, remedy: "ulimit -v unlimited" })
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
    let gpu = &report.gpu;
    let has_driver = gpu.driver.is_some() || !gpu.cards.is_empty();
    let (problem, remedy) = match (&gpu.why_not, gpu.cards.iter().find(|card| card.is_served)) {
        (None, Some(card)) => {
            (format!("{} is there and not used by default", card.name), "--device cuda computes on it")
        }
        (Some(why), _) if has_driver => {
            (format!("no NVIDIA card computes: {why}"), "see On an NVIDIA card in the README")
        }
        _ => return None,
    };
    Some(Advice { problem, remedy })
}

fn no_models(report: &Report) -> Option<Advice> {
    when(
        report.own_models.is_empty() && report.own_models_left_out == 0,
        || "there is no model but the small one in the program".to_owned(),
        "moewe list --remote names some; moewe pull gets one",
    )
}

#[cfg(test)]
mod tests {
    use super::super::{device, disk, machine, outlook};
    use super::*;

    fn healthy() -> Report {
        Report {
            build: machine::Build { opt_level: "3", ..Default::default() },
            own_models: vec![outlook::Outlook::default()],
            ..Report::default()
        }
    }

    fn with(change: impl FnOnce(&mut Report)) -> Report {
        let mut report = healthy();
        change(&mut report);
        report
    }

    fn gpu(driver: Option<&str>, served: &[bool], why_not: Option<&str>) -> device::Gpu {
        let card =
            |&is_served: &bool| device::Device { name: "a card".to_owned(), is_served, ..Default::default() };
        let cards = served.iter().map(card).collect();
        device::Gpu {
            driver: driver.map(str::to_owned),
            cuda: None,
            cards,
            why_not: why_not.map(str::to_owned),
        }
    }

    #[test]
    fn each_rule_speaks_up_for_one_thing() {
        let slow = |rate| disk::Rates { random_bytes_per_second: rate, ..Default::default() };
        for (report, part) in [
            (with(|r| r.build.opt_level = "0"), "not optimized"),
            (with(|r| r.instruction_sets.chosen = "portable"), "portable code"),
            (with(|r| r.instruction_sets.tiles = Tiles::Refused), "does not grant its tiles"),
            (
                with(|r| (r.cpu.quota_cores, r.cpu.logical_cores) = (Some(1.5), Some(8))),
                "the time of 1.5 of 8",
            ),
            (
                with(|r| (r.memory.limit_bytes, r.memory.total_bytes) = (Some(1 << 30), Some(8 << 30))),
                "1.0 GiB of 8.0",
            ),
            (with(|r| r.memory.address_limit_bytes = Some(4 << 30)), "4.0 GiB of addresses"),
            (with(|r| r.memory.swap_used_bytes = Some(2 << 30)), "2.0 GiB of memory are swapped out"),
            (with(|r| r.memory.huge_pages = Some(false)), "huge pages are off"),
            (
                with(|r| (r.disk.medium, r.disk.rates) = (Some("remote"), Some(slow(1e7)))),
                "another machine's disk",
            ),
            (with(|r| r.disk.rates = Some(slow(1e8))), "at 100 MB/s"),
            (with(|r| r.disk.free_bytes = Some(1 << 30)), "1.0 GiB are free"),
            (with(|r| r.gpu = gpu(None, &[true], None)), "not used by default"),
            (with(|r| r.gpu = gpu(Some("450.80"), &[], Some("too old"))), "no NVIDIA card computes: too old"),
            (with(|r| r.gpu = gpu(None, &[false], Some("no capability"))), "no NVIDIA card computes"),
            (with(|r| r.own_models.clear()), "no model but the small one"),
        ] {
            let found = all(&report);
            let problems: Vec<&String> = found.iter().map(|advice| &advice.problem).collect();
            assert!(found.len() == 1 && problems[0].contains(part), "{part}: {problems:?}");
            assert!(!found[0].remedy.is_empty());
        }
    }

    #[test]
    fn nothing_is_amiss_on_a_good_machine() {
        let report = with(|r| {
            (r.cpu.quota_cores, r.cpu.logical_cores) = (Some(8.0), Some(8));
            (r.memory.limit_bytes, r.memory.total_bytes) = (Some(7 << 30), Some(8 << 30));
            (r.memory.swap_used_bytes, r.memory.huge_pages) = (Some(0), Some(true));
            r.disk.rates = Some(disk::Rates { random_bytes_per_second: 2e9, ..Default::default() });
            r.disk.free_bytes = Some(100 << 30);
            r.gpu = gpu(None, &[], Some("no NVIDIA driver found"));
        });
        assert!(all(&report).is_empty() && all(&healthy()).is_empty());
    }
}
