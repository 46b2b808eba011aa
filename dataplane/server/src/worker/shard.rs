//! The shard: the one thread that turns the command lane, calls the driver and polls for completions.
//!
//! It never waits for the GPU. While something is outstanding it polls, first without pause, then with ever
//! longer short sleeps inside the lane's turn, where the arrival of a batch wakes it; with nothing outstanding it
//! sleeps there until something comes.

use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam::channel::Receiver;
use fusewire_link::shm::{self, Area, Side};
use fusewire_link::{Closing, CommandLane, CoreId, LinkError, Wait, tcp};
use fusewire_wire::error::{Culprit, ProtocolError};
use fusewire_wire::frame::{CloseReason, Record};
use fusewire_wire::hello::Hello;
use fusewire_wire::ops::table::{HostFuncDone, HostWrite};
use fusewire_wire::ops::{Call, DispatchError, Record as _, table};
use fusewire_wire::session::{Flow, Nanos, ServerSession, Transmit};

use super::backlog::{Kept, QUEUE};
use super::gpu::Gpu;
use super::start::spin;
use super::streams::FAULT_CHECK;
use crate::control::{ControlError, SessionStats, ToWorker};

/// How long to poll without pause after the last progress: on two cores or fewer, and on more.
const SPIN_FEW_CORES: Duration = Duration::from_micros(100);
const SPIN: Duration = Duration::from_millis(2);
/// As much longer for what the client waits for, as the driver's own threads would; others may have the core then.
const LONGER: u32 = 25;
/// Looks at lane and GPU between looks at everything else.
const LOOKS: u32 = 16;
/// The same with nothing outstanding: a program that synchronises often has its next launch seen at once, and an
/// idle session costs nothing.
const SPIN_IDLE: Duration = Duration::from_micros(300);
/// Pauses between polls, after that. They grow with the time without progress.
const SHORTEST_PAUSE: Duration = Duration::from_micros(20);
const LONGEST_PAUSE: Duration = Duration::from_micros(500);
/// Frames under way beyond which events are gathered instead of sent.
const FRAMES_UNDER_WAY: usize = 4;
/// Operations after which the GPU is looked at in the middle of a batch.
const POLL_EVERY: u64 = 32;
/// How long the last word may take to leave.
const FAREWELL: Duration = Duration::from_secs(2);
/// How long the command lane may outlive a bulk lane: an ordinary end closes them all, in any order.
const LANES_CLOSE: Duration = Duration::from_secs(1);

/// Why a session is over.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    #[error("the client broke the protocol: {0}")]
    Operation(#[from] DispatchError),
    #[error("the client broke the protocol: {0}")]
    Misbehaved(String),
    #[error("{0}")]
    Link(String),
    /// Its connection was closed in good order, as the kernel does when a program ends.
    #[error("the program ended")]
    Left,
    #[error("the server is stopping: {0}")]
    Stopped(String),
    #[error("the server's daemon has gone")]
    DaemonGone,
}

impl End {
    /// What the client is told.
    fn last_word(&self) -> Option<CloseReason> {
        match self {
            // The session's own state machine says it.
            Self::Protocol(error) if error.culprit() != Culprit::Caller => None,
            Self::Protocol(_) => Some(CloseReason::Internal),
            Self::Operation(_) | Self::Misbehaved(_) => Some(CloseReason::Protocol),
            Self::Link(_) => Some(CloseReason::Protocol),
            Self::Left => None,
            Self::Stopped(_) | Self::DaemonGone => Some(CloseReason::ShuttingDown),
        }
    }

    /// Whether the client ended the session itself.
    pub(super) fn is_ordinary(&self) -> bool {
        matches!(self, Self::Left | Self::Protocol(ProtocolError::Closed { reason: CloseReason::Done, .. }))
    }
}

