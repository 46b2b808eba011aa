//! A worker process from its start to its end.
//!
//! It loads the driver and says so, waits for a session, serves it, and exits: the end of the process is what
//! frees everything that the session had, whatever state it was in.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, unbounded};
use fusewire_link::compress::Compress;
use fusewire_link::shm::{self, Area, Side, sealed_memory};
use fusewire_link::{CommandLane, CoreId, LinkError, Waker, tcp};
use fusewire_wire::bulk::MAX_LANES;
use fusewire_wire::hello::{Lines, Refusal, RefusedReason, Welcome, features};
use fusewire_wire::ops::window;
use fusewire_wire::session::{ChannelConfig, Patience, ServerConfig, ServerSession, Transmit};

use super::bulk::Lanes;
use super::gpu::Gpu;
use super::graphs::RELAXED;
use super::image_cache::{ImageCache, device_kind};
use super::memory::Memory;
use super::output::Output;
use super::pinned::{Pinned, Plan};
use super::shard::{End, Shard, greet};
use crate::control::{
    ControlError, FromWorker, ImageCacheOptions, Open, SessionStats, Staging, ToWorker, WorkerEnd,
    WorkerOptions,
};
use crate::driver::load::DEFAULT_DRIVER;
use crate::driver::{Driver, inventory, snapshot};

/// Staging when the daemon does not say: 288 MiB towards the GPU, 64 MiB back. Towards the GPU, a whole batch of
/// training images (256 of 299 x 299 floats: 262 MiB) fits, so that the next one travels while the GPU computes; of a
/// batch that does not fit, the rest would travel while the GPU waits. A slot holds a chunk, and while a lane compresses
/// one, the kernel sends the one before: they are short, so that it never runs out of them, and lie in a core's cache.
const SLOT_BYTES: u32 = 256 << 10;
const H2D_SLOTS: u32 = 1152;
const D2H_SLOTS: u32 = 256;
/// A client may be stopped in a debugger for this long; a host that died is noticed by the connection.
const SILENCE: u64 = 120_000_000_000;
const PING: u64 = 15_000_000_000;

/// Blocks of memory that go back to the system when they are freed, and bytes of smaller ones that are kept.
#[cfg(target_env = "gnu")]
const MAPPED_BYTES: i32 = 1 << 20;
#[cfg(target_env = "gnu")]
const KEPT_BYTES: i32 = 4 << 20;

/// Runs a worker process. Nothing else may go on in the process: its standard output and error become the
/// session's.
#[must_use]
pub fn main(options: &WorkerOptions) -> ExitCode {
    let mut control = match WorkerEnd::from_fd(options.control_fd) {
        Ok(control) => control,
        Err(error) => {
            let fd = options.control_fd;
            eprintln!(
                "fusewire: a worker is started by the daemon only: descriptor {fd} is no control socket: {error}"
            );
            return ExitCode::from(2);
        }
    };
    let (output, log) = match Output::capture() {
        Ok((output, stderr)) => (output, Log(Some(stderr))),
        Err(error) => {
            eprintln!("fusewire: device output cannot be captured: {error}; it stays here");
            (Output::default(), Log(None))
        }
    };
    log.catch_panics();
    give_freed_memory_back();
    let driver: &'static Driver =
        match Driver::start(options.driver.as_deref().unwrap_or(Path::new(DEFAULT_DRIVER))) {
            Ok(driver) => Box::leak(Box::new(driver)),
            Err(error) => {
                let _ = control.send(&FromWorker::Failed { text: error.to_string() });
                return ExitCode::FAILURE;
            }
        };
    let opened = ready(driver, &mut control).and_then(|()| wait_for_session(driver, &mut control));
    match opened {
        Ok(Some((open, socket))) => {
            let images = match images(driver, &open, options.image_cache.as_ref()) {
                Ok(images) => images,
                Err(text) => {
                    log.line(&text);
                    None
                }
            };
            let ended = match serve(driver, &open, socket, control, output, images) {
                Ok(ended) => ended,
                Err(text) => {
                    log.line(&format!("session of {}: {text}", open.peer));
                    return ExitCode::FAILURE;
                }
            };
            if !ended.is_ordinary() {
                log.line(&format!("session of {}: {ended}", open.peer));
            }
            // Not by way of exit handlers: the driver's would wait for work that may never end. The kernel
            // driver frees everything when the process is gone.
            // SAFETY: ends the process.
            unsafe { libc::_exit(0) }
        }
        Ok(None) => ExitCode::SUCCESS,
        Err(error) => {
            log.line(&error);
            ExitCode::FAILURE
        }
    }
}

