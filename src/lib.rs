//! duet: a signaling server for WebRTC calls between two peers.
//!
//! Two browsers that want to talk meet in a room by name, exchange offers, answers and candidates through this server,
//! and then talk to each other directly. It speaks Socket.IO; the lesson's clients work against it unchanged.
//!
//! ```text
//!   main      settings, logs, a signal
//!    │
//!   node      builds all parts, binds, runs, ends
//!    ├──────────────┬──────────────────┬───────────────┐
//!   http         signaling          cluster         metrics, lifecycle, telemetry, config
//!    │ routes       │ events            │ Redis         (leaves)
//!    │              ├── adapter ────────┤   the Socket.IO server's own operations
//!    │              ├── exchange ───────┤   letters from node to node
//!    │              ├── rooms ──────────┤   who sits where
//!    │              ├── protocol ───────┤   names, payloads, codes
//!    │              ├── admission ──────┘   who may come in
//!    └──────────────┴── ice                 STUN and TURN servers, credentials
//!   transport    connections: accepted, paused, counted, closed
//!   limits       how much a stranger may have of all that (under http, signaling, transport)
//! ```
//!
//! Reading order: [`protocol`] (what is said), [`rooms`] (who may say it to whom), [`signaling`] (what happens on each
//! event), [`transport`] (how bytes come and go), [`http`] (how they get here), [`limits`] (how much of it), [`exchange`] and [`cluster`] (how several
//! nodes are one service), [`node`] (how it fits together).

pub mod adapter;
pub mod admission;
pub mod cluster;
pub mod config;
pub mod exchange;
pub mod health;
pub mod http;
pub mod ice;
pub mod id;
pub mod lifecycle;
pub mod limits;
pub mod metrics;
pub mod node;
pub mod protocol;
pub mod reload;
pub mod rooms;
pub mod signaling;
pub mod telemetry;
pub mod transport;
