//! How much memory this process may still take, and how much it has taken.
//!
//! One file per system; a system without one says nothing, and whoever asks has to live with that.

#[cfg(any(target_os = "linux", target_os = "android"))]
mod linux;
#[cfg(target_os = "macos")]
mod macos;
#[cfg(windows)]
mod windows;

#[cfg(any(target_os = "linux", target_os = "android"))]
use linux as platform;
#[cfg(target_os = "macos")]
use macos as platform;
#[cfg(windows)]
use windows as platform;

/// Bytes that can be allocated without pushing others out: the machine's free and reclaimable memory, or what is left of
/// the tightest limit that this process is under (control groups of Linux, jobs of Windows). `None` where the system does
/// not tell.
pub fn available() -> Option<u64> {
    platform::available()
}

/// The largest resident size that this process has had, in bytes; 0 where the system does not tell.
pub fn peak_resident() -> u64 {
    platform::peak_resident()
}

/// The resident size of this process now, in bytes; 0 where the system does not tell.
pub fn resident() -> u64 {
    platform::resident()
}

/// Tells the allocator to keep freed memory for the next request instead of giving its pages back: for programs whose
/// large buffers come and go in every step. Where the system's allocator has no such switch, nothing happens.
pub fn keep_freed() {
    allocator::keep_freed();
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod allocator {
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
mod allocator {
    pub(super) fn keep_freed() {}
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "macos", windows)))]
mod platform {
    pub(super) fn available() -> Option<u64> {
        None
    }

    pub(super) fn peak_resident() -> u64 {
        0
    }

    pub(super) fn resident() -> u64 {
        0
    }
}

#[cfg(all(test, any(target_os = "linux", target_os = "macos", windows)))]
mod tests {
    use super::*;
    use crate::os::pages::Pages;

    #[test]
    fn what_is_available_is_a_part_of_the_machine() {
        let (available, all) = (available().unwrap(), platform::whole());
        assert!(available > 0 && available <= all, "{available} of {all}");
    }

    #[test]
    fn what_is_touched_is_resident_and_remembered() {
        // Far more than tests beside this one give back meanwhile.
        const BYTES: usize = 256 << 20;
        let before = resident();
        let mut pages = Pages::new(BYTES).unwrap();
        pages.fill(1);
        let after = resident();
        assert!(after > before + BYTES as u64 / 2, "{before} became {after}");
        assert!(peak_resident() >= before + BYTES as u64 / 2);
    }
}
