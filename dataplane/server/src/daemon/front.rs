//! The front: accepts, greets, admits, and passes sockets on.
//!
//! Nothing a stranger sends can hold it up: a greeting has a time limit and a
//! size limit, and only so many are under way at once. Which sessions exist is
//! known here; what they do is known to their worker only.

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fusewire_wire::digest::Digest;
use fusewire_wire::hello::{Hello, Lines, Refusal, RefusedReason, Welcome};
use fusewire_wire::inventory::{self, Inventory};
use futures_lite::{AsyncReadExt, AsyncWriteExt};
use glommio::channels::local_channel::{self, LocalReceiver, LocalSender};
use glommio::channels::shared_channel::{ConnectedReceiver, ConnectedSender, SharedReceiver, SharedSender};
use glommio::net::{TcpListener, TcpStream, UnixStream};
use glommio::timer::{sleep, timeout};
use glommio::{GlommioError, spawn_local};
use rustix::fs::OFlags;
use rustix::net::{AddressFamily, sockopt};

use super::ServeOptions;
use super::hello::{self, Request};
use super::listen::Bound;
use super::log::{Log, clean};
use super::pool::{FromPool, ToPool};
use crate::control::Open;
use crate::nvml::{Latest, Reader};

/// How long a greeting may take.
const HELLO_LIMIT: Duration = Duration::from_secs(5);
/// Greetings under way at once; connections beyond that wait in the listen queue.
const MAX_GREETINGS: usize = 1024;
/// How long a client is given to take a refusal before the connection is closed on it.
const LINGER: Duration = Duration::from_secs(1);
/// How long a session waits for a worker, unless the client says that it will wait less.
const PATIENCE: Duration = Duration::from_secs(15);
/// How old an inventory may be that is given out.
const FRESH: Duration = Duration::from_millis(250);
/// How long a query waits for a fresh inventory before it gets the old one.
const REFRESH_LIMIT: Duration = Duration::from_millis(300);
/// The same while NVML has yet to be opened, which takes its time.
const OPEN_LIMIT: Duration = Duration::from_secs(2);
/// Refusals written to the log in any one second; a flood of strangers is not a flood of lines.
const REFUSALS_PER_SECOND: u32 = 20;

/// What the front is started with.
pub(super) struct Setup {
    pub(super) options: Arc<ServeOptions>,
    pub(super) log: Log,
    pub(super) inventory: Inventory,
    pub(super) listeners: Vec<Bound>,
    pub(super) signals: StdStream,
    /// One pair of channels per GPU.
    pub(super) links: Vec<(SharedSender<ToPool>, SharedReceiver<FromPool>)>,
    /// Who reads live figures, and where its word comes in.
    pub(super) reader: Option<(Reader, StdStream)>,
}

struct Front {
    options: Arc<ServeOptions>,
    log: Log,
    pools: Vec<ConnectedSender<ToPool>>,
    /// Which pool has a session.
    sessions: HashMap<[u64; 2], usize>,
    inventory: Inventory,
    taken: Instant,
    /// Who reads live figures; until then, or without, a worker says what it can.
    reader: Option<Reader>,
    /// Whether the inventory has such figures.
    read: bool,
    /// Queries that wait for a fresh inventory.
    asking: Vec<LocalSender<()>>,
    greetings: usize,
    refusals: (u64, u32),
    stopping: bool,
    since: Instant,
}

type Shared = Rc<RefCell<Front>>;

