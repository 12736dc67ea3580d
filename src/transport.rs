//! Connections: how they are accepted, how fast they take and give, how they end.
//!
//! The Socket.IO library offers no way to slow a sender down, to tell how much waits for a receiver, or to end a
//! connection whose writer is stuck. All three are properties of the byte stream underneath, so they live here: a
//! [`wire::Wire`] is the stream of one connection, a [`flow::Flow`] is what the rest of duet sees of it.
//!
//! This module knows nothing of events or rooms.

pub mod flow;
pub mod greeting;
pub mod lane;
pub mod listener;
pub mod proxy;
pub mod tls;
pub mod visitor;
pub mod wire;
