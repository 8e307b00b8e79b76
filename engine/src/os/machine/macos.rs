//! macOS: what `sysctl` tells.

use super::{Cpu, Memory, System, address_limit};
use crate::os::cores::number;
use std::ffi::CStr;
use std::ptr::{from_mut, null_mut};

pub(super) fn system() -> System {
    let version = text(c"kern.osproductversion").map(|version| format!("macOS {version}"));
    System { name: version, kernel: text(c"kern.osrelease").map(|release| format!("Darwin {release}")) }
}

pub(super) fn cpu() -> Cpu {
    let count = |name: &CStr| number(name).and_then(|count| usize::try_from(count).ok());
    let levels = count(c"hw.nperflevels").filter(|&levels| levels > 1);
    Cpu {
        name: text(c"machdep.cpu.brand_string"),
        physical: count(c"hw.physicalcpu"),
        logical: count(c"hw.logicalcpu"),
        kinds: levels.and(count(c"hw.perflevel0.logicalcpu").zip(count(c"hw.perflevel1.logicalcpu"))),
        allowed: None,
        quota: None,
    }
}

pub(super) fn memory() -> Memory {
    let swap = swap();
    Memory {
        total: number(c"hw.memsize"),
        swap: swap.map(|swap| swap.xsu_total),
        swap_used: swap.map(|swap| swap.xsu_used),
        addresses: address_limit(),
        ..Memory::default()
    }
}

fn swap() -> Option<libc::xsw_usage> {
    // SAFETY: the struct is made of numbers, for which all zeros are valid.
    let mut usage: libc::xsw_usage = unsafe { std::mem::zeroed() };
    read(c"vm.swapusage", from_mut(&mut usage).cast(), size_of::<libc::xsw_usage>())
        .filter(|&bytes| bytes == size_of::<libc::xsw_usage>())
        .map(|_| usage)
}

fn text(name: &CStr) -> Option<String> {
    let mut bytes = [0u8; 256];
    read(name, bytes.as_mut_ptr().cast(), bytes.len())?;
    CStr::from_bytes_until_nul(&bytes).ok()?.to_str().ok().map(str::to_owned)
}

/// Fills at most `len` bytes at `place`, which must be the caller's own; how many were filled.
fn read(name: &CStr, place: *mut libc::c_void, mut len: usize) -> Option<usize> {
    // SAFETY: the name ends in zero; the call writes at most `len` bytes to a place that has as many, and keeps no pointer.
    let status = unsafe { libc::sysctlbyname(name.as_ptr(), place, &mut len, null_mut(), 0) };
    (status == 0).then_some(len)
}
