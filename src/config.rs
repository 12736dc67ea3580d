//! Settings: read, checked, and what differs between two readings of them.
//!
//! Later wins: the defaults compiled in (`config/default.toml`), a file, the environment (`DUET_SECTION__KEY`). A key
//! nobody knows and a value that cannot be used are errors, found before any port is bound. The environment is a
//! parameter, so no test touches the process's own.

use std::{collections::HashMap, fmt::Write as _, net::SocketAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

pub mod admission;
pub mod ice;
pub mod limits;
pub mod network;
pub mod rate;
pub mod seats;
pub mod tls;

pub use admission::Admission;
pub use ice::Ice;
pub use limits::Limits;
pub use network::{Networks, Origins, ProxyProtocol};
pub use rate::Rate;
pub use seats::Seats;
pub use tls::Tls;

/// The defaults, as the repository documents them.
pub const DEFAULTS: &str = include_str!("../config/default.toml");

/// Every setting.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The public listener.
    pub server: Server,
    /// HTTPS on it.
    pub tls: Tls,
    /// The operator's listener.
    pub admin: Admin,
    /// Who may come in.
    pub admission: Admission,
    /// What nodes share.
    pub redis: Redis,
    /// How nodes are one service.
    pub cluster: Cluster,
    /// What becomes of seats whose holders are lost.
    pub seats: Seats,
    /// What helps peers to reach each other.
    pub ice: Ice,
    /// What the lesson's clients expect.
    pub compat: Compat,
    /// The page at `/` and `/NAME`.
    pub page: Page,
    /// How much is taken.
    pub limits: Limits,
    /// How long is waited.
    pub timeouts: Timeouts,
    /// What is written.
    pub log: Log,
    /// What is traced.
    pub telemetry: Telemetry,
}

/// `[server]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// `DUET_SERVER__LISTEN`: where Socket.IO, the page and the client library are served.
    pub listen: SocketAddr,
    /// `DUET_SERVER__BACKLOG`: connections the kernel may hold before they are accepted.
    pub backlog: u32,
    /// `DUET_SERVER__WORKER_THREADS`: threads that serve; 0 for as many as there are cores for this process.
    pub worker_threads: usize,
    /// `DUET_SERVER__TRUSTED_PROXIES`: networks whose word on who the client is is believed.
    pub trusted_proxies: Networks,
    /// `DUET_SERVER__PROXY_PROTOCOL`: whether connections of trusted proxies begin with the PROXY protocol.
    pub proxy_protocol: ProxyProtocol,
    /// `DUET_SERVER__ALLOWED_ORIGINS`: whose pages may use this server from a browser; empty for any.
    pub allowed_origins: Origins,
    /// `DUET_SERVER__HSTS`: for how long browsers are told to come back by HTTPS only; nothing for not at all.
    #[serde(with = "humantime_serde")]
    pub hsts: Duration,
}

/// `[admin]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// `DUET_ADMIN__LISTEN`: where `/livez`, `/readyz`, `/metrics` and the admin API are served.
    pub listen: SocketAddr,
    /// `DUET_ADMIN__TOKEN`: what a request to the admin API has to bear; empty, and no file: there is no such API.
    pub token: String,
    /// `DUET_ADMIN__TOKEN_FILE`: a file with it.
    pub token_file: PathBuf,
}

/// The fewest characters of a token that nobody guesses.
const TOKEN_CHARACTERS: usize = 16;

impl Admin {
    /// What a request to the admin API has to bear, read from its file if it is in one; none when there is no such API.
    ///
    /// # Errors
    /// When the file cannot be read, or has no such token.
    pub fn bearer(&self) -> Result<Option<String>, BadSettings> {
        let (setting, token) = if self.token_file.as_os_str().is_empty() {
            ("admin.token", self.token.clone())
        } else {
            let text = std::fs::read_to_string(&self.token_file);
            let text =
                text.map_err(|error| BadSettings(format!("admin.token_file: {}: {error}", self.token_file.display())))?;
            ("admin.token_file", text.trim_end_matches(['\r', '\n']).to_owned())
        };
        if token.is_empty() && setting == "admin.token" {
            return Ok(None);
        }
        BadSettings::unless(
            token.len() >= TOKEN_CHARACTERS && token.bytes().all(|byte| byte.is_ascii_graphic()),
            &format!("{setting}: must be at least {TOKEN_CHARACTERS} visible ASCII characters, without spaces"),
        )?;
        Ok(Some(token))
    }
}

