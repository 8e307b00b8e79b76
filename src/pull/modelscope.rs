//! ModelScope: the list of a repository's files, and where each is.
//!
//! Endpoints: `/api/v1/models/OWNER/REPO/repo/files`, `/models/OWNER/REPO/resolve/REVISION/PATH`.

use super::Request;
use super::choice::{self, Entry, is_safe_path};
use super::client::{Ask, Client, Trouble};
use super::digest::Digest;
use super::name::Repository;
use super::plan::{Item, Kind, Meant, Plan, chosen, local_name};
use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;

const LONGEST_LIST: usize = 64 << 20;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    data: Option<Data>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Data {
    files: Option<Vec<Listed>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    path: String,
    #[serde(rename = "Type")]
    kind: Option<String>,
    size: Option<u64>,
    sha256: Option<String>,
}

/// Which files of a repository are meant.
pub(super) async fn plan(client: &Client, request: &Request<'_>, of: &Repository) -> Result<Plan> {
    let home = request.remote.home()?;
    let revision = request.revision.or(of.revision.as_deref()).unwrap_or("master");
    if !is_safe_path(revision) {
        bail!("--revision {revision}: expected a branch, a tag or a commit");
    }
    let (owner, repo) = (&of.owner, &of.repo);
    let list = format!("/api/v1/models/{owner}/{repo}/repo/files?Recursive=true&Revision={revision}");
    let list = home.join(&list).context("$MODELSCOPE_ENDPOINT")?;
    let (_, body) = client.small(&Ask::get(&list), LONGEST_LIST).await.map_err(|t| explain(request, t))?;
    let answer: Answer = serde_json::from_slice(&body)
        .with_context(|| format!("{}: the list of files cannot be read", request.remote))?;
    let files = answer.data.and_then(|data| data.files).unwrap_or_default();
    let files = files.into_iter().filter(|listed| listed.kind.as_deref() != Some("tree"));
    let entries: Vec<Entry> = files.map(entry).collect();
    let Meant { kind, files, remarks, is_guess } = chosen(request, of, &entries)?;
    let item = |entry: &Entry| {
        let name = match kind {
            Kind::Gguf => local_name(&entry.path, &entries),
            Kind::Checkpoint => choice::base(&entry.path).to_owned(),
        };
        let place = format!("/models/{owner}/{repo}/resolve/{revision}/{}", entry.path);
        let url = home.join(&place).context("$MODELSCOPE_ENDPOINT")?;
        Ok(Item { name, url, size: Some(entry.size), digest: entry.digest.clone(), commit: None })
    };
    let items = files.iter().map(item).collect::<Result<_>>()?;
    Ok(Plan { is_guess, ..Plan::new(request, kind, items, remarks) })
}

fn entry(listed: Listed) -> Entry {
    let digest = listed.sha256.as_deref().and_then(|text| Digest::sha256(text).ok());
    Entry { path: listed.path, size: listed.size.unwrap_or(0), digest }
}

fn explain(request: &Request<'_>, trouble: Trouble) -> anyhow::Error {
    let name = request.remote;
    match trouble {
        Trouble::Final(error) => error,
        Trouble::Passing { why, .. } | Trouble::Stale(why) => anyhow!("{name}: {why}"),
        Trouble::Missing => anyhow!("{name}: there is no such repository or revision"),
        Trouble::Denied { status, .. } => anyhow!("{name}: refused ({}); it may be private", status.as_u16()),
    }
}
