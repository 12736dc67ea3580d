//! Which Redis servers take writes, and for which keys: one server, what Sentinels name, or the primaries of a Redis
//! Cluster.
//!
//! Protocol pages: <https://redis.io/docs/latest/develop/reference/sentinel-clients/>,
//! <https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>.

use std::{fs, ops::RangeInclusive, path::Path, sync::Arc, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo,
    ProtocolVersion, TlsCertificates, Value, io::tcp::TcpSettings,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use crate::config;

/// Slots of a Redis Cluster.
pub const SLOTS: u16 = 16_384;
/// How many partitions the rooms of a Redis Cluster are spread over. All nodes of all versions have to agree.
pub const PARTITIONS: u16 = 64;
/// `TCP_USER_TIMEOUT` (RFC 5482) of connections to Redis.
pub const UNACKNOWLEDGED: Duration = Duration::from_secs(5);

/// Why the settings name no Redis that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("redis.{0}")]
pub struct BadRedis(String);

/// Why nobody could be asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TopologyError {
    /// What Redis, or the way to it, says.
    #[error("{0}")]
    Redis(#[from] redis::RedisError),
    /// It answered, but what this needs is not in it.
    #[error("{0}")]
    Answer(&'static str),
}

/// A server that takes writes for some slots.
#[derive(Debug, Clone)]
pub struct Primary {
    /// How it is reached.
    pub client: Client,
    /// With TLS: what is trusted, and who this node is.
    pub tls: Option<Arc<ClientConfig>>,
    /// Its slots.
    pub slots: Vec<RangeInclusive<u16>>,
}

impl Primary {
    /// Its address, to tell it from others.
    #[must_use]
    pub fn address(&self) -> String {
        self.client.get_connection_info().addr().to_string()
    }

    /// Whether it takes writes for that slot.
    #[must_use]
    pub fn has(&self, slot: u16) -> bool {
        self.slots.iter().any(|range| range.contains(&slot))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Single,
    Sentinel,
    Cluster,
}

/// How Redis is run, as the settings have it.
#[derive(Debug, Clone)]
pub struct Deployment {
    kind: Kind,
    /// The server; the Sentinels; some nodes of the cluster.
    seeds: Vec<ConnectionInfo>,
    /// What the primary is called, for Sentinels.
    name: String,
    certificates: Option<TlsCertificates>,
    tls: Option<Arc<ClientConfig>>,
}

impl Deployment {
    /// Reads `[redis]`.
    ///
    /// # Errors
    /// [`BadRedis`] in one line, without any password.
    pub fn parse(settings: &config::Redis) -> Result<Self, BadRedis> {
        let bad = |what: &str| BadRedis(format!("url: {what}"));
        let (scheme, rest) = settings.url.split_once("://").ok_or_else(|| bad("no scheme such as redis://"))?;
        let (kind, tls) = match scheme {
            "redis" => (Kind::Single, false),
            "rediss" => (Kind::Single, true),
            "redis+sentinel" => (Kind::Sentinel, false),
            "rediss+sentinel" => (Kind::Sentinel, true),
            "redis-cluster" => (Kind::Cluster, false),
            "rediss-cluster" => (Kind::Cluster, true),
            _ => {
                return Err(bad(
                    "the scheme must be redis, rediss, redis+sentinel, rediss+sentinel, redis-cluster or \
                                rediss-cluster",
                ));
            }
        };
        let (credentials, rest) = rest.rsplit_once('@').map_or(("", rest), |(credentials, rest)| (credentials, rest));
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        if path.contains(['?', '#']) || hosts.contains(['?', '#']) {
            return Err(bad("options are not taken there"));
        }
        let (name, db) = match kind {
            Kind::Single => ("", path),
            Kind::Sentinel => path.split_once('/').unwrap_or((path, "")),
            Kind::Cluster if !path.is_empty() => return Err(bad("a Redis Cluster has no databases")),
            Kind::Cluster => ("", ""),
        };
        if kind == Kind::Sentinel && name.is_empty() {
            return Err(bad("after the Sentinels, /NAME of the primary is missing"));
        }
        if kind == Kind::Single && hosts.contains(',') {
            return Err(bad("one server only; use redis+sentinel:// or redis-cluster:// for several"));
        }
        let password = password(settings)?;
        if password.is_some() && credentials.contains(':') {
            return Err(BadRedis("password_file: the URL has a password too".into()));
        }
        let seeds = hosts
            .split(',')
            .map(|host| {
                let at = if credentials.is_empty() { "" } else { "@" };
                let scheme = if tls { "rediss" } else { "redis" };
                let port = match kind {
                    Kind::Sentinel if !has_port(host) => ":26379",
                    _ => "",
                };
                if host.is_empty() {
                    return Err(bad("a host is missing"));
                }
                format!("{scheme}://{credentials}{at}{host}{port}/{db}")
                    .into_connection_info()
                    .map(|info| with_password(info, password.as_deref()))
                    // The library's words may repeat the URL.
                    .map_err(|_| bad("not of the form SCHEME://[USER:PASSWORD@]HOST[:PORT][/DB]"))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let certificates = certificates(settings, tls)?;
        let tls = certificates.as_ref().map(tls_config).transpose()?.map(Arc::new);
        Ok(Self { kind, seeds, name: name.to_owned(), certificates, tls })
    }

    /// How many partitions the rooms are spread over.
    #[must_use]
    pub fn partitions(&self) -> u16 {
        if self.kind == Kind::Cluster { PARTITIONS } else { 1 }
    }

    /// Whether who takes writes may change while this node runs.
    #[must_use]
    pub fn moves(&self) -> bool {
        self.kind != Kind::Single
    }

    /// Asks who takes writes now.
    ///
    /// # Errors
    /// When nobody who could know answers within `patience`.
    pub async fn primaries(&self, patience: Duration) -> Result<Vec<Primary>, TopologyError> {
        match self.kind {
            Kind::Single => {
                let client = self.client(self.seeds[0].clone())?;
                Ok(vec![self.primary(client, 0..=SLOTS - 1)])
            }
            Kind::Sentinel => self.ask_each(patience, |client| self.ask_sentinel(client, patience)).await,
            Kind::Cluster => self.ask_each(patience, |client| self.ask_cluster(client, patience)).await,
        }
    }

    async fn ask_each<F>(&self, patience: Duration, ask: impl Fn(Client) -> F) -> Result<Vec<Primary>, TopologyError>
    where
        F: Future<Output = Result<Vec<Primary>, TopologyError>>,
    {
        let mut last = TopologyError::Answer("nobody to ask");
        for seed in &self.seeds {
            match tokio::time::timeout(patience, ask(self.client(seed.clone())?)).await {
                Ok(Ok(primaries)) => return Ok(primaries),
                Ok(Err(error)) => last = error,
                Err(_) => last = TopologyError::Answer("no answer in time"),
            }
        }
        Err(last)
    }

    async fn ask_sentinel(&self, sentinel: Client, patience: Duration) -> Result<Vec<Primary>, TopologyError> {
        // A Sentinel has no databases.
        let mut connection = connect(&at_database(&sentinel, 0)?, patience).await?;
        let address: Option<(String, u16)> =
            redis::cmd("SENTINEL").arg("get-master-addr-by-name").arg(&self.name).query_async(&mut connection).await?;
        let (host, port) = address.ok_or(TopologyError::Answer("the Sentinels know no primary of that name"))?;
        let client = self.client(self.seeds[0].clone().set_addr(self.address(host, port)))?;
        // A Sentinel may not have heard yet; a server that is not primary any more says so itself.
        let mut connection = connect(&client, patience).await?;
        let role: Vec<Value> = redis::cmd("ROLE").query_async(&mut connection).await?;
        match role.first() {
            Some(Value::BulkString(role)) if role == b"master" => {}
            Some(Value::SimpleString(role)) if role == "master" => {}
            _ => return Err(TopologyError::Answer("the server that the Sentinels name is no primary")),
        }
        Ok(vec![self.primary(client, 0..=SLOTS - 1)])
    }

    async fn ask_cluster(&self, seed: Client, patience: Duration) -> Result<Vec<Primary>, TopologyError> {
        let (ConnectionAddr::Tcp(seed_host, _) | ConnectionAddr::TcpTls { host: seed_host, .. }) =
            seed.get_connection_info().addr().clone()
        else {
            return Err(TopologyError::Answer("a Redis Cluster is reached by TCP"));
        };
        let mut connection = connect(&seed, patience).await?;
        let state: String = redis::cmd("CLUSTER").arg("INFO").query_async(&mut connection).await?;
        if !state.contains("cluster_state:ok") {
            return Err(TopologyError::Answer("the Redis Cluster says that it is down"));
        }
        let ranges: Vec<Vec<Value>> = redis::cmd("CLUSTER").arg("SLOTS").query_async(&mut connection).await?;
        let malformed = || TopologyError::Answer("CLUSTER SLOTS answered in another form than expected");
        let mut primaries: Vec<Primary> = Vec::new();
        for range in ranges {
            let [Value::Int(start), Value::Int(end), Value::Array(primary), ..] = &range[..] else {
                return Err(malformed());
            };
            let [host, Value::Int(port), ..] = &primary[..] else { return Err(malformed()) };
            let (Ok(start), Ok(end), Ok(port)) = (u16::try_from(*start), u16::try_from(*end), u16::try_from(*port))
            else {
                return Err(malformed());
            };
            let host = match host {
                Value::BulkString(host) if !host.is_empty() => String::from_utf8_lossy(host).into_owned(),
                Value::SimpleString(host) if !host.is_empty() => host.clone(),
                // "Whatever you reached me by."
                _ => seed_host.clone(),
            };
            let addr = self.address(host, port);
            if let Some(known) = primaries.iter_mut().find(|known| known.address() == addr.to_string()) {
                known.slots.push(start..=end);
            } else {
                let client = self.client(self.seeds[0].clone().set_addr(addr))?;
                primaries.push(self.primary(client, start..=end));
            }
        }
        Ok(primaries)
    }

    fn primary(&self, client: Client, slots: RangeInclusive<u16>) -> Primary {
        Primary { client, tls: self.tls.clone(), slots: vec![slots] }
    }

    fn address(&self, host: String, port: u16) -> ConnectionAddr {
        match self.seeds[0].addr() {
            ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
                ConnectionAddr::TcpTls { host, port, insecure: *insecure, tls_params: tls_params.clone() }
            }
            _ => ConnectionAddr::Tcp(host, port),
        }
    }

    fn client(&self, info: ConnectionInfo) -> Result<Client, redis::RedisError> {
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let tcp = TcpSettings::default().set_nodelay(true).set_user_timeout(UNACKNOWLEDGED);
        let info = info.set_redis_settings(settings).set_tcp_settings(tcp);
        match &self.certificates {
            Some(certificates) => Client::build_with_tls(info, certificates.clone()),
            None => Client::open(info),
        }
    }
}

fn has_port(host: &str) -> bool {
    host.rsplit_once(':').is_some_and(|(before, port)| {
        !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) && (!before.contains(':') || before.ends_with(']'))
    })
}

fn at_database(client: &Client, db: i64) -> Result<Client, redis::RedisError> {
    let info = client.get_connection_info().clone();
    let settings = info.redis_settings().clone().set_db(db);
    Client::open(info.set_redis_settings(settings))
}

async fn connect(client: &Client, patience: Duration) -> Result<redis::aio::MultiplexedConnection, redis::RedisError> {
    let config =
        AsyncConnectionConfig::new().set_connection_timeout(Some(patience)).set_response_timeout(Some(patience));
    client.get_multiplexed_async_connection_with_config(&config).await
}

fn password(settings: &config::Redis) -> Result<Option<String>, BadRedis> {
    if settings.password_file.as_os_str().is_empty() {
        return Ok(None);
    }
    let bad = |what: &str| BadRedis(format!("password_file: {what}"));
    let text = fs::read_to_string(&settings.password_file).map_err(|error| bad(&format!("cannot be read: {error}")))?;
    let password = text.trim_end_matches(['\r', '\n']);
    if password.is_empty() { Err(bad("is empty")) } else { Ok(Some(password.to_owned())) }
}

fn with_password(info: ConnectionInfo, password: Option<&str>) -> ConnectionInfo {
    let Some(password) = password else { return info };
    let settings = info.redis_settings().clone().set_password(password);
    info.set_redis_settings(settings)
}

fn certificates(settings: &config::Redis, tls: bool) -> Result<Option<TlsCertificates>, BadRedis> {
    let read = |key: &str, path: &Path| -> Result<Option<Vec<u8>>, BadRedis> {
        if path.as_os_str().is_empty() {
            return Ok(None);
        }
        if !tls {
            return Err(BadRedis(format!("{key}: is of no use without TLS (rediss://)")));
        }
        fs::read(path).map(Some).map_err(|error| BadRedis(format!("{key}: cannot be read: {error}")))
    };
    let root_cert = read("ca_file", &settings.ca_file)?;
    let client_cert = read("cert_file", &settings.cert_file)?;
    let client_key = read("key_file", &settings.key_file)?;
    let client_tls =
        client_cert.zip(client_key).map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key });
    Ok(tls.then_some(TlsCertificates { client_tls, root_cert }))
}

/// The same for the connection that the crate does not make.
fn tls_config(certificates: &TlsCertificates) -> Result<ClientConfig, BadRedis> {
    let bad = |key: &str, error: &dyn std::fmt::Display| BadRedis(format!("{key}: {error}"));
    let mut roots = RootCertStore::empty();
    let trusted = match &certificates.root_cert {
        Some(pem) => CertificateDer::pem_slice_iter(pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| bad("ca_file", &error))?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    for certificate in trusted {
        roots.add(certificate).map_err(|error| bad("ca_file", &error))?;
    }
    let config = ClientConfig::builder().with_root_certificates(roots);
    let Some(client) = &certificates.client_tls else { return Ok(config.with_no_client_auth()) };
    let chain = CertificateDer::pem_slice_iter(&client.client_cert)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| bad("cert_file", &error))?;
    let key = PrivateKeyDer::from_pem_slice(&client.client_key).map_err(|error| bad("key_file", &error))?;
    config.with_client_auth_cert(chain, key).map_err(|error| bad("cert_file", &error))
}

/// The slot of a key (CRC16 of its hash tag, as the cluster specification has it).
#[must_use]
pub fn slot(key: &[u8]) -> u16 {
    let tag = key.iter().position(|b| *b == b'{').and_then(|open| {
        let length = key[open + 1..].iter().position(|b| *b == b'}')?;
        (length > 0).then(|| &key[open + 1..open + 1 + length])
    });
    tag.unwrap_or(key).iter().fold(0_u16, |mut crc, byte| {
        crc ^= u16::from(*byte) << 8;
        for _ in 0..8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
        }
        crc
    }) % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Deployment, BadRedis> {
        Deployment::parse(&config::Redis {
            url: url.into(),
            password_file: "".into(),
            prefix: "duet".into(),
            ca_file: "".into(),
            cert_file: "".into(),
            key_file: "".into(),
        })
    }

    #[test]
    fn the_three_ways_to_run_redis_are_understood() {
        let single = parse("redis://me:secret@cache:7000/3").expect("valid");
        assert_eq!(single.seeds[0].addr().to_string(), "cache:7000");
        assert_eq!((single.seeds[0].redis_settings().db(), single.partitions(), single.moves()), (3, 1, false));
        assert_eq!(single.seeds[0].redis_settings().password(), Some("secret"));
        let sentinel = parse("redis+sentinel://:pw@a,b:1/mymaster/2").expect("valid");
        let addresses: Vec<_> = sentinel.seeds.iter().map(|seed| seed.addr().to_string()).collect();
        assert_eq!((addresses, &*sentinel.name), (vec!["a:26379".to_owned(), "b:1".to_owned()], "mymaster"));
        let cluster = parse("redis-cluster://a:1,b:2,c:3").expect("valid");
        assert_eq!((cluster.seeds.len(), cluster.partitions()), (3, PARTITIONS));
        assert!(matches!(parse("rediss://a").expect("valid").seeds[0].addr(), ConnectionAddr::TcpTls { .. }));
    }

    #[test]
    fn what_cannot_be_used_is_one_line_without_the_password() {
        for url in [
            "somewhere",
            "http://a",
            "redis://a,b",
            "redis+sentinel://a",
            "redis+sentinel://a/",
            "redis-cluster://a/1",
            "redis://user:hunter2@:x/y/z",
            "redis://a/notanumber",
            "redis://a/0?protocol=resp2",
            "redis-cluster://a,,b",
        ] {
            let error = parse(url).expect_err(url).to_string();
            assert!(error.starts_with("redis.url: ") && !error.contains('\n') && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn slots_are_those_of_the_specification() {
        // "123456789" is the specification's own example; the others as CLUSTER KEYSLOT answers them.
        assert_eq!(slot(b"123456789"), 0x31C3);
        assert_eq!(slot(b"foo"), 12_182);
        assert_eq!(slot(b"{foo}bar"), slot(b"foo"));
        assert_eq!(slot(b"{}foo"), slot(b"{}foo"));
        assert_ne!(slot(b"{}foo"), slot(b"foo"));
    }
}