/// `[redis]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Redis {
    /// `DUET_REDIS__URL`: empty for one node.
    pub url: String,
    /// `DUET_REDIS__PASSWORD_FILE`: a file with the password, for a URL that has none.
    pub password_file: PathBuf,
    /// `DUET_REDIS__PREFIX`: what the names of all keys and channels begin with.
    pub prefix: String,
    /// `DUET_REDIS__CA_FILE`: certificates (PEM) that the server's is checked against; empty for the system's.
    pub ca_file: PathBuf,
    /// `DUET_REDIS__CERT_FILE`: this node's own certificate (PEM), for a server that asks for one.
    pub cert_file: PathBuf,
    /// `DUET_REDIS__KEY_FILE`: the key to it (PEM).
    pub key_file: PathBuf,
}

/// `[cluster]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// `DUET_CLUSTER__LEASE`: how long a node's seats stand without a word from it. The same on all nodes.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    /// `DUET_CLUSTER__RENEW`: how often it says that word.
    #[serde(with = "humantime_serde")]
    pub renew: Duration,
    /// `DUET_CLUSTER__PATIENCE`: how long a request waits for Redis, or for another node, before it is refused.
    #[serde(with = "humantime_serde")]
    pub patience: Duration,
    /// `DUET_CLUSTER__KEEP_PAIRS`: whether two peers of this node go on talking when it is out of Redis' reach for longer
    /// than its lease.
    pub keep_pairs: bool,
}

/// `[compat]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Compat {
    /// `DUET_COMPAT__CLIENT_LOG`: send the lesson's `log` events.
    pub client_log: bool,
    /// `DUET_COMPAT__IPADDR`: what `ipaddr` gives out.
    pub ipaddr: Addresses,
}

/// Which addresses `ipaddr` gives out.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum Addresses {
    /// Every IPv4 address of the machine but loopback, as the lesson's server does.
    Interfaces,
    /// None.
    None,
    /// These.
    These(Vec<std::net::IpAddr>),
}

impl TryFrom<String> for Addresses {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        match text.trim() {
            "interfaces" => Ok(Self::Interfaces),
            "none" => Ok(Self::None),
            list => list
                .split(',')
                .map(|address| address.trim().parse())
                .collect::<Result<_, _>>()
                .map(Self::These)
                .map_err(|_| format!("`{list}` is neither \"interfaces\" nor \"none\" nor a list of IP addresses")),
        }
    }
}

impl From<Addresses> for String {
    fn from(addresses: Addresses) -> Self {
        match addresses {
            Addresses::Interfaces => "interfaces".into(),
            Addresses::None => "none".into(),
            Addresses::These(list) => list.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        }
    }
}

/// `[page]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Page {
    /// `DUET_PAGE__DIRECTORY`: a directory of your own instead of the page compiled in; empty for the latter.
    pub directory: PathBuf,
}

/// `[timeouts]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    /// `DUET_TIMEOUTS__HANDSHAKE`: until a connection has sent its request head, and its Socket.IO CONNECT.
    #[serde(with = "humantime_serde")]
    pub handshake: Duration,
    /// `DUET_TIMEOUTS__REQUEST`: until the body of a request is there.
    #[serde(with = "humantime_serde")]
    pub request: Duration,
    /// `DUET_TIMEOUTS__PING_INTERVAL`: Engine.IO `pingInterval`.
    #[serde(with = "humantime_serde")]
    pub ping_interval: Duration,
    /// `DUET_TIMEOUTS__PING_TIMEOUT`: Engine.IO `pingTimeout`.
    #[serde(with = "humantime_serde")]
    pub ping_timeout: Duration,
    /// `DUET_TIMEOUTS__WRITE_STALL`: how long a connection may take no byte while some wait; also `TCP_USER_TIMEOUT`.
    #[serde(with = "humantime_serde")]
    pub write_stall: Duration,
    /// `DUET_TIMEOUTS__DRAIN`: from SIGTERM to exit.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
}

