//! The page: at `/`, and at `/NAME` for room NAME; compiled in, or from a directory of the operator's own.

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
};

use axum::{
    body::Body,
    extract::Request,
    response::{IntoResponse, Response},
};
use http::{
    HeaderValue, Method, StatusCode,
    header::{
        ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderName, IF_NONE_MATCH, REFERRER_POLICY,
        X_CONTENT_TYPE_OPTIONS,
    },
};
use percent_encoding::percent_decode_str;
use rust_embed::{EmbeddedFile, RustEmbed};
use tower::{ServiceExt, service_fn, util::BoxCloneSyncService};
use tower_http::services::{ServeDir, ServeFile};

use crate::config::Page;

#[derive(RustEmbed)]
#[folder = "public/"]
struct Files;

/// What the page compiled in may do: load from its own server, talk to it, show the camera, nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; \
media-src 'self' blob: mediastream:; connect-src 'self' ws: wss:; font-src 'self'; manifest-src 'self'; base-uri 'none'; \
form-action 'self'; frame-ancestors 'none'";

/// With the page's own document: nobody else gets the camera, and no address of a room leaks to another site.
const HEADERS: [(HeaderName, HeaderValue); 5] = [
    (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (
        HeaderName::from_static("permissions-policy"),
        HeaderValue::from_static("camera=(self), microphone=(self), display-capture=(self), geolocation=()"),
    ),
    (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
];

/// The service behind every path that is nothing else's.
#[must_use]
pub(super) fn service(page: &Page) -> BoxCloneSyncService<Request, Response, Infallible> {
    if page.directory.as_os_str().is_empty() {
        return BoxCloneSyncService::new(service_fn(async |request: Request| Ok(built_in(&request))));
    }
    let directory = page.directory.clone();
    BoxCloneSyncService::new(service_fn(move |request: Request| {
        let directory = directory.clone();
        async move { Ok(own(&directory, request).await) }
    }))
}

fn built_in(request: &Request) -> Response {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return (StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, "GET, HEAD")], "this page can only be read\n")
            .into_response();
    }
    let path = request.uri().path();
    let name = percent_decode_str(path.trim_start_matches('/')).decode_utf8_lossy();
    let (name, file) = match Files::get(&name) {
        Some(file) => (&*name, file),
        None if is_room(path) => match Files::get("index.html") {
            Some(file) => ("index.html", file),
            None => return not_found(),
        },
        None => return not_found(),
    };
    let tag = etag(&file);
    let mut response = if request.headers().get(IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let kind = mime_guess::from_path(name).first_or_octet_stream();
        let kind = match (kind.type_(), kind.subtype().as_str()) {
            (mime_guess::mime::TEXT, _) | (_, "javascript" | "json") => {
                format!("{}; charset=utf-8", kind.essence_str())
            }
            _ => kind.essence_str().to_owned(),
        };
        ([(CONTENT_TYPE, kind)], Body::from(file.data)).into_response()
    };
    let headers = response.headers_mut();
    headers.extend(HEADERS);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(ETAG, tag);
    }
    response
}

/// A page of the operator's own: served as it is, under no policy of ours.
async fn own(directory: &Path, request: Request) -> Response {
    let room = is_room(request.uri().path());
    let index: PathBuf = directory.join("index.html");
    let files = ServeDir::new(directory);
    let served = if room {
        files.fallback(ServeFile::new(index)).oneshot(request).await.map(IntoResponse::into_response)
    } else {
        files.oneshot(request).await.map(IntoResponse::into_response)
    };
    served.unwrap_or_else(|never| match never {})
}

fn not_found() -> Response {
    (StatusCode::NOT_FOUND, [(CONTENT_TYPE, "text/plain; charset=utf-8")], "not found\n").into_response()
}

/// Whether a path can name a room: `/` (none yet) or one segment. A slash within a name comes encoded.
fn is_room(path: &str) -> bool {
    path.strip_prefix('/').is_some_and(|rest| !rest.contains('/'))
}

/// A strong entity tag (RFC 9110, section 8.8.3) of the content.
fn etag(file: &EmbeddedFile) -> String {
    let hash = file.metadata.sha256_hash();
    let start = hash.first_chunk().copied().map_or(0, u128::from_be_bytes);
    format!("\"{start:032x}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_segment_names_a_room() {
        for path in ["/", "/foo", "/a%2Fb", "/%ED%86%B5"] {
            assert!(is_room(path), "{path}");
        }
        for path in ["/js/none.js", "/a/b", "/a/"] {
            assert!(!is_room(path), "{path}");
        }
    }
}
