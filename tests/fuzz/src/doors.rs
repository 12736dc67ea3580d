//! Who somebody is, as proxies and browsers say it; and settings, as operators write them.

use std::{collections::HashMap, net::IpAddr};

use duet::{
    config::{Networks, Origins, Settings},
    transport::proxy::{self, FORWARDED, Header},
};
use http::{HeaderMap, HeaderValue};

/// The header of the PROXY protocol: read the same however it arrives, and no further than it goes.
pub fn proxy_header(start: &[u8]) {
    let header = proxy::header(start);
    match header {
        Header::Whole(length, _) => {
            assert!(length <= start.len());
            assert_eq!(proxy::header(&start[..length]), header);
            assert_eq!(proxy::header(&start[..length - 1]), Header::Partial);
            assert_eq!(proxy::header(&[start, b"GET / HTTP/1.1\r\n"].concat()), header);
        }
        // It is waited for: no stranger may make that a long wait.
        Header::Partial => assert!(start.len() < 2048),
        Header::Malformed => assert_eq!(proxy::header(&[start, b"\r\n\0"].concat()), Header::Malformed),
    }
}

/// `X-Forwarded-For`, one line a header, after a line with the networks that are trusted and one with the peer.
pub fn forwarded(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let mut text = || std::str::from_utf8(lines.next()?).ok().map(str::to_owned);
    let Some(Ok(trusted)) = text().map(Networks::try_from) else { return };
    assert_eq!(Networks::try_from(String::from(trusted.clone())), Ok(trusted.clone()));
    let Some(Ok(peer)) = text().map(|text| text.parse::<IpAddr>()) else { return };
    let values: Vec<HeaderValue> = lines.filter_map(|line| HeaderValue::from_bytes(line).ok()).collect();
    let with = |first: Option<&'static str>, values: &[HeaderValue]| {
        let mut headers = HeaderMap::new();
        for value in first.map(HeaderValue::from_static).iter().chain(values) {
            headers.append(FORWARDED, value.clone());
        }
        proxy::client(peer, &headers, &trusted)
    };
    let client = with(None, &values);
    if trusted.contain(peer) {
        assert!(client == peer.to_canonical() || !values.is_empty());
    } else {
        assert_eq!(client, peer.to_canonical(), "whoever is not trusted is believed");
    }
    // Whatever a client puts in front changes nothing.
    if !trusted.contain(client) {
        for forged in ["203.0.113.66", "127.0.0.1", "::1", "unknown", "", ","] {
            assert_eq!(with(Some(forged), &values), client, "by {forged}");
        }
    }
    assert_eq!(with(None, &[]), peer.to_canonical());
}

/// An origin, after a line with those that are let in: it is one of them, or of a name below one.
pub fn origins(data: &[u8]) {
    let Some(end) = data.iter().position(|byte| *byte == b'\n') else { return };
    let (list, origin) = (&data[..end], &data[end + 1..]);
    let Some(Ok(origins)) = std::str::from_utf8(list).ok().map(|list| Origins::try_from(list.to_owned())) else {
        return;
    };
    let written = String::from(origins.clone());
    assert_eq!(Origins::try_from(written.clone()), Ok(origins.clone()));
    let allowed = origins.allow(origin);
    if origins.is_any() {
        assert!(allowed);
        return;
    }
    let one_of_them = |origin: &str| {
        written.split(", ").any(|word| match word.split_once("://*.") {
            None => word == origin,
            Some((scheme, parent)) => {
                let below = |rest: &str| rest.strip_suffix(parent)?.strip_suffix('.').map(str::to_owned);
                origin.strip_prefix(scheme).and_then(|rest| below(rest.strip_prefix("://")?)).is_some_and(|name| {
                    !name.is_empty() && !name.contains(|c: char| c.is_ascii_uppercase() || "/@?#\\ ".contains(c))
                })
            }
        })
    };
    if allowed {
        assert!(std::str::from_utf8(origin).is_ok_and(one_of_them), "let in: {:?}", String::from_utf8_lossy(origin));
    } else if let Ok(origin) = std::str::from_utf8(origin) {
        // A pattern is no origin.
        let named = written.split(", ").any(|word| word == origin && !word.contains("://*."));
        assert!(!named, "kept out: {origin}");
    }
}

/// Settings, one `SECTION__KEY=VALUE` a line: they are refused in one line, or are what is printed; no secret is in either.
pub fn settings(data: &[u8]) {
    const SECRETS: [&str; 5] = [
        "DUET_ICE__SECRET",
        "DUET_ADMIN__TOKEN",
        "DUET_ADMISSION__JWT_SECRET",
        "DUET_ADMISSION__WEBHOOK_SECRET",
        "DUET_REDIS__PASSWORD",
    ];
    let Ok(text) = std::str::from_utf8(data) else { return };
    let environment: HashMap<String, String> = text
        .split('\n')
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (format!("DUET_{key}"), value.to_owned()))
        .collect();
    let secrets: Vec<String> = SECRETS
        .iter()
        .filter_map(|key| environment.get(*key).cloned())
        // What is of nothing but words that settings have would be found in any.
        .filter(|secret| secret.len() >= 16 && !secret.contains('"') && secret.contains("Zx9"))
        .collect();
    let said = match Settings::load(None, environment) {
        Ok(settings) => settings.printable(),
        Err(bad) => {
            let said = bad.to_string();
            assert!(!said.contains('\n'), "{said:?}");
            said
        }
    };
    for secret in secrets {
        assert!(!said.contains(&secret), "shown: {said}");
    }
}