/// Runs until a signal says stop and all sessions are closed.
pub(super) async fn run(setup: Setup) {
    let Setup { options, log, inventory, listeners, signals, links, reader } = setup;
    let (reader, readings) = reader.unzip();
    let mut pools = Vec::new();
    let mut events = Vec::new();
    for (sender, receiver) in links {
        pools.push(sender.connect().await);
        events.push(receiver.connect().await);
    }
    let now = Instant::now();
    let front = Rc::new(RefCell::new(Front {
        options,
        log: log.clone(),
        pools,
        sessions: HashMap::new(),
        inventory,
        taken: now,
        reader,
        read: false,
        asking: Vec::new(),
        greetings: 0,
        refusals: (0, 0),
        stopping: false,
        since: now,
    }));
    let listening: Vec<_> =
        events.into_iter().map(|events| spawn_local(hear(Rc::clone(&front), events)).detach()).collect();
    if let Some(readings) = readings {
        // SAFETY: the descriptor is given away whole by the value that owned it.
        let readings = unsafe { UnixStream::from_raw_fd(readings.into_raw_fd()) };
        spawn_local(hear_reader(Rc::clone(&front), readings)).detach();
    }
    // SAFETY: the descriptor is given away whole by the value that owned it.
    let mut signals = unsafe { UnixStream::from_raw_fd(signals.into_raw_fd()) };
    let mut accepting = Vec::new();
    let mut files = Vec::new();
    for Bound { socket, name, file } in listeners {
        // A listening socket of any family: glommio's UNIX type cannot be made from a descriptor, and its TCP
        // type does nothing here that is TCP's alone.
        // SAFETY: the descriptor is given away whole by the value that owned it.
        let listener = unsafe { TcpListener::from_raw_fd(socket.into_raw_fd()) };
        let front = Rc::clone(&front);
        accepting.push(spawn_local(async move { accept(&front, &listener).await }));
        files.extend(file);
        log.info(&format!("listening on {name}"));
    }
    let mut signal = [0; 1];
    // End-of-file cannot come: the signal handler holds the other end for good.
    let _ = signals.read(&mut signal).await;
    // Nobody finds us any more, and who has connected is not accepted.
    drop(files);
    for task in accepting {
        task.cancel().await;
    }
    let pools = {
        let mut at = front.borrow_mut();
        at.stopping = true;
        log.info(&format!("stopping: closing {} session(s)", at.sessions.len()));
        std::mem::take(&mut at.pools)
    };
    for pool in pools {
        // A pool that cannot be reached has ended already.
        let _ = pool.send(ToPool::Stop).await;
    }
    // A pool ends its channel when its last worker is gone.
    for events in listening {
        events.await;
    }
}