/// `[log]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// `DUET_LOG__LEVEL`: a level, or a filter as `tracing-subscriber`'s `EnvFilter` reads it.
    pub level: String,
    /// `DUET_LOG__FORMAT`: `auto`, `text` or `json`.
    pub format: LogFormat,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// Text.
    Text,
    /// JSON, one object a line.
    Json,
}

/// `[telemetry]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    /// `DUET_TELEMETRY__OTLP_ENDPOINT`: a collector of traces (OTLP over HTTP), without `/v1/traces`; empty for no traces.
    pub otlp_endpoint: String,
    /// `DUET_TELEMETRY__SAMPLE_RATIO`: how many of the requests are traced, from 0 to 1.
    pub sample_ratio: f64,
    /// `DUET_TELEMETRY__SERVICE_NAME`: what this service is called in traces.
    pub service_name: String,
}

/// Why the settings cannot be used: one line for whoever starts the server.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadSettings(String);

impl BadSettings {
    /// Nothing, if that holds.
    fn unless(holds: bool, complaint: &str) -> Result<(), Self> {
        if holds { Ok(()) } else { Err(Self(complaint.into())) }
    }
}

impl Settings {
    /// Reads the settings from the defaults, `file` and `environment`.
    ///
    /// # Errors
    /// [`BadSettings`] names the key, where it came from and what is wrong with it.
    pub fn load(file: Option<PathBuf>, environment: HashMap<String, String>) -> Result<Self, BadSettings> {
        let environment: HashMap<_, _> =
            environment.into_iter().filter(|(key, _)| key.starts_with("DUET_") && key != "DUET_CONFIG").collect();
        if let Some(stray) = environment.keys().find(|key| !key.contains("__")) {
            return Err(BadSettings(format!(
                "environment variable {stray}: no such setting (they read DUET_SECTION__KEY)"
            )));
        }
        // Texts that may look like numbers: read as one and written again, a secret of digits would be another.
        let texts = [
            ("ice.secret", environment.get("DUET_ICE__SECRET").cloned()),
            ("admission.jwt_secret", environment.get("DUET_ADMISSION__JWT_SECRET").cloned()),
            ("admin.token", environment.get("DUET_ADMIN__TOKEN").cloned()),
        ];
        let mut sources =
            config::Config::builder().add_source(config::File::from_str(DEFAULTS, config::FileFormat::Toml));
        if let Some(file) = file {
            sources = sources.add_source(config::File::from(file).format(config::FileFormat::Toml).required(true));
        }
        let settings: Self = texts
            .into_iter()
            .try_fold(sources, |sources, (key, text)| sources.set_override_option(key, text))
            .map_err(|error| BadSettings(error.to_string()))?
            .add_source(
                config::Environment::with_prefix("DUET")
                    .prefix_separator("_")
                    .separator("__")
                    .try_parsing(true)
                    .source(Some(environment)),
            )
            .build()
            .and_then(config::Config::try_deserialize)
            .map_err(|error| BadSettings(error.to_string().replace('\n', " ")))?;
        settings.validate()?;
        Ok(settings)
    }

