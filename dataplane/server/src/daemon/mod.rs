//! `fusewire serve`: listens, admits, and starts a worker process per session.
//!
//! The daemon never loads the CUDA driver and never sees a session's traffic: it
//! reads the first message of a connection, decides, and passes the socket to
//! a worker. What it knows of the devices, a worker has told it, and NVML
//! (`crate::nvml`) where there is one.
//!
//! ```text
//! front (one executor)   accept → hello → admit ──┐ sockets
//! pool  (one per GPU)    warm workers, sessions ◄─┘ → worker process over the control socket
//! ```
//!
//! Order of a start: refuse what cannot work (`listen`, `limits`), ask a first
//! worker about the driver, place (`crate::placement`), start the executors,
//! listen. Whatever fails ends in one line on stderr and exit code 1.

mod front;
mod hello;
mod limits;
mod listen;
mod log;
mod pool;
mod process;
mod signals;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use fusewire_wire::inventory::{self, Inventory};
use glommio::channels::shared_channel;
use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement as Pin};

use crate::control::{ControlError, FromWorker, ImageCacheOptions, Staging};
use crate::nvml::{self, Reader};
use crate::placement::{self, Placement};
use log::Log;
use process::Worker;

pub use limits::{MEMLOCK_NEEDED, memlock_limit, try_io_uring};

/// How long the first worker may take to try the driver.
const PROBE_LIMIT: Duration = Duration::from_secs(120);
/// Messages that may wait between two executors.
const CHANNEL: usize = 1024;
/// Memory of an executor's own I/O buffers. The daemon moves a few kilobytes.
const IO_MEMORY: usize = 256 << 10;
/// How long an executor's tasks may have before it looks at its I/O: longer than any has. glommio (0.9.0) goes to sleep
/// with a task that is ready to run if this time is over before the first one has begun, as happens to a thread that
/// is not given the processor for so long; with the default of 100 ms about one start in 300 on a busy machine never
/// came to an end.
const TURN: Duration = Duration::from_secs(3600);

/// What `fusewire serve` was told.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Where to listen: `HOST:PORT`, or `unix:PATH` for clients on this host.
    pub listen: Vec<String>,
    /// Permission bits of the sockets that are files: who may connect may use the GPUs.
    pub socket_mode: u32,
    /// What clients have to show, if anything.
    pub token: Option<String>,
    /// Listen beyond loopback without a token.
    pub insecure: bool,
    /// The driver library; `None` for libcuda.so.1 as the dynamic loader finds it.
    pub driver: Option<PathBuf>,
    /// Workers kept ready for each GPU.
    pub warm_workers: usize,
    /// Most sessions at once; 0 for no limit.
    pub max_sessions: usize,
    /// How workers stage bulk data; zeroes for their own defaults.
    pub staging: Staging,
    /// Devices to offer, as CUDA_VISIBLE_DEVICES would name them.
    pub devices: Option<String>,
    /// Where images are kept; `None` for nowhere.
    pub image_cache: Option<ImageCacheOptions>,
    /// Cores to use; `None` for all this process may run on.
    pub cores: Option<Vec<u32>>,
    /// Say only what went wrong.
    pub quiet: bool,
}

/// Runs the daemon until it is told to stop.
#[must_use]
pub fn serve(options: ServeOptions) -> ExitCode {
    let log = Log::new(options.quiet);
    match run(options, &log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            log.error(&text);
            ExitCode::FAILURE
        }
    }
}

/// A line for the operator: what was tried, and what to do.
type Failure = String;

fn run(options: ServeOptions, log: &Log) -> Result<(), Failure> {
    let listeners = listen::bind(&options)?;
    limits::ensure()?;
    let (worker, inventory) = probe(&options)?;
    let usable = options.cores.clone().unwrap_or_else(placement::usable_cores);
    let placement = Placement::compute(&inventory.devices, &usable, Path::new("/sys"));
    for row in placement.table() {
        log.info(&row);
    }
    let signals = signals::register()?;
    let options = Arc::new(options);
    let mut links = Vec::new();
    let mut executors = Vec::new();
    let mut first = Some(worker);
    for (index, gpu) in placement.gpus.iter().enumerate() {
        let (commands, for_pool) = shared_channel::new_bounded(CHANNEL);
        let (to_front, events) = shared_channel::new_bounded(CHANNEL);
        let setup = pool::Setup {
            index,
            gpu: gpu.clone(),
            options: Arc::clone(&options),
            log: log.clone(),
            first: first.take(),
        };
        executors
            .push(spawn(&format!("gpu{index}"), gpu.executor, move || pool::run(setup, for_pool, to_front))?);
        links.push((commands, events));
    }
    // Figures are worth having, and nothing depends on them.
    let reader = Reader::start(inventory.clone(), nvml::DEFAULT_LIBRARY.into()).ok();
    let front = front::Setup { options, log: log.clone(), inventory, listeners, signals, links, reader };
    let executor = builder("front", placement.front)
        .make()
        .or_else(|_| builder("front", None).make())
        .map_err(|error| no_io_uring(&error))?;
    executor.run(front::run(front));
    for executor in executors {
        if let Err(error) = executor.join() {
            log.error(&format!("an executor ended badly: {error}"));
        }
    }
    Ok(())
}

