//! The interfaces that clients know, and which of them a request belongs to.

use axum::http::HeaderMap;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interface {
    OpenAi,
    Anthropic,
    Ollama,
    /// llama-server's own, and what is ours.
    Native,
}

impl Interface {
    /// Whose words an answer at this path is told in, errors too. Where two interfaces have the same paths, Anthropic's
    /// clients say that they are.
    pub(super) fn of(path: &str, headers: &HeaderMap) -> Self {
        let is_below =
            |root: &str| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if is_below("/v1/messages") || is_below("/v1") && headers.contains_key("anthropic-version") {
            Self::Anthropic
        } else if is_below("/api") {
            Self::Ollama
        } else if ["/v1", "/chat/completions", "/responses"].into_iter().any(is_below) || path == "/models" {
            Self::OpenAi
        } else {
            Self::Native
        }
    }

    /// As figures are labelled.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
            Self::Ollama => "ollama",
            Self::Native => "native",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        for (path, interface) in [
            ("/v1/chat/completions", Interface::OpenAi),
            ("/v1/nowhere", Interface::OpenAi),
            ("/models", Interface::OpenAi),
            ("/chat/completions/input_tokens", Interface::OpenAi),
            ("/responses", Interface::OpenAi),
            ("/v1/messages", Interface::Anthropic),
            ("/v1/messages/count_tokens", Interface::Anthropic),
            ("/v1/messagesx", Interface::OpenAi),
            ("/api", Interface::Ollama),
            ("/api/chat", Interface::Ollama),
            ("/apix", Interface::Native),
            ("/completion", Interface::Native),
            ("/", Interface::Native),
        ] {
            assert_eq!(Interface::of(path, &HeaderMap::new()), interface, "{path}");
        }
        let said =
            HeaderMap::from_iter([("anthropic-version".parse().unwrap(), "2023-06-01".parse().unwrap())]);
        let of = |path: &str| Interface::of(path, &said);
        assert_eq!((of("/v1/models"), of("/api/chat")), (Interface::Anthropic, Interface::Ollama));
    }
}
