//! The workers of one GPU: kept warm, given sessions, watched, and cleared away.
//!
//! Runs on the GPU's executor. Each worker process serves one session and ends
//! with it; `fill` keeps as many ready as the operator asked for. A worker's
//! end is noticed by end-of-file on its control socket, whatever the cause.
//!
//! State: a worker is `Starting` until it says `Ready`, `Ready` until it is
//! given a session, then `Serving` until its process is gone. `waiting` holds
//! sessions only while no worker is ready. No borrow of the state is held
//! across an await, nor while a task is spawned: glommio runs it at once.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, FromRawFd, IntoRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fusewire_wire::hello::{Hello, Refusal, RefusedReason};
use glommio::channels::shared_channel::{ConnectedSender, SharedReceiver, SharedSender};
use glommio::net::UnixStream;
use glommio::spawn_local;
use glommio::timer::sleep;
use rustix::net::SendFlags;

use super::ServeOptions;
use super::log::{Log, bytes, short};
use super::process::{self, Worker};
use crate::control::{ControlError, FromWorker, Open, SessionStats, ToWorker};
use crate::placement::GpuPlacement;

/// How long sessions may take to close when the daemon stops.
pub(super) const STOP_LIMIT: Duration = Duration::from_secs(5);
/// How long a worker may live on after it has closed its control socket.
const REAP_LIMIT: Duration = Duration::from_secs(10);
/// How long to wait before another worker is started after one has failed to start.
const BACK_OFF: Duration = Duration::from_secs(1);

/// From the front.
pub(super) enum ToPool {
    /// Give this session to a worker before `deadline`.
    Open { open: Open, socket: OwnedFd, program: String, deadline: Instant },
    /// Another connection for the worker that has the session.
    Join { hello: Hello, lines: Vec<u8>, socket: OwnedFd },
    /// Have an idle worker send the inventory again.
    Refresh,
    /// Close all sessions and end.
    Stop,
}

/// To the front.
pub(super) enum FromPool {
    /// The session is over, or was refused.
    Ended { session: [u64; 2] },
    /// A fresh inventory.
    Inventory { bytes: Vec<u8> },
}

/// What a pool is started with.
pub(super) struct Setup {
    pub(super) index: usize,
    pub(super) gpu: GpuPlacement,
    pub(super) options: Arc<ServeOptions>,
    pub(super) log: Log,
    /// The worker that tried the driver at start-up.
    pub(super) first: Option<Worker>,
}

struct Pool {
    index: usize,
    gpu: GpuPlacement,
    options: Arc<ServeOptions>,
    log: Log,
    events: ConnectedSender<FromPool>,
    workers: BTreeMap<u64, Entry>,
    next: u64,
    waiting: VecDeque<Waiting>,
    /// No worker is started before this moment.
    not_before: Option<Instant>,
    stopping: bool,
}

struct Entry {
    worker: Worker,
    state: State,
}

enum State {
    Starting,
    Ready,
    Serving(Box<Session>),
}

struct Session {
    open: Open,
    program: String,
    since: Instant,
    /// What the worker said at the end, if it lived to say it.
    ended: Option<(String, SessionStats)>,
}

struct Waiting {
    open: Open,
    socket: OwnedFd,
    program: String,
}

type Shared = Rc<RefCell<Pool>>;

/// Serves the front's commands until told to stop.
pub(super) async fn run(setup: Setup, commands: SharedReceiver<ToPool>, events: SharedSender<FromPool>) {
    let commands = commands.connect().await;
    let events = events.connect().await;
    let pool = Rc::new(RefCell::new(Pool {
        index: setup.index,
        gpu: setup.gpu,
        options: setup.options,
        log: setup.log,
        events,
        workers: BTreeMap::new(),
        next: 0,
        waiting: VecDeque::new(),
        not_before: None,
        stopping: false,
    }));
    if let Some(worker) = setup.first {
        adopt(&pool, worker, State::Ready);
    }
    fill(&pool);
    while let Some(command) = commands.recv().await {
        match command {
            ToPool::Open { open, socket, program, deadline } => {
                let session = open.session;
                pool.borrow_mut().waiting.push_back(Waiting { open, socket, program });
                pool.borrow_mut().hand_over();
                wait_until(&pool, session, deadline);
                fill(&pool);
            }
            ToPool::Join { hello, lines, socket } => pool.borrow().join(hello, lines, socket),
            ToPool::Refresh => pool.borrow().refresh(),
            ToPool::Stop => break,
        }
    }
    stop(&pool).await;
    // Timers may still hold the pool; the front learns here and now that it is done.
    pool.borrow().events.close();
}

