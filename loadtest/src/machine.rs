//! The machine that figures belong to.

use std::fmt;
use std::fs;
use std::time::Duration;

use anyhow::Context as _;

/// What a reader of figures has to know of where they were taken.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Cores this process may use.
    pub cores: usize,
    /// The CPU's model.
    pub cpu: String,
    /// The kernel's release.
    pub kernel: String,
    /// Memory in all, in MiB.
    pub memory_mib: u64,
}

impl Machine {
    /// Reads what the kernel tells; what it does not tell is left empty.
    #[must_use]
    pub fn read() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            cpu: field(&cpuinfo, "model name").unwrap_or("unknown CPU").to_owned(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            memory_mib: kib(&meminfo, "MemTotal").unwrap_or(0) / 1024,
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cores, cpu, kernel, memory_mib } = self;
        write!(f, "{cores} cores of {cpu}, {memory_mib} MiB, Linux {kernel}")
    }
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find_map(|(key, value)| (key.trim() == name).then_some(value.trim()))
}

/// CPU time that the whole machine was not idle since it started, all cores together, in ticks of 10 ms; what the host of a
/// virtual machine took counts too.
///
/// # Errors
/// When `/proc/stat` cannot be read.
pub fn busy() -> anyhow::Result<Duration> {
    let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    busy_ticks(&text).map(|ticks| Duration::from_millis(ticks * 10)).context("no CPU times in /proc/stat")
}

fn busy_ticks(stat: &str) -> Option<u64> {
    let ticks: Vec<u64> = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().flat_map(str::parse).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal; guest time is part of user time.
    let [user, nice, system, _, _, irq, softirq, steal, ..] = ticks[..] else {
        return None;
    };
    Some(user + nice + system + irq + softirq + steal)
}

/// The value of a line `NAME: VALUE kB`, as several files in `/proc` have it.
#[must_use]
pub fn kib(text: &str, name: &str) -> Option<u64> {
    field(text, name)?.strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_time_leaves_out_idle_and_guest_time() {
        let stat = "cpu  1 2 4 1000 1000 8 16 32 5000 5000\ncpu0 9 9 9 9 9 9 9 9 9 9\n";
        assert_eq!(busy_ticks(stat), Some(63));
        assert_eq!(busy_ticks("cpu  1 2 4"), None);
    }

    #[test]
    fn a_figure_is_read_by_its_whole_name() {
        let text = "Rss:      10 kB\nPss_Anon:  7 kB\nPss:    8 kB\nTHPeligible: 0\n";
        assert_eq!(kib(text, "Pss"), Some(8));
        assert_eq!(kib(text, "Rss"), Some(10));
        assert_eq!(kib(text, "THPeligible"), None);
        assert_eq!(kib(text, "Swap"), None);
    }
}
