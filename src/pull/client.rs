//! Requests: redirects followed by hand, tokens that stay with their host, pauses and tries, and answers of bounded size.
//!
//! Every wait ends early when the person asks to stop, and with an error when no byte comes for too long.

use super::name::{Remote, ensure_encrypted, is_loopback, shown};
use anyhow::{Context, Result, anyhow};
use moewe_engine::Error;
use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode, Url};
use std::cell::RefCell;
use std::env;
use std::fs;
use std::future::Future;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// How often a wait looks whether it is to end.
pub(super) const TICK: Duration = Duration::from_millis(100);

const MOST_REDIRECTS: usize = 10;
const LONGEST_TOKEN: u64 = 4096;
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(300);
const TRIES_OF_A_LIST: u32 = 4; // somebody waits at the keyboard

/// Sizes and times, which tests make small.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Ranges that are fetched at a time.
    pub(crate) jobs: usize,
    /// Bytes of a range.
    pub(crate) range: u64,
    /// Files above this size are fetched in ranges.
    pub(crate) parallel_from: u64,
    /// How often in a row a range may fail.
    pub(crate) tries: u32,
    /// The pause after the first failure; it doubles.
    pub(crate) pause: Duration,
    /// How long a connection may be silent.
    pub(crate) stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            jobs: 4,
            range: 64 << 20,
            parallel_from: 128 << 20,
            tries: 6,
            pause: Duration::from_secs(1),
            stall: Duration::from_secs(30),
        }
    }
}

/// Why a request has no result.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It may pass: try again, after this time if the server named one.
    Passing { why: String, after: Option<Duration> },
    /// What has arrived is not of the file that is there now.
    Stale(String),
    /// Refused with 401 or 403, and how the server wants to be asked.
    Denied { status: StatusCode, challenge: Option<String> },
    /// 404.
    Missing,
    /// Nothing helps.
    Final(anyhow::Error),
}

impl Trouble {
    pub(super) fn passing(why: impl Into<String>) -> Self {
        Self::Passing { why: why.into(), after: None }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self::Final(error.into())
    }
}

/// A secret and the only origin that it is sent to.
pub(super) struct Token {
    home: Url,
    secret: HeaderValue,
}

impl Token {
    /// The token for a name: of the file that was named, else, for Hugging Face, of the environment.
    ///
    /// # Errors
    /// A file that was named and has none.
    pub(super) fn find(named: Option<&Path>, remote: &Remote, home: &Url) -> Result<Option<Self>> {
        let is_hub = matches!(remote, Remote::Hub(_));
        let text = match named {
            Some(path) => Some(token_in(path).with_context(|| format!("{}: no token", path.display()))?),
            None if is_hub => of_environment(),
            None => None,
        };
        let text = text.filter(|text| !text.is_empty());
        text.map(|text| Self::new(home, &text)).transpose()
    }

    /// A token for one origin.
    ///
    /// # Errors
    /// It has characters that no header may have.
    pub(super) fn new(home: &Url, text: &str) -> Result<Self> {
        let mut secret = HeaderValue::from_str(&format!("Bearer {text}"))
            .map_err(|_| anyhow!("the token has characters that no token has"))?;
        secret.set_sensitive(true);
        Ok(Self { home: home.clone(), secret })
    }
}

fn of_environment() -> Option<String> {
    let variable =
        |name: &str| env::var(name).ok().map(|value| value.trim().to_owned()).filter(|v| !v.is_empty());
    let path = variable("HF_TOKEN_PATH").map(PathBuf::from);
    let path = path.or_else(|| variable("HF_HOME").map(|home| PathBuf::from(home).join("token")));
    let path =
        path.or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".cache/huggingface/token")));
    variable("HF_TOKEN").or_else(|| path.and_then(|path| token_in(&path).ok()))
}

fn token_in(path: &Path) -> Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(LONGEST_TOKEN).read_to_string(&mut text)?;
    Ok(text.trim().to_owned())
}

/// A request.
pub(super) struct Ask<'a> {
    pub(super) url: &'a Url,
    pub(super) method: Method,
    pub(super) headers: HeaderMap,
    /// Whether the first answer that carries this header is the last, redirect or not.
    pub(super) stays_at: Option<&'a str>,
}

