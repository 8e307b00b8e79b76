//! Windows: what the system's calls for versions, processors and memory tell.

use super::{Cpu, Memory, System};
use crate::os::cores;
use windows_sys::Wdk::System::SystemServices::RtlGetVersion;
use windows_sys::Win32::System::SystemInformation::{GlobalMemoryStatusEx, MEMORYSTATUSEX, OSVERSIONINFOW};

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
    let classes: Vec<u8> = cores::all().into_iter().map(|(class, _)| class).collect();
    let logical = std::thread::available_parallelism().ok().map(usize::from);
    let fastest = classes.iter().max().copied();
    let fast = classes.iter().filter(|class| Some(**class) == fastest).count();
    let kinds = (fast < classes.len()).then(|| (fast, classes.len() - fast));
    let physical = Some(classes.len()).filter(|&cores| cores > 0);
    Cpu { name: std::env::var("PROCESSOR_IDENTIFIER").ok(), physical, logical, kinds, ..Cpu::default() }
}

pub(super) fn memory() -> Memory {
    let mut status =
        MEMORYSTATUSEX { dwLength: size_of::<MEMORYSTATUSEX>() as u32, ..MEMORYSTATUSEX::default() };
    // SAFETY: the pointer is to a live struct that says its own length; the call keeps none.
    let done = unsafe { GlobalMemoryStatusEx(&mut status) };
    Memory { total: (done != 0).then_some(status.ullTotalPhys), ..Memory::default() }
}
