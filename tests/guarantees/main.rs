//! What duet guarantees, one file a guarantee, in one program (one is linked more quickly than many).
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, reason = "test code")]

mod admin_api;
mod admission;
mod cluster;
mod connections;
mod deployments;
mod faults;
mod heard;
mod history;
mod hostile;
mod ice;
mod kept;
mod layout;
mod limits;
mod order;
mod process;
mod registry;
mod resume;
mod secrets;
mod slow_receiver;
mod support;
mod support_works;
mod tls;
mod traces;
