//! `fusewire`: the one command.
//!
//! This file is the command line and nothing else; each command has a file of
//! its own. `serve` and `worker` lead into `fusewire-server`, the others are
//! clients of it.
//!
//! Exit codes: 0 done, 1 failed, 2 usage; of `run` the program's own, 126 when
//! it cannot be executed and 127 when it is not found, as a shell does.

mod gpus;
mod health;
mod reach;
mod run;
mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// GPUs over the wire: run programs on a GPU that is not in their machine.
#[derive(Debug, Parser)]
#[command(name = "fusewire", version, max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  On the GPU host:
    fusewire serve
    fusewire serve --listen 0.0.0.0:7543 --token-file /etc/fusewire/token
  On a machine without a GPU:
    fusewire run --server gpu1:7543 -- python3 train.py
    fusewire gpus --server gpu1:7543
    fusewire health --server gpu1:7543";

#[derive(Debug, Subcommand)]
enum Command {
    /// Offer this machine's GPUs to clients
    Serve(serve::Args),
    /// Run a program on a server's GPUs
    Run(run::Args),
    /// List a server's GPUs
    Gpus(gpus::Args),
    /// Check that everything needed is in place
    Health(health::Args),
    /// Serve one session (started by `fusewire serve`)
    #[command(hide = true)]
    Worker(serve::WorkerArgs),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(args) => serve::serve(args),
        Command::Run(args) => run::run(&args),
        Command::Gpus(args) => gpus::gpus(&args),
        Command::Health(args) => health::health(&args),
        Command::Worker(args) => serve::worker(args),
    }
}

/// Says what went wrong, in the one line that every failure gets.
fn fail(text: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("fusewire: {text}");
    ExitCode::FAILURE
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