    /// Checks what a type alone does not say.
    fn validate(&self) -> Result<(), BadSettings> {
        let require = |holds: bool, complaint: &str| if holds { Ok(()) } else { Err(BadSettings(complaint.into())) };
        require(self.server.backlog > 0, "server.backlog: must be at least 1")?;
        require(self.server.worker_threads <= 1024, "server.worker_threads: must be at most 1024")?;
        require(
            self.server.proxy_protocol == ProxyProtocol::Off || !self.server.trusted_proxies.is_empty(),
            "server.proxy_protocol: name the proxies in server.trusted_proxies",
        )?;
        require(self.server.hsts <= Duration::from_hours(24 * 800), "server.hsts: must be at most 800 days")?;
        self.admission.validate()?;
        self.tls.validate()?;
        require(
            self.admin.token.is_empty() || self.admin.token_file.as_os_str().is_empty(),
            "admin.token and admin.token_file: give one of them",
        )?;
        let prefix = &self.redis.prefix;
        require(
            (1..=32).contains(&prefix.len())
                && prefix.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b)),
            "redis.prefix: must be 1 to 32 of the characters A-Z a-z 0-9 - _ . :",
        )?;
        require(
            self.redis.cert_file.as_os_str().is_empty() == self.redis.key_file.as_os_str().is_empty(),
            "redis.cert_file and redis.key_file: give both or neither",
        )?;
        self.seats.validate()?;
        let cluster = &self.cluster;
        for (name, value, least, most) in [
            ("lease", cluster.lease, Duration::from_secs(1), Duration::from_mins(5)),
            ("renew", cluster.renew, Duration::from_millis(50), Duration::from_mins(1)),
            ("patience", cluster.patience, Duration::from_millis(100), Duration::from_mins(1)),
        ] {
            require(
                (least..=most).contains(&value),
                &format!("cluster.{name}: must be between {least:?} and {most:?}"),
            )?;
        }
        require(cluster.renew * 4 <= cluster.lease, "cluster.renew: must be at most a quarter of cluster.lease")?;
        require(
            self.page.directory.as_os_str().is_empty() || self.page.directory.join("index.html").is_file(),
            "page.directory: no index.html there",
        )?;
        self.ice.validate()?;
        self.limits.validate().map_err(BadSettings)?;
        for (name, value) in [
            ("handshake", self.timeouts.handshake),
            ("request", self.timeouts.request),
            ("ping_interval", self.timeouts.ping_interval),
            ("ping_timeout", self.timeouts.ping_timeout),
            ("write_stall", self.timeouts.write_stall),
        ] {
            let holds = (Duration::from_millis(100)..=Duration::from_mins(10)).contains(&value);
            require(holds, &format!("timeouts.{name}: must be between 100ms and 10m"))?;
        }
        require(self.timeouts.drain <= Duration::from_mins(10), "timeouts.drain: must be at most 10m")?;
        let telemetry = &self.telemetry;
        require(
            telemetry.otlp_endpoint.is_empty() || is_base_url(&telemetry.otlp_endpoint),
            "telemetry.otlp_endpoint: must be http://HOST[:PORT] or https://HOST[:PORT], with a path if need be",
        )?;
        require((0.0..=1.0).contains(&telemetry.sample_ratio), "telemetry.sample_ratio: must be between 0 and 1")?;
        require(!telemetry.service_name.is_empty(), "telemetry.service_name: must not be empty")?;
        self.log.filter().map(drop)
    }

    /// The settings in force as TOML, with secrets hidden.
    #[must_use]
    pub fn printable(&self) -> String {
        let mut shown = self.clone();
        shown.redis.url = hide_password(&shown.redis.url);
        shown.ice.hide_secrets();
        if !shown.admin.token.is_empty() {
            shown.admin.token = "***".into();
        }
        let value = shown.sections();
        let mut text = String::new();
        for (section, keys) in value {
            let _ = writeln!(text, "[{section}]");
            for (key, value) in keys.as_object().into_iter().flatten() {
                // A JSON text, number or truth value is one in TOML as well.
                let _ = writeln!(text, "{key} = {value}");
            }
            text.push('\n');
        }
        text
    }

    /// The names (`section.key`) of the settings that `other` has another value of, in no particular order.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let (ours, theirs) = (self.sections(), other.sections());
        let mut names = Vec::new();
        for (section, keys) in &ours {
            for (key, value) in keys.as_object().into_iter().flatten() {
                if theirs.get(section).and_then(|keys| keys.get(key)) != Some(value) {
                    names.push(format!("{section}.{key}"));
                }
            }
        }
        names
    }

    /// What these settings leave open to everybody, for whoever reads the log of a start. A section adds what it leaves open.
    #[must_use]
    pub fn open_to_all(&self) -> Vec<&'static str> {
        let mut open = Vec::new();
        let mut list = |holds: bool, what| {
            if holds {
                open.push(what);
            }
        };
        // Calls are overheard, unless somebody in front does TLS.
        list(!self.tls.is_on(), "tls");
        // Whoever can reach it may join any room.
        list(!self.admission.needs_tokens() && self.admission.webhook_url.is_empty(), "admission");
        // Any page may use it.
        list(self.server.allowed_origins == Origins::default(), "origins");
        // One address may take all there is.
        let limits = &self.limits;
        list(limits.sockets_per_address == 0 && limits.handshakes == Rate::NONE, "limits_per_address");
        // Metrics, and who holds the token may close rooms, from everywhere.
        list(!self.admin.listen.ip().is_loopback(), "admin_listener");
        // Addresses of the machine are told to whoever asks.
        list(self.compat.ipaddr == Addresses::Interfaces, "ipaddr");
        open
    }

    /// As they would be written, by section and key.
    fn sections(&self) -> serde_json::Map<String, serde_json::Value> {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::Object(sections)) => sections,
            _ => serde_json::Map::new(),
        }
    }
}

