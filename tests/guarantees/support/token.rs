//! Whoever signs tokens: keys made by openssl, tokens made by hand with ring, so that a test can also make what no library
//! would.

use std::{
    process::{Command, Stdio},
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{hmac, rand::SystemRandom, signature};
use serde_json::{Value, json};

/// A key that tokens are signed with.
pub enum Signer {
    Hs256(Vec<u8>),
    Rs256(Box<signature::RsaKeyPair>, String),
    Es256(signature::EcdsaKeyPair, String),
    EdDsa(signature::Ed25519KeyPair, String),
}

pub fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// A private key (PKCS #8, DER), and its public key in PEM.
fn openssl(algorithm: &[&str]) -> (Vec<u8>, String) {
    let run = |arguments: &[&str]| {
        let output =
            Command::new("openssl").args(arguments).stdin(Stdio::null()).output().expect("openssl is installed");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), run(&[&["genpkey"][..], algorithm].concat())).expect("written");
    let file = file.path().to_str().expect("a path");
    let private = run(&["pkcs8", "-topk8", "-nocrypt", "-outform", "DER", "-in", file]);
    let public = run(&["pkey", "-pubout", "-in", file]);
    (private, String::from_utf8(public).expect("PEM"))
}

impl Signer {
    pub fn hs256(secret: &str) -> Self {
        Self::Hs256(secret.as_bytes().to_vec())
    }

    pub fn rs256() -> Self {
        let (private, public) = openssl(&["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]);
        Self::Rs256(Box::new(signature::RsaKeyPair::from_pkcs8(&private).expect("a key")), public)
    }

    pub fn es256() -> Self {
        let (private, public) = openssl(&["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]);
        let algorithm = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
        let key = signature::EcdsaKeyPair::from_pkcs8(algorithm, &private, &SystemRandom::new());
        Self::Es256(key.expect("a key"), public)
    }

    pub fn eddsa() -> Self {
        let (private, public) = openssl(&["-algorithm", "ED25519"]);
        Self::EdDsa(signature::Ed25519KeyPair::from_pkcs8_maybe_unchecked(&private).expect("a key"), public)
    }

    pub fn public_pem(&self) -> &str {
        match self {
            Self::Hs256(_) => panic!("it has none"),
            Self::Rs256(_, pem) | Self::Es256(_, pem) | Self::EdDsa(_, pem) => pem,
        }
    }

    pub fn algorithm(&self) -> &'static str {
        match self {
            Self::Hs256(_) => "HS256",
            Self::Rs256(..) => "RS256",
            Self::Es256(..) => "ES256",
            Self::EdDsa(..) => "EdDSA",
        }
    }

    /// Its public part as a JSON Web Key (RFC 7517); of a secret, the secret.
    pub fn jwk(&self, id: &str) -> Value {
        use signature::KeyPair as _;
        match self {
            Self::Hs256(secret) => json!({"kty": "oct", "kid": id, "k": encode(secret)}),
            Self::Rs256(key, _) => {
                let public = signature::RsaPublicKeyComponents::<Vec<u8>>::from(key.public_key());
                json!({"kty": "RSA", "kid": id, "use": "sig", "n": encode(public.n), "e": encode(public.e)})
            }
            Self::Es256(key, _) => {
                let point = key.public_key().as_ref();
                let (x, y) = (encode(&point[1..33]), encode(&point[33..]));
                json!({"kty": "EC", "crv": "P-256", "kid": id, "alg": "ES256", "x": x, "y": y})
            }
            Self::EdDsa(key, _) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": id, "x": encode(key.public_key().as_ref())})
            }
        }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Hs256(secret) => hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message).as_ref().to_vec(),
            Self::Rs256(key, _) => {
                let mut signed = vec![0; key.public().modulus_len()];
                key.sign(&signature::RSA_PKCS1_SHA256, &random, message, &mut signed).expect("signed");
                signed
            }
            Self::Es256(key, _) => key.sign(&random, message).expect("signed").as_ref().to_vec(),
            Self::EdDsa(key, _) => key.sign(message).as_ref().to_vec(),
        }
    }

    /// A token with that header.
    pub fn token_with(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        let signature = encode(self.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }

    pub fn token(&self, claims: &Value) -> String {
        self.token_with(&json!({"alg": self.algorithm(), "typ": "JWT"}), claims)
    }

    /// A token that names its key.
    pub fn token_of(&self, id: &str, claims: &Value) -> String {
        self.token_with(&json!({"alg": self.algorithm(), "kid": id}), claims)
    }
}

/// Claims for some rooms and an hour.
pub fn for_rooms(rooms: &[&str]) -> Value {
    json!({"sub": "alice", "exp": now() + 3600, "rooms": rooms})
}
