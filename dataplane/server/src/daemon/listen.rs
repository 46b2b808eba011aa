//! Where to listen, and whether that is allowed.

use std::net::{SocketAddr, TcpListener, ToSocketAddrs};

use super::{Failure, ServeOptions};

/// Binds what `--listen` names, once it is certain that this may be done.
pub(super) fn bind(options: &ServeOptions) -> Result<TcpListener, Failure> {
    let listen = &options.listen;
    let addresses: Vec<SocketAddr> = listen
        .to_socket_addrs()
        .map_err(|error| format!("--listen {listen} is not HOST:PORT of this machine ({error})"))?
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
    TcpListener::bind(&addresses[..]).map_err(|error| {
        format!("cannot listen on {listen} ({error}): stop what listens there, or choose another with --listen HOST:PORT")
    })
}
