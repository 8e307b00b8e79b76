//! Who may ask: which names this server goes by, which pages may call it, and who has a key.
//!
//! A server on one's own machine can be reached by every page that one's browser shows. A page of another site comes with
//! its `Origin`, and one that has its own name point at this machine with that name as `Host`: both are refused before
//! the body is read. A key is compared in the same time whatever is wrong with it.

use super::page;
use super::refusal::Refusal;
use axum::http::{HeaderMap, Method, Uri, header};
use ring::digest::{SHA256, digest};
use std::net::{IpAddr, SocketAddr};
use subtle::{Choice, ConstantTimeEq};

/// What anybody may see.
const OPEN: [&str; 4] = ["/health", "/v1/health", "/models", "/v1/models"];

/// Names, origins and keys.
pub(super) struct Gate {
    address: SocketAddr,
    hosts: Vec<String>,
    origins: Vec<String>,
    keys: Vec<[u8; 32]>,
    metrics_are_open: bool,
}

/// An origin that may ask; `None` for clients that are no pages.
pub(super) type Admitted<'h> = Option<&'h str>;

impl Gate {
    pub(super) fn new(
        address: SocketAddr,
        hosts: Vec<String>,
        origins: Vec<String>,
        keys: &[String],
        metrics_are_open: bool,
    ) -> Self {
        let hosts = hosts.into_iter().map(|host| host.to_ascii_lowercase()).collect();
        let keys = keys.iter().map(|key| hash(key.as_bytes())).collect();
        Self { address, hosts, origins, keys, metrics_are_open }
    }

    /// Lets a request in, or says why not.
    pub(super) fn admit<'h>(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &'h HeaderMap,
    ) -> Result<Admitted<'h>, Refusal> {
        let host = self.host(uri, headers)?;
        let path = uri.path();
        let origin = self.origin(host, path, headers)?;
        let is_open = OPEN.contains(&path) || path.starts_with("/v1/models/") || method == Method::OPTIONS;
        let is_open = is_open || page::has(path) || self.metrics_are_open && path == "/metrics";
        if !self.keys.is_empty() && !is_open && !self.has_key(headers) {
            return Err(Refusal::key());
        }
        Ok(origin)
    }

    fn host<'h>(&self, uri: &'h Uri, headers: &'h HeaderMap) -> Result<&'h str, Refusal> {
        let mut hosts = headers.get_all(header::HOST).iter();
        let host = match (hosts.next(), hosts.next()) {
            (Some(host), None) => host.to_str().unwrap_or_default(),
            (None, _) => uri.authority().map_or("", |authority| authority.as_str()),
            (Some(_), Some(_)) => return Err(Refusal::invalid("there are two Host headers")),
        };
        let name =
            without_port(host).ok_or_else(|| Refusal::invalid("the Host header is missing or wrong"))?;
        let name = name.to_ascii_lowercase();
        let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        let is_ours = match address {
            Ok(address) => {
                address.is_loopback() || address == self.address.ip() || self.address.ip().is_unspecified()
            }
            Err(_) => name == "localhost" || self.hosts.contains(&name),
        };
        if !is_ours {
            let message = format!("this server is not {name}; --allow-host {name} makes it so");
            return Err(Refusal::forbidden(message));
        }
        Ok(host)
    }

    fn origin<'h>(&self, host: &str, path: &str, headers: &'h HeaderMap) -> Result<Admitted<'h>, Refusal> {
        let value = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
        let Some(origin) = value("origin") else {
            return match value("sec-fetch-site") {
                // A link on another site may lead to the page; it asks for nothing by itself.
                Some("cross-site") if path == "/" && value("sec-fetch-mode") == Some("navigate") => Ok(None),
                Some("cross-site") => {
                    Err(Refusal::forbidden("pages of other sites may not call this server"))
                }
                _ => Ok(None),
            };
        };
        let is_own = ["http://", "https://"]
            .iter()
            .any(|scheme| origin.strip_prefix(scheme).is_some_and(|own| own.eq_ignore_ascii_case(host)));
        if !is_own && !self.origins.iter().any(|known| known == origin) {
            let message = "pages of this origin may not call this server; --allow-origin lets them";
            return Err(Refusal::forbidden(message));
        }
        Ok(Some(origin))
    }

    fn has_key(&self, headers: &HeaderMap) -> bool {
        let value = |name: &str| headers.get(name).map(|value| value.as_bytes());
        let bearer = value("authorization").and_then(|value| {
            let (scheme, key) = value.split_at_checked(7)?;
            scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
        });
        let given = [bearer, value("x-api-key")].map(|key| key.map(hash));
        let pairs = given.iter().flatten().flat_map(|given| self.keys.iter().map(move |key| (given, key)));
        pairs.fold(Choice::from(0), |any, (given, key)| any | given.ct_eq(key)).into()
    }
}

