//! Where to listen, and whether that is allowed.
//!
//! A TCP address can be reached from elsewhere, so it wants a token. A socket that is a file can be reached by
//! those whom its mode lets in, and needs none; where there is one, it is asked for all the same.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::{Failure, ServeOptions};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// A listening socket.
pub(super) struct Bound {
    pub(super) socket: OwnedFd,
    /// As clients name it.
    pub(super) name: String,
    /// Removed when nobody listens any more.
    pub(super) file: Option<SocketFile>,
}

/// The file by which a socket is found; dropping it removes the file, if it is still this socket's.
pub(super) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

/// Binds what `--listen` names, once it is certain that this may be done.
pub(super) fn bind(options: &ServeOptions) -> Result<Vec<Bound>, Failure> {
    options
        .listen
        .iter()
        .map(|listen| match listen.strip_prefix("unix:") {
            Some(path) => bind_file(listen, Path::new(path), options.socket_mode),
            None => bind_tcp(listen, options),
        })
        .collect()
}

fn bind_tcp(listen: &str, options: &ServeOptions) -> Result<Bound, Failure> {
    let addresses: Vec<SocketAddr> = listen
        .to_socket_addrs()
        .map_err(|error| {
            format!("--listen {listen} is not HOST:PORT of this machine, nor unix:PATH ({error})")
        })?
        .collect();
    if let Some(open) = addresses.iter().find(|address| !address.ip().is_loopback())
        && options.token.is_none()
        && !options.insecure
    {
        return Err(format!(
            "--listen {listen} ({}) can be reached from other machines and no token protects it: \
             add --token-file FILE, or --insecure if everybody there may use the GPUs",
            open.ip()
        ));
    }
    let failed = |error: io::Error| {
        format!(
            "cannot listen on {listen} ({error}): stop what listens there, or choose another with --listen HOST:PORT"
        )
    };
    let listener = TcpListener::bind(&addresses[..]).map_err(failed)?;
    let name = listener.local_addr().map_err(failed)?.to_string();
    Ok(Bound { socket: listener.into(), name, file: None })
}

fn bind_file(listen: &str, path: &Path, mode: u32) -> Result<Bound, Failure> {
    let failed = |error: io::Error| {
        format!(
            "cannot listen on {listen} ({error}): its folder must exist and be writable, and the path be at most \
             107 bytes long; or choose another with --listen unix:PATH"
        )
    };
    clear(listen, path)?;
    let address = SocketAddrUnix::new(path).map_err(|error| failed(error.into()))?;
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(|error| failed(error.into()))?;
    rustix::net::bind(&socket, &address).map_err(|error| failed(error.into()))?;
    let identity = identity(path).map_err(failed)?;
    let file = Some(SocketFile { path: path.to_owned(), identity });
    // Before anybody can connect, which is not until it listens.
    rustix::fs::chmod(path, Mode::from_raw_mode(mode)).map_err(|error| failed(error.into()))?;
    rustix::net::listen(&socket, BACKLOG).map_err(|error| failed(error.into()))?;
    // Absolute, as clients have to name it.
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    Ok(Bound { socket, name: format!("unix:{}", path.display()), file })
}

/// Takes away the socket of a server that is no more. Never anything else.
fn clear(listen: &str, path: &Path) -> Result<(), Failure> {
    let Ok(found) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !found.file_type().is_socket() {
        return Err(format!("--listen {listen}: there is something else at that path: choose another"));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)
            .map_err(|error| format!("cannot remove the old socket for --listen {listen} ({error})")),
        _ => Err(format!(
            "cannot listen on {listen}: it is in use; stop what listens there, or choose another"
        )),
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let found = std::fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            // It may be gone by now, and a dead socket does no harm.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
