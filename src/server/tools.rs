//! Tools that a model may call, as a request lists them: OpenAI's shape, into which other dialects put theirs.

use super::refusal::Refusal;
use serde_json::Value;

/// Whether a tool is to be called.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Choice {
    /// By no means.
    None,
    /// As the model likes.
    #[default]
    Auto,
    /// One of them.
    Required,
    /// This one.
    Named(String),
}

/// What may be called.
#[derive(Clone, Debug, Default)]
pub(super) struct Tools {
    /// `{"type": "function", "function": {"name", "description", "parameters"}}`.
    pub(super) list: Vec<Value>,
    pub(super) choice: Choice,
    /// Whether one answer may call several.
    #[expect(dead_code, reason = "tools are refused")]
    pub(super) several: bool,
}

impl Tools {
    /// # Errors
    /// Tools, which this server does not support.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        if self.list.is_empty() || self.choice == Choice::None {
            return Ok(());
        }
        Err(Refusal::field("tools", "this server does not support it"))
    }
}