/// An image or a frame may be many megabytes, and a session may last for days: the allocator keeps what was freed for
/// the next one, up to 64 MiB and more, unless it is told not to learn from the sizes that it sees.
fn give_freed_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: numbers for the allocator, before there are other threads.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_BYTES);
    }
}

/// Where the process's own messages go, now that its standard error is the session's.
struct Log(Option<OwnedFd>);

impl Log {
    fn line(&self, text: &str) {
        let text = format!("fusewire worker {}: {text}\n", std::process::id());
        match &self.0 {
            Some(fd) => {
                // Nobody is left to tell.
                let _ = rustix::io::write(fd, text.as_bytes());
            }
            None => {
                let _ = std::io::stderr().write_all(text.as_bytes());
            }
        }
    }

    fn catch_panics(&self) {
        let fd = self.0.as_ref().and_then(|fd| fd.try_clone().ok());
        std::panic::set_hook(Box::new(move |info| {
            Log(fd.as_ref().and_then(|fd| fd.try_clone().ok())).line(&info.to_string())
        }));
    }
}

fn ready(driver: &Driver, control: &mut WorkerEnd) -> Result<(), String> {
    let message = match inventory::take(driver) {
        Ok(inventory) => FromWorker::Ready { inventory: inventory.to_bytes() },
        Err(status) => {
            let text = format!("the driver cannot describe its devices: {}", driver.describe(status));
            let _ = control.send(&FromWorker::Failed { text: text.clone() });
            return Err(text);
        }
    };
    control.send(&message).map_err(|error| error.to_string())
}

