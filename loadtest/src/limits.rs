//! The limit on open files, which bounds the sockets of a process.

use anyhow::ensure;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Files a process has open besides its sockets, generously.
const OTHER_FILES: usize = 200;

/// Raises the soft limit to the hard one; children inherit it. Fails if even that is too low for so many sockets.
///
/// # Errors
/// With a sentence that says what to raise.
pub fn allow_sockets(sockets: usize) -> anyhow::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    let need = sockets + OTHER_FILES;
    ensure!(
        hard >= need as u64,
        "{sockets} sockets need a limit of {need} open files and this process may have {hard}: \
         raise the hard limit (ulimit -Hn, LimitNOFILE= or --ulimit nofile=) or ask for fewer sockets"
    );
    Ok(())
}
