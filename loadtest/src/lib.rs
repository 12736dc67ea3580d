//! Loads a signaling server the way its clients would, checks what arrives and says what it cost.
//!
//! Reading order: [`packet`] and [`frame`] know the bytes, [`connection`] and [`peer`] hold a socket and a seat, [`crowd`] holds
//! thousands of them; [`server`] is the process under test; [`pace`] says when a message is due; [`mod@bench`] puts
//! these together, and [`table`] and [`machine`] print what came out.
//!
//! ```text
//!            bench (relay, join, hold, idle, resume)    table, machine
//!          ┌───────┼──────────┬───────┐
//!        crowd    pace      ledger   server ── the process: CPU, memory
//!          │
//!        peer ── packet (Engine.IO, Socket.IO)
//!          │
//!      connection ── frame (RFC 6455)
//! ```
//!
//! The generator shares its machine with what it measures, so it is lean: one thread reads all sockets, one paces and
//! writes, and no message is parsed further than its check needs.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by it"))]

pub mod bench;
pub mod connection;
pub mod crowd;
pub mod frame;
pub mod ledger;
pub mod limits;
pub mod load;
pub mod machine;
pub mod pace;
pub mod packet;
pub mod peer;
pub mod report;
pub mod server;
pub mod table;
pub mod target;
