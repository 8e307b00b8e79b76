//! Memory as Linux tells it: files in `/proc`, and those of control groups.

use crate::os::groups;
use std::path::Path;

pub(super) fn available() -> Option<u64> {
    let machine = kilobytes(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")?;
    Some(groups::own("memory").iter().filter_map(|folder| left_in_group(folder)).fold(machine, u64::min))
}

pub(super) fn peak_resident() -> u64 {
    status("VmHWM:")
}

pub(super) fn resident() -> u64 {
    status("VmRSS:")
}

/// The machine's memory.
#[cfg(test)]
pub(super) fn whole() -> u64 {
    kilobytes(&std::fs::read_to_string("/proc/meminfo").unwrap(), "MemTotal:").unwrap()
}

fn status(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    kilobytes(&status, key).unwrap_or(0)
}

fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(key))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(1024)
}

/// What a control group leaves: its limit less what is used and cannot be reclaimed.
fn left_in_group(folder: &Path) -> Option<u64> {
    let limit = groups::memory_limit_of(folder)?;
    let number = |name: &str| groups::text(folder, name)?.parse::<u64>().ok();
    let used = number("memory.current").or_else(|| number("memory.usage_in_bytes")).unwrap_or(0);
    let cached = file_cache(&groups::text(folder, "memory.stat").unwrap_or_default());
    Some(limit.saturating_sub(used.saturating_sub(cached)))
}

/// Page cache in a group's `memory.stat`; version 1 has sums over the groups below under `total_`.
fn file_cache(stat: &str) -> u64 {
    let field = |name: &str| {
        let line = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|number| number.parse::<u64>().ok())
    };
    let both = |prefix: &str| {
        Some(field(&format!("{prefix}inactive_file"))? + field(&format!("{prefix}active_file"))?)
    };
    both("total_").or_else(|| both("")).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_formats_of_proc() {
        let text = "MemTotal:       100 kB\nMemAvailable:    42 kB\n";
        assert_eq!(kilobytes(text, "MemAvailable:"), Some(42 * 1024));
        assert_eq!(kilobytes(text, "Swap:"), None);
    }

    #[test]
    fn a_groups_page_cache_counts_as_free() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        assert_eq!(left_in_group(folder.path()), None);
        write("memory.max", "max\n");
        assert_eq!(left_in_group(folder.path()), None);
        write("memory.max", "1000\n");
        write("memory.current", "900\n");
        assert_eq!(left_in_group(folder.path()), Some(100));
        write("memory.stat", "anon 5\ninactive_file 200\nactive_file 100\n");
        assert_eq!(left_in_group(folder.path()), Some(400));
        write(
            "memory.stat",
            "inactive_file 1\nactive_file 1\ntotal_inactive_file 250\ntotal_active_file 250\n",
        );
        assert_eq!(left_in_group(folder.path()), Some(600));
    }
}