async fn accept(front: &Shared, listener: &TcpListener) {
    loop {
        if front.borrow().greetings >= MAX_GREETINGS {
            sleep(Duration::from_millis(10)).await;
            continue;
        }
        match listener.accept().await {
            Ok(stream) => {
                front.borrow_mut().greetings += 1;
                let front = Rc::clone(front);
                spawn_local(async move {
                    greet(&front, stream).await;
                    front.borrow_mut().greetings -= 1;
                })
                .detach();
            }
            Err(error) => {
                // Out of descriptors, most likely: it passes when some are closed.
                front.borrow_mut().refused(
                    "a connection",
                    &format!("cannot be accepted ({error}): check the limit on open files"),
                );
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Takes in what one pool reports.
async fn hear(front: Shared, events: ConnectedReceiver<FromPool>) {
    while let Some(event) = events.recv().await {
        let mut at = front.borrow_mut();
        match event {
            FromPool::Ended { session } => {
                at.sessions.remove(&session);
            }
            FromPool::Inventory { bytes } => match inventory::parse(&bytes) {
                Ok(inventory) => {
                    at.inventory = inventory;
                    at.taken = Instant::now();
                    // Dropping the senders wakes those who wait.
                    at.asking.clear();
                }
                Err(error) => {
                    at.log.error(&format!("a worker sent a list of devices that cannot be read: {error}"))
                }
            },
        }
    }
}

/// Takes in what was read of live figures.
async fn hear_reader(front: Shared, mut readings: UnixStream) {
    let mut byte = [0; 1];
    while readings.read(&mut byte).await.is_ok_and(|got| got > 0) {
        let mut at = front.borrow_mut();
        match at.reader.as_ref().and_then(Reader::take) {
            Some(Latest::Read(inventory)) => {
                at.inventory = inventory;
                at.taken = Instant::now();
                at.read = true;
            }
            Some(Latest::Absent(why)) => {
                at.log.info(&format!("no live figures of the GPUs ({why})"));
                at.reader = None;
            }
            None => {}
        }
        at.asking.clear();
    }
}

/// One connection, from accept until it is passed on, answered or refused.
async fn greet(front: &Shared, mut stream: TcpStream) {
    let peer = peer_name(&stream);
    let arrived = Instant::now();
    let read = timeout(HELLO_LIMIT, async { Ok(hello::read(&mut stream).await) }).await;
    let read = read.unwrap_or_else(|_: GlommioError<()>| {
        Err(Refusal::new(
            RefusedReason::Malformed,
            format!("the greeting did not arrive within {} s", HELLO_LIMIT.as_secs()),
        ))
    });
    let outcome = match read {
        Ok((hello, lines)) => {
            let options = Arc::clone(&front.borrow().options);
            match hello::judge(&hello, &lines, options.token.as_deref()) {
                Ok(Request::Query) => answer_query(front, &mut stream).await,
                Ok(Request::Open) => front.borrow_mut().open(&stream, &peer, hello, &lines, arrived),
                Ok(Request::Join) => front.borrow().join(&stream, hello, &lines),
                Err(refusal) => Err(refusal),
            }
        }
        Err(refusal) => Err(refusal),
    };
    if let Err(refusal) = outcome {
        front.borrow_mut().refused(&peer, &format!("refused ({}): {}", refusal.reason, refusal.text));
        refuse(&mut stream, &refusal).await;
    }
}

/// Says no so that it arrives: a connection closed with unread data in it is
/// reset, and the reset may overtake the answer.
async fn refuse(stream: &mut TcpStream, refusal: &Refusal) {
    let _ = timeout(LINGER, async {
        stream.write_all(&refusal.to_bytes()).await?;
        stream.shutdown(std::net::Shutdown::Write).await?;
        let mut rest = [0; 4096];
        while stream.read(&mut rest).await? > 0 {}
        Ok::<(), GlommioError<()>>(())
    })
    .await;
}

/// Answers with the inventory, fresh if somebody can make it so.
async fn answer_query(front: &Shared, stream: &mut TcpStream) -> Result<(), Refusal> {
    // Twice: the reader of figures may turn out to have none, and then a worker is asked.
    for _ in 0..2 {
        let Some((answer, limit)) = front.borrow_mut().ask() else { break };
        let answered = timeout(limit, async { Ok::<_, GlommioError<()>>(answer.recv().await) }).await;
        if answered.is_err() {
            // Nobody is idle. The next query asks again.
            front.borrow_mut().asking.clear();
            break;
        }
    }
    let bytes = {
        let mut at = front.borrow_mut();
        let sessions = at.sessions.len() as u32;
        let most = at.options.max_sessions as u32;
        let header = &mut at.inventory.header;
        (header.sessions, header.max_sessions) = (sessions, most);
        inventory::set_text(&mut header.server, env!("CARGO_PKG_VERSION"));
        Welcome::blank().with_tail(&at.inventory.to_bytes())
    };
    let _ = timeout(LINGER, async { stream.write_all(&bytes).await.map_err(GlommioError::<()>::from) }).await;
    Ok(())
}

impl Front {
    /// Asks for a fresh inventory, unless it is fresh: what ends when it has come, and how long to wait.
    fn ask(&mut self) -> Option<(LocalReceiver<()>, Duration)> {
        let complete = self.read || self.reader.is_none();
        if complete && self.taken.elapsed() < FRESH {
            return None;
        }
        let first = self.asking.is_empty();
        let (sender, receiver) = local_channel::new_bounded(1);
        self.asking.push(sender);
        match (&self.reader, self.pools.first()) {
            (Some(reader), _) => reader.ask(),
            // If the pool is too busy to listen, the old inventory will do.
            (None, Some(pool)) if first => drop(pool.try_send(ToPool::Refresh)),
            _ => {}
        }
        Some((receiver, if complete { REFRESH_LIMIT } else { OPEN_LIMIT }))
    }

    /// Admits a session and passes its socket to the pool with the fewest.
    fn open(
        &mut self,
        stream: &TcpStream,
        peer: &str,
        hello: Hello,
        lines: &Lines,
        arrived: Instant,
    ) -> Result<(), Refusal> {
        let most = self.options.max_sessions;
        if most != 0 && self.sessions.len() >= most {
            return Err(Refusal::new(
                RefusedReason::NoCapacity,
                format!(
                    "all {most} sessions of this server are taken: try again when one has ended, or raise --max-sessions"
                ),
            ));
        }
        let socket = take_socket(stream)?;
        let session = new_name()?;
        let load = |pool: usize| self.sessions.values().filter(|&&at| at == pool).count();
        let Some(index) = (0..self.pools.len()).min_by_key(|&pool| load(pool)) else {
            return Err(stopping());
        };
        let open = Open {
            hello,
            lines: without_token(lines),
            session,
            device: index as u32,
            staging: self.options.staging,
            peer: peer.to_owned(),
            cores: Vec::new(),
            tenant: tenant(self.options.token.as_deref(), peer_user(stream)),
        };
        let said = |key, most| lines.get(key).map_or_else(|| "?".to_owned(), |value| clean(value, most));
        let program = format!("{} (pid {} on {})", said("program", 80), said("pid", 10), said("host", 64));
        // A little less than the client's patience, so that it hears why.
        let patience =
            lines.get("patience").and_then(|text| text.parse().ok()).map_or(PATIENCE, Duration::from_millis);
        let deadline = arrived + (patience * 9 / 10).min(PATIENCE);
        match self.pools[index].try_send(ToPool::Open { open, socket, program, deadline }) {
            Ok(()) => {
                self.sessions.insert(session, index);
                Ok(())
            }
            Err(_) => Err(busy()),
        }
    }

    /// Passes another connection of a session to where the session is.
    fn join(&self, stream: &TcpStream, hello: Hello, lines: &Lines) -> Result<(), Refusal> {
        let pool = self.sessions.get(&hello.session).and_then(|&index| self.pools.get(index));
        let Some(pool) = pool else {
            return Err(if self.stopping { stopping() } else { hello::unknown_session() });
        };
        let socket = take_socket(stream)?;
        pool.try_send(ToPool::Join { hello, lines: without_token(lines), socket }).map_err(|_| busy())
    }

    /// Writes down that somebody was turned away, unless too many were this second.
    fn refused(&mut self, who: &str, what: &str) {
        let second = self.since.elapsed().as_secs();
        if self.refusals.0 != second {
            self.refusals = (second, 0);
        }
        self.refusals.1 += 1;
        match self.refusals.1 {
            count if count < REFUSALS_PER_SECOND => self.log.error(&format!("{who} {what}")),
            REFUSALS_PER_SECOND => self.log.error("more refusals this second are not listed"),
            _ => {}
        }
    }
}

/// Who is at the other end: an address, or a process on this host, which the kernel vouches for.
fn peer_name(stream: &TcpStream) -> String {
    if let Some(socket) = local(stream) {
        return match credentials(socket) {
            Some((pid, uid)) => format!("process {pid} of user {uid}"),
            None => "a process on this host".to_owned(),
        };
    }
    stream.peer_addr().map_or_else(|_| "?".to_owned(), |peer| peer.to_string())
}

/// The user at the other end, if that is on this host. One whom the kernel does not name is nobody else.
fn peer_user(stream: &TcpStream) -> Option<libc::uid_t> {
    local(stream).map(|socket| credentials(socket).map_or(libc::uid_t::MAX, |(_, user)| user))
}

/// The socket, if it is of this host and no network.
fn local(stream: &TcpStream) -> Option<BorrowedFd<'_>> {
    // SAFETY: the stream outlives this borrow and keeps its descriptor open.
    let socket = unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) };
    sockopt::socket_domain(socket).is_ok_and(|domain| domain == AddressFamily::UNIX).then_some(socket)
}

/// The process and the user that connected. Read without rustix, which takes the pid 0 of a process in another
/// PID namespace, whose number means nothing here, for impossible.
fn credentials(socket: BorrowedFd<'_>) -> Option<(libc::pid_t, libc::uid_t)> {
    let mut found = libc::ucred { pid: 0, uid: libc::uid_t::MAX, gid: libc::gid_t::MAX };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: a live ucred and its length.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut found).cast(),
            &raw mut length,
        )
    };
    (result == 0).then_some((found.pid, found.uid))
}

