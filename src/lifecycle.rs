//! Starting, ready, draining, stopped: one state that every part reads, and one token that ends them.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use serde::Serialize;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Shared by all parts of a node. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Lifecycle(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// What still keeps the node from being ready, by name, and how many times.
    holds: Mutex<BTreeMap<&'static str, usize>>,
    draining: AtomicBool,
    /// No new connections.
    accept: CancellationToken,
    /// Everything ends.
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Why a node is not ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotReady {
    /// Always false.
    pub ready: bool,
    /// What it waits for: `draining`, or the parts that have not started.
    pub reasons: Vec<&'static str>,
}

impl Lifecycle {
    /// Keeps the node from being ready until the latch is dropped.
    #[must_use]
    pub fn hold(&self, name: &'static str) -> Latch {
        *self.holds().entry(name).or_default() += 1;
        Latch { lifecycle: self.clone(), name }
    }

    /// Whether the node can seat peers now.
    ///
    /// # Errors
    /// [`NotReady`] tells what is missing.
    pub fn ready(&self) -> Result<(), NotReady> {
        let mut reasons: Vec<_> = self.holds().keys().copied().collect();
        if self.is_draining() {
            reasons.push("draining");
        }
        if reasons.is_empty() { Ok(()) } else { Err(NotReady { ready: false, reasons }) }
    }

    /// No longer takes new peers.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::Release);
    }

    /// No longer takes new peers; tells whether it did until now.
    #[must_use]
    pub fn begin_drain(&self) -> bool {
        !self.0.draining.swap(true, Ordering::AcqRel)
    }

    /// Whether new peers are refused.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Acquire)
    }

    /// Cancelled when listeners are to close.
    #[must_use]
    pub fn accept_token(&self) -> &CancellationToken {
        &self.0.accept
    }

    /// Cancelled when everything is to end.
    #[must_use]
    pub fn stop_token(&self) -> &CancellationToken {
        &self.0.stop
    }

    /// Runs `task` until it ends or the node stops; [`Lifecycle::stopped`] waits for it.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.0.stop.clone();
        self.0.tasks.spawn(async move {
            stop.run_until_cancelled(task).await;
        });
    }

    /// Ends everything and returns when every task has ended.
    pub async fn stopped(&self) {
        self.0.accept.cancel();
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    fn holds(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, usize>> {
        self.0.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a node from being ready while it lives.
#[derive(Debug)]
pub struct Latch {
    lifecycle: Lifecycle,
    name: &'static str,
}

impl Drop for Latch {
    fn drop(&mut self) {
        let mut holds = self.lifecycle.holds();
        if let Some(count) = holds.get_mut(self.name) {
            *count -= 1;
            if *count == 0 {
                holds.remove(self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_ready_when_nothing_holds_it_and_it_does_not_drain() {
        let lifecycle = Lifecycle::default();
        assert_eq!(lifecycle.ready(), Ok(()));
        let latch = lifecycle.hold("listener");
        assert_eq!(lifecycle.ready().expect_err("held").reasons, ["listener"]);
        let again = lifecycle.hold("listener");
        drop(latch);
        assert_eq!(lifecycle.ready().expect_err("held by the other").reasons, ["listener"]);
        drop(again);
        assert_eq!(lifecycle.ready(), Ok(()));
        lifecycle.drain();
        assert_eq!(lifecycle.ready().expect_err("draining").reasons, ["draining"]);
    }

    #[tokio::test]
    async fn stopping_ends_every_task() {
        let lifecycle = Lifecycle::default();
        lifecycle.spawn(std::future::pending());
        lifecycle.stopped().await;
    }
}
