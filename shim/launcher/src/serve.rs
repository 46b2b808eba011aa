//! `fusewire serve`, and the hidden `fusewire worker` that it starts.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::RangedU64ValueParser;
use fusewire_connect::Token;
use fusewire_server::control::{self, ImageCacheOptions, Staging, WorkerOptions};
use fusewire_server::daemon::{self, ServeOptions};
use fusewire_server::placement;

use crate::fail;

/// Offer this machine's GPUs to clients.
///
/// One process per session, so that no program can reach another's memory.
/// Placement is printed first, then `listening on …`; SIGTERM or Ctrl-C closes
/// all sessions and ends the server.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fusewire serve
  fusewire serve --listen 0.0.0.0:7543 --token-file /etc/fusewire/token
  fusewire serve --listen 127.0.0.1:7543 --listen unix:/run/fusewire/socket
  fusewire serve --driver target/debug/libsoftgpu.so --warm-workers 1")]
pub(crate) struct Args {
    /// Where to listen, as often as needed: HOST:PORT, which beyond loopback needs --token-file or --insecure,
    /// or unix:PATH for programs on this host, in containers too
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7543")]
    listen: Vec<String>,
    /// Mode of the unix: sockets, in octal: who may connect may use the GPUs
    #[arg(long, value_name = "MODE", default_value = "660", value_parser = mode)]
    socket_mode: u32,
    /// File with the token that clients must show
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Let everybody who can reach the port use the GPUs
    #[arg(long)]
    insecure: bool,
    /// The CUDA driver library [default: libcuda.so.1 as the dynamic loader finds it]
    #[arg(long, value_name = "PATH")]
    driver: Option<PathBuf>,
    /// Workers kept ready for each GPU, so that sessions open fast
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = RangedU64ValueParser::<usize>::new().range(0..=256))]
    warm_workers: usize,
    /// Most sessions at once; 0 for no limit
    #[arg(long, value_name = "N", default_value_t = 64)]
    max_sessions: usize,
    /// Bulk transfer slots of a session: towards the GPU, and back; one number is for both [default: the worker's
    /// choice]
    #[arg(long, value_name = "N[,M]", value_parser = slots)]
    staging_slots: Option<Slots>,
    /// Bytes of one slot, such as 1M [default: the worker's choice]
    #[arg(long, value_name = "BYTES", value_parser = slot_bytes)]
    slot_bytes: Option<u32>,
    /// Where images of device code are kept, so that a program's next start need not send them
    /// [default: /var/cache/fusewire for root, else fusewire in the user's cache folder]
    #[arg(long, value_name = "DIR")]
    image_cache: Option<PathBuf>,
    /// Bytes that the folder may come to, such as 512M; 0 to keep nothing
    #[arg(long, value_name = "BYTES", default_value = "4G", value_parser = size)]
    image_cache_bytes: u64,
    /// Devices to offer, as CUDA_VISIBLE_DEVICES names them
    #[arg(long, value_name = "LIST")]
    devices: Option<String>,
    /// Cores to use, such as 0-7,16 [default: all]
    #[arg(long, value_name = "LIST", value_parser = cores)]
    cores: Option<Cores>,
    /// Say only what went wrong
    #[arg(long)]
    quiet: bool,
}

/// Runs the daemon.
pub(crate) fn serve(args: Args) -> ExitCode {
    let token = match args.token_file.as_deref().map(Token::from_file).transpose() {
        Ok(token) => token.map(|token| token.reveal().to_owned()),
        Err(error) => return fail(&error),
    };
    let slots = args.staging_slots.unwrap_or_default();
    daemon::serve(ServeOptions {
        listen: args.listen,
        socket_mode: args.socket_mode,
        token,
        insecure: args.insecure,
        driver: args.driver,
        warm_workers: args.warm_workers,
        max_sessions: args.max_sessions,
        staging: Staging {
            slot_bytes: args.slot_bytes.unwrap_or(0),
            h2d_slots: slots.h2d,
            d2h_slots: slots.d2h,
            reserved: 0,
        },
        image_cache: args.image_cache_bytes.gt(&0).then(|| ImageCacheOptions {
            folder: args.image_cache.unwrap_or_else(cache_folder),
            bytes: args.image_cache_bytes,
        }),
        devices: args.devices,
        cores: args.cores.map(|cores| cores.0),
        quiet: args.quiet,
    })
}

/// Serve one session. Started by the daemon; of no use by hand.
#[derive(Debug, clap::Args)]
pub(crate) struct WorkerArgs {
    /// Descriptor of the control socket
    #[arg(long, value_name = "FD")]
    control_fd: i32,
    /// The CUDA driver library
    #[arg(long, value_name = "PATH")]
    driver: Option<PathBuf>,
    /// Where images are kept
    #[arg(long, value_name = "DIR", requires = "image_cache_bytes")]
    image_cache: Option<PathBuf>,
    /// Bytes that the folder may come to
    #[arg(long, value_name = "BYTES")]
    image_cache_bytes: Option<u64>,
    /// Cores this process may use
    #[arg(long, value_name = "LIST", value_parser = cores)]
    cores: Option<Cores>,
}

