//! The places that models come from: each kind of name, and who says there which files it means.

use super::client::Client;
use super::digest::Digest;
use super::name::{self, Remote};
use super::plan::{Item, Kind, Plan};
use super::{Request, hub, modelscope, ollama};
use anyhow::{Context, Result, bail};
use reqwest::Url;

/// Which files a name means.
pub(super) async fn plan(client: &Client, request: &Request<'_>) -> Result<Plan> {
    if request.sha256.is_some() && !matches!(request.remote, Remote::Address(_)) {
        bail!("--sha256 is for plain addresses; {} says itself what its files have to be", request.remote);
    }
    let is_repository = matches!(request.remote, Remote::Hub(_) | Remote::ModelScope(_));
    if request.revision.is_some() && !is_repository {
        bail!("--revision is for repositories of hf: and ms:");
    }
    match request.remote {
        Remote::Hub(of) => hub::plan(client, request, of).await,
        Remote::ModelScope(of) => modelscope::plan(client, request, of).await,
        Remote::Ollama(of) => ollama::plan(client, request, of).await,
        Remote::Address(url) => address(request, url),
    }
}

fn address(request: &Request<'_>, url: &Url) -> Result<Plan> {
    let name = name::file_of(url).context("expected the address of a GGUF file")?.to_owned();
    let digest = request.sha256.map(Digest::sha256).transpose().context("--sha256")?;
    let remarks = match digest {
        Some(_) => vec![],
        None => vec!["nothing says what this file has to be; --sha256 would".to_owned()],
    };
    let item = Item { name, url: url.clone(), size: None, digest, commit: None };
    Ok(Plan::new(request, Kind::Gguf, vec![item], remarks))
}
