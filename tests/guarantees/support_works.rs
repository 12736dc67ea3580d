//! The tests' Redis processes and their proxy do what the tests take them to do.

use std::{
    future::Future,
    io,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::Command,
};

use crate::support::{
    PATIENCE,
    chaos::{ChaosProxy, Mode},
    redis::{Redis, RedisOptions, Sentinels},
};

/// How long nothing has to happen to be taken as never.
const QUIET: Duration = Duration::from_millis(150);

async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("in time")
}

async fn set(redis: &Redis) {
    assert_eq!(redis.command(&["SET", "duet:a", "1"]).await, "+OK\r\n");
}

async fn size(redis: &Redis) -> String {
    redis.command(&["DBSIZE"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_answers_and_is_gone_when_dropped() {
    let redis = Redis::start(RedisOptions::default()).await;
    assert_eq!(redis.url(), format!("redis://127.0.0.1:{}", redis.port()));
    set(&redis).await;
    assert_eq!(redis.command(&["KEYS", "*"]).await, "*1\r\n$6\r\nduet:a\r\n");
    assert_eq!(
        redis.command(&["EVAL", "return {1, {'é', false}, 'b'}", "0"]).await,
        "*3\r\n:1\r\n*2\r\n$2\r\né\r\n$-1\r\n$1\r\nb\r\n"
    );
    assert!(redis.command(&["NONSENSE"]).await.starts_with("-ERR"));
    assert_eq!(redis.command(&["FLUSHALL"]).await, "+OK\r\n");
    assert_eq!(size(&redis).await, ":0\r\n");
    let (port, process, directory) = (redis.port(), format!("/proc/{}", redis.pid()), redis.directory().to_owned());
    assert!(Path::new(&process).exists() && directory.exists());
    redis.stall();
    drop(redis);
    assert!(!Path::new(&process).exists() && !directory.exists());
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_without_a_log_comes_back_empty_and_with_one_as_it_was() {
    for (append_only, expected) in [(false, ":0\r\n"), (true, ":1\r\n")] {
        let mut redis = Redis::start(RedisOptions { append_only, ..RedisOptions::default() }).await;
        let (port, pid) = (redis.port(), redis.pid());
        set(&redis).await;
        redis.kill();
        assert!(redis.try_command(&["PING"]).await.is_err());
        redis.restart().await;
        assert_eq!(size(&redis).await, expected);
        assert!(redis.port() == port && redis.pid() != pid);
        // Also when it runs.
        redis.command(&["SAVE"]).await;
        redis.restart().await;
        assert_eq!(size(&redis).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_redis_answers_when_it_goes_on() {
    let redis = Redis::start(RedisOptions::default()).await;
    redis.stall();
    let mut asked = std::pin::pin!(size(&redis));
    assert!(tokio::time::timeout(QUIET, &mut asked).await.is_err());
    redis.resume();
    assert_eq!(in_time(asked).await, ":0\r\n");
}

/// What `redis-cli` says to a command at an URL.
async fn cli(url: &str, more: &[&str]) -> String {
    // It takes an empty name for a name.
    let url = url.replace("://:", "://default:");
    let output = Command::new("redis-cli").args(["--no-auth-warning", "-u", &url]).args(more).output();
    let output = in_time(output).await.expect("redis-cli");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_takes_only_who_it_was_told_to() {
    let password = Some("top secret:@/".to_owned());
    let acl_user = Some(("duet".to_owned(), "se>cret".to_owned()));
    let redis = Redis::start(RedisOptions { password: password.clone(), ..RedisOptions::default() }).await;
    assert_eq!(cli(&redis.url(), &["SET", "a", "1"]).await, "OK");
    assert!(cli(&format!("redis://127.0.0.1:{}", redis.port()), &["PING"]).await.starts_with("NOAUTH"));
    assert_eq!(size(&redis).await, ":1\r\n");

    let redis = Redis::start(RedisOptions { password, acl_user, ..RedisOptions::default() }).await;
    assert_eq!(cli(&redis.url(), &["SET", "duet:a", "1"]).await, "OK");
    assert_eq!(cli(&redis.url(), &["PUBLISH", "duet:a", "1"]).await, "0");
    for refused in [&["SET", "a", "1"][..], &["PUBLISH", "a", "1"], &["FLUSHALL"], &["CONFIG", "GET", "*"]] {
        assert!(cli(&redis.url(), refused).await.starts_with("NOPERM"), "{refused:?}");
    }
    assert_eq!(size(&redis).await, ":1\r\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_speaks_tls_with_a_certificate_for_this_host() {
    let mut redis =
        Redis::start(RedisOptions { tls: true, password: Some("secret".to_owned()), ..RedisOptions::default() }).await;
    redis.restart().await;
    assert_eq!(redis.url(), format!("rediss://:secret@127.0.0.1:{}", redis.port()));
    let ca = redis.ca_file().display().to_string();
    assert_eq!(cli(&redis.url(), &["--cacert", &ca, "SET", "a", "1"]).await, "OK");
    assert!(cli(&redis.url(), &["PING"]).await.contains("certificate verify failed"));
    assert_eq!(size(&redis).await, ":1\r\n");
    for name in [["-verify_ip", "127.0.0.1"], ["-verify_hostname", "localhost"]] {
        let address = format!("127.0.0.1:{}", redis.port());
        let output = Command::new("openssl")
            .args(["s_client", "-connect", &address, "-CAfile", &ca, "-verify_return_error", "-x509_strict"])
            .args(name)
            .stdin(std::process::Stdio::null())
            .output();
        assert!(in_time(output).await.expect("openssl").status.success(), "{name:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinels_know_the_primary() {
    let sentinels = Sentinels::start().await;
    assert_eq!(sentinels.primary_port().await, sentinels.servers[0].port());
}

/// A proxy with both ends of connections through it.
struct Through {
    proxy: ChaosProxy,
    upstream: TcpListener,
}

impl Through {
    async fn start() -> Self {
        let upstream = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        Self { proxy: ChaosProxy::start(upstream.local_addr().expect("bound")).await, upstream }
    }

    async fn client(&self) -> TcpStream {
        in_time(TcpStream::connect(self.proxy.address())).await.expect("connected")
    }

    async fn server(&self) -> TcpStream {
        in_time(self.upstream.accept()).await.expect("accepted").0
    }

    /// Both ends of one connection, over which bytes have passed.
    async fn pair(&self) -> (TcpStream, TcpStream) {
        let (mut client, mut server) = (self.client().await, self.server().await);
        passes(&mut client, &mut server).await;
        (client, server)
    }
}

async fn carries(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) {
    from.write_all(bytes).await.expect("sent");
    hears(to, bytes).await;
}

async fn hears(stream: &mut TcpStream, bytes: &[u8]) {
    let mut heard = vec![0; bytes.len()];
    in_time(stream.read_exact(&mut heard)).await.expect("heard");
    assert_eq!(heard, bytes);
}

async fn passes(client: &mut TcpStream, server: &mut TcpStream) {
    carries(client, server, b"to the server").await;
    carries(server, client, b"to the client").await;
}

async fn is_quiet(stream: &mut TcpStream) {
    assert!(tokio::time::timeout(QUIET, stream.read_u8()).await.is_err());
}

async fn is_reset(stream: &mut TcpStream) {
    let error = in_time(stream.read_u8()).await.expect_err("reset");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_passes_bytes_and_ends() {
    let through = Through::start().await;
    let (mut client, mut server) = through.pair().await;
    // More than the proxy and the kernel hold.
    let many: Vec<u8> = (0..16_000_000_u32).map(|n| (n % 251).to_le_bytes()[0]).collect();
    let ((), ()) = tokio::join!(async { client.write_all(&many).await.expect("sent") }, hears(&mut server, &many));
    // One end, then the other.
    client.shutdown().await.expect("ended");
    assert_eq!(in_time(server.read(&mut [0])).await.expect("an end"), 0);
    carries(&mut server, &mut client, b"the rest").await;
    drop(server);
    assert_eq!(in_time(client.read(&mut [0])).await.expect("an end"), 0);
    // A reset is a reset on the other side.
    let (client, mut server) = through.pair().await;
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("set");
    drop(client);
    is_reset(&mut server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_cuts() {
    let through = Through::start().await;
    let (mut client, mut server) = through.pair().await;
    through.proxy.set(Mode::Cut);
    is_reset(&mut client).await;
    is_reset(&mut server).await;
    let mut refused = through.client().await;
    assert_eq!(in_time(refused.read(&mut [0])).await.unwrap_or(0), 0);
    through.proxy.set(Mode::Pass);
    let (mut client, mut server) = through.pair().await;
    // However short the cut.
    through.proxy.set(Mode::Cut);
    through.proxy.set(Mode::Pass);
    is_reset(&mut client).await;
    is_reset(&mut server).await;
    through.pair().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_stalls_and_loses_nothing() {
    let through = Through::start().await;
    let (mut client, mut server) = through.pair().await;
    through.proxy.set(Mode::Stall);
    client.write_all(b"one ").await.expect("sent");
    server.write_all(b"three ").await.expect("sent");
    let mut held = through.client().await;
    held.write_all(b"five").await.expect("sent");
    is_quiet(&mut client).await;
    is_quiet(&mut server).await;
    is_quiet(&mut held).await;
    client.write_all(b"two").await.expect("sent");
    server.write_all(b"four").await.expect("sent");
    drop(server);
    // It takes only so much.
    let many = vec![0; 1 << 16];
    let mut sent = 0;
    while let Ok(written) = tokio::time::timeout(QUIET, held.write(&many)).await {
        sent += written.expect("sent");
        assert!(sent < 64 << 20);
    }
    through.proxy.set(Mode::Pass);
    hears(&mut client, b"three four").await;
    hears(&mut through.server().await, b"five").await;

    let (mut client, mut server) = through.pair().await;
    through.proxy.set(Mode::Stall);
    client.write_all(b"lost").await.expect("sent");
    through.proxy.set(Mode::Cut);
    is_reset(&mut client).await;
    is_reset(&mut server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_leaves_connections_half_open() {
    let through = Through::start().await;
    let (mut unused_client, mut unused_server) = through.pair().await;
    let (mut up_client, mut up_server) = through.pair().await;
    let (mut down_client, mut down_server) = through.pair().await;
    let (gone_client, mut gone_server) = through.pair().await;
    through.proxy.set(Mode::HalfOpen);
    // Much vanishes as little does.
    in_time(up_client.write_all(&vec![0; 8 << 20])).await.expect("sent");
    down_server.write_all(b"lost").await.expect("sent");
    drop(gone_client);
    let mut late = through.client().await;
    late.write_all(b"lost").await.expect("sent");
    for stream in [&mut up_client, &mut up_server, &mut down_client, &mut down_server, &mut gone_server, &mut late] {
        is_quiet(stream).await;
    }
    through.proxy.set(Mode::Pass);
    for stream in [&mut up_client, &mut up_server, &mut down_client, &mut down_server, &mut gone_server, &mut late] {
        is_reset(stream).await;
    }
    passes(&mut unused_client, &mut unused_server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_is_slow() {
    const DELAY: Duration = Duration::from_millis(200);
    let through = Through::start().await;
    let (mut client, mut server) = through.pair().await;
    through.proxy.set(Mode::Slow(DELAY));
    let start = Instant::now();
    client.write_all(b"one ").await.expect("sent");
    tokio::time::sleep(DELAY / 2).await;
    client.write_all(b"two").await.expect("sent");
    hears(&mut server, b"one ").await;
    assert!(start.elapsed() >= DELAY);
    hears(&mut server, b"two").await;
    assert!(start.elapsed() >= DELAY * 3 / 2);
    // There and back.
    let start = Instant::now();
    passes(&mut client, &mut server).await;
    assert!(start.elapsed() >= DELAY * 2);
    // Delays do not add up.
    let start = Instant::now();
    for n in 0..50 {
        client.write_all(&[n]).await.expect("sent");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    hears(&mut server, &(0..50).collect::<Vec<_>>()).await;
    assert!((DELAY..DELAY * 25).contains(&start.elapsed()));
    through.proxy.set(Mode::Slow(PATIENCE));
    client.write_all(b"held").await.expect("sent");
    is_quiet(&mut server).await;
    through.proxy.set(Mode::Pass);
    hears(&mut server, b"held").await;
    // Also the end comes later.
    through.proxy.set(Mode::Slow(DELAY));
    let start = Instant::now();
    drop(client);
    assert_eq!(in_time(server.read(&mut [0])).await.expect("an end"), 0);
    assert!(start.elapsed() >= DELAY);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_ends_when_dropped_and_tells_when_there_is_no_upstream() {
    let through = Through::start().await;
    let (mut client, mut server) = through.pair().await;
    let address = through.proxy.address();
    drop(through);
    is_reset(&mut client).await;
    is_reset(&mut server).await;
    crate::support::wait_until("the port is closed", || async { TcpStream::connect(address).await.is_err() }).await;

    let nowhere: SocketAddr = ([127, 0, 0, 1], 1).into();
    let proxy = ChaosProxy::start(nowhere).await;
    match TcpStream::connect(proxy.address()).await {
        Ok(mut client) => is_reset(&mut client).await,
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_reached_through_the_proxy() {
    let redis = Redis::start(RedisOptions::default()).await;
    let proxy = ChaosProxy::start(([127, 0, 0, 1], redis.port()).into()).await;
    assert_eq!(cli(&format!("redis://{}", proxy.address()), &["PING"]).await, "PONG");
}
