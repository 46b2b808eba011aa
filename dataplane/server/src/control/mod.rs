//! The channel between the daemon and a worker process.
//!
//! One SOCK_SEQPACKET socket pair per worker: a message is one packet, with at
//! most one descriptor attached, so a message is either there whole or not at
//! all. The daemon sends the session's sockets over it; the worker reports
//! that it is ready, what it drives, and how a session ended. Either end learns
//! of the other's death by end-of-file.
//!
//! Order: `Ready` or `Failed` comes first, once the driver has been tried.
//! Then at most one `Open` — a worker serves one session and exits — followed
//! by `Join` for each further connection of that session. `Refresh` may come at any time before
//! `Open` and is answered with another `Ready`.
//!
//! The worker answers the `Hello` of every socket it is given with `Welcome`;
//! what is refused before that point, the daemon refuses itself.
//!
//! Messages are laid out in `message.rs`, packets and descriptors moved in
//! `channel.rs`. Nothing here touches a driver or an executor.

mod channel;
mod message;

use std::path::PathBuf;

pub use channel::{ControlError, DaemonEnd, WorkerEnd, close_inherited, pair};
pub use message::{FromWorker, MAX_MESSAGE, Malformed, Open, SessionStats, Staging, ToWorker};

/// What a worker process is started with, from its command line.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// Where the control socket is, for [`WorkerEnd::from_fd`].
    pub control_fd: i32,
    /// The driver library; `None` for libcuda.so.1 as the dynamic loader finds it.
    pub driver: Option<PathBuf>,
    /// Where images are kept; `None` for nowhere.
    pub image_cache: Option<ImageCacheOptions>,
}

/// Where the workers of a daemon keep images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageCacheOptions {
    /// The folder.
    pub folder: PathBuf,
    /// Bytes that it may come to.
    pub bytes: u64,
}
