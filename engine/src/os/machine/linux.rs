//! Linux: what `/proc` and `/sys` tell.

use super::{Cpu, HugePages, Memory, System, address_limit};
use crate::os::groups;
use std::collections::HashSet;
use std::fs;
use std::path::Path;

pub(super) fn system() -> System {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").ok();
    let kernel = kernel.map(|release| format!("Linux {}", release.trim()));
    System { name: pretty_name(&release), kernel }
}

fn pretty_name(release: &str) -> Option<String> {
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(name.trim_matches(['"', '\'']).to_owned()).filter(|name| !name.is_empty())
}

pub(super) fn cpu() -> Cpu {
    let devices = Path::new("/sys/devices");
    let (physical, logical) = cores(&devices.join("system/cpu")).unzip();
    let kinds = hybrid(devices).or_else(|| capacities(&devices.join("system/cpu")));
    let quota = groups::quota(&groups::own("cpu"));
    Cpu { name: name(), physical, logical, kinds, allowed: allowed(), quota }
}

/// Where the processor does not name itself: the board, or the numbers of maker and part.
fn name() -> Option<String> {
    if let Ok(board) = fs::read_to_string("/sys/firmware/devicetree/base/model") {
        return Some(board.trim_end_matches('\0').to_owned());
    }
    let info = fs::read_to_string("/proc/cpuinfo").ok()?;
    let field = |name: &str| {
        let line = info.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    field("model name")
        .or_else(|| Some(format!("maker {}, part {}", field("CPU implementer")?, field("CPU part")?)))
}

/// Folders `cpu0`, `cpu1`, … of the processors that are switched on.
fn processors(cpus: &Path) -> impl Iterator<Item = std::path::PathBuf> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let entries = fs::read_dir(cpus).into_iter().flatten().flatten();
    let named = entries.filter(move |entry| {
        entry.file_name().to_str().and_then(|name| name.strip_prefix("cpu")).is_some_and(is_number)
    });
    named.map(|entry| entry.path()).filter(|path| path.join("topology").is_dir())
}

/// Cores, and the threads that they run.
fn cores(cpus: &Path) -> Option<(usize, usize)> {
    let siblings =
        processors(cpus).map(|cpu| fs::read_to_string(cpu.join("topology/thread_siblings_list")).ok());
    let siblings: Vec<String> = siblings.collect::<Option<_>>()?;
    let cores: HashSet<&String> = siblings.iter().collect();
    (!cores.is_empty()).then_some((cores.len(), siblings.len()))
}

/// Fast and slow threads of an x86 processor that has both.
fn hybrid(devices: &Path) -> Option<(usize, usize)> {
    let listed = |kind: &str| count(fs::read_to_string(devices.join(kind).join("cpus")).ok()?.trim());
    Some((listed("cpu_core")?, listed("cpu_atom")?))
}

/// Numbers in a list such as `0-3,8`.
fn count(list: &str) -> Option<usize> {
    let of = |range: &str| match range.split_once('-') {
        Some((first, last)) => (last.parse::<usize>().ok()? + 1).checked_sub(first.parse().ok()?),
        None => range.parse::<usize>().ok().map(|_| 1),
    };
    list.split(',').map(of).sum()
}

/// Fast and slow processors of an ARM machine: the slow ones are those of the least capacity.
fn capacities(cpus: &Path) -> Option<(usize, usize)> {
    let capacity = |cpu: std::path::PathBuf| fs::read_to_string(cpu.join("cpu_capacity")).ok();
    let all: Vec<u32> =
        processors(cpus).map(|cpu| capacity(cpu)?.trim().parse().ok()).collect::<Option<_>>()?;
    let least = all.iter().min()?;
    let slow = all.iter().filter(|capacity| *capacity == least).count();
    (slow < all.len()).then_some((all.len() - slow, slow))
}

fn allowed() -> Option<usize> {
    // SAFETY: a set of processors is an array of bits, for which all zeros are valid.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live set of so many bytes; 0 stands for this thread. The call keeps no pointer.
    let status = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) };
    // SAFETY: the call above has filled the set.
    (status == 0).then(|| unsafe { libc::CPU_COUNT(&set) } as usize)
}

pub(super) fn memory() -> Memory {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let huge = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").ok();
    let swap = kilobytes(&info, "SwapTotal:");
    Memory {
        total: kilobytes(&info, "MemTotal:"),
        swap,
        swap_used: swap.zip(kilobytes(&info, "SwapFree:")).map(|(all, free)| all.saturating_sub(free)),
        limit: groups::memory_limit(&groups::own("memory")),
        addresses: address_limit(),
        huge_pages: huge.map(|choice| huge_pages(&choice)),
    }
}

/// What is chosen among `always [madvise] never`.
fn huge_pages(choice: &str) -> HugePages {
    if choice.contains("[never]") { HugePages::Refused } else { HugePages::Given }
}

fn kilobytes(info: &str, key: &str) -> Option<u64> {
    let line = info.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn threads_share_cores() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(cores(folder.path()), None);
        for (cpu, siblings) in [(0, "0,2\n"), (1, "1,3\n"), (2, "0,2\n"), (3, "1,3\n"), (10, "10\n")] {
            write(folder.path(), &format!("cpu{cpu}/topology/thread_siblings_list"), siblings);
        }
        write(folder.path(), "cpufreq/topology/thread_siblings_list", "0");
        fs::create_dir(folder.path().join("cpu4")).unwrap(); // switched off
        assert_eq!(cores(folder.path()), Some((3, 5)));
    }

    #[test]
    fn kinds_of_cores_are_counted_where_there_are_two() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(hybrid(folder.path()), None);
        write(folder.path(), "cpu_core/cpus", "0-11\n");
        write(folder.path(), "cpu_atom/cpus", "12-19,21\n");
        assert_eq!(hybrid(folder.path()), Some((12, 9)));
        let cpus = folder.path().join("cpu");
        for (cpu, capacity) in [(0, 250), (1, 250), (2, 600), (3, 1024)] {
            write(&cpus, &format!("cpu{cpu}/cpu_capacity"), &format!("{capacity}\n"));
            fs::create_dir(cpus.join(format!("cpu{cpu}/topology"))).unwrap();
        }
        assert_eq!(capacities(&cpus), Some((2, 2)));
        for cpu in 0..4 {
            write(&cpus, &format!("cpu{cpu}/cpu_capacity"), "1024\n");
        }
        assert_eq!(capacities(&cpus), None);
        assert_eq!(["5-3", "x", "", "7"].map(count), [None, None, None, Some(1)]);
    }

    #[test]
    fn reads_what_systems_write() {
        let release = "NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n";
        assert_eq!(pretty_name(release).as_deref(), Some("Debian GNU/Linux 12 (bookworm)"));
        assert_eq!(pretty_name("NAME=x\n"), None);
        assert_eq!(kilobytes("MemTotal:  100 kB\nSwapTotal: 3 kB\n", "SwapTotal:"), Some(3 * 1024));
        assert_eq!(huge_pages("always [madvise] never\n"), HugePages::Given);
        assert_eq!(huge_pages("always madvise [never]\n"), HugePages::Refused);
    }
}
