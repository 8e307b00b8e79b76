//! How much memory this process may still take, and how much it has taken at most.

/// Bytes that can be allocated without pushing others out: the machine's free and reclaimable memory, or what a
/// control group leaves of its limit. `None` where the system does not tell.
pub fn available() -> Option<u64> {
    let machine = meminfo("MemAvailable:")?;
    Some(
        match (
            cgroup("memory.max", "memory.limit_in_bytes"),
            cgroup("memory.current", "memory.usage_in_bytes"),
        ) {
            (Some(limit), Some(used)) => machine.min(limit.saturating_sub(used)),
            (Some(limit), None) => machine.min(limit),
            _ => machine,
        },
    )
}

/// The largest resident size that this process has had, in bytes; 0 where the system does not tell.
pub fn peak_resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    kilobytes(&status, "VmHWM:").unwrap_or(0)
}

/// Tells the allocator to keep freed memory for the next request instead of giving its pages back: for programs whose
/// large buffers come and go in every step. Where the system's allocator has no such switch, nothing happens.
pub fn keep_freed() {
    platform::keep_freed();
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod platform {
    pub(super) fn keep_freed() {
        // SAFETY: mallopt changes settings of the allocator under its own lock. A refused setting changes nothing.
        unsafe {
            libc::mallopt(libc::M_MMAP_MAX, 0); // large blocks come from the heap, too
            libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
            libc::mallopt(libc::M_ARENA_MAX, 1); // the heaps of other threads cannot hold large blocks
        }
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
mod platform {
    pub(super) fn keep_freed() {}
}

fn meminfo(key: &str) -> Option<u64> {
    kilobytes(&std::fs::read_to_string("/proc/meminfo").ok()?, key)
}

fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(key))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(1024)
}

/// A number of this process' control group, version 2 or 1; "max" and absurd limits count as none.
fn cgroup(v2: &str, v1: &str) -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let unified = groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/").to_owned();
    let candidates = [
        format!("/sys/fs/cgroup{unified}/{v2}"),
        format!("/sys/fs/cgroup/{v2}"),
        format!("/sys/fs/cgroup/memory/{v1}"),
    ];
    let text = candidates.iter().find_map(|path| std::fs::read_to_string(path).ok())?;
    text.trim().parse::<u64>().ok().filter(|bytes| *bytes < 1 << 60)
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
}