/// Starts the first worker and hears from it what the driver has.
fn probe(options: &ServeOptions) -> Result<(Worker, Inventory), Failure> {
    let name =
        options.driver.as_ref().map_or_else(|| "libcuda.so.1".to_owned(), |path| path.display().to_string());
    let mut worker = process::start(options, &[])?;
    let died = |worker: &mut Worker| {
        format!("the worker that was to try the driver {name} {}: see its messages above", worker.wait_text())
    };
    match worker.control.recv_within(PROBE_LIMIT) {
        Ok(FromWorker::Ready { inventory }) => {
            let inventory = inventory::parse(&inventory)
                .map_err(|error| format!("the worker's list of devices cannot be read: {error}"))?;
            if inventory.devices.is_empty() {
                return Err(format!(
                    "the driver {name} works but has no device to offer: check nvidia-smi, \
                     CUDA_VISIBLE_DEVICES and --devices"
                ));
            }
            Ok((worker, inventory))
        }
        Ok(FromWorker::Failed { text }) => Err(text),
        Ok(FromWorker::Ended { reason, .. }) => {
            Err(format!("the worker ended while it tried the driver {name}: {reason}"))
        }
        Err(ControlError::Closed) => Err(died(&mut worker)),
        Err(error @ ControlError::Timeout(_)) => {
            worker.kill();
            Err(format!(
                "the driver {name} does not start ({error}): check dmesg and nvidia-smi, or name another with --driver"
            ))
        }
        Err(error) => Err(format!("the worker that was to try the driver {name} cannot be heard: {error}")),
    }
}

fn builder(name: &str, core: Option<u32>) -> LocalExecutorBuilder {
    let pin = core.map_or(Pin::Unbound, |core| Pin::Fixed(core as usize));
    // No spinning: an idle daemon uses no processor. Its own latency matters only when a session opens.
    LocalExecutorBuilder::new(pin)
        .name(name)
        .io_memory(IO_MEMORY)
        .spin_before_park(Duration::ZERO)
        .preempt_timer(TURN)
}

/// Starts an executor on a thread of its own and waits until it runs. A core
/// that cannot be had is not worth failing for.
fn spawn<F, Fut>(name: &str, core: Option<u32>, body: F) -> Result<ExecutorJoinHandle<()>, Failure>
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let pinnable = core.filter(|&core| placement::usable_cores().contains(&core));
    let (started, starts) = mpsc::channel();
    let handle = builder(name, pinnable)
        .spawn(move || async move {
            // The receiver waits below, so this cannot fail while it matters.
            let _ = started.send(());
            body().await;
        })
        .map_err(|error| no_io_uring(&error))?;
    match starts.recv() {
        Ok(()) => Ok(handle),
        Err(_) => Err(match handle.join() {
            Ok(()) => "an executor ended before it began".to_owned(),
            Err(error) => no_io_uring(&error),
        }),
    }
}

fn no_io_uring(error: &dyn std::fmt::Display) -> Failure {
    format!(
        "io_uring cannot be used ({error}): the daemon needs Linux 5.8 or newer, kernel.io_uring_disabled=0, \
         and no seccomp filter against it (docker: --security-opt seccomp=unconfined)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executors_run_on_the_core_they_are_given_if_it_can_be_had() {
        let all = placement::usable_cores();
        let first = all[0];
        for (core, expected) in [(None, all.clone()), (Some(first), vec![first]), (Some(8000), all)] {
            let (sender, receiver) = mpsc::channel();
            let body = move || async move { sender.send(placement::usable_cores()).unwrap() };
            spawn("test", core, body).unwrap().join().unwrap();
            assert_eq!(receiver.recv().unwrap(), expected, "{core:?}");
        }
    }
}
