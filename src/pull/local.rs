//! What is on this machine already: in our model folders, and read-only in those of other programs.
//!
//! Hugging Face's cache, Ollama's and LM Studio's folders are looked into and run from; nothing in them is written,
//! renamed or linked to.

use super::choice::{self, Entry};
use super::name::{Remote, Repository, Tagged, is_safe};
use super::plan::Wants;
use super::{name, ollama};
use std::fs;
use std::path::{Path, PathBuf};

const DEPTH: usize = 3; // folders within a repository

/// Folders of other programs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Others {
    /// Hugging Face's cache, which holds `models--OWNER--REPO`.
    pub(crate) hub: Option<PathBuf>,
    /// Ollama's models, which holds `manifests` and `blobs`.
    pub(crate) ollama: Option<PathBuf>,
    /// LM Studio's models, `OWNER/REPO/FILE.gguf`.
    pub(crate) lm_studio: Vec<PathBuf>,
}

/// A model that another program has.
#[derive(Debug, PartialEq)]
pub(crate) struct Elsewhere {
    /// What to call it.
    pub(crate) name: String,
    /// Its file, of a split one the first.
    pub(crate) path: PathBuf,
}

/// What a remote name means on this machine.
#[derive(Debug, PartialEq)]
pub(crate) struct Kept {
    /// A GGUF file or a checkpoint's folder.
    pub(crate) path: PathBuf,
    /// Whether it belongs to another program.
    pub(crate) is_others: bool,
}

/// What `remote` means on this machine, if it is here whole.
pub(crate) fn find(remote: &Remote, models: &[PathBuf], others: &Others, wants: Wants) -> Option<Kept> {
    let below = |root: &PathBuf| remote.folders().iter().fold(root.clone(), |path, part| path.join(part));
    let ours = models.iter().find_map(|root| in_folder(remote, &below(root), wants));
    let path = ours.map(|path| Kept { path, is_others: false });
    let theirs = || match remote {
        Remote::Hub(of) => {
            let snapshot = others.hub.as_ref().and_then(|hub| snapshot(hub, of));
            let cached = snapshot.and_then(|folder| in_folder(remote, &folder, wants));
            cached.or_else(|| others.lm_studio.iter().find_map(|root| in_folder(remote, &below(root), wants)))
        }
        Remote::Ollama(of) => others.ollama.as_ref().and_then(|root| blob(root, of)),
        _ => None,
    };
    path.or_else(|| theirs().map(|path| Kept { path, is_others: true }))
}

fn in_folder(remote: &Remote, folder: &Path, wants: Wants) -> Option<PathBuf> {
    match remote {
        Remote::Hub(of) | Remote::ModelScope(of) => of_repository(of, folder, wants),
        Remote::Ollama(of) => Some(folder.join(ollama::file_name(of))).filter(|path| path.is_file()),
        Remote::Address(url) => Some(folder.join(name::file_of(url)?)).filter(|path| path.is_file()),
    }
}

fn of_repository(of: &Repository, folder: &Path, wants: Wants) -> Option<PathBuf> {
    let is_named = of.tag.is_some() || of.file.is_some();
    let entries = entries(folder);
    if wants == Wants::Checkpoint && !is_named && !choice::checkpoint(&entries).is_empty() {
        return Some(folder.to_owned());
    }
    let flat = of.file.as_ref().map(|file| file.replace('/', "-"));
    let files = [of.file.as_deref(), of.file.as_deref().map(choice::base), flat.as_deref()];
    let chosen = files.iter().find_map(|file| choice::choose(&entries, of.tag.as_deref(), *file).ok())?;
    Some(folder.join(&chosen.group.parts.first()?.path))
}

