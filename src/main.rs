//! The process: settings, logs, one node, a signal, an orderly end.

use std::{
    io::{IsTerminal as _, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::Parser;
use duet::{
    config::{BadSettings, Settings},
    health,
    node::Node,
    telemetry,
};
use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
};

/// Exit status for settings that cannot be used (`EX_USAGE` of sysexits.h).
const BAD_SETTINGS: u8 = 64;

/// A signaling server for WebRTC calls between two peers.
#[derive(Parser, Debug)]
#[command(version, about)]
struct Arguments {
    /// A file of settings (TOML). The environment wins over it.
    #[arg(long, env = "DUET_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the settings in force, with secrets hidden, and exit.
    #[arg(long)]
    check_config: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Ask the node that runs with the same settings whether it can seat peers: exit status 0 if so, else 1.
    Health {
        /// Ask only whether it runs.
        #[arg(long)]
        live: bool,
    },
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { BAD_SETTINGS.into() } else { ExitCode::SUCCESS };
        }
    };
    let read = move || Settings::load(arguments.config.clone(), std::env::vars().collect());
    let settings = match read() {
        Ok(settings) => settings,
        Err(error) => {
            complain(format_args!("{error}"));
            return BAD_SETTINGS.into();
        }
    };
    if let Err(error) = Node::check(&settings) {
        complain(format_args!("{error}"));
        return BAD_SETTINGS.into();
    }
    if arguments.check_config {
        #[expect(clippy::print_stdout, reason = "it is what was asked for")]
        {
            print!("{}", settings.printable());
        }
        return ExitCode::SUCCESS;
    }
    if let Some(Command::Health { live }) = arguments.command {
        return match health::ask(settings.admin.listen, if live { "/livez" } else { "/readyz" }) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                complain(format_args!("{error}"));
                ExitCode::FAILURE
            }
        };
    }
    if let Err(error) = telemetry::start(&settings.log) {
        complain(format_args!("{error}"));
        return BAD_SETTINGS.into();
    }
    telemetry::count_panics();
    let runtime = match settings.server.worker_threads {
        0 => Builder::new_multi_thread().enable_all().build(),
        // There is nobody to share work with.
        1 => Builder::new_current_thread().enable_all().build(),
        threads => Builder::new_multi_thread().worker_threads(threads).enable_all().build(),
    };
    let ended = match runtime {
        Ok(runtime) => {
            let ended = runtime.block_on(run(settings, read));
            // What still reads a file is not waited for.
            runtime.shutdown_background();
            ended
        }
        Err(error) => Err(error.into()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// One line on standard error, if anybody still reads it.
fn complain(what: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "duet: {what}");
}

async fn run(
    settings: Settings,
    read: impl Fn() -> Result<Settings, BadSettings> + Clone + Send + 'static,
) -> anyhow::Result<()> {
    // Each socket is a file; what a service manager or a container runtime gives at first is often a thousand.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let on_terminal = std::io::stderr().is_terminal();
    let (open, scheme) = (settings.open_to_all(), if settings.tls.is_on() { "https" } else { "http" });
    let admin_api = settings.admin.bearer()?.is_some();
    let node = Node::start(settings).await?;
    tracing::info!(
        public = %node.public, admin = %node.admin, version = env!("CARGO_PKG_VERSION"), admin_api, ?open, "listening"
    );
    if node.public.ip().is_unspecified() || node.public.ip().is_loopback() {
        tracing::info!("open {scheme}://localhost:{}", node.public.port());
    }
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            // Either somebody asks for a reload, or the terminal that it was started on is gone.
            _ = hangup.recv() => {
                if on_terminal && !std::io::stderr().is_terminal() {
                    break;
                }
                // What became of it is in the log. A file may be slow to read, and nobody waits for that who wants an end.
                tokio::select! {
                    _ = node.reload(read.clone()) => {}
                    _ = terminate.recv() => break,
                    _ = interrupt.recv() => break,
                }
            }
        }
    }
    node.stop().await;
    Ok(())
}
