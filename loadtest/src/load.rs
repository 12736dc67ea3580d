//! Load by a plan: [`plan`] says what to do.

pub mod plan;
