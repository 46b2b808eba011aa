//! `fusewire health`: is everything in place?
//!
//! Asks the server the way a program would, then looks at what this machine
//! would need to be a server itself. Only the former decides the exit code: a
//! client machine needs neither lockable memory nor io_uring for `serve`.

use std::process::ExitCode;

use fusewire_connect::ConnectError;
use fusewire_server::daemon::{MEMLOCK_NEEDED, memlock_limit, try_io_uring};
use fusewire_wire::inventory::Inventory;
use serde_json::json;

use crate::reach::Reach;

/// Check that everything needed is in place.
///
/// The exit code is 0 when programs can use the server, 1 when not.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fusewire health --server gpu1:7543
  fusewire health --json")]
pub(crate) struct Args {
    #[command(flatten)]
    reach: Reach,
    /// For programs
    #[arg(long)]
    json: bool,
}

struct Check {
    name: &'static str,
    /// `Err` says what to do.
    result: Result<String, String>,
    /// Whether programs that use the server depend on it.
    vital: bool,
}

/// Prints the checks.
pub(crate) fn health(args: &Args) -> ExitCode {
    let checks = checks(args);
    let well = checks.iter().all(|check| check.result.is_ok() || !check.vital);
    if args.json {
        let list: Vec<_> = checks
            .iter()
            .map(|check| {
                let (Ok(text) | Err(text)) = &check.result;
                json!({ "check": check.name, "ok": check.result.is_ok(), "vital": check.vital, "text": text })
            })
            .collect();
        println!("{:#}", json!({ "ok": well, "checks": list }));
    } else {
        for check in &checks {
            let (mark, text) = match (&check.result, check.vital) {
                (Ok(text), _) => ("ok   ", text),
                (Err(text), true) => ("FAIL ", text),
                (Err(text), false) => ("note ", text),
            };
            println!("{mark} {:<8}  {text}", check.name);
        }
    }
    if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn checks(args: &Args) -> Vec<Check> {
    let asked = args.reach.config().and_then(|config| {
        let inventory = fusewire_connect::query_server(&config)?;
        Ok((config.server, inventory))
    });
    let mut checks = match &asked {
        Ok((server, inventory)) => served(server, inventory),
        Err(error) => vec![unreached(error)],
    };
    checks.push(Check { name: "memlock", result: memlock(memlock_limit()), vital: false });
    checks.push(Check { name: "io_uring", result: io_uring(), vital: false });
    checks
}

fn served(server: &str, inventory: &Inventory) -> Vec<Check> {
    let header = &inventory.header;
    let ours = env!("CARGO_PKG_VERSION");
    let theirs = header.server_text();
    let version = if theirs == ours {
        Ok(format!("{ours} on both sides"))
    } else {
        Err(format!("this side is {ours}, the server is {theirs}: install the same release on both"))
    };
    let cuda = format!("CUDA {}.{}", header.cuda_version / 1000, header.cuda_version % 1000 / 10);
    let driver = match inventory.devices.as_slice() {
        [] => Err("the server offers no device: see its log".to_owned()),
        [only] => Ok(format!("{cuda}, 1 device: {}", only.name_text())),
        [first, ..] => {
            Ok(format!("{cuda}, {} devices, the first: {}", inventory.devices.len(), first.name_text()))
        }
    };
    let room = match (header.sessions, header.max_sessions) {
        (open, 0) => Ok(format!("{open} open, no limit")),
        (open, most) if open < most => Ok(format!("{open} open of {most}")),
        (_, most) => Err(format!("all {most} are taken: wait, or raise the server's --max-sessions")),
    };
    vec![
        Check { name: "server", result: Ok(format!("{server} answers")), vital: true },
        // Releases with the same protocol work together, and with another one the server would not have answered.
        Check { name: "version", result: version, vital: false },
        Check { name: "driver", result: driver, vital: true },
        Check { name: "sessions", result: room, vital: true },
    ]
}

fn unreached(error: &ConnectError) -> Check {
    let name = match error {
        ConnectError::Version { .. } => "version",
        _ => "server",
    };
    Check { name, result: Err(error.to_string()), vital: true }
}

fn memlock(limit: Option<u64>) -> Result<String, String> {
    match limit {
        None => Ok("no limit here".to_owned()),
        Some(limit) if limit >= MEMLOCK_NEEDED => Ok(format!("{} KiB may be locked here", limit >> 10)),
        Some(limit) => Err(format!(
            "`fusewire serve` on this machine would need {} KiB of lockable memory, the limit is {} KiB: \
             ulimit -l 65536",
            MEMLOCK_NEEDED >> 10,
            limit >> 10
        )),
    }
}

fn io_uring() -> Result<String, String> {
    match try_io_uring() {
        Ok(()) => Ok("works here".to_owned()),
        Err(error) => Err(format!(
            "`fusewire serve` on this machine cannot use io_uring ({error}): it needs Linux 5.8 or newer and \
             kernel.io_uring_disabled=0"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memlock_limits() {
        assert!(memlock(None).is_ok() && memlock(Some(MEMLOCK_NEEDED)).is_ok());
        assert!(memlock(Some(0)).unwrap_err().contains("0 KiB"));
    }
}
