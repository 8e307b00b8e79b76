//! Memory as macOS tells it: the kernel's counts of pages, and what it charges this process with.

use std::ptr::from_mut;

unsafe extern "C" {
    // libc has both marked as another crate's business, or not at all.
    fn mach_host_self() -> libc::mach_port_t;
    static vm_kernel_page_size: libc::vm_size_t; // 16 KiB on Apple silicon
}

/// Pages that are free, which includes those read ahead, and pages that nobody has touched lately. Of the latter some
/// have to be compressed first; of the active ones some could be taken, too.
pub(super) fn available() -> Option<u64> {
    // SAFETY: the struct is made of numbers, for which all zeros are valid.
    let mut pages: libc::vm_statistics64 = unsafe { std::mem::zeroed() };
    let mut words = libc::HOST_VM_INFO64_COUNT;
    // SAFETY: the call writes at most `words` words, which are those of the struct, and keeps no pointer.
    let status = unsafe {
        libc::host_statistics64(host(), libc::HOST_VM_INFO64, from_mut(&mut pages).cast(), &mut words)
    };
    // SAFETY: the system writes it before the program begins and never again.
    let page_bytes = unsafe { vm_kernel_page_size } as u64;
    let count = u64::from(pages.free_count) + u64::from(pages.inactive_count);
    (status == libc::KERN_SUCCESS).then_some(count * page_bytes)
}

/// This machine's port. Every call of the system counts one more right to it, so it is asked for once.
fn host() -> libc::mach_port_t {
    static HOST: std::sync::OnceLock<libc::mach_port_t> = std::sync::OnceLock::new();
    // SAFETY: a plain system call without arguments.
    *HOST.get_or_init(|| unsafe { mach_host_self() })
}

/// Mapped files do not count, as the system can drop their pages at any time.
pub(super) fn resident() -> u64 {
    usage().map_or(0, |usage| usage.ri_phys_footprint)
}

pub(super) fn peak_resident() -> u64 {
    usage().map_or(0, |usage| usage.ri_lifetime_max_phys_footprint)
}

fn usage() -> Option<libc::rusage_info_v4> {
    // SAFETY: the struct is made of numbers, for which all zeros are valid.
    let mut usage: libc::rusage_info_v4 = unsafe { std::mem::zeroed() };
    let own = std::process::id() as libc::c_int;
    // SAFETY: the call writes a struct of the version that it is told, and keeps no pointer.
    let status = unsafe { libc::proc_pid_rusage(own, libc::RUSAGE_INFO_V4, from_mut(&mut usage).cast()) };
    (status == 0).then_some(usage)
}

/// The machine's memory.
#[cfg(test)]
pub(super) fn whole() -> u64 {
    crate::os::cores::number(c"hw.memsize").unwrap()
}
