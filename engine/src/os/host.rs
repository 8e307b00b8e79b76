//! What this machine is called, for names of files and reports. Its address, and whether others find it by the name, are
//! not asked.

/// The name of this machine in its net; `None` where the system does not tell or it is no text.
pub fn name() -> Option<String> {
    platform::name().filter(|name| !name.is_empty())
}

#[cfg(unix)]
mod platform {
    use std::ffi::CStr;

    pub(super) fn name() -> Option<String> {
        let mut bytes = [0u8; 256]; // POSIX has names of at most 255 bytes
        // SAFETY: the call writes at most so many bytes to the live array and keeps no pointer.
        let status = unsafe { libc::gethostname(bytes.as_mut_ptr().cast(), bytes.len()) };
        let name = CStr::from_bytes_until_nul(&bytes).ok().filter(|_| status == 0);
        name.and_then(|name| name.to_str().ok()).map(str::to_owned)
    }
}

#[cfg(not(unix))]
mod platform {
    pub(super) fn name() -> Option<String> {
        std::env::var("COMPUTERNAME").ok()
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_machine_has_the_name_that_its_kernel_knows() {
        let name = super::name();
        if let Ok(known) =
            std::fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned())
            && cfg!(target_os = "linux")
        {
            assert_eq!(name, Some(known));
        } else {
            assert!(name.is_some_and(|name| !name.contains('\0')));
        }
    }
}