/// An open session and all that serves it.
pub(super) struct Shard {
    pub(super) session: ServerSession,
    pub(super) lane: Box<dyn CommandLane>,
    /// Where the lanes are, if the client is on this host.
    area: Option<Arc<Area>>,
    pub(super) gpu: Gpu,
    /// Records that have to wait.
    kept: Kept,
    /// What the daemon says, brought by the thread that listens to it.
    pub(super) control: Receiver<Result<ToWorker, ControlError>>,
    /// Cores for the bulk lanes' threads.
    pub(super) cores: Vec<CoreId>,
    pub(super) stats: SessionStats,
    started: Instant,
    spin: Duration,
    last_progress: Instant,
    bulk_ended: Option<Instant>,
}

impl Shard {
    pub(super) fn new(
        session: ServerSession,
        lane: Box<dyn CommandLane>,
        area: Option<Arc<Area>>,
        gpu: Gpu,
        control: Receiver<Result<ToWorker, ControlError>>,
        cores: Vec<CoreId>,
        started: Instant,
    ) -> Self {
        let waker = lane.waker();
        gpu.lanes.set_waker(waker.clone());
        gpu.hosts.set_waker(waker);
        let few = std::thread::available_parallelism().map_or(true, |count| count.get() <= 2);
        let now = Instant::now();
        Self {
            session,
            lane,
            area,
            gpu,
            kept: Kept::default(),
            control,
            cores,
            stats: SessionStats::default(),
            started,
            spin: if few { SPIN_FEW_CORES } else { SPIN },
            last_progress: now,
            bulk_ended: None,
        }
    }

