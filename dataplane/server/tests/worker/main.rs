//! The worker from outside: a process of its own on the software GPU, and a client made of wire's session.
//!
//! This program is both: without arguments it is the tests, with `worker` first it is the worker.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "all of it is a test, though without the attribute"
)]

mod bad_input;
mod client;
mod objects;
mod thin;
mod trouble;

use std::path::PathBuf;
use std::process::ExitCode;

use fusewire_server::control::WorkerOptions;
use libtest_mimic::{Arguments, Failed, Trial};

/// A test, by name.
pub type Test = (&'static str, fn());

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|arg| arg == "worker") {
        let driver = args.get(2).map(PathBuf::from);
        return fusewire_server::worker::main(&WorkerOptions { control_fd: 3, driver });
    }
    let trials = [thin::TESTS, objects::TESTS, bad_input::TESTS, trouble::TESTS].concat().into_iter().map(
        |(name, test)| {
            Trial::test(name, move || {
                test();
                Ok::<(), Failed>(())
            })
        },
    );
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}