/// Becomes a worker.
pub(crate) fn worker(args: WorkerArgs) -> ExitCode {
    if let Ok(after) = u32::try_from(args.control_fd + 1)
        && args.control_fd > 2
    {
        // SAFETY: main has opened nothing yet, so nobody here owns a descriptor past the control socket.
        unsafe { control::close_inherited(after) };
    }
    // Before any thread exists, so that the driver's own threads are confined too.
    if let Some(Cores(cores)) = &args.cores
        && let Err(error) = placement::confine(cores)
    {
        eprintln!("fusewire: worker runs on any core ({error})");
    }
    let image_cache = args.image_cache.zip(args.image_cache_bytes);
    fusewire_server::worker::main(&WorkerOptions {
        control_fd: args.control_fd,
        driver: args.driver,
        image_cache: image_cache.map(|(folder, bytes)| ImageCacheOptions { folder, bytes }),
    })
}

fn mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("expected permission bits in octal, such as 660".to_owned()),
    }
}

/// A list of cores.
#[derive(Clone, Debug)]
struct Cores(Vec<u32>);

fn cores(text: &str) -> Result<Cores, String> {
    match placement::parse_cpulist(text) {
        Some(cores) if !cores.is_empty() => Ok(Cores(cores)),
        _ => Err("expected a list of cores such as 0-7,16".to_owned()),
    }
}

/// Where images are kept unless the operator says: where caches of the system, or of the user, are.
fn cache_folder() -> PathBuf {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let root = rustix::process::geteuid().is_root();
    match (set("XDG_CACHE_HOME"), set("HOME")) {
        (Some(caches), _) => caches.join("fusewire"),
        (None, Some(home)) if !root => home.join(".cache/fusewire"),
        _ => PathBuf::from("/var/cache/fusewire"),
    }
}

/// Bytes, with or without a unit.
fn size(text: &str) -> Result<u64, String> {
    let upper = text.to_ascii_uppercase();
    let upper = upper.strip_suffix('B').unwrap_or(&upper);
    let (digits, unit) = [('K', 1 << 10), ('M', 1 << 20), ('G', 1 << 30), ('T', 1 << 40)]
        .into_iter()
        .find_map(|(letter, unit)| Some((upper.strip_suffix(letter)?, unit)))
        .unwrap_or((upper, 1_u64));
    let bytes = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    bytes.ok_or_else(|| "expected a number of bytes such as 512M or 4G".to_owned())
}

/// Slots each way; zero for the worker's choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Slots {
    h2d: u32,
    d2h: u32,
}

fn slots(text: &str) -> Result<Slots, String> {
    let (h2d, d2h) = text.split_once(',').unwrap_or((text, text));
    let slots = |text: &str| text.trim().parse().ok().filter(|n| (2..=Staging::MAX_SLOTS).contains(n));
    match (slots(h2d), slots(d2h)) {
        (Some(h2d), Some(d2h)) => Ok(Slots { h2d, d2h }),
        _ => Err(format!(
            "expected a number from 2 to {}, or two with a comma between them",
            Staging::MAX_SLOTS
        )),
    }
}

fn slot_bytes(text: &str) -> Result<u32, String> {
    const LIMITS: std::ops::RangeInclusive<u64> = (64 << 10)..=(Staging::MAX_SLOT_BYTES as u64);
    match size(text) {
        Ok(bytes) if LIMITS.contains(&bytes) && bytes % 4096 == 0 => Ok(bytes as u32),
        _ => Err("expected a multiple of 4096 from 64K to 64M".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_each_way() {
        assert_eq!(slots("512"), Ok(Slots { h2d: 512, d2h: 512 }));
        assert_eq!(slots("1152, 2"), Ok(Slots { h2d: 1152, d2h: 2 }));
        assert_eq!(slots("4096"), Ok(Slots { h2d: 4096, d2h: 4096 }));
        for bad in ["", "1", "4097", "-2", "8,", ",8", "8,8,8", "many"] {
            assert!(slots(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn slot_sizes() {
        assert_eq!(slot_bytes("1M"), Ok(1 << 20));
        assert_eq!(slot_bytes("256k"), Ok(256 << 10));
        assert_eq!(slot_bytes("1MB"), Ok(1 << 20));
        assert_eq!(slot_bytes("65536"), Ok(65536));
        for bad in ["", "M", "1G", "65537", "63K", "65M", "-1", "99999999999999999999M"] {
            assert!(slot_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(size("0"), Ok(0));
        assert_eq!(size("4G"), Ok(4 << 30));
        assert_eq!(size("2tb"), Ok(2 << 40));
        for bad in ["", "G", "-1", "1.5G", "99999999999G"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn core_lists() {
        assert_eq!(cores("0-2").map(|cores| cores.0), Ok(vec![0, 1, 2]));
        assert!(cores("").is_err());
        assert!(cores("x").is_err());
    }
}
