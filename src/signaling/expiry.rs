//! When tokens end: one sorted list a node, and one task that closes the sockets whose time has come.
//!
//! A socket without a token is not in it, and costs nothing.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, Weak},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::sync::Notify;

use super::{Signaling, lock, session::Session};
use crate::{
    id::Generation,
    protocol::{ByeReason, Code, Refusal, Request},
};

/// How often the clock is looked at while there is a token: it may be set, and ends are told in whole seconds.
const TICK: Duration = Duration::from_secs(1);
/// Sockets that are closed without letting others run.
const AT_A_TIME: usize = 64;

/// Sessions by the end of their token, in seconds since 1970.
#[derive(Debug, Default)]
pub struct Expiries {
    sessions: Mutex<BTreeMap<(u64, Generation), Weak<Session>>>,
    first: Notify,
}

impl Expiries {
    /// `session` is to be closed at `end`.
    pub fn insert(&self, end: u64, generation: Generation, session: &Arc<Session>) {
        lock(&self.sessions).insert((end, generation), Arc::downgrade(session));
        self.first.notify_one();
    }

    /// It is gone before.
    pub fn remove(&self, end: u64, generation: Generation) {
        lock(&self.sessions).remove(&(end, generation));
    }

    /// Takes out some of those whose end is not after `now`.
    fn due(&self, now: u64) -> Vec<Arc<Session>> {
        let mut sessions = lock(&self.sessions);
        let mut due = Vec::new();
        while due.len() < AT_A_TIME
            && let Some(entry) = sessions.first_entry()
            && entry.key().0 <= now
        {
            due.extend(entry.remove().upgrade());
        }
        due
    }

    fn is_empty(&self) -> bool {
        lock(&self.sessions).is_empty()
    }
}

impl Signaling {
    /// Closes sockets whose token ends, for as long as the node runs.
    pub(super) async fn expire(self: Arc<Self>) {
        let refusal = Refusal::new(Code::TokenExpired, "the token has expired; connect again with a new one");
        loop {
            if self.expiries.is_empty() {
                self.expiries.first.notified().await;
            }
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let due = self.expiries.due(now);
            if due.is_empty() {
                tokio::time::sleep(TICK).await;
                continue;
            }
            for session in due {
                self.close_with(&session, Request::Join, &refusal, ByeReason::Expired);
            }
            tokio::task::yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use socketioxide::ProtocolVersion;

    use super::*;
    use crate::{
        admission::Grant,
        id::{NodeId, PeerId, Sid},
        transport::flow::Flow,
    };

    #[test]
    fn sessions_come_out_at_their_end_the_first_first_and_only_once() {
        let expiries = Expiries::default();
        let sessions: Vec<_> = (0..200)
            .map(|number| {
                let (peer, generation) = (PeerId(Sid::new()), Generation(number));
                let flow = Arc::new(Flow::default());
                let session =
                    Session::new(peer, generation, NodeId::random(), flow, ProtocolVersion::V5, None, Grant::open());
                expiries.insert(1000 - number / 100, generation, &session);
                session
            })
            .collect();
        expiries.remove(1000, Generation(7));
        let due = |now| expiries.due(now).iter().map(|s| s.occupant().generation.0).collect::<Vec<_>>();
        assert_eq!(due(998), [0; 0]);
        assert_eq!(due(999), (100..164).collect::<Vec<_>>());
        assert_eq!(due(999), (164..200).collect::<Vec<_>>());
        assert_eq!(due(999), [0; 0]);
        drop(sessions);
        assert_eq!(due(1000), [0; 0]);
        assert_eq!(lock(&expiries.sessions).len(), 0, "what is gone by itself is not kept");
    }
}