impl<'a> Ask<'a> {
    pub(super) fn get(url: &'a Url) -> Self {
        Self { url, method: Method::GET, headers: HeaderMap::new(), stays_at: None }
    }

    pub(super) fn head(url: &'a Url) -> Self {
        Self { method: Method::HEAD, ..Self::get(url) }
    }

    /// The same with a header; values that are none are left out.
    pub(super) fn with(mut self, name: header::HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }
}

/// What all requests of a pull share.
pub(super) struct Client {
    http: reqwest::Client,
    token: RefCell<Option<Token>>,
    stop: Arc<AtomicBool>,
    pub(super) limits: Limits,
}

impl Client {
    pub(super) fn new(
        limits: Limits,
        stop: Arc<AtomicBool>,
        token: Option<Token>,
        home: &Url,
    ) -> Result<Self> {
        // Only a second provider can fail.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = || {
            let builder = reqwest::Client::builder()
                .user_agent(concat!("moewe/", env!("CARGO_PKG_VERSION")))
                .redirect(reqwest::redirect::Policy::none())
                .referer(false)
                .connect_timeout(limits.stall);
            // What is on this machine is not asked for elsewhere.
            if is_loopback(home) { builder.no_proxy() } else { builder }
        };
        let http = match builder().build() {
            Err(_) if home.scheme() == "http" => builder().tls_certs_only([]).build(),
            built => built,
        };
        let http = http.context("cannot speak HTTPS; are the certificates of this system installed?")?;
        Ok(Self { http, token: RefCell::new(token), stop, limits })
    }

    /// Uses another token from now on.
    pub(super) fn adopt(&self, token: Token) {
        *self.token.borrow_mut() = Some(token);
    }

    /// The flag that asks to stop.
    pub(super) fn stop(&self) -> &Arc<AtomicBool> {
        &self.stop
    }

    fn go_on(&self) -> Result<(), Trouble> {
        if self.stop.load(Ordering::Relaxed) { Err(Error::Stopped.into()) } else { Ok(()) }
    }

    /// What a future says, unless nothing comes for too long or the person asks to stop.
    pub(super) async fn wait<T>(
        &self,
        future: impl Future<Output = reqwest::Result<T>>,
    ) -> Result<T, Trouble> {
        let mut future = pin!(future);
        let end = Instant::now() + self.limits.stall;
        loop {
            self.go_on()?;
            let left = end.saturating_duration_since(Instant::now());
            match tokio::time::timeout(TICK.min(left), future.as_mut()).await {
                Ok(result) => return result.map_err(|error| Trouble::passing(in_words(error))),
                Err(_) if left.is_zero() => {
                    return Err(Trouble::passing(format!("no byte for {:?}", self.limits.stall)));
                }
                Err(_) => {}
            }
        }
    }

    /// Waits.
    ///
    /// # Errors
    /// The person asks to stop.
    pub(super) async fn rest(&self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Error::Stopped.into());
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            tokio::time::sleep(TICK.min(left)).await;
        }
    }

    /// Waits after the n-th failure in a row: what the server asked for, else twice as long each time, with jitter.
    pub(super) async fn rest_after(&self, failures: u32, after: Option<Duration>) -> Result<()> {
        let jitter =
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.subsec_nanos());
        let pause = self.limits.pause * 2u32.saturating_pow(failures.saturating_sub(1).min(8));
        let pause = pause + pause.mul_f64(f64::from(jitter % 1000) / 4000.0);
        self.rest(after.unwrap_or(pause)).await
    }

    /// One request, redirects followed. An answer is 200, 206, 416, or a redirect that was asked for.
    pub(super) async fn once(&self, ask: &Ask<'_>) -> Result<Response, Trouble> {
        let mut url = ask.url.clone();
        let mut is_signed = false; // whether a redirect led to an address with a signature
        let mut is_home = true; // until the first redirect to another host, for good
        for _ in 0..=MOST_REDIRECTS {
            let response = self.wait(self.request(ask, &url, is_home).send()).await?;
            let stays = ask.stays_at.is_some_and(|header| response.headers().contains_key(header));
            if !response.status().is_redirection() || stays {
                return judge(response, is_signed);
            }
            let next = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
            let next = next.and_then(|next| url.join(next).ok());
            let next = next.ok_or_else(|| anyhow!("{}: a redirect to nowhere", shown(&url)))?;
            ensure_encrypted(&next).with_context(|| format!("{}: a redirect", shown(&url)))?;
            if is_loopback(&next) && !is_loopback(ask.url) {
                return Err(anyhow!("{}: a redirect to this machine", shown(&url)).into());
            }
            is_home &= next.origin() == ask.url.origin();
            is_signed = !is_home || next.query().is_some();
            url = next;
        }
        Err(anyhow!("{}: more than {MOST_REDIRECTS} redirects", shown(ask.url)).into())
    }

    fn request(&self, ask: &Ask<'_>, url: &Url, is_home: bool) -> reqwest::RequestBuilder {
        let mut headers = ask.headers.clone();
        if !is_home {
            headers.remove(header::AUTHORIZATION);
        }
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(token) =
            self.token.borrow().as_ref().filter(|token| is_home && token.home.origin() == url.origin())
        {
            headers.insert(header::AUTHORIZATION, token.secret.clone());
        }
        self.http.request(ask.method.clone(), url.clone()).headers(headers)
    }

    /// An answer's headers and its body of at most `limit` bytes, tried again while that may help.
    pub(super) async fn small(&self, ask: &Ask<'_>, limit: usize) -> Result<(HeaderMap, Vec<u8>), Trouble> {
        let mut failures = 0;
        loop {
            match self.small_once(ask, limit).await {
                Err(Trouble::Passing { why, after }) => {
                    failures += 1;
                    if failures >= TRIES_OF_A_LIST.min(self.limits.tries) {
                        return Err(anyhow!("{}: {why}; tried {failures} times", shown(ask.url)).into());
                    }
                    self.rest_after(failures, after).await?;
                }
                other => return other,
            }
        }
    }

    async fn small_once(&self, ask: &Ask<'_>, limit: usize) -> Result<(HeaderMap, Vec<u8>), Trouble> {
        let mut response = self.once(ask).await?;
        let headers = response.headers().clone();
        let mut body = Vec::new();
        while ask.method != Method::HEAD
            && let Some(chunk) = self.wait(response.chunk()).await?
        {
            if body.len() + chunk.len() > limit {
                return Err(anyhow!("{}: the answer is longer than {limit} bytes", shown(ask.url)).into());
            }
            body.extend_from_slice(&chunk);
        }
        Ok((headers, body))
    }
}