/// A descriptor for the worker, in blocking mode and without delay of small
/// messages. The stream's own is closed when the stream goes.
fn take_socket(stream: &TcpStream) -> Result<OwnedFd, Refusal> {
    let failed = |error: std::io::Error| {
        Refusal::new(
            RefusedReason::Unavailable,
            format!("the server cannot pass the connection on ({error}); see its limit on open files"),
        )
    };
    // Only TCP has such a thing to turn off.
    let _ = stream.set_nodelay(true);
    // SAFETY: the stream outlives this borrow and keeps its descriptor open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) };
    let flags = rustix::fs::fcntl_getfl(borrowed).map_err(|error| failed(error.into()))?;
    rustix::fs::fcntl_setfl(borrowed, flags - OFlags::NONBLOCK).map_err(|error| failed(error.into()))?;
    borrowed.try_clone_to_owned().map_err(failed)
}

/// 128 random bits, never zero: whoever knows them may join the session.
fn new_name() -> Result<[u64; 2], Refusal> {
    let mut words = [0; 2];
    while words == [0; 2] {
        words = [random()?, random()?];
    }
    Ok(words)
}

fn random() -> Result<u64, Refusal> {
    getrandom::u64().map_err(|error| {
        Refusal::new(RefusedReason::Unavailable, format!("the server has no random numbers ({error})"))
    })
}

