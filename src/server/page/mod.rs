//! The page that a browser shows at `/`: the files of this folder, held in the program as they stand.
//!
//! None of them is secret or made for a request, so anybody may load them; what the page asks for wants the key. A model
//! writes what it likes: the policy that every file comes with lets nothing in it run, nor reach another host.

use super::Shared;
use super::refusal::Refusal;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use flate2::Compression;
use flate2::write::GzEncoder;
use ring::digest::{SHA256, digest};
use std::io::Write;
use std::sync::{Arc, OnceLock};

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A file of the page.
struct File {
    name: &'static str,
    bytes: &'static [u8],
    made: OnceLock<Made>,
}

/// What is made of a file when it is first asked for.
struct Made {
    tag: String,
    packed: Bytes,
}

macro_rules! files {
    ($($name:literal)*) => { [$(File { name: $name, bytes: include_bytes!($name), made: OnceLock::new() }),*] };
}

static FILES: [File; 25] = files![
    "index.html" "code.css" "gull.svg" "style.css" "answer.js" "api.js" "app.js" "chat.js" "colours.js"
    "composer.js" "conversation.js" "dom.js" "experts.js" "files.js" "i18n.js" "markdown.js"
    "notebook.js" "notice.js" "settings.js" "sidebar.js" "store.js" "theme.js" "turn.js"
    "vendor/marked.esm.js" "vendor/purify.min.js"
];

/// `/` and the files that it names.
pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new().route("/", get(front)).route("/page/{*name}", get(file))
}

/// Whether a path is one of the page's, which nobody needs a key for.
pub(super) fn has(path: &str) -> bool {
    path == "/" || path.starts_with("/page/")
}

/// The page for those that show pages, a line for all others.
async fn front(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    let accepts = |wanted: &str| lists(&headers, header::ACCEPT, wanted);
    let mut response = if shared.settings.page && accepts("text/html") {
        FILES[0].answer(&headers)
    } else {
        "Möwe is running\n".into_response()
    };
    response.headers_mut().append(header::VARY, header::HeaderValue::from_static("accept"));
    response
}

async fn file(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let file = FILES.iter().find(|file| shared.settings.page && file.name == name);
    file.map(|file| file.answer(&headers)).ok_or_else(|| Refusal::no_route(&format!("/page/{name}")))
}

/// Whether one of a header's values is this, whatever weight it has.
fn lists(headers: &HeaderMap, name: HeaderName, wanted: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let mut entries = values.flat_map(|value| value.split(','));
    entries.any(|entry| entry.split(';').next().is_some_and(|one| one.trim().eq_ignore_ascii_case(wanted)))
}

impl File {
    fn kind(&self) -> &'static str {
        match self.name.rsplit('.').next() {
            Some("html") => "text/html; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            Some("svg") => "image/svg+xml",
            _ => "text/javascript; charset=utf-8",
        }
    }

    fn made(&self) -> &Made {
        self.made.get_or_init(|| {
            let mut encoder = GzEncoder::new(vec![], Compression::best());
            let packed = encoder.write_all(self.bytes).and_then(|()| encoder.finish());
            let hash = digest(&SHA256, self.bytes);
            // Weak, since it is the same for the packed bytes.
            let tag = format!("W/\"{}\"", super::hex(&hash.as_ref()[..12]));
            Made { tag, packed: packed.expect("a vector takes all that is written").into() }
        })
    }

    fn answer(&self, asked: &HeaderMap) -> Response {
        let made = self.made();
        let headers = [
            (header::ETAG, made.tag.as_str()),
            (header::CACHE_CONTROL, "no-cache"),
            (header::VARY, "accept-encoding"),
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::REFERRER_POLICY, "no-referrer"),
            (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        ];
        if ["*", &made.tag].iter().any(|tag| lists(asked, header::IF_NONE_MATCH, tag)) {
            return (StatusCode::NOT_MODIFIED, headers).into_response();
        }
        let kind = [(header::CONTENT_TYPE, self.kind())];
        if lists(asked, header::ACCEPT_ENCODING, "gzip") {
            return (headers, kind, [(header::CONTENT_ENCODING, "gzip")], made.packed.clone())
                .into_response();
        }
        (headers, kind, Bytes::from_static(self.bytes)).into_response()
    }
}