/// Takes a worker into the pool and watches it.
fn adopt(pool: &Shared, worker: Worker, state: State) {
    let socket = worker.control.socket().try_clone_to_owned();
    let id = pool.borrow_mut().insert(Entry { worker, state });
    match socket {
        // A task may begin to run while it is spawned, so nothing may be borrowed here.
        Ok(socket) => {
            // SAFETY: the descriptor was just made by duplication and is given away whole.
            let socket = unsafe { UnixStream::from_raw_fd(socket.into_raw_fd()) };
            spawn_local(watch(Rc::clone(pool), id, socket)).detach();
        }
        Err(error) => {
            let mut at = pool.borrow_mut();
            at.log.error(&format!("a worker cannot be watched ({error}): check the limit on open files"));
            // Dropping the control socket tells the worker to end.
            at.workers.remove(&id);
        }
    }
}

/// Starts workers until enough are ready or about to be.
fn fill(pool: &Shared) {
    loop {
        let (options, cores) = {
            let at = pool.borrow();
            let coming =
                at.workers.values().filter(|entry| !matches!(entry.state, State::Serving(_))).count();
            if at.stopping || coming >= at.options.warm_workers + at.waiting.len() {
                return;
            }
            if let Some(moment) = at.not_before
                && Instant::now() < moment
            {
                // Whoever set the moment has also arranged for another fill after it.
                return;
            }
            (
                Arc::clone(&at.options),
                if at.gpu.executor.is_some() { at.gpu.near.clone() } else { Vec::new() },
            )
        };
        match process::start(&options, &cores) {
            Ok(worker) => adopt(pool, worker, State::Starting),
            Err(text) => {
                failed_to_start(pool, &text);
                return;
            }
        }
    }
}

/// One worker could not be started: whoever waits for one is told, and the next is tried a little later.
fn failed_to_start(pool: &Shared, text: &str) {
    {
        let mut at = pool.borrow_mut();
        at.log.error(text);
        if let Some(waiting) = at.waiting.pop_front() {
            at.refuse(waiting, &Refusal::new(RefusedReason::Unavailable, text));
        }
        at.not_before = Some(Instant::now() + BACK_OFF);
    }
    let pool = Rc::clone(pool);
    spawn_local(async move {
        sleep(BACK_OFF + Duration::from_millis(10)).await;
        fill(&pool);
    })
    .detach();
}

/// Refuses the session if it still waits at `deadline`.
fn wait_until(pool: &Shared, session: [u64; 2], deadline: Instant) {
    let pool = Rc::clone(pool);
    spawn_local(async move {
        sleep(deadline.saturating_duration_since(Instant::now())).await;
        let mut at = pool.borrow_mut();
        let found = at.waiting.iter().position(|waiting| waiting.open.session == session);
        if let Some(waiting) = found.and_then(|index| at.waiting.remove(index)) {
            let text =
                "no worker became ready in time: try again, or start the server with more --warm-workers";
            at.refuse(waiting, &Refusal::new(RefusedReason::NoCapacity, text));
        }
    })
    .detach();
}

/// Reads what a worker says until it is gone; then settles what it leaves behind.
async fn watch(pool: Shared, id: u64, socket: UnixStream) {
    let mut wake = [0; 1];
    loop {
        // Only waits: the message is read by the control channel's own code.
        let waited = socket.peek(&mut wake).await;
        let mut at = pool.borrow_mut();
        let Some(entry) = at.workers.get_mut(&id) else { return };
        match entry.worker.control.recv_within(Duration::ZERO) {
            Ok(message) => {
                let refill = at.heard(id, message);
                drop(at);
                if refill {
                    fill(&pool);
                }
            }
            Err(ControlError::Timeout(_)) if waited.is_ok() => {}
            Err(ControlError::Closed) => break,
            Err(error) => {
                at.log.error(&format!("worker {} cannot be heard ({error}); it is ended", at.pid(id)));
                at.kill(id);
                break;
            }
        }
    }
    let how = reap(&pool, id).await;
    let lost = pool.borrow_mut().gone(id, &how);
    if let Some(text) = lost {
        failed_to_start(&pool, &text);
    }
    fill(&pool);
}

