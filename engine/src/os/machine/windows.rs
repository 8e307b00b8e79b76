//! Windows: what the system's calls for versions, processors and memory tell.

use super::{Cpu, Memory, System};
use std::ptr::null_mut;
use windows_sys::Wdk::System::SystemServices::RtlGetVersion;
use windows_sys::Win32::System::SystemInformation::{
    GetLogicalProcessorInformationEx, GlobalMemoryStatusEx, MEMORYSTATUSEX, OSVERSIONINFOW,
    PROCESSOR_RELATIONSHIP, RelationProcessorCore, SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX,
};

const FIRST_BUILD_OF_11: u32 = 22_000; // which still calls itself version 10

pub(super) fn system() -> System {
    let mut version = OSVERSIONINFOW {
        dwOSVersionInfoSize: size_of::<OSVERSIONINFOW>() as u32,
        ..OSVERSIONINFOW::default()
    };
    // SAFETY: the pointer is to a live struct that says its own length; the call keeps none.
    let status = unsafe { RtlGetVersion(&mut version) };
    let build = version.dwBuildNumber;
    let major = if build >= FIRST_BUILD_OF_11 { 11 } else { version.dwMajorVersion };
    let name = (status == 0).then(|| format!("Windows {major}, build {build}"));
    System { name, kernel: None }
}

pub(super) fn cpu() -> Cpu {
    let classes = classes();
    let logical = std::thread::available_parallelism().ok().map(usize::from);
    let fastest = classes.iter().max().copied();
    let fast = classes.iter().filter(|class| Some(**class) == fastest).count();
    let kinds = (fast < classes.len()).then(|| (fast, classes.len() - fast));
    let physical = Some(classes.len()).filter(|&cores| cores > 0);
    Cpu { name: std::env::var("PROCESSOR_IDENTIFIER").ok(), physical, logical, kinds, ..Cpu::default() }
}

/// The efficiency class of each core, which grows with its speed.
fn classes() -> Vec<u8> {
    let mut bytes = 0;
    // SAFETY: without a buffer the call only says how many bytes it wants.
    unsafe { GetLogicalProcessorInformationEx(RelationProcessorCore, null_mut(), &mut bytes) };
    let mut records = vec![0u64; (bytes as usize).div_ceil(size_of::<u64>())];
    let start = records.as_mut_ptr().cast::<u8>();
    // SAFETY: the buffer has `bytes` bytes and lies as the records must; the call keeps no pointer.
    let done = unsafe { GetLogicalProcessorInformationEx(RelationProcessorCore, start.cast(), &mut bytes) };
    let header = std::mem::offset_of!(SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX, Anonymous);
    let least = header + size_of::<PROCESSOR_RELATIONSHIP>();
    let (mut all, mut place) = (vec![], 0);
    while done != 0 && place + least <= bytes as usize {
        // SAFETY: a record lies whole within the bytes that the call has filled; its numbers are copied from wherever
        // they lie.
        let (size, class) = unsafe {
            let record = start.add(place).cast::<SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX>();
            let core = start.add(place + header).cast::<PROCESSOR_RELATIONSHIP>();
            (
                (&raw const (*record).Size).read_unaligned(),
                (&raw const (*core).EfficiencyClass).read_unaligned(),
            )
        };
        all.push(class);
        place += (size as usize).max(least);
    }
    all
}

pub(super) fn memory() -> Memory {
    let mut status =
        MEMORYSTATUSEX { dwLength: size_of::<MEMORYSTATUSEX>() as u32, ..MEMORYSTATUSEX::default() };
    // SAFETY: the pointer is to a live struct that says its own length; the call keeps none.
    let done = unsafe { GlobalMemoryStatusEx(&mut status) };
    Memory { total: (done != 0).then_some(status.ullTotalPhys), ..Memory::default() }
}
