//! How a session comes to be: find the server, greet it, learn its devices, start the threads.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fusewire_connect::{Config, open_session, said_by};
use fusewire_link::compress::Compress;
use fusewire_link::shm::{self, Area, Side};
use fusewire_link::{BulkMover, LinkError, tcp};
use fusewire_wire::hello::features;
use fusewire_wire::ops::snapshot::Snapshot;
use fusewire_wire::ops::window::HOST_BYTES;

use crate::abi::result::{CUDA_ERROR_NO_DEVICE, CUDA_ERROR_SYSTEM_NOT_READY};
use crate::abi::types::CUresult;
use crate::abi::{errors, hooks, set_server_driver_version};
use crate::hooks::RuntimeHooks;

use super::handles::{self, Object};
use super::helm;
use super::memory_state::Memory;
use super::objects::{Context, Pool};
use super::packing::Packing;
use super::pump::Landings;
use super::session::Session;
use super::{Runtime, VisibleDevice, log, process};

static SAID_NO_SERVER: AtomicBool = AtomicBool::new(false);

/// For libnvidia-ml.so.1, which says the same.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn fusewire_said_no_server() -> bool {
    SAID_NO_SERVER.load(SeqCst)
}

/// Says why there is no device, and gives the code for it.
fn none(why: &str) -> CUresult {
    // In this order (see `said_by`).
    let told = SAID_NO_SERVER.swap(true, SeqCst) || said_by(c"libnvidia-ml.so.1");
    if !told {
        log::say(&format!("no GPU is available: {why}"));
    }
    CUDA_ERROR_NO_DEVICE
}

pub(crate) fn connect() -> Result<Runtime, CUresult> {
    let config = Config::from_env().map_err(|error| none(&error.to_string()))?;
    let opened = open_session(&config).map_err(|error| none(&error.to_string()))?;
    let Some(snapshot) = Snapshot::decode(&opened.tail) else {
        return Err(none(&format!("{} sent a device snapshot that makes no sense", config.server)));
    };
    let welcome = &opened.welcome;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let spin = spin_time(cores);
    let mut session =
        Session::new(welcome.slot_bytes.max(4096) as usize, u64::from(welcome.h2d_slots), spin, log::quiet());
    let has = |feature| welcome.features & feature != 0;
    session.keeps_images = has(features::IMAGES);
    let compress = if has(features::COMPRESSION) {
        Compress::parse(config.compress).unwrap_or_default()
    } else {
        Compress::Off
    };
    session.packing = Packing::new(compress, opened.command.stays_here());
    let session = Arc::new(session);
    let mut descriptors = vec![opened.command.as_fd().as_raw_fd()];
    descriptors.extend(opened.bulk.iter().map(|stream| stream.as_fd().as_raw_fd()));
    let link = |error: LinkError| none(&error.to_string());
    let pinned = has(features::SHARED_PINNED).then_some(HOST_BYTES);
    let (area, pinned) = if has(features::SHARED_MEMORY) {
        let lanes = welcome.bulk_lanes as usize;
        let received = Area::receive(opened.command.as_fd(), lanes, pinned, config.timeout);
        received.map(|(area, pinned)| (Some(area), pinned)).map_err(link)?
    } else {
        (None, None)
    };
    descriptors.extend(pinned.iter().map(AsRawFd::as_raw_fd));
    let devices = snapshot.devices.len();
    let memory =
        Memory::new(welcome.window_base, welcome.window_bytes, devices, pinned).map_err(|why| none(&why))?;
    let command = OwnedFd::from(opened.command);
    let lane = match &area {
        // The I/O thread does its own spinning.
        Some(area) => shm::command_lane(area, command, Side::Client, Duration::ZERO),
        None => tcp::command_lane(command, tcp::Engine::Auto),
    };
    let lane = lane.map_err(link)?;
    descriptors.extend(lane.descriptors());
    let _ = session.waker.set(lane.waker());
    let mut lanes = Vec::new();
    for (number, socket) in opened.bulk.into_iter().enumerate() {
        let sink = Landings::new(session.clone(), number, compress);
        let socket = OwnedFd::from(socket);
        let engine = match &area {
            Some(area) => shm::bulk_engine(area, number, socket, Side::Client, spin),
            None => tcp::bulk_engine(socket, tcp::Engine::Auto, tcp::ZeroCopy::Auto),
        };
        let handle = engine
            .and_then(|engine| BulkMover::spawn_for(session.outgoing.clone(), engine, Vec::new(), sink))
            .map_err(link)?;
        descriptors.extend_from_slice(handle.descriptors());
        lanes.push(handle);
    }
    session.set_bulk(lanes);
    let pumped = session.clone();
    quiet_thread("fusewire-io", move || helm::run(lane, &pumped, spin))
        .map_err(|error| none(&format!("starting the I/O thread failed: {error}")))?;
    descriptors.sort_unstable();
    descriptors.dedup();
    process::watch_forks(descriptors);

    set_server_driver_version(snapshot.driver_version);
    errors::set_descriptions(snapshot.errors.iter().map(|(code, _, text)| (*code, text.clone())).collect());
    let devices = visible(&snapshot)?;
    hooks::install(&RuntimeHooks);
    Ok(Runtime { session, devices, memory, mirrors: Default::default(), captures: Default::default() })
}