impl Log {
    /// The filter that `level` stands for.
    ///
    /// # Errors
    /// When it is neither a level nor a filter.
    pub fn filter(&self) -> Result<tracing_subscriber::EnvFilter, BadSettings> {
        // As many directives as anybody needs.
        BadSettings::unless(self.level.len() <= 1024, "log.level: must be at most 1024 characters")?;
        let known = |word: &str| ["off", "error", "warn", "info", "debug", "trace"].contains(&word);
        // A bare word that is no level would be taken for a target's name, and silence everything.
        if self.level.split(',').any(|part| !part.contains(['=', '[', ':']) && !known(part.trim())) {
            return Err(BadSettings(format!("log.level: `{}` is no level", self.level)));
        }
        tracing_subscriber::EnvFilter::try_new(&self.level).map_err(|error| BadSettings(format!("log.level: {error}")))
    }
}

/// Whether `text` is an `http` or `https` URL that a path can be appended to. One with credentials would show them.
fn is_base_url(text: &str) -> bool {
    let Ok(uri) = text.parse::<http::Uri>() else { return false };
    let named = |authority: &http::uri::Authority| {
        !authority.host().is_empty() && (authority.as_str() == authority.host() || authority.port_u16().is_some())
    };
    matches!(uri.scheme_str(), Some("http" | "https"))
        && uri.authority().is_some_and(named)
        && !text.contains(['@', '?', '#'])
}

