//! The worker from outside: a process of its own on the software GPU, and a client made of wire's session.
//!
//! This program is both: without arguments it is the tests, with `worker` first it is the worker. With
//! `FUSEWIRE_TEST_DRIVER=libcuda.so.1` the same tests run on a real GPU, but for those that need a driver which
//! fails to order.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub,
    reason = "all of it is a test, though without the attribute"
)]

mod backlog;
mod bad_input;
mod blocking;
mod captures;
mod client;
mod contexts;
mod copies;
mod edges;
mod events;
mod fences;
mod graphs;
mod images;
mod libraries;
mod mapped;
mod measure;
mod mirrors;
mod printing;
mod thin;
mod trouble;

use std::path::PathBuf;
use std::process::ExitCode;

use fusewire_server::control::{ImageCacheOptions, WorkerOptions};
use libtest_mimic::{Arguments, Failed, Trial};

/// A test, by name.
pub type Test = (&'static str, fn());

/// Tests of what a driver does on order.
const NEED_SOFTGPU: &[&str] = &[
    "an_ordered_fault_reaches_every_waiter",
    "memory_that_runs_out_is_refused_and_comes_back",
    "pointers_outside_the_session_are_refused",
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|arg| arg == "worker") {
        let driver = args.get(2).map(PathBuf::from);
        let image_cache = std::env::var_os("FUSEWIRE_TEST_IMAGES")
            .map(|folder| ImageCacheOptions { folder: folder.into(), bytes: 1 << 30 });
        return fusewire_server::worker::main(&WorkerOptions { control_fd: 3, driver, image_cache });
    }
    let tests = [
        thin::TESTS,
        fences::TESTS,
        captures::TESTS,
        contexts::TESTS,
        copies::TESTS,
        edges::TESTS,
        events::TESTS,
        graphs::TESTS,
        libraries::TESTS,
        mapped::TESTS,
        mirrors::TESTS,
        printing::TESTS,
        backlog::TESTS,
        images::TESTS,
        bad_input::TESTS,
        trouble::TESTS,
        measure::MEASUREMENTS,
        blocking::MEASUREMENTS,
    ]
    .concat();
    let trials = tests.into_iter().map(|(name, test)| {
        let ordered = NEED_SOFTGPU.contains(&name) && !client::is_softgpu();
        let measured = [measure::MEASUREMENTS, blocking::MEASUREMENTS]
            .concat()
            .iter()
            .any(|measurement| measurement.0 == name);
        let run = move || {
            test();
            Ok::<(), Failed>(())
        };
        Trial::test(name, run).with_ignored_flag(ordered || measured)
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}