    /// Serves the session until it is over, and says why it is.
    pub(super) fn run(&mut self) -> End {
        // Pauses are to be as short as they say: the kernel adds 50 µs otherwise. Without that they are longer.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        loop {
            if let Err(end) = self.turn() {
                self.say_farewell(&end);
                self.stats.batches = self.session.applied();
                let shared = self.gpu.lanes.shared();
                self.stats.bytes_in += shared.bytes_in.load(Ordering::Relaxed);
                self.stats.bytes_out += shared.bytes_out.load(Ordering::Relaxed);
                return end;
            }
        }
    }

    fn turn(&mut self) -> Result<(), End> {
        self.flush()?;
        let mut progress = match self.wait() {
            Wait::No => self.look()?,
            wait => self.receive(wait)? | self.gpu.poll(),
        };
        let now = Instant::now();
        progress |= self.catch_up()?;
        for number in self.gpu.hosts.take_calls() {
            self.gpu.out.host_call(number);
            progress = true;
        }
        if let Some(upto) = self.gpu.lanes.credit() {
            self.gpu.out.credit(upto);
            progress = true;
        }
        if self.gpu.is_waiting() && now.saturating_duration_since(self.gpu.fault_check) >= FAULT_CHECK {
            self.gpu.look_for_faults();
            self.gpu.forward_output();
        }
        if progress {
            self.last_progress = now;
        }
        self.hear_daemon()?;
        if let Some(why) = self.gpu.lanes.ended() {
            let since = *self.bulk_ended.get_or_insert(now);
            if now - since >= LANES_CLOSE {
                return Err(End::Link(why.to_owned()));
            }
        }
        let nanos = self.nanos();
        if self.session.next_timeout().is_some_and(|deadline| deadline <= nanos) {
            self.session.handle_timeout(nanos)?;
        }
        Ok(())
    }

    /// Looks at lane and GPU some times, and sends what came of it before anything else is looked at. Gives whether
    /// anything did.
    fn look(&mut self) -> Result<bool, End> {
        for _ in 0..LOOKS {
            if self.receive(Wait::No)? | self.gpu.poll() {
                self.flush()?;
                self.receive(Wait::No)?;
                return Ok(true);
            }
        }
        if self.last_progress.elapsed() >= self.spin {
            std::thread::yield_now();
        }
        Ok(false)
    }

    /// How long the lane may wait for the client, in view of what else there is to watch.
    fn wait(&self) -> Wait {
        if !self.gpu.out.is_empty() {
            // The client's window is full; an acknowledgement opens it.
            return Wait::AtMost(LONGEST_PAUSE);
        }
        if self.gpu.is_waiting() || self.gpu.lanes.awaits_unwanted() || !self.kept.is_empty() {
            let idle = self.last_progress.elapsed();
            if idle < self.spin || (self.gpu.awaited != 0 && idle < self.spin * LONGER) {
                return Wait::No;
            }
            return Wait::AtMost((idle / 400).clamp(SHORTEST_PAUSE, LONGEST_PAUSE));
        }
        if self.bulk_ended.is_some() || self.gpu.lanes.ended().is_some() {
            return Wait::AtMost(LANES_CLOSE / 10);
        }
        if self.last_progress.elapsed() < self.spin.min(SPIN_IDLE) {
            return Wait::No;
        }
        match self.session.next_timeout() {
            Some(deadline) => {
                Wait::AtMost(Duration::from_nanos(deadline.saturating_sub(self.nanos()).max(1)))
            }
            None => Wait::Forever,
        }
    }

    /// Turns the lane, and does what came over it. Gives whether anything did.
    fn receive(&mut self, wait: Wait) -> Result<bool, End> {
        let Self { session, lane, gpu, kept, stats, started, .. } = self;
        let mut end = None;
        let turn = lane.turn(wait, &mut |bytes| {
            if end.is_some() {
                return;
            }
            end = session.receive(nanos(*started), bytes, |record| take(gpu, kept, stats, &record)).err();
        });
        if let Some(end) = end {
            return Err(end);
        }
        match turn {
            Ok(turn) => {
                self.stats.bytes_in += turn.received_bytes as u64;
                Ok(turn.received_bytes != 0)
            }
            Err(LinkError::Closed { how: Closing::ByPeer, .. }) => Err(End::Left),
            Err(error) => Err(End::Link(error.to_string())),
        }
    }

    /// Does what has been kept, as far as it need not wait any more. Gives whether there was anything.
    fn catch_up(&mut self) -> Result<bool, End> {
        let mut progress = self.gpu.carry_out_ripe();
        // A long copy goes on once a turn: others are heard in between.
        progress |= self.gpu.proceed();
        while let Some((op, body)) = self.kept.front() {
            if self.gpu.must_wait(op, body) {
                break;
            }
            let Some((call, op, body)) = self.kept.pop() else { break };
            perform(&mut self.gpu, call, op, &body)?;
            progress = true;
        }
        if self.session.is_held() && !self.kept.is_full() {
            let nanos = self.nanos();
            let Self { session, gpu, kept, stats, .. } = self;
            session.resume(nanos, |record| take(gpu, kept, stats, &record))?;
            progress = true;
        }
        if !self.kept.is_empty() || (self.gpu.continuing.is_some() && self.gpu.queued >= QUEUE) {
            self.gpu.watch_queues();
        }
        Ok(progress)
    }

    /// Hands events to the session and the session's frames to the lane.
    fn flush(&mut self) -> Result<(), End> {
        self.gpu.out.flush(self.session.outbox())?;
        while self.lane.in_flight() < FRAMES_UNDER_WAY {
            let Some(frame) = self.session.transmit() else { break };
            self.send(frame)?;
        }
        if self.lane.in_flight() == 0 && self.gpu.out.is_empty() {
            self.gpu.lanes.confirm_credit();
        }
        Ok(())
    }

    fn send(&mut self, frame: Transmit) -> Result<(), End> {
        self.stats.bytes_out += frame.len() as u64;
        let frame = match frame {
            Transmit::Batch(batch) => batch,
            Transmit::Control(bytes) => Arc::new(bytes.to_vec()),
            Transmit::Owned(bytes) => Arc::new(bytes),
        };
        self.lane.send(frame).map_err(|error| End::Link(error.to_string()))
    }

    fn hear_daemon(&mut self) -> Result<(), End> {
        while let Ok(message) = self.control.try_recv() {
            match message {
                Ok(ToWorker::Join { hello, socket, .. }) => self.join(&hello, socket)?,
                Ok(ToWorker::Shutdown { reason }) => return Err(End::Stopped(reason)),
                // A session is open: neither can come, and neither matters.
                Ok(ToWorker::Open { .. } | ToWorker::Refresh) => {}
                Err(ControlError::Malformed(_)) => {}
                Err(_) => return Err(End::DaemonGone),
            }
        }
        Ok(())
    }

    /// A bulk lane has connected: it is greeted, and belongs to the session from there on.
    fn join(&mut self, hello: &Hello, socket: OwnedFd) -> Result<(), End> {
        let (lane, welcome) = match self.session.join_bulk(hello) {
            Ok(joined) => joined,
            Err(refusal) => {
                greet(&socket, &refusal.to_bytes());
                return Ok(());
            }
        };
        if !greet(&socket, &welcome) {
            // Gone before it was there: the session's other connections say why.
            return Ok(());
        }
        let engine = match &self.area {
            Some(area) => shm::bulk_engine(area, lane, socket, Side::Server, spin()),
            None => tcp::bulk_engine(socket, tcp::Engine::Auto, tcp::ZeroCopy::Auto),
        };
        let opened = engine.and_then(|engine| self.gpu.lanes.open(lane, engine, self.cores.clone()));
        opened.map_err(|error| End::Link(error.to_string()))
    }

    /// Tells the client why, as far as it still listens.
    fn say_farewell(&mut self, end: &End) {
        self.gpu.forward_output();
        let _ = self.gpu.out.flush(self.session.outbox());
        if let Some(reason) = end.last_word() {
            self.session.close(reason, &end.to_string());
        }
        let until = Instant::now() + FAREWELL;
        while let Some(frame) = self.session.transmit() {
            if self.send(frame).is_err() {
                return;
            }
        }
        while self.lane.in_flight() != 0 && Instant::now() < until {
            if self.lane.turn(Wait::AtMost(FAREWELL / 20), &mut |_| {}).is_err() {
                return;
            }
        }
        self.gpu.lanes.shutdown();
    }

    fn nanos(&self) -> Nanos {
        nanos(self.started)
    }
}

