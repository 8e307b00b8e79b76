//! `POST /api/pull`: the work of `moewe pull`, for clients where the person who started the server allows it.

use crate::pull::{Kind, Limits, Others, Plan, Puller, Remote, Report, Request, Settings, Wants};
use crate::server::Shared;
use crate::server::api::tell::OLLAMA;
use crate::server::body::Body;
use crate::server::refusal::Refusal;
use anyhow::{Result, bail};
use axum::Json;
use axum::body::{Body as HttpBody, Bytes};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use serde::Deserialize;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use utoipa::ToSchema;

const LINE_EVERY: Duration = Duration::from_millis(250);

/// Where pulled models go.
pub(crate) struct Pulls {
    models: PathBuf,
    others: Others,
    turn: Arc<Semaphore>, // one at a time
}

impl Pulls {
    pub(crate) fn new(models: PathBuf, others: Others) -> Self {
        Self { models, others, turn: Arc::new(Semaphore::new(1)) }
    }
}

/// The model that is wanted.
#[derive(Deserialize, ToSchema)]
pub(in crate::server::api) struct Wanted {
    /// A name of Ollama's library, or `hf.co/OWNER/REPO:TAG`.
    model: Option<String>,
    /// The same, as older clients call it.
    name: Option<String>,
    /// Whether it is told line by line.
    stream: Option<bool>,
}

/// Gets a model from elsewhere, which is not served before another start.
#[utoipa::path(post, path = "/api/pull", request_body = Wanted, responses(
    (status = 200, description = "What happens; with `stream`, which is usual, as application/x-ndjson", body = Value),
    (status = 403, description = "The server was started without --allow-pull", body = Value),
))]
pub(in crate::server) async fn pull(
    State(shared): State<Arc<Shared>>,
    body: Body,
) -> Result<Response, Refusal> {
    let Some(pulls) = &shared.settings.pulls else {
        return Err(Refusal::forbidden("clients may not pull; moewe serve --allow-pull lets them"));
    };
    let Wanted { model, name, stream } = body.read()?;
    let name = model.or(name).unwrap_or_default();
    let remote = Remote::parse(&name).or_else(|| Remote::parse(&format!("ollama:{name}")));
    let remote = match remote {
        Some(Ok(Remote::Address(_))) => Err("an address is for moewe pull alone".to_owned()),
        Some(Ok(remote)) => Ok(remote),
        Some(Err(error)) => Err(format!("{error:#}")),
        None => Err("expected the name of a model".to_owned()),
    };
    let remote = remote.map_err(|message| Refusal::field("model", message))?;
    let Ok(turn) = pulls.turn.clone().try_acquire_owned() else {
        return Err(Refusal::unavailable("another pull is under way"));
    };
    let events = begin(remote, pulls, turn);
    match stream.unwrap_or(true) {
        true => Ok(told(events)),
        false => whole(events).await,
    }
}

/// What comes of it, line by line; it ends with `success` or an error.
struct Events {
    lines: UnboundedReceiver<Value>,
    stop: Arc<AtomicBool>,
}

impl Drop for Events {
    /// Whoever does not listen any more wants no more of it; what has arrived stays for the next time.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn begin(remote: Remote, pulls: &Pulls, turn: OwnedSemaphorePermit) -> Events {
    let (sender, lines) = unbounded_channel();
    let stop = Arc::new(AtomicBool::new(false));
    let (models, others, flag) = (pulls.models.clone(), pulls.others.clone(), stop.clone());
    let work = move || {
        let shown = Shown { lines: sender, ..Shown::default() };
        let settings = Settings { limits: Limits::default(), token_file: None, stop: flag, others };
        if let Err(error) = carry_out(&remote, &settings, &models, &shown) {
            shown.say_json(json!({ "error": format!("{error:#}") }));
        }
        drop(turn);
    };
    // Puller has a runtime of its own. Where the system has no thread the channel closes at once.
    let _ = thread::Builder::new().name("moewe-pull".into()).spawn(work);
    Events { lines, stop }
}

fn carry_out(remote: &Remote, settings: &Settings, models: &std::path::Path, shown: &Shown) -> Result<()> {
    shown.say_json(json!({ "status": "pulling manifest" }));
    let request = Request { remote, revision: None, sha256: None, wants: Wants::Model, models, to: None };
    let puller = Puller::new(settings, remote)?;
    let plan = puller.plan(&request)?;
    if plan.kind == Kind::Checkpoint {
        bail!("{remote} has a checkpoint and no GGUF file; moewe convert makes one of it");
    }
    shown.know(&plan);
    plan.remarks.iter().for_each(|line| shown.say(line));
    puller.carry_out(&plan, shown)?;
    for status in ["verifying sha256 digest", "writing manifest", "success"] {
        shown.say_json(json!({ "status": status }));
    }
    Ok(())
}

/// What happens, as lines.
struct Shown {
    lines: UnboundedSender<Value>,
    digests: RefCell<Vec<(String, String)>>, // of files by their names
    digest: RefCell<String>,
    last: RefCell<Option<Instant>>,
}

impl Default for Shown {
    fn default() -> Self {
        let (lines, _) = unbounded_channel();
        Self { lines, digests: RefCell::default(), digest: RefCell::default(), last: RefCell::default() }
    }
}

impl Shown {
    fn say_json(&self, line: Value) {
        // Where nobody listens the pull is being stopped.
        let _ = self.lines.send(line);
    }

    fn know(&self, plan: &Plan) {
        let digest = |digest: &_| format!("{digest}");
        let files = plan.files.iter();
        let named = files.map(|item| (item.name.clone(), item.digest.as_ref().map_or(String::new(), digest)));
        *self.digests.borrow_mut() = named.collect();
    }

    fn line(&self, done: u64, size: Option<u64>) {
        let digest = self.digest.borrow();
        let hex = digest.strip_prefix("sha256:").unwrap_or(&digest);
        let short: String = hex.chars().take(12).collect();
        self.say_json(json!({
            "status": format!("pulling {short}"), "digest": *digest, "total": size, "completed": done,
        }));
    }
}

impl Report for Shown {
    fn begin(&self, name: &str, size: Option<u64>, done: u64) {
        let known = self.digests.borrow();
        let digest = known.iter().find(|(known, _)| known == name).map(|(_, digest)| digest.as_str());
        *self.digest.borrow_mut() = digest.filter(|digest| !digest.is_empty()).unwrap_or(name).to_owned();
        self.line(done, size);
    }

    fn at(&self, done: u64, size: Option<u64>) {
        let is_time = self.last.borrow().is_none_or(|last| last.elapsed() > LINE_EVERY);
        if is_time || Some(done) == size {
            *self.last.borrow_mut() = Some(Instant::now());
            self.line(done, size);
        }
    }

    fn end(&self) {}

    fn say(&self, line: &str) {
        self.say_json(json!({ "status": line }));
    }
}

fn told(events: Events) -> Response {
    let body = unfold(events, |mut events| async move {
        let line = events.lines.recv().await?;
        Some((Ok::<_, Infallible>(Bytes::from(format!("{line}\n"))), events))
    });
    OLLAMA.response(HttpBody::from_stream(body))
}

async fn whole(mut events: Events) -> Result<Response, Refusal> {
    let mut last = Value::Null;
    while let Some(line) = events.lines.recv().await {
        last = line;
    }
    match last["error"].as_str() {
        Some(error) => Err(Refusal::server(error)),
        None => Ok(Json(last).into_response()),
    }
}
