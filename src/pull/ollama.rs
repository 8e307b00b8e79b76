//! Registries as Ollama speaks them: a manifest names layers by their SHA-256, one of which is the model.
//!
//! A digest becomes a part of an address and of a path only after it was checked to be one.

use super::Request;
use super::client::{Ask, Client, Token, Trouble};
use super::digest::Digest;
use super::name::{Tagged, ensure_encrypted};
use super::plan::{Item, Kind, Plan};
use anyhow::{Context, Result, anyhow, bail};
use reqwest::Url;
use reqwest::header::ACCEPT;
use serde::Deserialize;
use std::fs::File;
use std::io::Read;
use std::path::Path;

const LONGEST_MANIFEST: usize = 4 << 20;
const LONGEST_TOKEN: usize = 64 << 10;
const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const MODEL: &str = "application/vnd.ollama.image.model";

#[derive(Deserialize)]
struct Given {
    token: Option<String>,
    access_token: Option<String>,
}

#[derive(Deserialize)]
struct Manifest {
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layer {
    media_type: String,
    digest: String,
    size: u64,
}

/// The file that a name means.
pub(super) async fn plan(client: &Client, request: &Request<'_>, of: &Tagged) -> Result<Plan> {
    let home = request.remote.home()?;
    let base = format!("/v2/{}/{}", of.namespace, of.name);
    let url = home.join(&format!("{base}/manifests/{}", of.tag)).context("no address")?;
    let ask = Ask::get(&url).with(ACCEPT, MANIFEST);
    let mut body = client.small(&ask, LONGEST_MANIFEST).await;
    if let Err(Trouble::Denied { challenge: Some(challenge), .. }) = &body {
        let token = anonymous_token(client, &home, challenge).await;
        client.adopt(token.map_err(|trouble| explain(request, trouble))?);
        body = client.small(&ask, LONGEST_MANIFEST).await;
    }
    let (_, body) = body.map_err(|trouble| explain(request, trouble))?;
    let manifest: Manifest = serde_json::from_slice(&body)
        .with_context(|| format!("{}: the manifest cannot be read", request.remote))?;
    let layer = model_layer(&manifest).with_context(|| request.remote.to_string())?;
    let digest = Digest::sha256(&layer.digest)
        .with_context(|| format!("{}: the digest '{}'", request.remote, layer.digest.escape_debug()))?;
    let hex = digest.as_sha256().unwrap_or_default();
    let url = home.join(&format!("{base}/blobs/sha256:{hex}")).context("no address")?;
    let left_out = |kind: &str| manifest.layers.iter().any(|layer| layer.media_type.ends_with(kind));
    let mut remarks = Vec::new();
    for (kind, what) in [
        ("image.adapter", "its adapter (LoRA) is left out: the model answers without it"),
        ("image.projector", "its projector for images is left out"),
        ("image.params", "its recommended settings are left out; set them by flags"),
    ] {
        if left_out(kind) {
            remarks.push(what.to_owned());
        }
    }
    let name = file_name(of);
    let item = Item { name, url, size: Some(layer.size), digest: Some(digest), commit: None };
    Ok(Plan::new(request, Kind::Gguf, vec![item], remarks))
}

/// What the file of a name is called here.
pub(super) fn file_name(of: &Tagged) -> String {
    format!("{}-{}.gguf", of.name, of.tag)
}

/// The token that a registry gives to everybody, from the place that it names, which has to be its own host.
async fn anonymous_token(client: &Client, home: &Url, challenge: &str) -> Result<Token, Trouble> {
    let field = |name: &str| Some(challenge.split_once(&format!("{name}=\""))?.1.split_once('"')?.0);
    let realm =
        field("realm").filter(|_| challenge.starts_with("Bearer ")).and_then(|realm| Url::parse(realm).ok());
    let mut url =
        realm.ok_or_else(|| anyhow!("the registry wants a login of a kind that is not spoken here"))?;
    ensure_encrypted(&url)?;
    if url.origin() != home.origin() {
        let host = url.host_str().unwrap_or_default().escape_debug().to_string();
        return Err(
            anyhow!("the registry wants a token from another host ({host}), which is not asked").into()
        );
    }
    for name in ["service", "scope"] {
        if let Some(value) = field(name) {
            url.query_pairs_mut().append_pair(name, value);
        }
    }
    let (_, body) = client.small(&Ask::get(&url), LONGEST_TOKEN).await?;
    let given: Given = serde_json::from_slice(&body).context("the registry's token cannot be read")?;
    let token = given.token.or(given.access_token).context("the registry gives no token")?;
    Ok(Token::new(home, &token)?)
}

fn model_layer(manifest: &Manifest) -> Result<&Layer> {
    let mut models = manifest.layers.iter().filter(|layer| layer.media_type.starts_with(MODEL));
    match (models.next(), models.next()) {
        (Some(layer), None) => Ok(layer),
        (None, _) => bail!("the manifest has no model as one GGUF file"),
        _ => bail!("the manifest has its model in several files, which are not read"),
    }
}

fn explain(request: &Request<'_>, trouble: Trouble) -> anyhow::Error {
    let name = request.remote;
    match trouble {
        Trouble::Final(error) => error.context(name.to_string()),
        Trouble::Passing { why, .. } | Trouble::Stale(why) => anyhow!("{name}: {why}"),
        Trouble::Missing => anyhow!("{name}: the registry has no such model or tag"),
        Trouble::Denied { status, .. } => anyhow!("{name}: the registry refuses it ({})", status.as_u16()),
    }
}

/// The digest of the model in a manifest that Ollama has stored.
pub(super) fn stored_digest(path: &Path) -> Option<String> {
    let mut text = Vec::new();
    File::open(path).ok()?.take(LONGEST_MANIFEST as u64).read_to_end(&mut text).ok()?;
    let manifest: Manifest = serde_json::from_slice(&text).ok()?;
    let digest = Digest::sha256(&model_layer(&manifest).ok()?.digest).ok()?;
    digest.as_sha256().map(str::to_owned)
}
