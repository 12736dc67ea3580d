//! Tokens that strangers bring, and what issuers and webhooks answer.

use std::time::{Duration, UNIX_EPOCH};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use duet::{
    admission::{
        keys::KeySet,
        token::{self, Rooms, Rules, TOKEN_BYTES},
        webhook::{self, Answer},
    },
    id::RoomName,
};
use ring::hmac;
use serde_json::{Value, value::RawValue};

const SECRET: &[u8; 32] = b"0123456789abcdef0123456789abcdef";
const NOW: u64 = 1_800_000_000;

fn signed(message: &str) -> String {
    URL_SAFE_NO_PAD.encode(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), message.as_bytes()))
}

/// A token as it came, and the same bytes as the claims of one that is signed: only what is signed, named and in time lets
/// anybody in, and only into its rooms.
pub fn tokens(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let rules = Rules {
        issuer: Some("issuer".into()),
        audience: Some("duet".into()),
        leeway: Duration::from_secs(10),
        default_rooms: Rooms::listed("lobby, team-*"),
    };
    let keys = KeySet::of_secret(SECRET).expect("a key");
    let now = UNIX_EPOCH + Duration::from_secs(NOW);
    if token::check(text, &keys, &rules, now).is_ok() {
        let (message, signature) = text.rsplit_once('.').expect("three parts");
        assert_eq!(signed(message), signature, "let in unsigned");
        assert!(text.len() <= TOKEN_BYTES);
    }
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#), URL_SAFE_NO_PAD.encode(text));
    let Ok(grant) = token::check(&format!("{message}.{}", signed(&message)), &keys, &rules, now) else { return };
    assert!(!grant.is_open());
    // A number that no `f64` holds is JSON, and duet hands on what it does not read.
    let Ok(claims) = serde_json::from_str::<Value>(text) else { return };
    assert!(claims["exp"].as_f64().expect("an end") + 10.0 > 1_800_000_000.0);
    assert!(grant.expires().expect("an end") >= NOW);
    assert!(claims["nbf"].as_f64().is_none_or(|begin| begin - 10.0 <= 1_800_000_000.0));
    assert_eq!(claims["iss"], "issuer");
    assert!(claims["aud"] == "duet" || claims["aud"].as_array().expect("a list").iter().any(|one| one == "duet"));
    assert_eq!(grant.peer(), claims["sub"].as_str());
    assert_eq!(grant.claims().expect("claims").get(), text.trim_matches([' ', '\t', '\r', '\n']));
    let named = claims["rooms"].as_array().into_iter().flatten().chain(claims.get("room"));
    let named: Vec<&str> = named.filter_map(Value::as_str).collect();
    let says_none = claims["room"].is_null() && claims["rooms"].is_null();
    for room in ["lobby", "team-1", "other", "foo"].into_iter().chain(named.iter().copied()) {
        let Ok(name) = RoomName::parse(room) else { continue };
        let of_token = named.iter().any(|pattern| fits(pattern, room));
        let by_default = says_none && (room == "lobby" || room.starts_with("team-"));
        assert_eq!(grant.permits(&name), of_token || by_default, "{room}: {text}");
    }
    let shown = format!("{grant:?}");
    assert!(shown.len() < 20);
}

/// What `*` stands for, tried in every way.
fn fits(pattern: &str, text: &str) -> bool {
    // Which beginnings of the text the pattern so far stands for.
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    for byte in pattern.bytes() {
        let mut next = vec![false; text.len() + 1];
        for at in 0..=text.len() {
            next[at] = if byte == b'*' {
                reached[..=at].contains(&true)
            } else {
                at > 0 && reached[at - 1] && text.as_bytes()[at - 1] == byte
            };
        }
        reached = next;
    }
    reached[text.len()]
}

/// A key file or a published set: at most 32 keys, of the algorithms that are known, and no secret is taken from what is public.
pub fn key_sets(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = KeySet::of_pem(text);
    for secrets in [false, true] {
        let Ok(set) = KeySet::of_jwks(text, secrets) else { continue };
        let algorithms: Vec<String> = set.named(None).map(|key| format!("{:?}", key.algorithm())).collect();
        assert!((1..=32).contains(&algorithms.len()));
        for algorithm in &algorithms {
            assert!(matches!(algorithm.as_str(), "RS256" | "ES256" | "EdDSA") || (secrets && algorithm == "HS256"));
        }
        for key in set.named(Some("1")) {
            // A key verifies nothing that it has not signed.
            assert!(key.verify::<Value>("eyJhbGciOiJIUzI1NiJ9.e30.AAAA").is_err());
        }
    }
}

/// A webhook's answer: nothing but a clear yes lets anybody in, and a reason is short and plain.
pub fn webhook_answers(data: &[u8]) {
    let value: Option<Value> = serde_json::from_slice(data).ok();
    match webhook::read(data) {
        Some(Answer::Allowed(_)) => {
            assert!(serde_json::from_slice::<&RawValue>(data).is_ok(), "no JSON");
            assert!(value.is_none_or(|value| value["allow"] == true));
        }
        Some(Answer::Denied { reason }) => {
            assert!(reason.iter().all(|reason| {
                (1..=200).contains(&reason.chars().count()) && !reason.chars().any(char::is_control)
            }));
            assert!(value.is_none_or(|value| value["allow"] == false));
        }
        Some(Answer::Busy | Answer::Failed) => panic!("no answer"),
        None => {}
    }
}
