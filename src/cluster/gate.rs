//! Keeps the node from being ready while any of several parts is not.

use std::sync::{Mutex, PoisonError};

use crate::lifecycle::{Latch, Lifecycle};

/// Shut as long as it was shut more often than opened.
#[derive(Debug)]
pub struct Gate {
    lifecycle: Lifecycle,
    name: &'static str,
    shut: Mutex<(usize, Option<Latch>)>,
}

impl Gate {
    /// An open gate; `name` is the reason that `/readyz` gives while it is shut.
    #[must_use]
    pub fn new(lifecycle: &Lifecycle, name: &'static str) -> Self {
        Self { lifecycle: lifecycle.clone(), name, shut: Mutex::default() }
    }

    /// One part more is not ready.
    pub fn shut(&self) {
        let mut shut = self.shut.lock().unwrap_or_else(PoisonError::into_inner);
        shut.0 += 1;
        shut.1.get_or_insert_with(|| self.lifecycle.hold(self.name));
    }

    /// One part more is ready.
    pub fn open(&self) {
        let mut shut = self.shut.lock().unwrap_or_else(PoisonError::into_inner);
        shut.0 = shut.0.saturating_sub(1);
        if shut.0 == 0 {
            shut.1 = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_is_ready_when_all_parts_are() {
        let lifecycle = Lifecycle::default();
        let gate = Gate::new(&lifecycle, "seats");
        gate.shut();
        gate.shut();
        gate.open();
        assert_eq!(lifecycle.ready().expect_err("one is missing").reasons, ["seats"]);
        gate.open();
        assert_eq!(lifecycle.ready(), Ok(()));
    }
}
