//! Memory as Windows tells it: the machine's, what the page file lets be promised, and limits of the job that this
//! process runs in, as containers and schedulers set them.

use windows_sys::Win32::System::JobObjects::{
    JOB_OBJECT_LIMIT, JOB_OBJECT_LIMIT_JOB_MEMORY, JOB_OBJECT_LIMIT_PROCESS_MEMORY,
    JOB_OBJECT_LIMIT_WORKINGSET, JOBOBJECT_EXTENDED_LIMIT_INFORMATION, JobObjectExtendedLimitInformation,
    QueryInformationJobObject,
};
use windows_sys::Win32::System::ProcessStatus::{K32GetProcessMemoryInfo, PROCESS_MEMORY_COUNTERS};
use windows_sys::Win32::System::SystemInformation::{GlobalMemoryStatusEx, MEMORYSTATUSEX};
use windows_sys::Win32::System::Threading::GetCurrentProcess;

pub(super) fn available() -> Option<u64> {
    let machine = machine()?;
    // Memory that is promised counts before it is touched, and without a page file no more than there is can be.
    let free = machine.ullAvailPhys.min(machine.ullAvailPageFile);
    let job = job().zip(counters()).map_or(u64::MAX, |(job, counters)| left_in_job(&job, &counters));
    Some(free.min(job))
}

pub(super) fn resident() -> u64 {
    counters().map_or(0, |counters| counters.WorkingSetSize as u64)
}

pub(super) fn peak_resident() -> u64 {
    counters().map_or(0, |counters| counters.PeakWorkingSetSize as u64)
}

/// The machine's memory.
#[cfg(test)]
pub(super) fn whole() -> u64 {
    machine().unwrap().ullTotalPhys
}

fn machine() -> Option<MEMORYSTATUSEX> {
    let mut status =
        MEMORYSTATUSEX { dwLength: size_of::<MEMORYSTATUSEX>() as u32, ..MEMORYSTATUSEX::default() };
    // SAFETY: the pointer is to a live struct that says its own length; the call keeps none.
    let done = unsafe { GlobalMemoryStatusEx(&mut status) };
    (done != 0).then_some(status)
}

fn counters() -> Option<PROCESS_MEMORY_COUNTERS> {
    let mut counters = PROCESS_MEMORY_COUNTERS::default();
    let bytes = size_of::<PROCESS_MEMORY_COUNTERS>() as u32;
    // SAFETY: the pointer is to a live struct of so many bytes; the handle of a process for itself needs no closing.
    let done = unsafe { K32GetProcessMemoryInfo(GetCurrentProcess(), &mut counters, bytes) };
    (done != 0).then_some(counters)
}

/// The limits of the innermost job; `None` outside of any.
fn job() -> Option<JOBOBJECT_EXTENDED_LIMIT_INFORMATION> {
    let mut limits = JOBOBJECT_EXTENDED_LIMIT_INFORMATION::default();
    let bytes = size_of::<JOBOBJECT_EXTENDED_LIMIT_INFORMATION>() as u32;
    // SAFETY: the pointer is to a live struct of so many bytes; no handle means the job of this process.
    let done = unsafe {
        QueryInformationJobObject(
            std::ptr::null_mut(),
            JobObjectExtendedLimitInformation,
            std::ptr::from_mut(&mut limits).cast(),
            bytes,
            std::ptr::null_mut(),
        )
    };
    (done != 0).then_some(limits)
}

/// What a job leaves to this process. What others in the job take is not known; their share shows only when the job
/// refuses memory.
fn left_in_job(job: &JOBOBJECT_EXTENDED_LIMIT_INFORMATION, counters: &PROCESS_MEMORY_COUNTERS) -> u64 {
    let basic = &job.BasicLimitInformation;
    let left = |flag: JOB_OBJECT_LIMIT, limit: usize, used: usize| match basic.LimitFlags & flag {
        0 => u64::MAX,
        _ => limit.saturating_sub(used) as u64,
    };
    let (promised, resident) = (counters.PagefileUsage, counters.WorkingSetSize);
    left(JOB_OBJECT_LIMIT_JOB_MEMORY, job.JobMemoryLimit, promised)
        .min(left(JOB_OBJECT_LIMIT_PROCESS_MEMORY, job.ProcessMemoryLimit, promised))
        .min(left(JOB_OBJECT_LIMIT_WORKINGSET, basic.MaximumWorkingSetSize, resident))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_limit_of_a_job_counts() {
        let counters =
            PROCESS_MEMORY_COUNTERS { PagefileUsage: 30, WorkingSetSize: 20, ..Default::default() };
        let mut job = JOBOBJECT_EXTENDED_LIMIT_INFORMATION {
            JobMemoryLimit: 100,
            ProcessMemoryLimit: 80,
            ..Default::default()
        };
        job.BasicLimitInformation.MaximumWorkingSetSize = 60;
        for (flags, expected) in [
            (0, u64::MAX),
            (JOB_OBJECT_LIMIT_JOB_MEMORY, 70),
            (JOB_OBJECT_LIMIT_JOB_MEMORY | JOB_OBJECT_LIMIT_PROCESS_MEMORY, 50),
            (JOB_OBJECT_LIMIT_JOB_MEMORY | JOB_OBJECT_LIMIT_WORKINGSET, 40),
        ] {
            job.BasicLimitInformation.LimitFlags = flags;
            assert_eq!(left_in_job(&job, &counters), expected, "{flags:x}");
        }
        job.BasicLimitInformation.MaximumWorkingSetSize = 10;
        assert_eq!(left_in_job(&job, &counters), 0);
    }
}
