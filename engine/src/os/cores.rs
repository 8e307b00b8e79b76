//! Which cores a team of threads should have. Of fast and slow ones it takes the fast: a team waits for its last thread,
//! and a slow core would be it. How many threads there are in the end is the caller's business.

use std::thread;

/// Threads that run on fast cores at once, at most as many as this process may use; all where the system knows one kind.
pub fn fast() -> usize {
    let all = thread::available_parallelism().map_or(1, usize::from);
    platform::fast().unwrap_or(all).clamp(1, all)
}

/// Tells the system that somebody waits for what this thread computes, so that it runs on a fast core.
pub fn prefer_fast() {
    platform::prefer_fast();
}

#[cfg(windows)]
pub(super) use platform::all;
#[cfg(target_os = "macos")]
pub(super) use platform::number;

#[cfg(target_os = "macos")]
mod platform {
    use std::ffi::CStr;
    use std::ptr::{from_mut, null_mut};

    pub(super) fn fast() -> Option<usize> {
        number(c"hw.perflevel0.physicalcpu").and_then(|count| usize::try_from(count).ok())
    }

    pub(super) fn prefer_fast() {
        // SAFETY: the call takes two numbers and concerns this thread alone. Refused, it changes nothing.
        unsafe { libc::pthread_set_qos_class_self_np(libc::qos_class_t::QOS_CLASS_USER_INITIATED, 0) };
    }

    /// What the system knows under a name, of four or eight bytes; `None` for other names.
    pub(in super::super) fn number(name: &CStr) -> Option<u64> {
        let mut value = 0u64; // little-endian: four bytes are the lower half
        let mut bytes = size_of::<u64>();
        // SAFETY: the name ends in zero; the call writes at most `bytes` bytes to `value` and keeps no pointer.
        let status = unsafe {
            libc::sysctlbyname(name.as_ptr(), from_mut(&mut value).cast(), &mut bytes, null_mut(), 0)
        };
        (status == 0).then_some(value)
    }
}

#[cfg(windows)]
mod platform {
    use windows_sys::Win32::System::SystemInformation::{
        GROUP_AFFINITY, GetLogicalProcessorInformationEx, PROCESSOR_RELATIONSHIP, RelationProcessorCore,
        SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX,
    };

    const HEADER: usize = std::mem::offset_of!(SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX, Anonymous);
    const MASKS: usize = HEADER + std::mem::offset_of!(PROCESSOR_RELATIONSHIP, GroupMask);

    /// A core: its efficiency class, which grows with its speed, and how many threads it runs at once.
    pub(in super::super) type Core = (u8, usize);

    pub(super) fn fast() -> Option<usize> {
        Some(threads_of_the_best(&all())).filter(|&threads| threads > 0)
    }

    fn threads_of_the_best(cores: &[Core]) -> usize {
        let best = cores.iter().map(|(class, _)| *class).max();
        cores.iter().filter(|(class, _)| Some(*class) == best).map(|(_, threads)| threads).sum()
    }

    /// All cores of the machine; none where the system does not tell.
    pub(in super::super) fn all() -> Vec<Core> {
        let mut bytes = 0;
        // SAFETY: without a buffer the call only says how many bytes it wants.
        unsafe { GetLogicalProcessorInformationEx(RelationProcessorCore, std::ptr::null_mut(), &mut bytes) };
        let mut records = vec![0u64; (bytes as usize).div_ceil(size_of::<u64>())];
        let start = records.as_mut_ptr();
        // SAFETY: the buffer has `bytes` bytes and lies as the records must; the call keeps no pointer.
        let done =
            unsafe { GetLogicalProcessorInformationEx(RelationProcessorCore, start.cast(), &mut bytes) };
        let records: &[u8] = bytemuck::cast_slice(&records);
        if done == 0 { vec![] } else { read(&records[..bytes as usize]) }
    }

    fn read(mut records: &[u8]) -> Vec<Core> {
        let mut cores = vec![];
        while records.len() >= MASKS {
            // SAFETY: the bytes hold a record up to its masks, plain numbers, which are copied from wherever they lie.
            let (size, class, groups) = unsafe {
                let record = records.as_ptr().cast::<SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX>();
                let core = records.as_ptr().add(HEADER).cast::<PROCESSOR_RELATIONSHIP>();
                (
                    (&raw const (*record).Size).read_unaligned() as usize,
                    (&raw const (*core).EfficiencyClass).read_unaligned(),
                    (&raw const (*core).GroupCount).read_unaligned() as usize,
                )
            };
            let Some((record, rest)) = records.split_at_checked(size.max(MASKS)) else { break };
            let groups = record[MASKS..].chunks_exact(size_of::<GROUP_AFFINITY>()).take(groups);
            // A group begins with its mask: a bit for each thread.
            let ones = |group: &[u8]| {
                group[..size_of::<usize>()].iter().map(|byte| byte.count_ones() as usize).sum::<usize>()
            };
            cores.push((class, groups.map(ones).sum()));
            records = rest;
        }
        cores
    }

    /// Windows moves threads that compute to fast cores by itself.
    pub(super) fn prefer_fast() {}

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn cores_of_the_highest_class_are_counted_with_all_their_threads() {
            let size = MASKS + size_of::<GROUP_AFFINITY>();
            let record = |class: u8, mask: usize| {
                let mut bytes = vec![0; size];
                bytes[4..8].copy_from_slice(&(size as u32).to_ne_bytes());
                bytes[HEADER + 1] = class;
                bytes[MASKS - 2..MASKS].copy_from_slice(&1u16.to_ne_bytes());
                bytes[MASKS..][..size_of::<usize>()].copy_from_slice(&mask.to_ne_bytes());
                bytes
            };
            let slow = [record(0, 1), record(0, 2)].concat();
            assert_eq!(read(&slow), [(0, 1), (0, 1)]);
            let both = [&slow[..], &record(1, 0b1100), &record(1, 0b11_0000), &record(0, 64)].concat();
            let cores = read(&both);
            assert_eq!(cores, [(0, 1), (0, 1), (1, 2), (1, 2), (0, 1)]);
            assert_eq!(threads_of_the_best(&cores), 4);
            assert_eq!(read(&both[..both.len() - 1]), cores[..4]);
            assert_eq!(threads_of_the_best(&[]), 0);
        }
    }
}

#[cfg(not(any(target_os = "macos", windows)))]
mod platform {
    pub(super) fn fast() -> Option<usize> {
        None
    }

    pub(super) fn prefer_fast() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fast_cores_are_some_of_those_that_this_process_may_use() {
        let all = thread::available_parallelism().unwrap().get();
        assert!((1..=all).contains(&fast()));
        if cfg!(target_os = "linux") {
            assert_eq!(fast(), all);
        }
        prefer_fast();
    }
}
