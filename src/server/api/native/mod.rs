//! llama-server's own interface, as its clients know it: completions with all settings, tokens, places, properties.

pub(in crate::server) mod completion;
pub(in crate::server) mod props;
mod tell;
pub(in crate::server) mod tokens;

pub(in crate::server) use completion::{complete, infill};
pub(in crate::server) use props::{props, slots};
pub(in crate::server) use tokens::{apply_template, detokenize, tokenize, tokenizer_info};

use crate::server::refusal::Refusal;

/// What llama-server has and this server has not.
pub(in crate::server) async fn refuse() -> Refusal {
    Refusal::not_here("this server does not do that")
}