fn hash(key: &[u8]) -> [u8; 32] {
    digest(&SHA256, key).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// The name in `name:port` or `[address]:port`.
fn without_port(host: &str) -> Option<&str> {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let end = rest.find(']')? + 2;
            (&host[..end], &host[end..])
        }
        None => host.find(':').map_or((host, ""), |at| host.split_at(at)),
    };
    let digits = port.strip_prefix(':').unwrap_or(port);
    let is_port = digits.len() <= 5 && digits.bytes().all(|byte| byte.is_ascii_digit());
    let is_name = !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_[]:".contains(&byte));
    (is_port && is_name).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::response::IntoResponse;

    fn gate(address: &str, keys: &[&str]) -> Gate {
        let keys: Vec<_> = keys.iter().map(|&key| key.to_owned()).collect();
        let (hosts, origins) = (vec!["Box.lan".to_owned()], vec!["https://app.example".to_owned()]);
        Gate::new(address.parse().unwrap(), hosts, origins, &keys, false)
    }

    /// 200, or the status of the refusal.
    fn status(gate: &Gate, path: &str, headers: &[(&str, &str)]) -> u16 {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(header::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        match gate.admit(&Method::POST, &path.parse().unwrap(), &map) {
            Ok(_) => 200,
            Err(refusal) => refusal.into_response().status().as_u16(),
        }
    }

    #[test]
    fn names() {
        let gate = gate("127.0.0.1:8080", &[]);
        for (host, expected) in [
            ("127.0.0.1:8080", 200),
            ("localhost", 200),
            ("LOCALHOST:99", 200),
            ("[::1]:8080", 200),
            ("127.8.9.1", 200),
            ("box.lan:8080", 200),
            ("10.0.0.1:8080", 403),
            ("evil.example", 403),
            ("localhost.evil.example:8080", 403),
            ("127.0.0.1.evil.example", 403),
            ("", 400),
            ("localhost:x", 400),
            ("local host", 400),
            ("user@localhost", 400),
            ("[::1", 400),
        ] {
            assert_eq!(status(&gate, "/", &[("host", host)]), expected, "{host:?}");
        }
        assert_eq!(status(&gate, "/", &[("host", "localhost"), ("host", "localhost")]), 400);
        assert_eq!(status(&gate, "/", &[]), 400);
        assert_eq!(status(&self::gate("0.0.0.0:1", &[]), "/", &[("host", "10.0.0.1:1")]), 200);
    }

    #[test]
    fn pages() {
        let gate = gate("127.0.0.1:8080", &[]);
        for (origin, expected) in [
            ("http://localhost:8080", 200),
            ("https://app.example", 200),
            ("http://app.example", 403),
            ("http://localhost:3000", 403),
            ("null", 403),
            ("https://evil.example", 403),
        ] {
            let headers = [("host", "localhost:8080"), ("origin", origin)];
            assert_eq!(status(&gate, "/", &headers), expected, "{origin}");
        }
        for (site, expected) in [("cross-site", 403), ("same-origin", 200), ("none", 200)] {
            let headers = [("host", "localhost:8080"), ("sec-fetch-site", site)];
            assert_eq!(status(&gate, "/", &headers), expected, "{site}");
        }
    }

    #[test]
    fn keys() {
        let gate = gate("127.0.0.1:8080", &["first-key-of-two", "second-key-of-two"]);
        for (name, value, expected) in [
            ("authorization", "Bearer first-key-of-two", 200),
            ("authorization", "bearer second-key-of-two", 200),
            ("x-api-key", "second-key-of-two", 200),
            ("authorization", "Bearer first-key-of-tw", 401),
            ("authorization", "first-key-of-two", 401),
            ("authorization", "Bearer ", 401),
            ("x-api-key", "", 401),
            ("accept", "*/*", 401),
        ] {
            let headers = [("host", "localhost"), (name, value)];
            assert_eq!(status(&gate, "/v1/completions", &headers), expected, "{name}: {value}");
            assert_eq!(status(&gate, "/health", &headers), 200);
        }
        assert_eq!(status(&gate, "/metrics", &[("host", "localhost")]), 401);
    }
}
