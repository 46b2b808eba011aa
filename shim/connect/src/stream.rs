//! A connection that knows how long it may still take.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use fusewire_wire::error::ProtocolError;
use fusewire_wire::hello::{HELLO_MAGIC, Opening, PROTOCOL_VERSION};
use socket2::{Domain, SockAddr, Socket, Type};
use zerocopy::FromBytes;

use crate::{Config, ConnectError};

/// A connection to a server.
#[derive(Debug)]
pub enum Stream {
    /// To any host.
    Tcp(TcpStream),
    /// To this host.
    Unix(UnixStream),
}

impl Stream {
    /// Whether the server is on this host, as far as addresses tell: what is sent goes no further than memory.
    #[must_use]
    pub fn stays_here(&self) -> bool {
        match self {
            Self::Tcp(stream) => match (stream.local_addr(), stream.peer_addr()) {
                (Ok(here), Ok(there)) => here.ip() == there.ip() || there.ip().is_loopback(),
                _ => false,
            },
            Self::Unix(_) => true,
        }
    }

    fn set_timeouts(&self, read: Option<Duration>, write: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_read_timeout(read).and_then(|()| stream.set_write_timeout(write)),
            Self::Unix(stream) => {
                stream.set_read_timeout(read).and_then(|()| stream.set_write_timeout(write))
            }
        }
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(into),
            Self::Unix(stream) => stream.read(into),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl From<Stream> for OwnedFd {
    fn from(stream: Stream) -> Self {
        match stream {
            Stream::Tcp(stream) => stream.into(),
            Stream::Unix(stream) => stream.into(),
        }
    }
}

/// A connection during the greeting: every step must be done by `deadline`.
pub(crate) struct Greeting<'c> {
    stream: Stream,
    config: &'c Config,
    deadline: Instant,
}

impl<'c> Greeting<'c> {
    /// Connects, trying each address of the server until one works.
    pub(crate) fn connect(config: &'c Config) -> Result<Self, ConnectError> {
        let server = &config.server;
        let failed = |error| ConnectError::Connect { server: server.clone(), error };
        if let Some(path) = config.socket_path() {
            let stream = Stream::Unix(connect_unix(path, config.timeout).map_err(failed)?);
            return Ok(Self { stream, config, deadline: Instant::now() + config.timeout });
        }
        let addresses: Vec<_> = server
            .to_socket_addrs()
            .map_err(|error| ConnectError::Resolve { server: server.clone(), error })?
            .collect();
        let deadline = Instant::now() + config.timeout;
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for (index, address) in addresses.iter().enumerate() {
            // What is left is divided, so that one dead address does not use up the time of the next.
            let share = left(deadline) / (addresses.len() - index) as u32;
            match TcpStream::connect_timeout(address, share.max(Duration::from_millis(1))) {
                Ok(stream) => {
                    stream.set_nodelay(true).map_err(failed)?;
                    let stream = Stream::Tcp(stream);
                    return Ok(Self { stream, config, deadline: Instant::now() + config.timeout });
                }
                Err(error) => last = error,
            }
        }
        Err(failed(last))
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<(), ConnectError> {
        let timed = self.stream.set_timeouts(None, Some(left(self.deadline)));
        timed.and_then(|()| self.stream.write_all(bytes)).map_err(|error| self.failed(error))
    }

    /// Reads an opening message and its tail, and not a byte more: what follows belongs to the link.
    pub(crate) fn receive<M: Opening>(&mut self) -> Result<(M, Vec<u8>), ConnectError> {
        let fixed = size_of::<M>();
        let mut bytes = Vec::with_capacity(fixed);
        let mut piece = [0; 4096];
        loop {
            let whole = match M::read_from_prefix(&bytes) {
                Ok((message, _)) => fixed + message.tail_len().map_err(|error| self.not_fusewire(&error))?,
                Err(_) => fixed,
            };
            let wanted = whole - bytes.len();
            if wanted == 0 {
                break;
            }
            let wanted = wanted.min(piece.len());
            let got = self.read(&mut piece[..wanted])?;
            bytes.extend_from_slice(&piece[..got]);
            // Noticed at the first wrong byte: something else might send three bytes and wait.
            if bytes.iter().zip(HELLO_MAGIC).any(|(found, expected)| *found != expected) {
                return Err(self.not_fusewire(&"its answer does not start with FUSEWIRE"));
            }
            // Other versions may have another layout from here on, so nothing more of it is awaited.
            if let Some(theirs) = bytes.get(8..12).and_then(|at| u32::read_from_bytes(at).ok())
                && theirs != PROTOCOL_VERSION
            {
                return Err(self.protocol(ProtocolError::VersionMismatch { ours: PROTOCOL_VERSION, theirs }));
            }
        }
        let tail = bytes.split_off(fixed);
        match M::read_from_bytes(&bytes) {
            Ok(message) => Ok((message, tail)),
            Err(_) => Err(self.not_fusewire(&"its answer is cut short")),
        }
    }

    /// The connection, with no time limits left on it.
    pub(crate) fn finish(self) -> Result<Stream, ConnectError> {
        match self.stream.set_timeouts(None, None) {
            Ok(()) => Ok(self.stream),
            Err(error) => Err(self.failed(error)),
        }
    }

    pub(crate) fn protocol(&self, error: ProtocolError) -> ConnectError {
        let server = self.config.server.clone();
        match error {
            ProtocolError::VersionMismatch { ours, theirs } => ConnectError::Version { server, ours, theirs },
            ProtocolError::Refused { reason, text } => ConnectError::Refused { server, reason, text },
            error => ConnectError::Protocol { server, error },
        }
    }

    fn read(&mut self, into: &mut [u8]) -> Result<usize, ConnectError> {
        loop {
            let timed = self.stream.set_timeouts(Some(left(self.deadline)), None);
            match timed.and_then(|()| self.stream.read(into)) {
                Ok(0) => return Err(self.failed(io::ErrorKind::UnexpectedEof.into())),
                Ok(got) => return Ok(got),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
    }

    fn failed(&self, error: io::Error) -> ConnectError {
        let server = self.config.server.clone();
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                ConnectError::Silent { server, waited: self.config.timeout }
            }
            _ => ConnectError::Lost { server, error },
        }
    }

    fn not_fusewire(&self, what: &dyn ToString) -> ConnectError {
        ConnectError::NotFusewire { server: self.config.server.clone(), what: what.to_string() }
    }
}

/// Connects to a server on this host, of which nobody may be accepting: its queue may be full then.
fn connect_unix(path: &Path, timeout: Duration) -> io::Result<UnixStream> {
    let deadline = Instant::now() + timeout;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    let address = SockAddr::unix(path)?;
    loop {
        // It bounds the connecting, too. Without blocking a full queue would be an error at once.
        socket.set_write_timeout(Some(left(deadline)))?;
        match socket.connect(&address) {
            Ok(()) => return Ok(OwnedFd::from(socket).into()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "connection timed out"));
            }
            Err(error) => return Err(error),
        }
    }
}

/// What is left until `deadline`, and never zero, which would mean "no limit" to the system.
fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}
