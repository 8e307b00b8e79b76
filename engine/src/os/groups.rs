//! Control groups of this process: the folders of one controller, and the limits on processors and memory in them.

use std::fs;
use std::path::{Path, PathBuf};

/// No group has a limit as large as this: version 1 writes the largest multiple of a page.
const NO_LIMIT: u64 = 1 << 60;

/// Folders of this process' own groups that have `controller`, and of all above them.
pub(super) fn own(controller: &str) -> Vec<PathBuf> {
    folders(&fs::read_to_string("/proc/self/cgroup").unwrap_or_default(), controller)
}

/// Folders of all groups above this process that have `controller`, of version 2 and of version 1. Inside a container the
/// paths of `/proc/self/cgroup` may be the host's; the mounted root is then the container's own group.
fn folders(groups: &str, controller: &str) -> Vec<PathBuf> {
    let mut folders = vec![];
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let root = match controllers {
            "" => PathBuf::from("/sys/fs/cgroup"),
            _ if controllers.split(',').any(|name| name == controller) => {
                Path::new("/sys/fs/cgroup").join(controller)
            }
            _ => continue,
        };
        let inside = Path::new(path.trim_start_matches('/'));
        folders.extend(inside.ancestors().map(|part| root.join(part)));
    }
    folders
}

/// The tightest limit on memory in these folders.
pub(super) fn memory_limit(folders: &[PathBuf]) -> Option<u64> {
    folders.iter().filter_map(|folder| memory_limit_of(folder)).min()
}

/// The limit on memory in one of these folders. Absurd limits count as none.
pub(super) fn memory_limit_of(folder: &Path) -> Option<u64> {
    let number = |name: &str| text(folder, name)?.parse().ok();
    number("memory.max").or_else(|| number("memory.limit_in_bytes")).filter(|&bytes: &u64| bytes < NO_LIMIT)
}

/// The tightest limit on processor time in these folders, in processors.
pub(super) fn quota(folders: &[PathBuf]) -> Option<f64> {
    folders.iter().filter_map(|folder| quota_of(folder)).min_by(f64::total_cmp)
}

fn quota_of(folder: &Path) -> Option<f64> {
    let text = match text(folder, "cpu.max") {
        Some(both) => both,
        None => format!("{} {}", text(folder, "cpu.cfs_quota_us")?, text(folder, "cpu.cfs_period_us")?),
    };
    let (time, period) = text.split_once(' ')?;
    // `max` and -1 are no limits.
    let (time, period) = (time.parse::<f64>().ok()?, period.parse::<f64>().ok()?);
    (time > 0.0 && period > 0.0).then_some(time / period)
}

/// A file of a group, without the end of its line.
pub(super) fn text(folder: &Path, name: &str) -> Option<String> {
    Some(fs::read_to_string(folder.join(name)).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_has_folders_in_both_versions() {
        let found = folders("4:cpu,cpuacct:/a/b\n3:cpuset:/\n0::/user\nnonsense\n", "cpu");
        let expected = ["cpu/a/b", "cpu/a", "cpu/", "user", ""];
        assert_eq!(found, expected.map(|part| Path::new("/sys/fs/cgroup").join(part)));
    }

    #[test]
    fn finds_the_groups_of_both_versions() {
        let folders = folders("4:cpu,memory:/a/b\n3:cpuset:/\n0::/user\nnonsense\n", "memory");
        let expected = ["memory/a/b", "memory/a", "memory/", "user", ""];
        assert_eq!(folders, expected.map(|part| Path::new("/sys/fs/cgroup").join(part)));
    }

    #[test]
    fn the_tightest_limit_counts() {
        let folder = tempfile::tempdir().unwrap();
        let group = |name: &str, files: &[(&str, &str)]| {
            let path = folder.path().join(name);
            fs::create_dir(&path).unwrap();
            files.iter().for_each(|(file, text)| fs::write(path.join(file), text).unwrap());
            path
        };
        let free = group("free", &[("cpu.max", "max 100000\n"), ("memory.max", "max\n")]);
        let wide = group("wide", &[("cpu.max", "400000 100000\n"), ("memory.max", "9000\n")]);
        let old = group(
            "old",
            &[
                ("cpu.cfs_quota_us", "150000\n"),
                ("cpu.cfs_period_us", "100000\n"),
                ("memory.limit_in_bytes", "8000"),
            ],
        );
        let unlimited = group(
            "unlimited",
            &[
                ("cpu.cfs_quota_us", "-1"),
                ("cpu.cfs_period_us", "100000"),
                ("memory.limit_in_bytes", "9223372036854771712"),
            ],
        );
        let none = [free, unlimited, folder.path().join("absent")];
        assert_eq!((quota(&none), memory_limit(&none)), (None, None));
        let all = [&none[..], &[wide, old]].concat();
        assert_eq!((quota(&all), memory_limit(&all)), (Some(1.5), Some(8000)));
    }
}