/// What an answer's status means.
fn judge(response: Response, is_signed: bool) -> Result<Response, Trouble> {
    let status = response.status();
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if !is_signed => {
            let challenge = response.headers().get(header::WWW_AUTHENTICATE);
            let challenge = challenge.and_then(|value| value.to_str().ok()).map(str::to_owned);
            Err(Trouble::Denied { status, challenge })
        }
        // A signed address whose time is over; the next try asks for a new one.
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Err(Trouble::passing(format!("the signed address is refused ({})", status.as_u16())))
        }
        StatusCode::NOT_FOUND => Err(Trouble::Missing),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => Err(later(&response)),
        _ if status.is_server_error() => Err(later(&response)),
        StatusCode::RANGE_NOT_SATISFIABLE => Ok(response),
        _ if status.is_success() || status.is_redirection() => Ok(response),
        _ => Err(anyhow!("{}: the server answers {status}", shown(response.url())).into()),
    }
}

/// Try again when the server says so.
fn later(response: &Response) -> Trouble {
    let why = format!("the server answers {}", response.status());
    let seconds =
        response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    match seconds.map(Duration::from_secs) {
        Some(after) if after > LONGEST_RETRY_AFTER => {
            anyhow!("{}: {why} and asks to wait {} s; try again then", shown(response.url()), after.as_secs())
                .into()
        }
        after => Trouble::Passing { why, after },
    }
}

/// An error and its causes, without the address.
fn in_words(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut words = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(next) = cause {
        words = format!("{words}: {next}");
        cause = next.source();
    }
    words
}
