//! Names of remote models: `hf:OWNER/REPO:TAG`, `ollama:NAME:TAG`, `ms:OWNER/REPO` and plain addresses.
//!
//! Whatever a stranger chose and we make a path of passes [`is_safe`] first.

use anyhow::{Context, Result, bail};
use reqwest::Url;
use std::env;
use std::fmt;
use std::net::IpAddr;

const LONGEST_PART: usize = 200;
const OLLAMA_HOST: &str = "registry.ollama.ai";
const HUB: &str = "https://huggingface.co";
const MODELSCOPE: &str = "https://modelscope.cn";

/// A repository of files, and which of its models is meant.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Repository {
    pub(crate) owner: String,
    pub(crate) repo: String,
    /// A format's name, such as Q4_K_M.
    pub(crate) tag: Option<String>,
    /// A file's path in the repository.
    pub(crate) file: Option<String>,
    /// A branch, tag or commit that the address names.
    pub(crate) revision: Option<String>,
}

/// A model in Ollama's terms.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tagged {
    pub(crate) host: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) tag: String,
}

/// The name of a model that is elsewhere.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Remote {
    /// Hugging Face, or what `$HF_ENDPOINT` names.
    Hub(Repository),
    /// ModelScope, or what `$MODELSCOPE_ENDPOINT` names.
    ModelScope(Repository),
    /// A registry as Ollama speaks it.
    Ollama(Tagged),
    /// A file at an address.
    Address(Url),
}

impl Remote {
    /// What `text` names, if it is the name of something elsewhere.
    pub(crate) fn parse(text: &str) -> Option<Result<Self>> {
        let hubs = ["hf:", "hf.co/", "huggingface.co/", "https://hf.co/", "https://huggingface.co/"];
        if let Some(rest) = hubs.iter().find_map(|start| text.strip_prefix(start)) {
            return Some(repository(rest).map(Self::Hub));
        }
        if let Some(rest) = text.strip_prefix("ms:") {
            return Some(repository(rest).map(Self::ModelScope));
        }
        if let Some(rest) = text.strip_prefix("ollama:") {
            return Some(tagged(rest).map(Self::Ollama));
        }
        (text.starts_with("https://") || text.starts_with("http://")).then(|| address(text))
    }

    /// The address that requests begin at, whose host alone may see the token.
    ///
    /// # Errors
    /// An endpoint of the environment that is no address, or one without encryption that is not this machine.
    pub(crate) fn home(&self) -> Result<Url> {
        let endpoint = |variable: &str, default: &str| {
            let given = env::var(variable).ok().filter(|value| !value.is_empty());
            let given = given.unwrap_or_else(|| default.to_owned());
            let url = Url::parse(&given).with_context(|| format!("${variable}={given}: no address"))?;
            ensure_encrypted(&url).with_context(|| format!("${variable}"))?;
            Ok(url)
        };
        match self {
            Self::Hub(_) => endpoint("HF_ENDPOINT", HUB),
            Self::ModelScope(_) => endpoint("MODELSCOPE_ENDPOINT", MODELSCOPE),
            Self::Ollama(tagged) => {
                let url = Url::parse(&format!("https://{}", tagged.host));
                let mut url = url.with_context(|| format!("{}: no host", tagged.host))?;
                if is_loopback(&url) {
                    url = Url::parse(&format!("http://{}", tagged.host))?;
                }
                Ok(url)
            }
            Self::Address(url) => Ok(url.clone()),
        }
    }

    /// Folders below a model folder that files of this name stand in.
    pub(crate) fn folders(&self) -> Vec<String> {
        match self {
            Self::Hub(of) | Self::ModelScope(of) => vec![of.owner.clone(), of.repo.clone()],
            Self::Ollama(of) => vec![format!("ollama-{}", of.namespace), of.name.clone()],
            Self::Address(_) => vec![],
        }
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (start, of) = match self {
            Self::Hub(of) => ("hf", of),
            Self::ModelScope(of) => ("ms", of),
            Self::Address(url) => return url.fmt(f),
            Self::Ollama(of) => {
                let place = match (of.host.as_str(), of.namespace.as_str()) {
                    (OLLAMA_HOST, "library") => String::new(),
                    (OLLAMA_HOST, namespace) => format!("{namespace}/"),
                    (host, namespace) => format!("{host}/{namespace}/"),
                };
                return write!(f, "ollama:{place}{}:{}", of.name, of.tag);
            }
        };
        write!(f, "{start}:{}/{}", of.owner, of.repo)?;
        match (&of.file, &of.tag) {
            (Some(file), _) => write!(f, "/{file}"),
            (None, Some(tag)) => write!(f, ":{tag}"),
            (None, None) => Ok(()),
        }
    }
}

fn repository(text: &str) -> Result<Repository> {
    let how = || format!("{text}: expected OWNER/REPO, OWNER/REPO:TAG or OWNER/REPO/FILE.gguf");
    let text_without = text.trim_end_matches('/').split(['?', '#']).next().unwrap_or_default();
    let (place, tag) = match text_without.rsplit_once(':') {
        Some((place, tag)) => (place, Some(tag)),
        None => (text_without, None),
    };
    let mut parts = place.split('/');
    let (owner, repo) = parts.next().zip(parts.next()).with_context(how)?;
    let rest: Vec<&str> = parts.collect();
    let (revision, file) = match rest.as_slice() {
        [] => (None, None),
        ["tree", revision] => (Some((*revision).to_owned()), None),
        ["resolve" | "blob", revision, file @ ..] if !file.is_empty() => {
            (Some((*revision).to_owned()), Some(file.join("/")))
        }
        file => (None, Some(file.join("/"))),
    };
    let words = [owner, repo].into_iter().chain(tag).chain(revision.as_deref());
    if !words.chain(file.iter().flat_map(|file| file.split('/'))).all(is_safe)
        || (tag.is_some() && file.is_some())
    {
        bail!("{}; names have letters, digits, '.', '_' and '-'", how());
    }
    if let Some(file) = file.as_deref().filter(|file| !file.ends_with(".gguf")) {
        bail!("{file}: expected the name of a GGUF file");
    }
    Ok(Repository {
        owner: owner.to_owned(),
        repo: repo.to_owned(),
        tag: tag.map(str::to_owned),
        file,
        revision,
    })
}

