//! Hugging Face: the list of a repository's files, and what the hub says of each before it sends it.
//!
//! Endpoints: `/api/models/OWNER/REPO/tree/REVISION` with pages that `Link` names, `/OWNER/REPO/resolve/COMMIT/PATH`.

use super::choice::{Entry, is_safe_path};
use super::client::{Ask, Client, Trouble};
use super::digest::Digest;
use super::name::{Repository, is_safe};
use super::plan::{Item, Kind, Meant, Plan, chosen, local_name};
use super::{Request, choice};
use anyhow::{Result, anyhow, bail};
use reqwest::Url;
use reqwest::header::{ETAG, HeaderMap, LINK};
use serde::Deserialize;

const LONGEST_PAGE: usize = 16 << 20;
const MOST_PAGES: usize = 200;
const MOST_FILES: usize = 100_000;

#[derive(Deserialize)]
struct Listed {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    oid: String,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

/// Which files of a repository are meant.
pub(super) async fn plan(client: &Client, request: &Request<'_>, of: &Repository) -> Result<Plan> {
    let home = request.remote.home()?;
    let revision = request.revision.or(of.revision.as_deref()).unwrap_or("main");
    if !is_safe_path(revision) {
        bail!("--revision {revision}: expected a branch, a tag or a commit");
    }
    let hub = Hub { client, home: &home, of, name: request.remote.to_string() };
    let entries = hub.list(revision).await.map_err(|trouble| hub.explain(trouble, revision))?;
    let Meant { kind, files, remarks, is_guess } = chosen(request, of, &entries)?;
    let mut items = Vec::new();
    let mut commit = None;
    for entry in &files {
        let item = hub.locate(entry, commit.as_deref().unwrap_or(revision)).await;
        let mut item = item.map_err(|trouble| hub.explain(trouble, revision))?;
        commit = commit.or_else(|| item.commit.clone());
        if kind == Kind::Gguf {
            item.name = local_name(&entry.path, &entries);
        }
        items.push(item);
    }
    Ok(Plan { is_guess, ..Plan::new(request, kind, items, remarks) })
}

struct Hub<'a> {
    client: &'a Client,
    home: &'a Url,
    of: &'a Repository,
    name: String,
}

impl Hub<'_> {
    fn url(&self, start: &[&str], path: &str, revision: &str) -> Result<Url> {
        let mut url = self.home.clone();
        let mut parts =
            url.path_segments_mut().map_err(|()| anyhow!("$HF_ENDPOINT is no address of a host"))?;
        parts.pop_if_empty().extend(start).extend([&self.of.owner, &self.of.repo]);
        match path {
            "" => parts.extend(["tree", revision]),
            path => parts.extend(["resolve", revision]).extend(path.split('/')),
        };
        drop(parts);
        Ok(url)
    }

    /// All files of a revision.
    async fn list(&self, revision: &str) -> Result<Vec<Entry>, Trouble> {
        let mut url = self.url(&["api", "models"], "", revision)?;
        url.set_query(Some("recursive=true"));
        let mut entries = Vec::new();
        for _ in 0..MOST_PAGES {
            let (headers, body) = self.client.small(&Ask::get(&url), LONGEST_PAGE).await?;
            let page: Vec<Listed> = serde_json::from_slice(&body)
                .map_err(|error| anyhow!("{}: the list of files cannot be read: {error}", self.name))?;
            entries.extend(page.into_iter().filter(|listed| listed.kind == "file").map(entry));
            if entries.len() > MOST_FILES {
                return Err(anyhow!("{}: more than {MOST_FILES} files", self.name).into());
            }
            match next_page(&headers, &url) {
                Some(next) if next.origin() == url.origin() => url = next,
                Some(_) => return Err(anyhow!("{}: the list goes on at another host", self.name).into()),
                None => return Ok(entries),
            }
        }
        Err(anyhow!("{}: the list of files has no end", self.name).into())
    }

    /// A file as the hub will send it, pinned to a commit.
    async fn locate(&self, entry: &Entry, revision: &str) -> Result<Item, Trouble> {
        let url = self.url(&[], &entry.path, revision)?;
        let ask = Ask { stays_at: Some("x-repo-commit"), ..Ask::head(&url) };
        let (headers, _) = self.client.small(&ask, 0).await?;
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let commit = text("x-repo-commit").filter(|commit| is_safe(commit));
        let linked = text("x-linked-etag").or(text(ETAG.as_str())).map(|etag| etag.trim_matches('"'));
        let linked = linked.and_then(|etag| Digest::sha256(etag).ok());
        let size = text("x-linked-size").and_then(|size| size.parse().ok());
        let has_changed = size.is_some_and(|size: u64| size != entry.size)
            || linked
                .as_ref()
                .zip(entry.digest.as_ref())
                .is_some_and(|(linked, listed)| listed.as_sha256().is_some() && linked != listed);
        if has_changed {
            return Err(anyhow!(
                "{}: {} is not what the list says (size or SHA-256); the repository may have changed, try again",
                self.name,
                entry.path
            )
            .into());
        }
        Ok(Item {
            name: choice::base(&entry.path).to_owned(),
            url: self.url(&[], &entry.path, commit.unwrap_or(revision))?,
            size: Some(entry.size),
            digest: entry.digest.clone().or(linked),
            commit: commit.map(str::to_owned),
        })
    }

    fn explain(&self, trouble: Trouble, revision: &str) -> anyhow::Error {
        let mut page = self.home.clone();
        page.set_path(&format!("{}/{}", self.of.owner, self.of.repo));
        match trouble {
            Trouble::Final(error) => error,
            Trouble::Passing { why, .. } | Trouble::Stale(why) => anyhow!("{}: {why}", self.name),
            Trouble::Missing => {
                anyhow!("{}: there is no such repository or revision ({revision})", self.name)
            }
            Trouble::Denied { status, .. } => anyhow!(
                "{}: refused ({}): there is no such repository, or it is private or gated; accept its terms at \
                 {page} and put an access token into HF_TOKEN (or --token-file)",
                self.name,
                status.as_u16()
            ),
        }
    }
}

fn entry(listed: Listed) -> Entry {
    let digest = match &listed.lfs {
        Some(lfs) => Digest::sha256(&lfs.oid).ok(),
        None => Digest::git(&listed.oid),
    };
    Entry { path: listed.path, size: listed.lfs.map_or(listed.size, |lfs| lfs.size), digest }
}

/// The address in `<…>; rel="next"`.
fn next_page(headers: &HeaderMap, url: &Url) -> Option<Url> {
    let link = headers.get(LINK)?.to_str().ok()?;
    let next = link.split(',').find(|part| part.contains("rel=\"next\""))?;
    let address = next.split_once('<')?.1.split_once('>')?.0;
    url.join(address).ok()
}
