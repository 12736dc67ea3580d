//! Nodes that share a Redis, in this process.

use std::ops::Index;

use duet::node::Node;

use super::{get, node, wait_until};

/// Settings as a test wants them: variables and values.
pub type Variables = Vec<(String, String)>;

/// Leases so short that a test need not wait long when Redis starts empty.
pub fn quick() -> Variables {
    lease("1500ms", "150ms")
}

/// Leases of that length, renewed that often.
pub fn lease(lease: &str, renew: &str) -> Variables {
    vec![("DUET_CLUSTER__LEASE".into(), lease.into()), ("DUET_CLUSTER__RENEW".into(), renew.into())]
}

/// Some nodes, all ready.
pub struct Cluster(pub Vec<Node>);

impl Cluster {
    /// Starts `count` nodes on `url`.
    pub async fn start(url: &str, count: usize, settings: &Variables) -> Self {
        Self::start_each(&vec![url.to_owned(); count], settings).await
    }

    /// Starts a node for each of `urls`.
    pub async fn start_each(urls: &[String], settings: &Variables) -> Self {
        let mut nodes = Vec::new();
        for url in urls {
            nodes.push(start(url, settings).await);
        }
        for node in &nodes {
            until_ready(node).await;
        }
        Self(nodes)
    }

    pub async fn stop(self) {
        for node in self.0 {
            node.stop().await;
        }
    }
}

impl Index<usize> for Cluster {
    type Output = Node;
    fn index(&self, at: usize) -> &Node {
        &self.0[at]
    }
}

/// A node on `url`, which may not be ready yet.
pub async fn start(url: &str, settings: &Variables) -> Node {
    let mut all: Vec<(&str, &str)> = settings.iter().map(|(key, value)| (&**key, &**value)).collect();
    all.push(("DUET_REDIS__URL", url));
    node(&all).await
}

/// Waits until a node can seat peers.
pub async fn until_ready(node: &Node) {
    wait_until("the node is ready", || async move { get(node.admin, "/readyz").await.0 == 200 }).await;
}