fn nanos(since: Instant) -> Nanos {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Takes a record from the client: it is done at once, or kept behind those that wait. Only the news that a host
/// function has run overtakes them, because they may be waiting for just that, and what has been written to mirrored
/// memory, which is there before that news and comes in the order of no stream.
fn take(gpu: &mut Gpu, kept: &mut Kept, stats: &mut SessionStats, record: &Record<'_>) -> Result<Flow, End> {
    stats.calls += 1;
    let call = Call { number: record.number, flags: record.flags };
    let overtakes = matches!(record.op, HostFuncDone::CODE | HostWrite::CODE);
    if !overtakes && (!kept.is_empty() || gpu.must_wait(record.op, record.body)) {
        kept.push(call, record.op, record.body);
        return Ok(if kept.is_full() { Flow::Pause } else { Flow::Continue });
    }
    perform(gpu, call, record.op, record.body)?;
    // A long batch must not keep what the GPU has finished waiting.
    if record.number.is_multiple_of(POLL_EVERY) {
        gpu.poll();
    }
    Ok(Flow::Continue)
}

fn perform(gpu: &mut Gpu, call: Call, op: u16, body: &[u8]) -> Result<(), End> {
    gpu.concerned = 0;
    gpu.serving = call.number;
    table::dispatch(gpu, op, call, body)?;
    gpu.misbehaved.take().map_or(Ok(()), |how| Err(End::Misbehaved(how)))
}

/// Writes a greeting to a fresh connection, whose buffer has room for it.
pub(super) fn greet(socket: &OwnedFd, bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while !rest.is_empty() {
        match rustix::net::send(socket, rest, rustix::net::SendFlags::NOSIGNAL) {
            Ok(sent) => rest = rest.get(sent..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
    true
}