/// Waits for the end of a process that has closed its control socket, and makes it happen if need be.
async fn reap(pool: &Shared, id: u64) -> String {
    let since = Instant::now();
    let mut pause = Duration::from_millis(1);
    let mut killed = false;
    loop {
        {
            let mut at = pool.borrow_mut();
            let Some(entry) = at.workers.get_mut(&id) else { return "ended".to_owned() };
            if let Some(how) = entry.worker.ended() {
                return how;
            }
            if !killed && since.elapsed() > REAP_LIMIT {
                entry.worker.kill();
                killed = true;
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// Ends every worker: asks, waits, kills.
async fn stop(pool: &Shared) {
    {
        let mut at = pool.borrow_mut();
        at.stopping = true;
        let refusal = Refusal::new(RefusedReason::ShuttingDown, "the server is shutting down");
        while let Some(waiting) = at.waiting.pop_front() {
            at.refuse(waiting, &refusal);
        }
        let reason = "server is shutting down".to_owned();
        for entry in at.workers.values_mut() {
            if entry.worker.control.send(&ToWorker::Shutdown { reason: reason.clone() }).is_err() {
                entry.worker.kill();
            }
        }
    }
    let since = Instant::now();
    let mut killed = false;
    loop {
        {
            let mut at = pool.borrow_mut();
            if at.workers.is_empty() {
                return;
            }
            if !killed && since.elapsed() > STOP_LIMIT {
                let left = at.workers.len();
                at.log.error(&format!(
                    "{left} worker(s) did not stop within {} s; killed",
                    STOP_LIMIT.as_secs()
                ));
                at.workers.values_mut().for_each(|entry| entry.worker.kill());
                killed = true;
            }
            // A process stuck in the kernel cannot be killed; the daemon does not wait for it.
            if since.elapsed() > 2 * STOP_LIMIT {
                return;
            }
        }
        sleep(Duration::from_millis(10)).await;
    }
}

impl Pool {
    fn insert(&mut self, entry: Entry) -> u64 {
        let id = self.next;
        self.next += 1;
        self.workers.insert(id, entry);
        id
    }

    /// Gives waiting sessions to ready workers while there are both.
    fn hand_over(&mut self) {
        while !self.waiting.is_empty() {
            let ready = self.workers.iter().find(|(_, entry)| matches!(entry.state, State::Ready));
            let Some((&id, _)) = ready else { return };
            let Some(Waiting { mut open, socket, program }) = self.waiting.pop_front() else { return };
            open.cores = self.cores();
            let Some(entry) = self.workers.get_mut(&id) else { return };
            let message = ToWorker::Open { open, socket };
            let sent = entry.worker.control.send(&message);
            let ToWorker::Open { open, socket } = message else { return };
            match sent {
                Ok(()) => {
                    self.log.info(&format!(
                        "session {} opened: {} {program}, gpu {}, worker {}",
                        short(open.session),
                        open.peer,
                        self.index,
                        entry.worker.pid()
                    ));
                    let session = Session { open, program, since: Instant::now(), ended: None };
                    entry.state = State::Serving(Box::new(session));
                }
                Err(_) => {
                    // That worker is on its way out; its watcher clears it away. The next one may do.
                    entry.worker.kill();
                    entry.state = State::Starting;
                    self.waiting.push_front(Waiting { open, socket, program });
                }
            }
        }
    }

    /// Cores for the next session: the least used shard core, then what else is near.
    fn cores(&self) -> Vec<u32> {
        let used = |core: u32| {
            let on = |entry: &&Entry| match &entry.state {
                State::Serving(session) => session.open.cores.first() == Some(&core),
                _ => false,
            };
            self.workers.values().filter(on).count()
        };
        let Some(&shard) = self.gpu.shards.iter().min_by_key(|&&core| used(core)) else { return Vec::new() };
        let others = self.gpu.near.iter().copied().filter(|&core| core != shard);
        std::iter::once(shard).chain(others).collect()
    }

    /// Takes in what a worker says; whether workers may have to be started.
    fn heard(&mut self, id: u64, message: FromWorker) -> bool {
        let Some(entry) = self.workers.get_mut(&id) else { return false };
        match (message, &mut entry.state) {
            (FromWorker::Ready { inventory }, state) => {
                if matches!(state, State::Starting) {
                    *state = State::Ready;
                    self.not_before = None;
                    self.hand_over();
                } else {
                    self.tell(FromPool::Inventory { bytes: inventory });
                }
                true
            }
            (FromWorker::Ended { reason, stats }, State::Serving(session)) => {
                session.ended = Some((reason, stats));
                false
            }
            (FromWorker::Ended { .. }, _) if self.stopping => false,
            (FromWorker::Failed { text }, _) | (FromWorker::Ended { reason: text, .. }, _) => {
                // The process ends after this; `gone` settles the rest.
                self.log.error(&format!("worker {}: {text}", entry.worker.pid()));
                false
            }
        }
    }

    /// Clears away a worker whose process has ended. Gives a text when it never became ready.
    fn gone(&mut self, id: u64, how: &str) -> Option<String> {
        let Entry { worker, state } = self.workers.remove(&id)?;
        match state {
            State::Serving(session) => {
                self.closed(&session, how);
                self.tell(FromPool::Ended { session: session.open.session });
                None
            }
            State::Starting if !self.stopping => {
                Some(format!("worker {} {how} before it was ready: see its messages above", worker.pid()))
            }
            State::Ready if !self.stopping => {
                self.log.error(&format!("idle worker {} {how}; another is started", worker.pid()));
                None
            }
            _ => None,
        }
    }

    /// The line that closes a session.
    fn closed(&self, session: &Session, how: &str) {
        let (reason, stats, clean) = match &session.ended {
            Some((reason, stats)) => (reason.clone(), *stats, true),
            None => (format!("its worker {how}"), SessionStats::default(), false),
        };
        let line = format!(
            "session {} closed: {} {}, {:.1} s, {} in, {} out, {reason}",
            short(session.open.session),
            session.open.peer,
            session.program,
            session.since.elapsed().as_secs_f64(),
            bytes(stats.bytes_in),
            bytes(stats.bytes_out),
        );
        if clean { self.log.info(&line) } else { self.log.error(&line) }
    }

    fn join(&self, hello: Hello, lines: Vec<u8>, socket: OwnedFd) {
        let serving = self.workers.values().find(|entry| match &entry.state {
            State::Serving(session) => session.open.session == hello.session,
            _ => false,
        });
        let message = ToWorker::Join { hello, lines, socket };
        let sent = serving.is_some_and(|entry| entry.worker.control.send(&message).is_ok());
        if let (false, ToWorker::Join { socket, .. }) = (sent, message) {
            send_refusal(&socket, &super::hello::unknown_session());
        }
    }

    fn refresh(&self) {
        let idle = self.workers.values().find(|entry| matches!(entry.state, State::Ready));
        if let Some(entry) = idle {
            // If it cannot be reached, the answer stays the old one.
            let _ = entry.worker.control.send(&ToWorker::Refresh);
        }
    }

    fn refuse(&self, waiting: Waiting, refusal: &Refusal) {
        self.log.error(&format!(
            "session of {} {} refused ({}): {}",
            waiting.open.peer, waiting.program, refusal.reason, refusal.text
        ));
        send_refusal(&waiting.socket, refusal);
        self.tell(FromPool::Ended { session: waiting.open.session });
    }

    fn tell(&self, event: FromPool) {
        // Full only if the front is stuck, closed only if it has ended: in both cases there is nothing to do.
        let _ = self.events.try_send(event);
    }

    fn pid(&self, id: u64) -> u32 {
        self.workers.get(&id).map_or(0, |entry| entry.worker.pid())
    }

    fn kill(&mut self, id: u64) {
        if let Some(entry) = self.workers.get_mut(&id) {
            entry.worker.kill();
        }
    }
}

/// Says no on a connection whose hello has been read. The few bytes fit the
/// socket's buffer, so nothing waits for the client.
fn send_refusal(socket: &OwnedFd, refusal: &Refusal) {
    // A client that is gone does not need the answer.
    let _ = rustix::net::send(socket.as_fd(), &refusal.to_bytes(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
}