/// Files of a folder with their paths in it.
fn entries(folder: &Path) -> Vec<Entry> {
    fn walk(folder: &Path, within: &str, depth: usize, found: &mut Vec<Entry>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Some(name) = entry.file_name().to_str().map(str::to_owned).filter(|name| is_safe(name))
            else {
                continue;
            };
            let path = if within.is_empty() { name } else { format!("{within}/{name}") };
            // Links are followed: the cache consists of them.
            match fs::metadata(entry.path()) {
                Ok(data) if data.is_dir() && depth > 1 => walk(&entry.path(), &path, depth - 1, found),
                Ok(data) if data.is_file() => found.push(Entry { path, size: data.len(), digest: None }),
                _ => {}
            }
        }
    }
    let mut found = Vec::new();
    walk(folder, "", DEPTH, &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// The snapshot of a repository in the hub's cache.
fn snapshot(hub: &Path, of: &Repository) -> Option<PathBuf> {
    let folder = hub.join(format!("models--{}--{}", of.owner, of.repo));
    let revision = of.revision.as_deref().unwrap_or("main");
    let commit = fs::read_to_string(folder.join("refs").join(revision)).ok();
    let commit = commit.as_deref().map_or(revision, str::trim);
    Some(folder.join("snapshots").join(commit)).filter(|path| is_safe(commit) && path.is_dir())
}

/// The file of a model that Ollama has.
fn blob(root: &Path, of: &Tagged) -> Option<PathBuf> {
    let manifest = root.join("manifests").join(&of.host).join(&of.namespace).join(&of.name).join(&of.tag);
    let digest = ollama::stored_digest(&manifest)?;
    Some(root.join("blobs").join(format!("sha256-{digest}"))).filter(|path| path.is_file())
}

impl Others {
    /// Files that Hugging Face's tools or Ollama keep under this SHA-256. Their names say so; whoever takes the bytes checks.
    pub(super) fn blobs(&self, sha256: &str) -> Vec<PathBuf> {
        let repositories =
            self.hub.iter().flat_map(|hub| names_in(hub).into_iter().map(|name| hub.join(name)));
        let of_hub = repositories.map(|folder| folder.join("blobs").join(sha256));
        let of_ollama = self.ollama.iter().map(|root| root.join("blobs").join(format!("sha256-{sha256}")));
        of_hub.chain(of_ollama).filter(|path| path.is_file()).collect()
    }

    /// All models that other programs have.
    pub(crate) fn all(&self) -> Vec<Elsewhere> {
        let mut all = Vec::new();
        for folder in self.hub.iter().flat_map(|hub| names_in(hub)) {
            let Some(hub) = &self.hub else { break };
            let Some((owner, repo)) = folder.strip_prefix("models--").and_then(|name| name.split_once("--"))
            else {
                continue;
            };
            for commit in names_in(&hub.join(&folder).join("snapshots")) {
                add(&mut all, owner, repo, &hub.join(&folder).join("snapshots").join(commit));
            }
        }
        for root in &self.lm_studio {
            for owner in names_in(root) {
                for repo in names_in(&root.join(&owner)) {
                    add(&mut all, &owner, &repo, &root.join(&owner).join(&repo));
                }
            }
        }
        self.ollama.iter().for_each(|root| add_ollama(&mut all, root));
        all.dedup_by(|a, b| a.name == b.name);
        all
    }
}

fn add(all: &mut Vec<Elsewhere>, owner: &str, repo: &str, folder: &Path) {
    let entries = entries(folder);
    for first in choice::groups(&entries).iter().filter_map(|group| group.parts.first()) {
        let name = format!("hf:{owner}/{repo}/{}", first.path);
        all.push(Elsewhere { name, path: folder.join(&first.path) });
    }
}

fn add_ollama(all: &mut Vec<Elsewhere>, root: &Path) {
    let manifests = root.join("manifests");
    for host in names_in(&manifests) {
        for namespace in names_in(&manifests.join(&host)) {
            for name in names_in(&manifests.join(&host).join(&namespace)) {
                for tag in names_in(&manifests.join(&host).join(&namespace).join(&name)) {
                    let (host, namespace, name) = (host.clone(), namespace.clone(), name.clone());
                    let of = Tagged { host, namespace, name, tag };
                    if let Some(path) = blob(root, &of) {
                        all.push(Elsewhere { name: Remote::Ollama(of).to_string(), path });
                    }
                }
            }
        }
    }
}

/// Names in a folder, sorted; a folder that cannot be read has none for this person.
fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: PathBuf, bytes: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn found(name: &str, models: &Path, others: &Others, wants: Wants) -> Option<(PathBuf, bool)> {
        let remote = Remote::parse(name).unwrap().unwrap();
        let kept = find(&remote, &[models.to_owned()], others, wants)?;
        Some((kept.path, kept.is_others))
    }

    #[test]
    fn what_is_here_needs_no_network() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        let others =
            Others { hub: Some(at("hub")), ollama: Some(at("ollama")), lm_studio: vec![at("studio")] };
        write(at("models/o/r/m-Q8_0.gguf"), "GGUF");
        write(at("models/o/c/config.json"), "{}");
        write(at("models/o/c/model.safetensors"), "x");
        write(at("hub/models--o--h/refs/main"), "abc123\n");
        write(at("hub/models--o--h/snapshots/abc123/sub/h-Q4_K_M.gguf"), "GGUF");
        write(at("studio/o/s/s-Q6_K.gguf"), "GGUF");
        let digest = "a".repeat(64);
        write(at(&format!("ollama/blobs/sha256-{digest}")), "GGUF");
        let manifest = format!(
            r#"{{"layers":[{{"mediaType":"application/vnd.ollama.image.model","digest":"sha256:{digest}","size":4}}]}}"#
        );
        write(at("ollama/manifests/registry.ollama.ai/library/tiny/latest"), &manifest);
        write(
            at("ollama/manifests/registry.ollama.ai/library/bad/latest"),
            &manifest.replace(&digest, "../../x"),
        );
        let blob = at(&format!("ollama/blobs/sha256-{digest}"));
        for (name, wants, expected) in [
            ("hf:o/r", Wants::Model, Some((at("models/o/r/m-Q8_0.gguf"), false))),
            ("hf:o/r:Q4_K_M", Wants::Model, None),
            ("hf:o/r/deep/m-Q8_0.gguf", Wants::Model, Some((at("models/o/r/m-Q8_0.gguf"), false))),
            ("hf:o/c", Wants::Checkpoint, Some((at("models/o/c"), false))),
            ("hf:o/c", Wants::Model, None),
            ("hf:o/h", Wants::Model, Some((at("hub/models--o--h/snapshots/abc123/sub/h-Q4_K_M.gguf"), true))),
            ("hf:o/s:Q6_K", Wants::Model, Some((at("studio/o/s/s-Q6_K.gguf"), true))),
            ("ollama:tiny", Wants::Model, Some((blob.clone(), true))),
            ("ollama:bad", Wants::Model, None),
            ("ollama:absent", Wants::Model, None),
        ] {
            assert_eq!(found(name, &at("models"), &others, wants), expected, "{name}");
        }
        let all = others.all();
        let names: Vec<_> = all.iter().map(|model| model.name.as_str()).collect();
        assert_eq!(names, ["hf:o/h/sub/h-Q4_K_M.gguf", "hf:o/s/s-Q6_K.gguf", "ollama:tiny:latest"]);
        assert_eq!(all[2].path, blob);
        write(at(&format!("hub/models--o--h/blobs/{digest}")), "GGUF");
        assert_eq!(others.blobs(&digest), [at(&format!("hub/models--o--h/blobs/{digest}")), blob]);
        assert!(others.blobs(&"b".repeat(64)).is_empty());
    }
}
