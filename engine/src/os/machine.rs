//! What this machine is, for people: system, processor, memory, and the limits that this process is under.
//!
//! Facts only, and each may be unknown. How much memory may be taken is told by `memory/`, how many threads are started by
//! `cores.rs`, which instruction set is used by `simd/`. One file per system: everything here is one call of libc or of
//! windows-sys, so a library for it would bring more code than it saves.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;
#[cfg(windows)]
mod windows;

#[cfg(target_os = "linux")]
use linux as platform;
#[cfg(target_os = "macos")]
use macos as platform;
#[cfg(windows)]
use windows as platform;

/// How this library was built.
#[derive(Clone, Copy, Debug)]
pub struct Build {
    /// The target's triple.
    pub target: &'static str,
    /// `debug` or `release`.
    pub profile: &'static str,
    /// Level of optimization: 0 to 3, `s` or `z`.
    pub opt_level: &'static str,
    /// Processor features that the compiler took for granted.
    pub features: &'static str,
}

/// This build, as its build script saw it.
pub const BUILD: Build = Build {
    target: env!("MOEWE_TARGET"),
    profile: env!("MOEWE_PROFILE"),
    opt_level: env!("MOEWE_OPT_LEVEL"),
    features: env!("MOEWE_TARGET_FEATURES"),
};

/// The operating system.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct System {
    /// As its makers call it, with its version.
    pub name: Option<String>,
    /// The kernel's release.
    pub kernel: Option<String>,
}

/// The processor, and what this process may use of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cpu {
    /// As its maker calls it.
    pub name: Option<String>,
    /// Cores.
    pub physical: Option<usize>,
    /// Threads that they run at once.
    pub logical: Option<usize>,
    /// Fast and slow ones of `logical`, where there are both.
    pub kinds: Option<(usize, usize)>,
    /// Those of `logical` that this process may run on (`taskset`, `cpuset`).
    pub allowed: Option<usize>,
    /// Processors' worth of time that a control group leaves this process.
    pub quota: Option<f64>,
}

/// Whether large pages are given to memory that asks for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HugePages {
    /// To all memory, or to memory that asks.
    Given,
    /// To none.
    Refused,
}

/// The machine's memory, in bytes, and this process' limits on it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    /// All that is installed, less what the kernel keeps for itself.
    pub total: Option<u64>,
    /// Room on disk for memory that is pushed out.
    pub swap: Option<u64>,
    /// How much of it is taken.
    pub swap_used: Option<u64>,
    /// The tightest limit of a control group.
    pub limit: Option<u64>,
    /// The limit on addresses (`ulimit -v`), against which mapped files count, too.
    pub addresses: Option<u64>,
    /// Transparent huge pages.
    pub huge_pages: Option<HugePages>,
}

/// What runs this machine.
pub fn system() -> System {
    platform::system()
}

/// The processor.
pub fn cpu() -> Cpu {
    let cpu = platform::cpu();
    Cpu { name: brand().or(cpu.name), ..cpu }
}

/// The memory.
pub fn memory() -> Memory {
    platform::memory()
}

/// The version of NVIDIA's driver as its maker counts, where the system tells; CUDA's version is the library's to tell.
pub fn nvidia_driver() -> Option<String> {
    let text = std::fs::read_to_string("/proc/driver/nvidia/version").ok()?;
    nvidia_version(&text)
}

/// The first word of numbers and dots in `NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat ...`.
fn nvidia_version(text: &str) -> Option<String> {
    let is_version = |word: &&str| word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.');
    text.lines().next()?.split_whitespace().find(is_version).map(str::to_owned)
}

/// What an x86 processor says of itself: 48 bytes in three leaves.
#[cfg(target_arch = "x86_64")]
fn brand() -> Option<String> {
    use std::arch::x86_64::__cpuid;
    const FIRST: u32 = 0x8000_0002;
    const LAST: u32 = 0x8000_0004;
    if __cpuid(0x8000_0000).eax < LAST {
        return None;
    }
    let leaves = (FIRST..=LAST).map(__cpuid).flat_map(|leaf| [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]);
    let bytes: Vec<u8> = leaves.flat_map(u32::to_le_bytes).take_while(|&byte| byte != 0).collect();
    let words = String::from_utf8_lossy(&bytes).split_whitespace().collect::<Vec<_>>().join(" ");
    Some(words).filter(|name| !name.is_empty())
}

#[cfg(not(target_arch = "x86_64"))]
fn brand() -> Option<String> {
    None
}

/// The limit of this process on addresses.
#[cfg(unix)]
fn address_limit() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live struct, which the call fills; it keeps none.
    let status = unsafe { libc::getrlimit(libc::RLIMIT_AS, &mut limit) };
    (status == 0 && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

#[cfg(not(any(target_os = "linux", target_os = "macos", windows)))]
mod platform {
    use super::{Cpu, Memory, System};

    pub(super) fn system() -> System {
        System { name: Some(std::env::consts::OS.to_owned()), kernel: None }
    }

    pub(super) fn cpu() -> Cpu {
        let logical = std::thread::available_parallelism().ok().map(usize::from);
        Cpu { logical, ..Cpu::default() }
    }

    pub(super) fn memory() -> Memory {
        Memory::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_one() {
        let (cpu, memory) = (cpu(), memory());
        let threads = std::thread::available_parallelism().unwrap().get();
        assert!(cpu.logical.is_none_or(|logical| logical >= threads), "{cpu:?}");
        assert!(cpu.physical.zip(cpu.logical).is_none_or(|(cores, threads)| (1..=threads).contains(&cores)));
        assert!(cpu.quota.is_none_or(|quota| quota > 0.0));
        assert!(memory.total.is_none_or(|bytes| bytes > 16 << 20), "{memory:?}");
        assert!(memory.swap.zip(memory.swap_used).is_none_or(|(all, used)| used <= all));
        assert!(["debug", "release"].contains(&BUILD.profile) && BUILD.target.contains('-'), "{BUILD:?}");
    }

    #[test]
    fn nvidias_version_is_a_word_of_its_line() {
        let line =
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n";
        assert_eq!(nvidia_version(line).as_deref(), Some("535.104.05"));
        assert_eq!(nvidia_version("NVRM version: none"), None);
        assert_eq!(nvidia_version(""), None);
    }
}
