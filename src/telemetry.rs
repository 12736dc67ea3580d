//! Logs: structured lines on standard error, text for people and JSON for machines. Traces: see [`trace`].
//!
//! Never in a log, at any level, nor in a trace: SDP, candidates, payloads, tokens, room names, addresses of peers.

use std::{
    io::IsTerminal,
    sync::{Mutex, OnceLock, PoisonError},
};

use tracing::{Level, Metadata};
use tracing_subscriber::{
    EnvFilter, Registry, filter::filter_fn, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

use crate::{
    config::{BadSettings, Log, LogFormat},
    metrics,
};

pub mod otlp;
pub mod trace;

/// What is written by this process, as the last filter had it; the filter itself cannot be read as it was given.
static LEVEL: Mutex<String> = Mutex::new(String::new());
/// Where another filter goes, once logging has started.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

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
    let (filter, handle) = reload::Layer::new(filter);
    let registry = tracing_subscriber::registry().with(filter).with(filter_fn(is_fit_to_log));
    // A second call, as tests that run several nodes in a process make it, changes nothing.
    let started = if json {
        registry.with(fmt::layer().json().flatten_event(true).with_writer(std::io::stderr)).try_init()
    } else {
        let colours = std::io::stderr().is_terminal();
        registry.with(fmt::layer().with_ansi(colours).with_target(false).with_writer(std::io::stderr)).try_init()
    };
    if started.is_ok() {
        let _ = FILTER.set(handle);
        log.level.clone_into(&mut level());
    }
    Ok(())
}

/// Whether a filter may let it through at all: the WebSocket library logs whole packets, with a token in some.
fn is_fit_to_log(what: &Metadata<'_>) -> bool {
    *what.level() <= Level::WARN || !what.target().starts_with("tungstenite")
}

/// The filter in force, for the whole process.
#[must_use]
pub fn log_level() -> String {
    level().clone()
}

/// Writes more or less from here on.
///
/// # Errors
/// When the filter cannot be used; then nothing changes.
pub fn set_log_level(log: &Log) -> Result<(), BadSettings> {
    let filter = log.filter()?;
    let mut level = level();
    // Without a start there are no logs.
    if let Some(handle) = FILTER.get() {
        // It lives as long as the process.
        let _ = handle.reload(filter);
    }
    log.level.clone_into(&mut level);
    Ok(())
}

fn level() -> std::sync::MutexGuard<'static, String> {
    LEVEL.lock().unwrap_or_else(PoisonError::into_inner)
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