/// `scheme://user:password@host` with the password hidden.
fn hide_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let Some((credentials, host)) = rest.rsplit_once('@') else { return url.to_owned() };
    let user = credentials.split_once(':').map_or("", |(user, _)| user);
    format!("{scheme}://{user}:***@{host}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(environment: &[(&str, &str)]) -> Result<Settings, BadSettings> {
        Settings::load(None, environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn the_defaults_are_those_of_the_contract() {
        let settings = load(&[]).expect("defaults");
        assert_eq!(settings.server.listen.to_string(), "0.0.0.0:8080");
        assert_eq!(settings.admin.listen.to_string(), "127.0.0.1:9090");
        assert_eq!(settings.redis.url, "");
        assert!(settings.compat.client_log);
        assert_eq!(settings.limits.outbound_bytes, 1 << 20);
        let limits = &settings.limits;
        assert_eq!(String::from(limits.events), "100/s burst 1000");
        assert_eq!((limits.sockets_per_address, limits.connections_per_address), (0, 0));
        assert_eq!(limits.handshakes, Rate::NONE);
        assert!(settings.server.trusted_proxies.is_empty() && settings.server.allowed_origins.is_any());
        assert_eq!(settings.telemetry.otlp_endpoint, "");
        let noticed = settings.timeouts.ping_interval + settings.timeouts.ping_timeout;
        assert!(noticed < Duration::from_secs(20) && settings.timeouts.handshake <= Duration::from_secs(10));
    }

    #[test]
    fn the_environment_wins_over_the_file_and_the_file_over_the_defaults() {
        let file = std::env::temp_dir().join(format!("duet-config-test-{}.toml", std::process::id()));
        std::fs::write(&file, "[server]\nlisten = \"127.0.0.1:1\"\n[timeouts]\ndrain = \"3s\"\n").expect("write");
        let environment = HashMap::from([("DUET_SERVER__LISTEN".to_owned(), "127.0.0.1:2".to_owned())]);
        let settings = Settings::load(Some(file.clone()), environment).expect("valid");
        std::fs::remove_file(file).expect("remove");
        assert_eq!(settings.server.listen.port(), 2);
        assert_eq!(settings.timeouts.drain, Duration::from_secs(3));
        assert_eq!(settings.admin.listen.port(), 9090);
    }

    #[test]
    fn a_setting_nobody_knows_and_a_value_nobody_can_use_are_one_clear_line() {
        for (key, value, says) in [
            ("DUET_SERVER__LISTENN", "127.0.0.1:1", "listenn"),
            ("DUET_SERVER", "x", "DUET_SERVER"),
            ("DUET_SERVER__LISTEN", "nonsense", "listen"),
            ("DUET_COMPAT__CLIENT_LOG", "maybe", "client_log"),
            ("DUET_COMPAT__IPADDR", "everything", "everything"),
            ("DUET_LIMITS__MESSAGE_BYTES", "1", "message_bytes"),
            ("DUET_LIMITS__MESSAGE_BYTES", "-1", "message_bytes"),
            ("DUET_LIMITS__EVENTS", "often", "often"),
            ("DUET_LIMITS__TRACKED", "1", "limits.tracked"),
            ("DUET_LIMITS__CANDIDATE_BYTES", "7", "limits.candidate_bytes"),
            ("DUET_SERVER__TRUSTED_PROXIES", "10.0.0.0/40", "10.0.0.0/40"),
            ("DUET_SERVER__PROXY_PROTOCOL", "on", "trusted_proxies"),
            ("DUET_SERVER__PROXY_PROTOCOL", "v3", "proxy_protocol"),
            ("DUET_SERVER__ALLOWED_ORIGINS", "example.org", "example.org"),
            ("DUET_SERVER__HSTS", "10y", "server.hsts"),
            ("DUET_TIMEOUTS__DRAIN", "soon", "drain"),
            ("DUET_TIMEOUTS__HANDSHAKE", "1h", "handshake"),
            ("DUET_LOG__LEVEL", "loud", "loud"),
            ("DUET_LOG__FORMAT", "xml", "format"),
            ("DUET_PAGE__DIRECTORY", "/nowhere/at/all", "page.directory"),
            ("DUET_ADMISSION__JWT_SECRET", "short", "admission.jwt_secret"),
            ("DUET_ADMISSION__JWKS_URL", "issuer.example/keys", "admission.jwks_url"),
            ("DUET_ADMISSION__JWKS_REFRESH", "48h", "admission.jwks_refresh"),
            ("DUET_ADMISSION__JWKS_MIN_INTERVAL", "30m", "admission.jwks_min_interval"),
            ("DUET_ADMISSION__JWKS_KEEP", "1m", "admission.jwks_keep"),
            ("DUET_ADMISSION__LEEWAY", "1h", "admission.leeway"),
            ("DUET_ADMISSION__WEBHOOK_URL", "http://hook.example/", "admission.webhook_url"),
            ("DUET_ADMISSION__WEBHOOK_CONCURRENCY", "0", "admission.webhook_concurrency"),
            ("DUET_TLS__CERT_FILE", "/x.pem", "tls.cert_file"),
            ("DUET_TLS__WATCH", "1ms", "tls.watch"),
            ("DUET_REDIS__PREFIX", "a b", "redis.prefix"),
            ("DUET_REDIS__CERT_FILE", "/x.pem", "redis.cert_file"),
            ("DUET_ICE__STUN", "stun://a", "ice.stun"),
            ("DUET_ICE__STUN", "turn:a", "ice.stun"),
            ("DUET_ICE__TURN", "turn:a?transport=sctp", "ice.turn"),
            ("DUET_ICE__TURN", "turn:a", "ice.secret"),
            ("DUET_ICE__SECRET", "0123456789 abcdef", "ice.secret"),
            ("DUET_ICE__LIFETIME", "0s", "ice.lifetime"),
            ("DUET_ICE__USER_PREFIX", "a:b", "ice.user_prefix"),
            ("DUET_CLUSTER__LEASE", "1ms", "cluster.lease"),
            ("DUET_CLUSTER__RENEW", "3s", "cluster.renew"),
            ("DUET_CLUSTER__PATIENCE", "1h", "cluster.patience"),
            ("DUET_TELEMETRY__OTLP_ENDPOINT", "collector:4318", "telemetry.otlp_endpoint"),
            ("DUET_TELEMETRY__OTLP_ENDPOINT", "grpc://collector:4317", "telemetry.otlp_endpoint"),
            ("DUET_TELEMETRY__OTLP_ENDPOINT", "http://", "telemetry.otlp_endpoint"),
            ("DUET_TELEMETRY__OTLP_ENDPOINT", "http://collector:65536", "telemetry.otlp_endpoint"),
            ("DUET_TELEMETRY__OTLP_ENDPOINT", "http://me:secret@collector", "telemetry.otlp_endpoint"),
            ("DUET_TELEMETRY__OTLP_ENDPOINT", "http://collector/?a=b", "telemetry.otlp_endpoint"),
            ("DUET_TELEMETRY__SAMPLE_RATIO", "1.5", "telemetry.sample_ratio"),
            ("DUET_TELEMETRY__SAMPLE_RATIO", "NaN", "telemetry.sample_ratio"),
            ("DUET_TELEMETRY__SAMPLE_RATIO", "often", "sample_ratio"),
            ("DUET_TELEMETRY__SERVICE_NAME", "", "telemetry.service_name"),
        ] {
            let error = load(&[(key, value)]).expect_err(key).to_string();
            assert!(error.contains(says) && !error.contains('\n'), "{key}={value}: {error}");
        }
        assert!(Settings::load(Some("/nowhere.toml".into()), HashMap::new()).is_err());
    }

    #[test]
    fn a_collector_is_named_by_an_url() {
        for endpoint in ["http://collector:4318", "https://collector", "http://[::1]:4318/otlp/", "http://127.0.0.1:1"]
        {
            let settings = load(&[("DUET_TELEMETRY__OTLP_ENDPOINT", endpoint), ("DUET_TELEMETRY__SAMPLE_RATIO", "1")]);
            assert_eq!(settings.expect(endpoint).telemetry.otlp_endpoint, endpoint);
        }
    }

    #[test]
    fn the_cluster_file_is_valid() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/config/cluster.toml");
        let settings = Settings::load(Some(file.into()), HashMap::new()).expect("valid");
        assert!(!settings.compat.client_log);
        assert_eq!(settings.compat.ipaddr, Addresses::None);
    }

    #[test]
    fn passwords_do_not_show() {
        assert_eq!(hide_password("redis://me:secret@host:1/0"), "redis://me:***@host:1/0");
        assert_eq!(hide_password("redis://:secret@host"), "redis://:***@host");
        assert_eq!(hide_password("redis://host"), "redis://host");
        let mut settings = load(&[]).expect("defaults");
        settings.redis.url = "redis://me:secret@host".into();
        settings.ice.secret = "north-of-the-river".into();
        let printed = settings.printable();
        assert!(!printed.contains("secret@") && !printed.contains("river"), "{printed}");
        let secret = "neither-printed-nor-shown-0123456789";
        let settings = load(&[("DUET_ADMISSION__JWT_SECRET", secret)]).expect("valid");
        assert_eq!(settings.admission.jwt_secret.as_str(), secret);
        assert!(settings.printable().contains("jwt_secret = \"***\""));
        assert!(!format!("{settings:?}").contains(secret));
    }

    #[test]
    fn a_secret_of_digits_stays_as_it_is() {
        for secret in ["00001234567890123", "12345678901234567890123456789012", "1e1000000000000000"] {
            assert_eq!(load(&[("DUET_ICE__SECRET", secret)]).expect("valid").ice.secret, secret);
        }
        let secret = "00001234567890123456789012345678";
        let settings = load(&[("DUET_ADMISSION__JWT_SECRET", secret)]).expect("valid");
        assert_eq!(settings.admission.jwt_secret.as_str(), secret);
    }

    #[test]
    fn a_token_is_long_enough_comes_from_one_place_and_does_not_show() {
        let token = |environment: &[(&str, &str)]| load(environment).expect("valid").admin.bearer();
        assert_eq!(token(&[]).expect("none"), None);
        for numeric in ["0000000000000042", "1e00000000000001", "123456789012345678901234567890"] {
            assert_eq!(token(&[("DUET_ADMIN__TOKEN", numeric)]).expect("valid").as_deref(), Some(numeric));
        }
        let settings = load(&[("DUET_ADMIN__TOKEN", "0123456789abcdef")]).expect("valid");
        assert_eq!(settings.admin.bearer().expect("valid").as_deref(), Some("0123456789abcdef"));
        assert!(!settings.printable().contains("0123456789abcdef"));
        for wrong in ["short", "0123456789 abcdef", "0123456789abcdéf"] {
            let error = token(&[("DUET_ADMIN__TOKEN", wrong)]).expect_err(wrong).to_string();
            assert!(error.contains("admin.token") && !error.contains(wrong), "{error}");
        }
        let file = std::env::temp_dir().join(format!("duet-token-test-{}", std::process::id()));
        std::fs::write(&file, "a-token-in-a-file\n").expect("write");
        let name = file.to_str().expect("a name");
        assert_eq!(token(&[("DUET_ADMIN__TOKEN_FILE", name)]).expect("valid").as_deref(), Some("a-token-in-a-file"));
        let both = load(&[("DUET_ADMIN__TOKEN_FILE", name), ("DUET_ADMIN__TOKEN", "0123456789abcdef")]);
        assert!(both.expect_err("both").to_string().contains("admin.token_file"));
        std::fs::write(&file, "\n").expect("write");
        assert!(token(&[("DUET_ADMIN__TOKEN_FILE", name)]).is_err(), "an empty file is no token, and no word for none");
        std::fs::remove_file(&file).expect("remove");
        assert!(token(&[("DUET_ADMIN__TOKEN_FILE", name)]).is_err());
    }

    #[test]
    fn what_differs_is_named_without_its_value() {
        let (old, new) = (load(&[]).expect("valid"), load(&[("DUET_LOG__LEVEL", "debug"), ("DUET_TLS__WATCH", "0s")]));
        let mut names = old.differences(&new.expect("valid"));
        names.sort();
        assert_eq!(names, ["log.level", "tls.watch"]);
        assert_eq!(old.differences(&old), [""; 0]);
    }

    #[test]
    fn what_is_open_is_said() {
        let settings = load(&[]).expect("valid");
        assert_eq!(settings.open_to_all(), ["tls", "admission", "origins", "limits_per_address", "ipaddr"]);
        let closed = [
            ("DUET_TLS__CERT_FILE", "c.pem"),
            ("DUET_TLS__KEY_FILE", "k.pem"),
            ("DUET_COMPAT__IPADDR", "none"),
            ("DUET_ADMIN__LISTEN", "[::]:9090"),
            ("DUET_ADMISSION__JWT_SECRET", "0123456789abcdef0123456789abcdef"),
            ("DUET_SERVER__ALLOWED_ORIGINS", "https://example.org"),
            ("DUET_LIMITS__SOCKETS_PER_ADDRESS", "100"),
        ];
        assert_eq!(load(&closed).expect("valid").open_to_all(), ["admin_listener"]);
    }

    #[test]
    fn what_is_printed_can_be_read_again() {
        let settings = load(&[("DUET_COMPAT__IPADDR", "192.0.2.1, 2001:db8::1")]).expect("valid");
        let text = settings.printable();
        let again: Settings = config::Config::builder()
            .add_source(config::File::from_str(&text, config::FileFormat::Toml))
            .build()
            .and_then(config::Config::try_deserialize)
            .expect("readable");
        assert_eq!(again.printable(), text);
    }
}