/// The key of the tenant whose images a session may find. Sessions that showed the same token are one tenant.
/// Without tokens the users of this host, whom the kernel names, are a tenant each; those who come over a network all
/// are one.
fn tenant(token: Option<&str>, user: Option<libc::uid_t>) -> [u8; 32] {
    match (token, user) {
        (Some(token), _) => Digest::derive_key("fusewire image cache 1", token.as_bytes()),
        (None, Some(user)) => Digest::derive_key("fusewire image cache 1, of a user", &user.to_le_bytes()),
        (None, None) => Digest::derive_key("fusewire image cache 1", &[]),
    }
}

fn without_token(lines: &Lines) -> Vec<u8> {
    let kept =
        lines.as_bytes().split_inclusive(|&byte| byte == b'\n').filter(|line| !line.starts_with(b"token="));
    kept.flatten().copied().collect()
}

fn stopping() -> Refusal {
    Refusal::new(RefusedReason::ShuttingDown, "the server is shutting down")
}

fn busy() -> Refusal {
    Refusal::new(RefusedReason::NoCapacity, "the server is too busy to take another connection: try again")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_goes_no_further() {
        let lines = Lines::default().with("pid", "1").with("token", "secret").with("host", "token=x");
        assert_eq!(without_token(&lines), b"pid=1\nhost=token=x\n");
    }

    #[test]
    fn tenants_are_tokens_or_users_of_this_host() {
        let all = [
            tenant(None, None),
            tenant(None, Some(0)),
            tenant(None, Some(1000)),
            tenant(Some("a"), None),
            tenant(Some("b"), None),
            tenant(Some("\0\0\0\0"), None),
        ];
        for (n, one) in all.iter().enumerate() {
            assert!(all[..n].iter().all(|other| other != one), "{n}");
        }
        assert_eq!(tenant(Some("a"), None), tenant(Some("a"), Some(1000)), "a token counts more");
    }

    #[test]
    fn names_differ() {
        let (a, b) = (new_name().unwrap(), new_name().unwrap());
        assert_ne!(a, b);
        assert_ne!(a, [0; 2]);
    }
}
