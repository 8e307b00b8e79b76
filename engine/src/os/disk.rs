//! What a folder lies on: the kind of its file system and of what is under it. Room is `room.rs`' matter, reading
//! `read.rs`'.

use std::path::Path;

/// What is under a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// A disk without moving parts, as far as the system knows.
    Solid,
    /// A disk that says that it turns; virtual ones may say so, too.
    Rotating,
    /// Another machine, or the host of this one.
    Remote,
    /// Memory.
    Memory,
    /// Not known.
    Unknown,
}

/// A file system that is in use.
#[derive(Clone, Debug, PartialEq)]
pub struct Disk {
    /// Its kind: ext4, apfs, NTFS.
    pub file_system: String,
    /// What it is on.
    pub device: Option<String>,
    /// What that is.
    pub medium: Medium,
}

/// What the folder lies on; `None` where the system does not tell, or there is no such folder.
pub fn of(folder: &Path) -> Option<Disk> {
    platform::of(&folder.canonicalize().ok()?)
}

/// What the name of a file system tells.
#[cfg(unix)]
fn medium(file_system: &str) -> Medium {
    const REMOTE: [&str; 12] = [
        "nfs",
        "cifs",
        "smb",
        "9p",
        "afpfs",
        "webdav",
        "sshfs",
        "ceph",
        "glusterfs",
        "lustre",
        "afs",
        "vboxsf",
    ];
    let name = file_system.strip_prefix("fuse.").unwrap_or(file_system);
    match name {
        "tmpfs" | "ramfs" => Medium::Memory,
        _ if REMOTE.iter().any(|known| name.starts_with(known)) => Medium::Remote,
        _ => Medium::Unknown,
    }
}

#[cfg(target_os = "linux")]
mod platform {
    use super::{Disk, Medium, medium};
    use std::fs;
    use std::os::unix::fs::MetadataExt;
    use std::path::{Path, PathBuf};

    pub(super) fn of(folder: &Path) -> Option<Disk> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let Mount { file_system, source, number } = mount(&mounts, folder)?;
        let medium = match medium(&file_system) {
            Medium::Unknown => {
                // Some file systems have numbers of their own; the device's then are those of what it is made of.
                let own =
                    fs::metadata(&source).ok().map(|status| status.rdev()).filter(|&number| number != 0);
                let own = own.map(|number| format!("{}:{}", libc::major(number), libc::minor(number)));
                turning(Path::new("/sys/dev/block"), &own.unwrap_or(number))
            }
            known => known,
        };
        Some(Disk { file_system, device: Some(source).filter(|source| source != "none"), medium })
    }

    #[derive(Debug, PartialEq)]
    pub(super) struct Mount {
        pub(super) file_system: String,
        pub(super) source: String,
        pub(super) number: String, // major:minor
    }

    /// The last one of the mounts deepest above `folder`. Source: proc_pid_mountinfo(5).
    pub(super) fn mount(mounts: &str, folder: &Path) -> Option<Mount> {
        let parsed = mounts.lines().filter_map(|line| {
            let (place, what) = line.split_once(" - ")?;
            let (mut place, mut what) = (place.split(' ').skip(2), what.split(' '));
            let (number, point) = (place.next()?, unescaped(place.nth(1)?));
            let (file_system, source) = (what.next()?.to_owned(), unescaped(what.next()?));
            let mount =
                Mount { file_system, source: source.display().to_string(), number: number.to_owned() };
            folder.starts_with(&point).then(|| (point.components().count(), mount))
        });
        parsed.max_by_key(|(depth, _)| *depth).map(|(_, mount)| mount)
    }

    /// Spaces and the like stand as `\040`.
    fn unescaped(text: &str) -> PathBuf {
        let mut parts = text.split('\\');
        let mut whole = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            match part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
                Some(code) => {
                    whole.push(char::from(code));
                    whole.push_str(&part[3..]);
                }
                None => {
                    whole.push('\\');
                    whole.push_str(part);
                }
            }
        }
        PathBuf::from(whole)
    }

    /// Whether a device, or the one of which it is a part, turns.
    fn turning(devices: &Path, number: &str) -> Medium {
        let device = devices.join(number);
        let told = ["queue/rotational", "../queue/rotational"];
        let told = told.iter().find_map(|file| fs::read_to_string(device.join(file)).ok());
        match told.as_deref().map(str::trim) {
            Some("0") => Medium::Solid,
            Some("1") => Medium::Rotating,
            _ => Medium::Unknown,
        }
    }
}

