//! Where the load goes, and whether it may.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, bail, ensure};

/// An address of a target, and what it is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// As it was given.
    pub url: String,
    /// Where it is.
    pub address: SocketAddr,
    /// What stands in `Host`.
    pub host: String,
    /// The path of the URL, with its slash.
    pub path: String,
}

/// Resolves a URL (`http://HOST:PORT`); only loopback and private addresses (RFC 1918, RFC 4193, link-local) unless `any`.
///
/// # Errors
/// When it is no such URL, has no address, or one that must not be loaded.
pub async fn resolve(url: &str, any: bool) -> anyhow::Result<Endpoint> {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("ws://"));
    let Some(rest) = rest else { bail!("{url}: expected http://HOST:PORT (TLS is for the balancer to end)") };
    let (host, path) = rest.split_once('/').map_or((rest, "/".to_owned()), |(host, path)| (host, format!("/{path}")));
    let with_port = if host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
        host.to_owned()
    } else {
        format!("{host}:80")
    };
    let address = tokio::net::lookup_host(&with_port)
        .await
        .with_context(|| format!("{url}: no such host"))?
        .min_by_key(SocketAddr::is_ipv6)
        .with_context(|| format!("{url}: no address"))?;
    ensure!(
        any || is_own(address.ip()),
        "{url}: {} is neither loopback nor private; if it is yours, say --i-own-this-target",
        address.ip()
    );
    Ok(Endpoint { url: url.to_owned(), address, host: host.to_owned(), path })
}

fn is_own(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_private() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_loopback_and_private_addresses_are_loaded() {
        for good in [
            "http://127.0.0.1:80",
            "ws://localhost:80/",
            "http://10.1.2.3:8080",
            "http://192.168.0.9",
            "http://[fd00::1]:80",
        ] {
            assert!(resolve(good, false).await.is_ok(), "{good}");
        }
        for bad in [
            "http://203.0.113.1:80",
            "http://172.32.0.1:80",
            "http://[2001:db8::1]:80",
            "http://0.0.0.0:80",
            "http://[::ffff:203.0.113.1]:80",
        ] {
            let error = resolve(bad, false).await.expect_err(bad);
            assert!(error.to_string().contains("--i-own-this-target"), "{error}");
            assert!(resolve(bad, true).await.is_ok(), "{bad}");
        }
        for wrong in ["https://127.0.0.1:80", "127.0.0.1:80", "http://no.such.host.invalid:80"] {
            assert!(resolve(wrong, true).await.is_err(), "{wrong}");
        }
    }
}