/// Waits for a session. `None`: the daemon has no use for this worker any more.
fn wait_for_session(driver: &Driver, control: &mut WorkerEnd) -> Result<Option<(Open, OwnedFd)>, String> {
    loop {
        match control.recv() {
            Ok(ToWorker::Open { open, socket }) => return Ok(Some((open, socket))),
            Ok(ToWorker::Refresh) => ready(driver, control)?,
            Ok(ToWorker::Shutdown { .. }) | Err(ControlError::Closed) => return Ok(None),
            // No session of ours to join yet.
            Ok(ToWorker::Join { .. }) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// Opens the session and serves it. An error: it could not be opened, and the client has been told.
fn serve(
    driver: &'static Driver,
    open: &Open,
    socket: OwnedFd,
    control: WorkerEnd,
    output: Output,
    images: Option<ImageCache>,
) -> Result<End, String> {
    let refuse = |socket: &OwnedFd, control: &WorkerEnd, refusal: Refusal| {
        greet(socket, &refusal.to_bytes());
        let stats = SessionStats::default();
        let _ = control.send(&FromWorker::Ended { reason: refusal.text.clone(), stats });
        refusal.text
    };
    let started = Instant::now();
    let plan = plan(open);
    // The first core is the shard's own, the rest are for the lanes' threads.
    let mut cores = open.cores.iter().map(|&id| CoreId { id: id as usize });
    if let Some(core) = cores.next() {
        // Best effort: a container's cpuset may exclude the core.
        core_affinity::set_for_current(core);
    }
    // Pauses between polls are tens of microseconds; the default slack would more than double them.
    // SAFETY: a number for this thread; a kernel that refuses it leaves things as they are.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_000_u64) };
    let cores: Vec<CoreId> = cores.collect();
    let shares = shm::is_local(socket.as_fd());
    let prepared = prepare(driver, open, plan, output, shares, images);
    let (mut session, mut gpu, shared) = match prepared {
        Ok(prepared) => prepared,
        Err(refusal) => return Err(refuse(&socket, &control, refusal)),
    };
    let keep = match socket.try_clone() {
        Ok(keep) => keep,
        Err(error) => {
            return Err(refuse(&socket, &control, unavailable(format!("out of descriptors: {error}"))));
        }
    };
    let lane = match &shared {
        Some(shared) => share(&mut session, shared, socket),
        None => tcp::command_lane(socket, tcp::Engine::Auto),
    };
    let lane = match lane {
        Ok(lane) => lane,
        Err(error) => return Err(refuse(&keep, &control, unavailable(error.to_string()))),
    };
    drop(keep);
    let (report, messages) = listen(control, lane.waker())?;
    let area = shared.map(|Shared { area, pinned, .. }| {
        if let Some(memory) = pinned {
            gpu.memory.share(memory);
        }
        area
    });
    let mut shard = Shard::new(session, lane, area, gpu, messages, cores, started);
    let end = shard.run();
    let _ = report.send(&FromWorker::Ended { reason: end.to_string(), stats: shard.stats });
    if end.is_ordinary() {
        shard.gpu.keep_all_facts();
    }
    // Nothing is taken apart: a stream may be busy for ever, and the end of the process frees it all.
    std::mem::forget(shard);
    Ok(end)
}

fn plan(open: &Open) -> Plan {
    let or = |value: u32, default: u32, most: u32| if value == 0 { default } else { value.min(most) };
    Plan {
        slot_bytes: or(open.staging.slot_bytes, SLOT_BYTES, Staging::MAX_SLOT_BYTES).next_multiple_of(4096),
        h2d_slots: or(open.staging.h2d_slots, H2D_SLOTS, Staging::MAX_SLOTS),
        d2h_slots: or(open.staging.d2h_slots, D2H_SLOTS, Staging::MAX_SLOTS),
    }
}

/// Greets a client on this host, passes it the memory that the lanes are in, and gives the command lane.
fn share(
    session: &mut ServerSession,
    shared: &Shared,
    socket: OwnedFd,
) -> Result<Box<dyn CommandLane>, LinkError> {
    if let Some(Transmit::Owned(welcome)) = session.transmit() {
        // A client that is gone shows as one in the next step.
        greet(&socket, &welcome);
    }
    Area::pass(shared.lanes.as_fd(), shared.pinned.as_ref().map(AsFd::as_fd), socket.as_fd())?;
    // The shard does its own spinning.
    shm::command_lane(&shared.area, socket, Side::Server, Duration::ZERO)
}

/// How long a bulk lane in shared memory is looked at before its thread sleeps. Not at all when cores are scarce.
pub(super) fn spin() -> Duration {
    let chosen = std::env::var("FUSEWIRE_SPIN_US").ok().and_then(|value| value.parse().ok());
    let few = std::thread::available_parallelism().map_or(true, |count| count.get() <= 2);
    Duration::from_micros(chosen.unwrap_or(if few { 0 } else { 100 }))
}

fn unavailable(text: String) -> Refusal {
    Refusal::new(RefusedReason::Unavailable, text)
}

/// What a client on this host shares with the session; without any, lanes are on sockets.
struct Shared {
    area: Arc<Area>,
    /// The area's descriptor, to pass to the client.
    lanes: OwnedFd,
    /// The host window.
    pinned: Option<OwnedFd>,
}

/// Everything that a session has before its first operation.
fn prepare(
    driver: &'static Driver,
    open: &Open,
    plan: Plan,
    output: Output,
    shares: bool,
    images: Option<ImageCache>,
) -> Result<(ServerSession, Gpu, Option<Shared>), Refusal> {
    let failed = |what: &str, status| unavailable(format!("{what}: {}", driver.describe(status)));
    let pinned = Pinned::new(plan).map_err(|error| unavailable(format!("no memory for staging: {error}")))?;
    let pinned = Arc::new(pinned);
    let memory =
        Memory::reserve(driver).map_err(|status| failed("the address window cannot be reserved", status))?;
    let snapshot =
        snapshot::take(driver).map_err(|status| failed("the devices cannot be described", status))?;
    let mut mode = RELAXED;
    // SAFETY: a live integer. Drivers without captures do without.
    unsafe { driver.cuThreadExchangeStreamCaptureMode(&raw mut mode) };
    let window = memory.window();
    let offer = Welcome {
        session: open.session,
        slot_bytes: plan.slot_bytes,
        h2d_slots: plan.h2d_slots,
        d2h_slots: plan.d2h_slots,
        bulk_lanes: MAX_LANES as u32,
        window_base: window.start,
        window_bytes: window.end - window.start,
        ..Welcome::blank()
    };
    let mut config = ServerConfig::new(offer);
    config.channel = ChannelConfig {
        patience: Patience { ping: PING, silence: SILENCE, ..Patience::default() },
        ..ChannelConfig::default()
    };
    // A lost connection ends the session for now: RESUME is not promised. Without memory to share, lanes run on
    // the sockets.
    let lanes = open.hello.lanes.min(MAX_LANES as u32) as usize;
    let wants = |feature| shares && open.hello.features & feature != 0;
    let area = wants(features::SHARED_MEMORY).then(|| Area::create(lanes).ok()).flatten();
    let shared = area.map(|(area, lanes)| {
        let wanted = wants(features::SHARED_PINNED);
        let pinned = wanted.then(|| sealed_memory("fusewire-pinned", window::HOST_BYTES).ok()).flatten();
        Shared { area, lanes, pinned }
    });
    config.features = match &shared {
        None => features::COMPRESSION,
        Some(Shared { pinned: None, .. }) => features::SHARED_MEMORY,
        Some(_) => features::SHARED_MEMORY | features::SHARED_PINNED,
    };
    if images.is_some() {
        config.features |= features::IMAGES;
    }
    let session = ServerSession::open(0, &open.hello, config, &snapshot.encode())?;
    let mut lanes = Lanes::new(session.welcome().bulk_lanes, Arc::clone(&pinned), open.peer.clone())
        .map_err(|error| unavailable(error.to_string()))?;
    if session.welcome().features & features::COMPRESSION != 0 {
        // The client's choice holds both ways.
        let lines = Lines::parse(open.lines.clone()).unwrap_or_default();
        lanes.compress = lines.get("compress").and_then(Compress::parse).unwrap_or_default();
    }
    let mut gpu = Gpu::new(driver, output, pinned, lanes, memory);
    gpu.blobs.cache = images;
    Ok((session, gpu, shared))
}

/// The cache of the session's tenant. An error: it cannot be had, and the session does without.
fn images(
    driver: &Driver,
    open: &Open,
    options: Option<&ImageCacheOptions>,
) -> Result<Option<ImageCache>, String> {
    let Some(ImageCacheOptions { folder, bytes }) = options else { return Ok(None) };
    // What cannot describe its devices fails for that soon after.
    let Ok(snapshot) = snapshot::take(driver) else { return Ok(None) };
    let kinds = snapshot.devices.iter();
    let kinds = kinds.map(|device| device_kind(snapshot.driver_version, &device.info.name)).collect();
    ImageCache::open(folder, *bytes, open.tenant, kinds).map(Some).map_err(|error| {
        format!(
            "images are not kept: {} cannot be used ({error}); name another folder with --image-cache",
            folder.display()
        )
    })
}

/// Listens to the daemon on a thread of its own, which wakes the shard. Gives the end to report on, too.
#[allow(clippy::type_complexity, reason = "a pair, taken apart at once")]
fn listen(
    mut control: WorkerEnd,
    waker: Waker,
) -> Result<(WorkerEnd, Receiver<Result<ToWorker, ControlError>>), String> {
    let twin = rustix::io::fcntl_dupfd_cloexec(control.as_fd(), 3).map_err(|error| error.to_string())?;
    let report =
        WorkerEnd::from_fd(std::os::fd::IntoRawFd::into_raw_fd(twin)).map_err(|error| error.to_string())?;
    let (sender, receiver) = unbounded();
    let body = move || {
        loop {
            let message = control.recv();
            let over = message.as_ref().is_err_and(|error| !matches!(error, ControlError::Malformed(_)));
            let heard = sender.send(message).is_ok();
            waker.wake();
            if over || !heard {
                return;
            }
        }
    };
    std::thread::Builder::new()
        .name("fusewire-control".into())
        .spawn(body)
        .map_err(|error| format!("no thread to listen to the daemon: {error}"))?;
    Ok((report, receiver))
}