#[cfg(target_os = "macos")]
mod platform {
    use super::{Disk, Medium, medium};
    use std::ffi::{CStr, CString, c_char};
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    pub(super) fn of(folder: &Path) -> Option<Disk> {
        let path = CString::new(folder.as_os_str().as_bytes()).ok()?;
        // SAFETY: the struct is made of numbers and texts, for which all zeros are valid.
        let mut status: libc::statfs = unsafe { std::mem::zeroed() };
        // SAFETY: the path ends in zero, and the pointer is to a live struct.
        if unsafe { libc::statfs(path.as_ptr(), &mut status) } != 0 {
            return None;
        }
        let file_system = text(&status.f_fstypename);
        let is_local = status.f_flags & libc::MNT_LOCAL as u32 != 0;
        let medium = if is_local { medium(&file_system) } else { Medium::Remote };
        Some(Disk { file_system, device: Some(text(&status.f_mntfromname)), medium })
    }

    fn text(field: &[c_char]) -> String {
        let bytes: Vec<u8> = field.iter().map(|&c| c as u8).chain([0]).collect();
        CStr::from_bytes_until_nul(&bytes)
            .map_or_else(|_| String::new(), |text| text.to_string_lossy().into_owned())
    }
}

#[cfg(windows)]
mod platform {
    use super::{Disk, Medium};
    use std::os::windows::ffi::OsStrExt;
    use std::path::Path;
    use std::ptr::null_mut;
    use windows_sys::Win32::Storage::FileSystem::{GetDriveTypeW, GetVolumeInformationW, GetVolumePathNameW};

    const REMOTE: u32 = 4; // DRIVE_REMOTE
    const RAM_DISK: u32 = 6; // DRIVE_RAMDISK

    pub(super) fn of(folder: &Path) -> Option<Disk> {
        let path: Vec<u16> = folder.as_os_str().encode_wide().chain([0]).collect();
        let (mut root, mut name) = ([0u16; 512], [0u16; 64]);
        // SAFETY: the path ends in zero; the call writes at most so many characters to the live array.
        let found = unsafe { GetVolumePathNameW(path.as_ptr(), root.as_mut_ptr(), root.len() as u32) };
        if found == 0 {
            return None;
        }
        // SAFETY: the root ends in zero; the call writes at most so many characters to the live array, and nothing where
        // it is given no place.
        let known = unsafe {
            let (no_text, no_number) = (null_mut(), null_mut());
            let len = name.len() as u32;
            GetVolumeInformationW(
                root.as_ptr(),
                no_text,
                0,
                no_number,
                null_mut(),
                null_mut(),
                name.as_mut_ptr(),
                len,
            )
        };
        // SAFETY: the root ends in zero.
        let medium = match unsafe { GetDriveTypeW(root.as_ptr()) } {
            REMOTE => Medium::Remote,
            RAM_DISK => Medium::Memory,
            _ => Medium::Unknown,
        };
        (known != 0).then(|| Disk { file_system: text(&name), device: Some(text(&root)), medium })
    }

    fn text(wide: &[u16]) -> String {
        let end = wide.iter().position(|&unit| unit == 0).unwrap_or(wide.len());
        String::from_utf16_lossy(&wide[..end])
    }
}

#[cfg(not(any(target_os = "linux", target_os = "macos", windows)))]
mod platform {
    pub(super) fn of(_folder: &std::path::Path) -> Option<super::Disk> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_lies_on_something() {
        let folder = tempfile::tempdir().unwrap();
        assert!(of(folder.path()).is_none_or(|disk| !disk.file_system.is_empty()));
        assert!(!cfg!(target_os = "linux") || of(folder.path()).is_some());
        assert_eq!(of(&folder.path().join("absent")), None);
    }

    #[cfg(unix)]
    #[test]
    fn names_tell_what_is_far() {
        for (name, expected) in [
            ("nfs4", Medium::Remote),
            ("fuse.sshfs", Medium::Remote),
            ("smbfs", Medium::Remote),
            ("tmpfs", Medium::Memory),
            ("ext4", Medium::Unknown),
            ("fuseblk", Medium::Unknown),
        ] {
            assert_eq!(medium(name), expected, "{name}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_deepest_mount_counts_and_of_two_the_later() {
        let mounts = "26 1 254:0 / / rw shared:1 - ext4 /dev/vda rw\n\
                      30 26 0:40 / /home/a\\040b rw - nfs4 host:/x rw\n\
                      31 26 8:1 / /home rw - xfs /dev/sda1 rw\n\
                      32 26 0:50 / /home rw - tmpfs none rw\n\
                      broken line\n";
        for (folder, file_system, number) in [
            ("/", "ext4", "254:0"),
            ("/home/a b/models", "nfs4", "0:40"),
            ("/home/c", "tmpfs", "0:50"),
            ("/homes", "ext4", "254:0"),
        ] {
            let mount = platform::mount(mounts, Path::new(folder)).unwrap();
            assert_eq!(
                (mount.file_system.as_str(), mount.number.as_str()),
                (file_system, number),
                "{folder}"
            );
        }
        assert_eq!(platform::mount("", Path::new("/")), None);
    }
}
