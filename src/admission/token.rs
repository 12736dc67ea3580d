//! What a token (JWT, RFC 7519) says, and whether it holds: plain functions on plain data, with the time passed in.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{decode_header, errors::ErrorKind};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Denied, keys::KeySet};
use crate::id::RoomName;

/// Bytes of a token.
pub const TOKEN_BYTES: usize = 8 * 1024;

/// What a token has to say beside being signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Its `iss`; none for any.
    pub issuer: Option<String>,
    /// In its `aud`; none for any.
    pub audience: Option<String>,
    /// How far clocks may be apart.
    pub leeway: Duration,
    /// The rooms of one that names none.
    pub default_rooms: Rooms,
}

/// Rooms, as names and patterns: `*` in one stands for any characters, none included. Nothing else is special.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rooms(Box<[Box<str>]>);

impl Rooms {
    /// From a list in a text, with commas between.
    #[must_use]
    pub fn listed(list: &str) -> Self {
        Self(list.split(',').map(str::trim).filter(|pattern| !pattern.is_empty()).map(Into::into).collect())
    }

    /// Whether `room` is one of them.
    #[must_use]
    pub fn contain(&self, room: &str) -> bool {
        self.0.iter().any(|pattern| fits(pattern, room))
    }
}

/// Whether `text` is what `pattern` stands for.
fn fits(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // The last `*`, and from where on the text is left to it.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(byte) if *byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((at, taken)) = star else { return false };
                star = Some((at, taken + 1));
                (p, t) = (at + 1, taken + 1);
            }
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// What somebody may do here. Cheap to clone; for everybody when no token is needed.
#[derive(Clone, Default)]
pub struct Grant(Option<Arc<Claims>>);

struct Claims {
    peer: Option<Box<str>>,
    rooms: Rooms,
    expires: u64,
    text: Box<RawValue>,
}

impl Grant {
    /// Everything, for good.
    #[must_use]
    pub fn open() -> Self {
        Self(None)
    }

    /// Whether it comes from no token.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.is_none()
    }

    /// Whether it is for that room.
    #[must_use]
    pub fn permits(&self, room: &RoomName) -> bool {
        self.0.as_ref().is_none_or(|claims| claims.rooms.contain(room.as_str()))
    }

    /// Who holds it, as the issuer calls them (`sub`).
    #[must_use]
    pub fn peer(&self) -> Option<&str> {
        self.0.as_ref()?.peer.as_deref()
    }

    /// When it ends, in seconds since 1970, the leeway included.
    #[must_use]
    pub fn expires(&self) -> Option<u64> {
        Some(self.0.as_ref()?.expires)
    }

    /// The token's claims, as they came.
    #[must_use]
    pub fn claims(&self) -> Option<&RawValue> {
        Some(&self.0.as_ref()?.text)
    }
}

/// Nothing of a token is ever shown.
impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_open() { "Grant(open)" } else { "Grant(of a token)" })
    }
}

/// Checks a token.
///
/// # Errors
/// [`Denied`].
pub fn check(token: &str, keys: &KeySet, rules: &Rules, now: SystemTime) -> Result<Grant, Denied> {
    if token.len() > TOKEN_BYTES {
        return Err(Denied::Malformed);
    }
    let header = decode_header(token).map_err(|_| Denied::Malformed)?;
    // RFC 7515, section 4.1.11: what must be understood, and is not.
    if header.crit.is_some() {
        return Err(Denied::Malformed);
    }
    let mut denied = Denied::UnknownKey;
    for key in keys.named(header.kid.as_deref()) {
        if key.algorithm() != header.alg {
            denied = Denied::Algorithm;
            continue;
        }
        match key.verify::<Box<RawValue>>(token) {
            Ok(claims) => return read(claims, rules, now),
            Err(error) if *error.kind() == ErrorKind::InvalidSignature => denied = Denied::Signature,
            Err(_) => return Err(Denied::Malformed),
        }
    }
    Err(denied)
}

