//! The model that is served, with all that does not change from request to request.

use super::scheduler::Scheduler;
use crate::embedded;
use crate::pull::hex;
use anyhow::Result;
use moewe_engine::dialogue::Dialogue;
use moewe_engine::sampler::Sampling;
use moewe_engine::session::Engine;
use moewe_engine::tokenizer::{ChatTemplate, Tokenizer};
use ring::digest::{SHA256, digest};
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::SystemTime;

/// How a model is spoken with, unless a request says otherwise.
pub(crate) struct Dialect {
    /// `None` for a base model, which continues texts.
    pub(crate) template: Option<ChatTemplate>,
    pub(crate) dialogue: Dialogue,
    /// Of the template.
    pub(crate) variables: Map<String, Value>,
    /// Texts that end an answer.
    pub(crate) stops: Vec<String>,
}

/// A loaded model.
pub(super) struct Model {
    pub(super) engine: Arc<Engine>,
    pub(super) scheduler: Scheduler,
    /// How answers call it.
    pub(super) name: String,
    /// How requests may call it besides.
    pub(super) aliases: Vec<String>,
    /// Seconds since 1970, of the file's latest change.
    pub(super) created: u64,
    pub(super) fingerprint: String,
    /// Of what distinguishes this file, as 64 hexadecimal digits.
    pub(super) digest: String,
    pub(super) dialect: Dialect,
    /// Where a request says nothing else.
    pub(super) sampling: Sampling,
    /// Tokens that end an answer.
    pub(super) ends: Vec<u32>,
}

impl Model {
    pub(super) fn new(
        engine: Arc<Engine>,
        scheduler: Scheduler,
        aliases: Vec<String>,
        sampling: Sampling,
        dialect: Dialect,
    ) -> Result<Self> {
        engine.tokenizer()?;
        let gguf = engine.gguf();
        let stem = gguf.path().and_then(|path| Some(path.file_stem()?.to_string_lossy().into_owned()));
        let own = stem.unwrap_or_else(|| embedded::NAME.to_owned());
        let name = aliases.first().cloned().unwrap_or_else(|| own.clone());
        let changed = |path: &std::path::Path| path.metadata().and_then(|data| data.modified()).ok();
        let file = gguf.path().map(ToOwned::to_owned).or_else(|| std::env::current_exe().ok());
        let changed = file.and_then(|path| changed(&path));
        let since = changed.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
        let facts = format!("{own} {} {}", gguf.file_len(), gguf.tensors().len());
        let hash = digest(&SHA256, facts.as_bytes());
        Ok(Self {
            aliases: aliases.into_iter().skip(1).chain([own]).filter(|alias| *alias != name).collect(),
            created: since.map_or(0, |since| since.as_secs()),
            fingerprint: format!("b{}-{}", env!("CARGO_PKG_VERSION"), hex(&hash.as_ref()[..4])),
            digest: hex(hash.as_ref()),
            ends: (0..engine.config().vocab_size as u32).filter(|&token| engine.is_end(token)).collect(),
            engine,
            scheduler,
            name,
            sampling,
            dialect,
        })
    }

    pub(super) fn tokenizer(&self) -> &Tokenizer {
        self.engine.tokenizer().expect("there is one: it was asked for at the start")
    }

    pub(super) fn parameters(&self) -> u64 {
        self.engine.gguf().tensors().iter().map(|tensor| tensor.elements()).sum()
    }

    /// Whether a request may call it so; Ollama's clients add a tag.
    pub(super) fn is_called(&self, name: &str) -> bool {
        let name = name.strip_suffix(":latest").unwrap_or(name);
        name.is_empty() || name == self.name || self.aliases.iter().any(|alias| alias == name)
    }
}