/// How long threads spin before they sleep: not at all when cores are scarce.
/// `FUSEWIRE_SPIN_US` overrides it.
fn spin_time(cores: usize) -> Duration {
    let chosen = std::env::var("FUSEWIRE_SPIN_US").ok().and_then(|value| value.parse().ok());
    Duration::from_micros(chosen.unwrap_or(if cores > 2 { 100 } else { 0 }))
}

/// Starts a thread that takes no signals meant for the program, whoever starts it.
pub(super) fn quiet_thread(name: &str, body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    // SAFETY: all zero is a valid signal set, and it is filled in below.
    let mut all: libc::sigset_t = unsafe { std::mem::zeroed() };
    let mut before = all;
    // SAFETY: both sets are live; the mask is put back below.
    unsafe {
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
    }
    let started = std::thread::Builder::new().name(name.into()).spawn(body);
    // SAFETY: `before` was filled in above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut()) };
    started.map(drop)
}

/// The devices that `CUDA_VISIBLE_DEVICES` lets the program see, in its order.
fn visible(snapshot: &Snapshot) -> Result<Vec<VisibleDevice>, CUresult> {
    let wanted = std::env::var("CUDA_VISIBLE_DEVICES").ok();
    let order = select(snapshot, wanted.as_deref());
    let mut devices = Vec::new();
    for (ordinal, remote) in order.into_iter().enumerate() {
        let Some(device) = snapshot.devices.get(remote) else { continue };
        let handle = handles::mint()?;
        let primary = Arc::new(Context::new(handle, ordinal, true, 0, 3020));
        handles::fill(handle, Object::Context(primary.clone()));
        let handle = handles::mint()?;
        let default_pool =
            Arc::new(Pool { handle, device: ordinal, attributes: Mutex::default(), is_default: true });
        handles::fill(handle, Object::Pool(default_pool.clone()));
        devices.push(VisibleDevice {
            remote: i32::try_from(remote).map_err(|_| CUDA_ERROR_SYSTEM_NOT_READY)?,
            limits: crate::api::launch::Limits::of(device),
            snapshot: device.clone(),
            primary,
            pool: Mutex::new(default_pool.clone()),
            default_pool,
        });
    }
    if devices.is_empty() { Err(CUDA_ERROR_NO_DEVICE) } else { Ok(devices) }
}

/// As the driver reads `CUDA_VISIBLE_DEVICES`: ordinals or UUID prefixes, up to the first that names none.
fn select(snapshot: &Snapshot, wanted: Option<&str>) -> Vec<usize> {
    let Some(wanted) = wanted else { return (0..snapshot.devices.len()).collect() };
    let mut order = Vec::new();
    for item in wanted.split(',').map(str::trim) {
        let found = if let Ok(ordinal) = item.parse::<usize>() {
            (ordinal < snapshot.devices.len()).then_some(ordinal)
        } else if let Some(prefix) = item.strip_prefix("GPU-") {
            snapshot.devices.iter().position(|device| {
                !prefix.is_empty() && uuid(&device.info.uuid).starts_with(&prefix.to_ascii_lowercase())
            })
        } else {
            None
        };
        match found {
            Some(ordinal) if !order.contains(&ordinal) => order.push(ordinal),
            Some(_) => return Vec::new(),
            None => break,
        }
    }
    order
}

/// A UUID as `nvidia-smi` writes it, without `GPU-`.
fn uuid(bytes: &[u8; 16]) -> String {
    let mut text = String::new();
    for (n, byte) in bytes.iter().enumerate() {
        if matches!(n, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use fusewire_wire::ops::snapshot::{Device, DeviceSnapshot};
    use zerocopy::FromZeros;

    use super::*;

    #[test]
    fn visible_devices_are_read_as_the_driver_reads_them() {
        let device = |byte| {
            let mut info = DeviceSnapshot::new_zeroed();
            info.uuid = [byte; 16];
            Device { info, attributes: Vec::new() }
        };
        let snapshot = Snapshot { devices: vec![device(0xa1), device(0xb2)], ..Snapshot::default() };
        for (given, expected) in [
            (None, vec![0, 1]),
            (Some("1"), vec![1]),
            (Some("1,0"), vec![1, 0]),
            (Some("0,5,1"), vec![0]),
            (Some(""), vec![]),
            (Some("-1"), vec![]),
            (Some("0,0"), vec![]),
            (Some("GPU-b2b2"), vec![1]),
            (Some("NoDevFiles"), vec![]),
        ] {
            assert_eq!(select(&snapshot, given), expected, "{given:?}");
        }
    }
}
