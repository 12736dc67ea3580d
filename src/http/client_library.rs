//! `/socket.io/socket.io.js` and its siblings: the browser client of Socket.IO, as a Socket.IO server serves it.
//!
//! The build takes the files from the npm package `socket.io-client` (see `build.rs`). A build without npm has none, and
//! says so wherever one is asked for.

use axum::{
    extract::Path,
    response::{IntoResponse, Response},
};
use http::{
    HeaderMap, StatusCode,
    header::{ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH},
};

/// A file of the library.
struct File {
    name: &'static str,
    bytes: &'static [u8],
}

include!(concat!(env!("OUT_DIR"), "/client_library.rs"));

/// What a build without npm answers.
const MISSING: &str = "The Socket.IO client library is not part of this build of duet, because npm could not fetch it when \
duet was built. Install Node.js with npm and build again: cargo build --release\nSignaling itself works; a page may load \
the library from elsewhere.\n";

/// Whether this build has the library.
#[must_use]
pub fn is_built_in() -> bool {
    !FILES.is_empty()
}

/// One file of it.
pub(super) async fn file(Path(name): Path<String>, headers: HeaderMap) -> Response {
    let Some(file) = FILES.iter().find(|file| file.name == name) else {
        let text = if is_built_in() || !name.starts_with("socket.io") { "not found\n" } else { MISSING };
        return (StatusCode::NOT_FOUND, [(CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response();
    };
    // Any page may load it, as from any Socket.IO server.
    let common = [(ETAG, VERSION_TAG), (CACHE_CONTROL, "public, max-age=0"), (ACCESS_CONTROL_ALLOW_ORIGIN, "*")];
    if headers.get(IF_NONE_MATCH).is_some_and(|tag| tag == VERSION_TAG) {
        return (StatusCode::NOT_MODIFIED, common).into_response();
    }
    let is_map = file.name.strip_suffix(".map").is_some();
    let kind = if is_map { "application/json" } else { "application/javascript; charset=utf-8" };
    (common, [(CONTENT_TYPE, kind)], file.bytes).into_response()
}
