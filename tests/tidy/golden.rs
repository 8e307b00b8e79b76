//! The golden files are those that their list says: a fixture that changes by accident proves nothing any more.

use ring::digest::{SHA256, digest};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What differs between the files of `tests/golden` and its list, a line each. READMEs are not listed.
pub(crate) fn differences(root: &Path, tracked: &[PathBuf]) -> Vec<String> {
    let folder = Path::new("tests/golden");
    let list = std::fs::read_to_string(root.join(folder).join("SHA256SUMS")).unwrap();
    let mut listed: BTreeMap<PathBuf, &str> = list
        .lines()
        .filter_map(|line| line.split_once("  "))
        .map(|(sum, name)| (folder.join(name), sum))
        .collect();
    assert_eq!(listed.len(), list.lines().count(), "each line is a sum, two spaces and a path of its own");
    let is_listed = |path: &&PathBuf| !path.ends_with("README.md") && !path.ends_with("SHA256SUMS");
    let files = tracked.iter().filter(|path| path.starts_with(folder)).filter(is_listed);
    let mut found = vec![];
    for path in files {
        let bytes = std::fs::read(root.join(path)).unwrap();
        let sum: String = digest(&SHA256, &bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        match listed.remove(path) {
            Some(known) if known == sum => {}
            Some(_) => found.push(format!("{}: other bytes", path.display())),
            None => found.push(format!("{}: not listed; {sum}", path.display())),
        }
    }
    found.extend(listed.keys().map(|path| format!("{}: listed and not there", path.display())));
    found
}