fn tagged(text: &str) -> Result<Tagged> {
    let mut parts: Vec<&str> = text.split('/').collect();
    let last = parts.pop().unwrap_or_default();
    let (name, tag) = last.split_once(':').unwrap_or((last, "latest"));
    let (host, namespace) = match parts.as_slice() {
        [] => (OLLAMA_HOST, "library"),
        [namespace] => (OLLAMA_HOST, *namespace),
        [host, namespace] => (*host, *namespace),
        _ => bail!("ollama:{text}: expected NAME, NAME:TAG, OWNER/NAME:TAG or HOST/OWNER/NAME:TAG"),
    };
    let (bare, port) = host.split_once(':').unwrap_or((host, "0"));
    if ![bare, namespace, name, tag].into_iter().all(is_safe) || port.parse::<u16>().is_err() {
        bail!("ollama:{text}: names have letters, digits, '.', '_' and '-'");
    }
    let [host, namespace, name, tag] = [host, namespace, name, tag].map(str::to_owned);
    Ok(Tagged { host, namespace, name, tag })
}

fn address(text: &str) -> Result<Remote> {
    let url = Url::parse(text).with_context(|| format!("{text}: no address"))?;
    ensure_encrypted(&url)?;
    match file_of(&url) {
        Some(_) => Ok(Remote::Address(url)),
        None => bail!("{text}: expected the address of a file whose name ends in .gguf"),
    }
}

/// The file that an address names.
pub(super) fn file_of(url: &Url) -> Option<&str> {
    url.path_segments()?.next_back().filter(|name| is_safe(name) && name.ends_with(".gguf"))
}

/// Refuses addresses without encryption, except those of this machine.
///
/// # Errors
/// `http://` to another machine, and every other scheme.
pub(super) fn ensure_encrypted(url: &Url) -> Result<()> {
    match url.scheme() {
        "https" => Ok(()),
        "http" if is_loopback(url) => Ok(()),
        _ => bail!("{}: only https:// is taken, http:// from this machine alone", shown(url)),
    }
}

/// An address for a message: what stands after `?` may be a secret.
pub(super) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    let _ = url.set_password(None);
    let _ = url.set_username("");
    url.to_string()
}

/// Whether an address is on this machine.
pub(super) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether a stranger's word may become a part of a path.
pub(super) fn is_safe(part: &str) -> bool {
    let is_known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !part.is_empty()
        && part.len() <= LONGEST_PART
        && !part.starts_with(['.', '-'])
        && !part.ends_with('.')
        && part.chars().all(is_known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_how_they_are_written() {
        for (text, name) in [
            ("hf:o/r", "hf:o/r"),
            ("hf.co/o/r:Q4_K_M", "hf:o/r:Q4_K_M"),
            ("https://huggingface.co/o/r/", "hf:o/r"),
            ("https://huggingface.co/o/r/blob/main/a/b.gguf?download=true", "hf:o/r/a/b.gguf"),
            ("hf:o/r/Q4/b-00001-of-00002.gguf", "hf:o/r/Q4/b-00001-of-00002.gguf"),
            ("ms:o/r:Q8_0", "ms:o/r:Q8_0"),
            ("ollama:a", "ollama:a:latest"),
            ("ollama:a:7b", "ollama:a:7b"),
            ("ollama:me/a:7b", "ollama:me/a:7b"),
            ("ollama:127.0.0.1:5000/me/a:7b", "ollama:127.0.0.1:5000/me/a:7b"),
            ("https://x.org/m.gguf", "https://x.org/m.gguf"),
        ] {
            assert_eq!(Remote::parse(text).unwrap().unwrap().to_string(), name, "{text}");
        }
        for text in ["a.gguf", "./hf/x", "moewe-mini", "C:\\x.gguf"] {
            assert!(Remote::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn names_that_could_leave_their_folder_are_refused() {
        for text in [
            "hf:o",
            "hf:../r",
            "hf:o/..",
            "hf:o/r/../../x.gguf",
            "hf:o/r:../x",
            "hf:o/r/x.bin",
            "hf:o/r\\x",
            "hf:o/.r",
            "ms:o/r/a\0.gguf",
            "ollama:../x",
            "ollama:a:../b",
            "ollama:h:99999/n/a",
            "http://x.org/m.gguf",
            "https://x.org/",
            "https://x.org/%2e%2e%2fm.gguf",
            "ftp:x",
        ] {
            assert!(Remote::parse(text).is_none_or(|parsed| parsed.is_err()), "{text}");
        }
    }

    #[test]
    fn messages_hide_what_may_be_a_secret() {
        let url = Url::parse("https://me:pw@x.org/m.gguf?signature=1").unwrap();
        assert_eq!(shown(&url), "https://x.org/m.gguf");
    }
}