/// Reads the claims of a token whose signature holds.
fn read(text: Box<RawValue>, rules: &Rules, now: SystemTime) -> Result<Grant, Denied> {
    /// RFC 7519, section 2: seconds since 1970, with a fraction or without.
    #[derive(Deserialize)]
    struct Said {
        exp: Option<f64>,
        nbf: Option<f64>,
        iss: Option<String>,
        aud: Option<OneOrMore>,
        sub: Option<Box<str>>,
        room: Option<Box<str>>,
        rooms: Option<Vec<Box<str>>>,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMore {
        One(String),
        More(Vec<String>),
    }
    let said: Said = serde_json::from_str(text.get()).map_err(|_| Denied::Claims)?;
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let leeway = rules.leeway.as_secs_f64();
    let end = said.exp.ok_or(Denied::Claims)? + leeway;
    if now >= end {
        return Err(Denied::Expired);
    }
    if said.nbf.is_some_and(|begin| now < begin - leeway) {
        return Err(Denied::NotYetValid);
    }
    if rules.issuer.is_some() && rules.issuer != said.iss {
        return Err(Denied::Issuer);
    }
    if let Some(audience) = &rules.audience {
        let meant = match &said.aud {
            Some(OneOrMore::One(one)) => one == audience,
            Some(OneOrMore::More(list)) => list.contains(audience),
            None => false,
        };
        if !meant {
            return Err(Denied::Audience);
        }
    }
    let rooms = match (said.room, said.rooms) {
        (None, None) => rules.default_rooms.clone(),
        (room, rooms) => Rooms(rooms.into_iter().flatten().chain(room).collect()),
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "later than now; what is too late is cut"
    )]
    let expires = end.ceil() as u64;
    Ok(Grant(Some(Arc::new(Claims { peer: said.sub, rooms, expires, text }))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn rules() -> Rules {
        Rules { issuer: None, audience: None, leeway: Duration::from_secs(10), default_rooms: Rooms::default() }
    }

    fn claims(json: &str, rules: &Rules) -> Result<Grant, Denied> {
        let text = RawValue::from_string(json.to_owned()).expect("JSON");
        read(text, rules, UNIX_EPOCH + Duration::from_secs(NOW))
    }

    fn room(name: &str) -> RoomName {
        RoomName::parse(name).expect("valid")
    }

    #[test]
    fn a_star_stands_for_any_characters_and_nothing_else_is_special() {
        for (pattern, text, holds) in [
            ("a", "a", true),
            ("a", "b", false),
            ("a", "aa", false),
            ("*", "anything/at all", true),
            ("team-*", "team-", true),
            ("team-*", "team-1/2", true),
            ("team-*", "tea", false),
            ("*-x", "a-x-x", true),
            ("*-x", "a-xy", false),
            ("a*b*c", "a1b2b3c", true),
            ("a*b*c", "a1c", false),
            ("**", "x", true),
            ("방*", "방 1", true),
            ("a?", "ab", false),
            ("[a]", "a", false),
            ("a.c", "abc", false),
            ("A", "a", false),
            ("", "a", false),
        ] {
            assert_eq!(fits(pattern, text), holds, "{pattern} {text}");
        }
        // As slow as it gets.
        assert!(!fits(&"*a".repeat(4000), &"a".repeat(511)));
    }

    #[test]
    fn a_token_is_good_from_its_beginning_to_its_end_with_leeway_on_both_sides() {
        let rules = rules();
        let at = |exp: i64, nbf: i64| {
            let now = i64::try_from(NOW).expect("fits");
            claims(&format!(r#"{{"exp":{},"nbf":{},"rooms":["a"]}}"#, now + exp, now + nbf), &rules).map(|_| ())
        };
        assert_eq!(at(1, 0), Ok(()));
        assert_eq!(at(-9, 10), Ok(()));
        assert_eq!(at(-10, 0), Err(Denied::Expired));
        assert_eq!(at(60, 11), Err(Denied::NotYetValid));
        let grant = claims(&format!(r#"{{"exp":{NOW}.5}}"#), &rules).expect("good");
        assert_eq!(grant.expires(), Some(NOW + 11));
        for (wrong, denied) in [
            ("{}", Denied::Claims),
            (r#"{"exp":null}"#, Denied::Claims),
            (r#"{"exp":"1900000000"}"#, Denied::Claims),
            (r#"{"exp":1900000000,"exp":1900000000}"#, Denied::Claims),
            (r#"{"exp":1900000000,"nbf":"now"}"#, Denied::Claims),
            (r#"{"exp":1900000000,"rooms":"a"}"#, Denied::Claims),
            (r#"{"exp":1900000000,"rooms":[1]}"#, Denied::Claims),
            (r#"{"exp":1900000000,"room":["a"]}"#, Denied::Claims),
            ("[1900000000]", Denied::Claims),
            (r#"{"exp":-1}"#, Denied::Expired),
        ] {
            assert_eq!(claims(wrong, &rules).err(), Some(denied), "{wrong}");
        }
        assert_eq!(claims(r#"{"exp":1e300}"#, &rules).expect("for good").expires(), Some(u64::MAX));
    }

    #[test]
    fn rooms_are_those_named_or_those_of_the_settings() {
        let mut rules = rules();
        let permits = |json: &str, rules: &Rules, name: &str| claims(json, rules).expect("good").permits(&room(name));
        let (none, one) = (r#"{"exp":1900000000}"#, r#"{"exp":1900000000,"room":"a"}"#);
        let more = r#"{"exp":1900000000,"room":"a","rooms":["b*"]}"#;
        assert!(!permits(none, &rules, "a"));
        assert!(permits(one, &rules, "a") && !permits(one, &rules, "b"));
        assert!(permits(more, &rules, "a") && permits(more, &rules, "bc") && !permits(more, &rules, "c"));
        rules.default_rooms = Rooms::listed(" lobby, team-* ,,");
        assert!(permits(none, &rules, "lobby") && permits(none, &rules, "team-1") && !permits(none, &rules, "a"));
        assert!(!permits(one, &rules, "lobby"));
        assert!(!permits(r#"{"exp":1900000000,"rooms":[]}"#, &rules, "lobby"));
        assert!(Grant::open().permits(&room("any")));
    }

    #[test]
    fn issuer_and_audience_are_as_they_are_to_be() {
        let rules = Rules { issuer: Some("i".into()), audience: Some("a".into()), ..rules() };
        let of = |more: &str| claims(&format!(r#"{{"exp":1900000000{more}}}"#), &rules).map(|_| ());
        assert_eq!(of(r#","iss":"i","aud":"a""#), Ok(()));
        assert_eq!(of(r#","iss":"i","aud":["b","a"]"#), Ok(()));
        assert_eq!(of(r#","iss":"i","aud":["b"]"#), Err(Denied::Audience));
        assert_eq!(of(r#","iss":"i""#), Err(Denied::Audience));
        assert_eq!(of(r#","iss":"I","aud":"a""#), Err(Denied::Issuer));
        assert_eq!(of(r#","aud":"a""#), Err(Denied::Issuer));
        assert_eq!(of(r#","iss":["i"],"aud":"a""#), Err(Denied::Claims));
    }
}
