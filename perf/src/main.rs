//! `fusewire-perf`: what Fusewire costs against the same work done natively on the GPU host.
//!
//! This file is the command line; each command has a file of its own. `suite/` measures, by means of `rig/`,
//! which starts servers and the processes that take turns; `probe/` is what those processes run; `report/`
//! works on results only. `result.rs` is the form of a result, and perf/README.md says how to read one.
//!
//! Exit codes: 0 done, 1 something failed, 2 usage, 3 this machine cannot do what was asked.

mod error;
mod gate;
mod machine;
mod probe;
mod report;
mod result;
mod rig;
mod stats;
mod suite;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures Fusewire against native, in turns within one run.
#[derive(Debug, Parser)]
#[command(name = "fusewire-perf", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

// What each says of itself in --help stands with its arguments.
#[derive(Debug, Subcommand)]
enum Command {
    Latency(suite::latency::Args),
    Bandwidth(suite::bandwidth::Args),
    Train(suite::train::Args),
    Matrix(suite::matrix::Args),
    Clients(suite::clients::Args),
    Coldstart(suite::coldstart::Args),
    Gate(gate::Args),
    Merge(report::merge::Args),
    Plot(report::plot::Args),
    Table(report::table::Args),
    /// What the measuring processes run
    #[command(hide = true)]
    Probe(probe::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Latency(args) => suite::latency::run(&args),
        Command::Bandwidth(args) => suite::bandwidth::run(&args),
        Command::Train(args) => suite::train::run(&args),
        Command::Matrix(args) => suite::matrix::run(&args),
        Command::Clients(args) => suite::clients::run(&args),
        Command::Coldstart(args) => suite::coldstart::run(&args),
        Command::Gate(args) => gate::run(&args),
        Command::Merge(args) => report::merge::run(&args),
        Command::Plot(args) => report::plot::run(&args),
        Command::Table(args) => report::table::run(&args),
        Command::Probe(args) => probe::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fusewire-perf: {error}");
            error.exit_code()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
