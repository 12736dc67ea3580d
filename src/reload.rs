//! Settings that change while the node runs: all at once, or none.
//!
//! Each part says which settings it can change and how it prepares for others. First everything is read and checked, then
//! every part prepares, and only when all could, each takes over. A setting that no part has named cannot change.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{config::Settings, metrics::Metrics};

/// Takes over what was prepared. Nothing here can fail.
pub type Commit = Box<dyn FnOnce() + Send>;

/// Why settings were not taken: one line, that names the setting.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// They cannot be used.
    #[error("{0}")]
    Bad(String),
    /// These cannot change while the node runs.
    #[error("cannot change without a restart: {}", .0.join(", "))]
    Fixed(Vec<String>),
}

impl Refused {
    /// Because of what somebody says.
    pub fn because(error: impl std::fmt::Display) -> Self {
        Self::Bad(error.to_string())
    }
}

type Prepare = Box<dyn Fn(&Settings) -> Result<Commit, Refused> + Send + Sync>;

struct Part {
    /// `section.key`, or `section.*` for every key of it.
    names: &'static [&'static str],
    prepare: Prepare,
}

/// The settings in force, and who has to know of others.
pub struct Reload {
    current: Mutex<Settings>,
    /// Held from the first check to the last change: one reload at a time.
    turn: Mutex<()>,
    parts: Vec<Part>,
    metrics: Metrics,
}

impl std::fmt::Debug for Reload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reload").finish_non_exhaustive()
    }
}

impl Reload {
    /// With `settings` in force, of which none can change yet.
    #[must_use]
    pub fn new(settings: Settings, metrics: Metrics) -> Self {
        Self { current: Mutex::new(settings), turn: Mutex::new(()), parts: Vec::new(), metrics }
    }

    /// A part that can change these settings (`section.key` or `section.*`). It is asked to prepare at every reload, also when
    /// none of them changed: files that they name may have.
    pub fn part(
        &mut self,
        names: &'static [&'static str],
        prepare: impl Fn(&Settings) -> Result<Commit, Refused> + Send + Sync + 'static,
    ) {
        self.parts.push(Part { names, prepare: Box::new(prepare) });
    }

    /// The settings in force.
    #[must_use]
    pub fn current(&self) -> Settings {
        lock(&self.current).clone()
    }

    /// Puts `read` settings into force, or says in one line of the log why not. Reads files: not for a thread that serves.
    ///
    /// # Errors
    /// [`Refused`]; then nothing has changed.
    pub fn apply(&self, read: Result<Settings, Refused>) -> Result<Vec<String>, Refused> {
        let _turn = lock(&self.turn);
        let applied = read.and_then(|settings| self.take(settings));
        match &applied {
            Ok(changed) => {
                self.metrics.reloads_applied.inc();
                tracing::info!(?changed, "settings were read again");
            }
            Err(error) => {
                self.metrics.reloads_refused.inc();
                tracing::error!(%error, "settings were read again and refused; nothing changed");
            }
        }
        applied
    }

    fn take(&self, settings: Settings) -> Result<Vec<String>, Refused> {
        let mut changed = self.current().differences(&settings);
        changed.sort();
        let fixed: Vec<String> = changed.iter().filter(|name| !self.can_change(name)).cloned().collect();
        if !fixed.is_empty() {
            return Err(Refused::Fixed(fixed));
        }
        let commits = self.parts.iter().map(|part| (part.prepare)(&settings)).collect::<Result<Vec<_>, _>>()?;
        *lock(&self.current) = settings;
        for commit in commits {
            commit();
        }
        Ok(changed)
    }

    fn can_change(&self, name: &str) -> bool {
        let is_of = |pattern: &str| match pattern.strip_suffix('*') {
            Some(section) => name.starts_with(section),
            None => name == pattern,
        };
        self.parts.iter().flat_map(|part| part.names).any(|pattern| is_of(pattern))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashMap,
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering},
        },
    };

    use super::*;

    fn settings(environment: &[(&str, &str)]) -> Settings {
        let environment: HashMap<_, _> =
            environment.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Settings::load(None, environment).expect("valid")
    }

    /// One part that takes anything, one that takes no level but `warn`; and how often the former took over.
    fn reload() -> (Reload, Arc<AtomicU32>) {
        let mut reload = Reload::new(settings(&[]), Metrics::new().expect("metrics"));
        let taken = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&taken);
        reload.part(&["limits.*"], move |_| {
            let count = Arc::clone(&count);
            Ok(Box::new(move || {
                count.fetch_add(1, Ordering::Relaxed);
            }))
        });
        reload.part(&["log.level"], |settings| match settings.log.level.as_str() {
            "info" | "warn" => Ok(Box::new(|| {})),
            other => Err(Refused::because(format_args!("log.level: {other}"))),
        });
        (reload, taken)
    }

    #[test]
    fn all_parts_take_over_or_none() {
        let (reload, taken) = reload();
        let refused = reload.apply(Ok(settings(&[("DUET_LIMITS__DEPTH", "64"), ("DUET_LOG__LEVEL", "debug")])));
        assert!(matches!(refused, Err(Refused::Bad(why)) if why == "log.level: debug"));
        assert_eq!((taken.load(Ordering::Relaxed), reload.current().limits.depth), (0, 128));
        let changed = reload.apply(Ok(settings(&[("DUET_LIMITS__DEPTH", "64"), ("DUET_LOG__LEVEL", "warn")])));
        assert_eq!(changed.expect("taken"), ["limits.depth", "log.level"]);
        assert_eq!((taken.load(Ordering::Relaxed), reload.current().limits.depth), (1, 64));
    }

    #[test]
    fn what_nobody_can_change_is_named_and_nothing_changes() {
        let (reload, taken) = reload();
        let new =
            settings(&[("DUET_LIMITS__DEPTH", "64"), ("DUET_LOG__FORMAT", "json"), ("DUET_CLUSTER__LEASE", "9s")]);
        let refused = reload.apply(Ok(new)).expect_err("refused").to_string();
        assert_eq!(refused, "cannot change without a restart: cluster.lease, log.format");
        assert_eq!((taken.load(Ordering::Relaxed), reload.current().limits.depth), (0, 128));
        assert!(reload.apply(Err(Refused::because("no such file"))).is_err());
        assert_eq!((reload.metrics.reloads_refused.get(), reload.metrics.reloads_applied.get()), (2, 0));
    }

    #[test]
    fn parts_are_asked_even_when_no_setting_changed() {
        let (reload, taken) = reload();
        assert_eq!(reload.apply(Ok(settings(&[]))).expect("taken"), [""; 0]);
        assert_eq!(taken.load(Ordering::Relaxed), 1);
    }
}
