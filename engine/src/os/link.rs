//! Symbolic links that lead nowhere, as in a download cache that was cleaned: which link it is, and where it leads.
//! Whether a path should be there at all is the caller's question.

use std::fs;
use std::io;
use std::path::Path;

/// As many links in a row as Linux follows.
const MOST_LINKS: usize = 40;

/// What is wrong with a link at the end of `path` or on its way, if there is one that cannot be followed.
pub fn broken(path: &Path) -> Option<String> {
    let mut parts: Vec<&Path> = path.ancestors().filter(|part| !part.as_os_str().is_empty()).collect();
    parts.reverse();
    let leads_nowhere =
        |part: &Path| fs::metadata(part).is_err_and(|error| error.kind() != io::ErrorKind::PermissionDenied);
    let link = parts.into_iter().find(|part| part.is_symlink() && leads_nowhere(part))?;
    let mut target = link.to_owned();
    for _ in 0..MOST_LINKS {
        let Ok(next) = fs::read_link(&target) else {
            return Some(format!(
                "{} is a link to {}, which does not exist",
                link.display(),
                target.display()
            ));
        };
        target = target.parent().map_or_else(|| next.clone(), |folder| folder.join(&next));
    }
    let first = fs::read_link(link).unwrap_or(target);
    Some(format!("{} is a link to {}, which leads back to it", link.display(), first.display()))
}

/// `error` of opening `path`, or what is wrong with a link on the way there.
pub fn explain(path: &Path, error: io::Error) -> io::Error {
    match broken(path) {
        Some(why) => io::Error::new(error.kind(), why),
        None => error,
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_are_followed_to_where_they_end() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("file"), "x").unwrap();
        for (target, link) in [
            ("file", "good"),
            ("gone/blob", "direct"),
            ("direct", "indirect"),
            ("b", "a"),
            ("a", "b"),
            ("nowhere", "folder"),
        ] {
            symlink(target, at(link)).unwrap();
        }
        for name in ["file", "good", "absent", "file/x"] {
            assert_eq!(broken(&at(name)), None, "{name}");
        }
        for (name, link, end) in [
            ("direct", "direct", "gone/blob, which does not exist"),
            ("indirect", "indirect", "gone/blob, which does not exist"),
            ("folder/m.gguf", "folder", "nowhere, which does not exist"),
            ("a", "a", "link to b, which leads back to it"),
        ] {
            let why = broken(&at(name)).unwrap();
            assert!(why.starts_with(&format!("{} is a link to ", at(link).display())), "{why}");
            assert!(why.ends_with(end), "{why}");
        }
        let error = explain(&at("direct"), io::Error::from(io::ErrorKind::NotFound));
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains("blob"), "{error}");
        assert!(explain(&at("absent"), io::Error::other("no")).to_string() == "no");
    }
}
