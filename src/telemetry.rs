//! Logs: structured lines on standard error, text for people and JSON for machines. Traces: see [`trace`].
//!
//! Never in a log, at any level, nor in a trace: SDP, candidates, payloads, tokens, room names, addresses of peers.

use std::io::IsTerminal;

use tracing::{Level, Metadata};
use tracing_subscriber::{EnvFilter, filter::filter_fn, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::{
    config::{BadSettings, Log, LogFormat},
    metrics,
};

pub mod otlp;
pub mod trace;

/// Starts logging for the whole process.
///
/// # Errors
/// When the filter of the settings cannot be used.
pub fn start(log: &Log) -> Result<(), BadSettings> {
    let filter: EnvFilter = log.filter()?;
    let json = match log.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !std::io::stderr().is_terminal(),
    };
    let registry = tracing_subscriber::registry().with(filter).with(filter_fn(is_fit_to_log));
    // A second call, as tests that run several nodes in a process make it, changes nothing.
    let _ = if json {
        registry.with(fmt::layer().json().flatten_event(true).with_writer(std::io::stderr)).try_init()
    } else {
        let colours = std::io::stderr().is_terminal();
        registry.with(fmt::layer().with_ansi(colours).with_target(false).with_writer(std::io::stderr)).try_init()
    };
    Ok(())
}

/// Whether a filter may let it through at all: the WebSocket library logs whole packets, with a token in some.
fn is_fit_to_log(what: &Metadata<'_>) -> bool {
    *what.level() <= Level::WARN || !what.target().starts_with("tungstenite")
}

/// Counts panics and logs them: a panic in a task ends that task alone, and must not go unseen.
pub fn count_panics() {
    let panics = metrics::panics().clone();
    std::panic::set_hook(Box::new(move |info| {
        panics.inc();
        let at = info.location().map(ToString::to_string).unwrap_or_default();
        // The message of a panic may quote input: only the place is told.
        tracing::error!(at, "panic");
    }));
}
