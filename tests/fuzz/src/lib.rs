//! What duet reads from strangers, read by a fuzzer: one function a target, each of which says what has to hold of any input.
//!
//! `targets/` hands these to libFuzzer; `scripts/fuzz.sh` builds and runs them. `corpus/` holds what they start from: real
//! packets, and whatever once upset one of them.

pub mod admission;
pub mod calls;
pub mod doors;
pub mod frames;
pub mod letters;
pub mod old_clients;
