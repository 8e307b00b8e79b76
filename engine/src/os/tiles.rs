//! Permission for AMX's tile registers: they are 8 KiB of state per thread, which a Linux process has to ask for.

/// Whether this process may use tile registers. Threads started later inherit the permission; a second request
/// changes nothing.
pub fn are_allowed() -> bool {
    platform::ask()
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod platform {
    const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
    /// The number of the tile data among the states that XSAVE knows.
    const TILE_DATA: libc::c_ulong = 18;

    pub(super) fn ask() -> bool {
        // SAFETY: a system call that takes two numbers.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0 }
    }
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
mod platform {
    pub(super) fn ask() -> bool {
        false
    }
}
