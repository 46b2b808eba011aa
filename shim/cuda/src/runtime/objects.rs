//! The objects behind handles: what the client knows of each without asking.

use std::collections::{HashMap, VecDeque};
use std::ffi::{CString, c_void};
use std::ptr;
use std::sync::atomic::{
    AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};

use fusewire_wire::ops::table::ParameterInfo;

use crate::abi::result::CUDA_SUCCESS;
use crate::abi::types::CUresult;

use super::images::KnownKernels;
use super::memory::Small;

/// A context: the primary one of a device, or one the program made.
pub(crate) struct Context {
    pub(crate) handle: u64,
    /// As `cuCtxGetId`: unique for the life of the process.
    pub(crate) id: u64,
    /// Ordinal as the program counts devices.
    pub(crate) device: usize,
    pub(crate) primary: bool,
    pub(crate) flags: AtomicU32,
    /// Retains outstanding of a primary context; it is active while there are any.
    pub(crate) retained: Mutex<u32>,
    pub(crate) api_version: u32,
    /// The legacy default stream.
    pub(crate) legacy: OnceLock<Arc<Stream>>,
    /// The code that every call gives since the context met a fault; 0 while it is well.
    pub(crate) fault: AtomicU32,
    /// An error of an asynchronous call that nobody has been told of yet.
    pub(crate) late_error: AtomicU32,
    /// Number of the last operation on any stream of the context.
    pub(crate) last: AtomicU64,
    /// Number of the last operation on any stream that the legacy stream waits for.
    pub(crate) last_blocking: AtomicU64,
    /// All operations up to this number are known to be finished.
    pub(crate) done: AtomicU64,
    /// Number of the last copy that did not count as work, and of the last that the program may take for finished
    /// all the same (see `concurrency`).
    pub(super) quiet: AtomicU64,
    pub(super) relied: AtomicU64,
    pub(super) telling: Mutex<()>,
    streams: Mutex<Streams>,
    pub(crate) small: Small,
    pub(crate) limits: Mutex<HashMap<u32, u64>>,
    pub(crate) cache_config: AtomicU32,
    pub(crate) destroyed: AtomicBool,
}

/// The streams of a context.
#[derive(Default)]
struct Streams {
    live: Vec<Weak<Stream>>,
    /// Number of the last operation that was left unfinished on a stream that is gone.
    left: u64,
}

impl Context {
    pub(crate) fn new(handle: u64, device: usize, primary: bool, flags: u32, api_version: u32) -> Self {
        static IDS: AtomicU64 = AtomicU64::new(1);
        Self {
            handle,
            id: IDS.fetch_add(1, Relaxed),
            device,
            primary,
            flags: AtomicU32::new(flags),
            retained: Mutex::new(0),
            api_version,
            legacy: OnceLock::new(),
            fault: AtomicU32::new(0),
            late_error: AtomicU32::new(0),
            last: AtomicU64::new(0),
            last_blocking: AtomicU64::new(0),
            done: AtomicU64::new(0),
            quiet: AtomicU64::new(0),
            relied: AtomicU64::new(0),
            telling: Mutex::default(),
            streams: Mutex::default(),
            small: Small::default(),
            limits: Mutex::new(HashMap::new()),
            cache_config: AtomicU32::new(0),
            destroyed: AtomicBool::new(false),
        }
    }

    pub(crate) fn is_active(&self) -> bool {
        !self.primary || *self.retained.lock().unwrap_or_else(PoisonError::into_inner) > 0
    }

    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream of the context is made: before its first operation.
    pub(crate) fn add(&self, stream: &Arc<Stream>) {
        self.streams().live.push(Arc::downgrade(stream));
    }

    /// A stream is given up. What is on it will be finished some time, and nothing tells when.
    pub(crate) fn remove(&self, stream: &Stream) {
        let mut streams = self.streams();
        streams.live.retain(|one| one.as_ptr() != ptr::from_ref(stream) && one.strong_count() != 0);
        if !stream.is_itself_finished() {
            streams.left = streams.left.max(stream.last.load(Relaxed));
        }
    }

    /// Whether everything issued to the context so far is known to be finished.
    pub(crate) fn is_known_finished(&self) -> bool {
        self.relying(|| self.seems_finished())
    }

    fn seems_finished(&self) -> bool {
        // Before the streams are looked at: all operations up to this one have been entered there.
        let last = self.last.load(Acquire);
        if self.done.load(Acquire) >= last {
            return true;
        }
        let streams = self.streams();
        let finished = streams.left <= self.done.load(Acquire) && streams.are_finished(|_| true);
        if finished {
            self.done.fetch_max(last, Release);
        }
        finished
    }

    /// The sticky error, if the context met a fault.
    #[inline]
    pub(crate) fn check(&self) -> Result<(), CUresult> {
        match self.fault.load(Relaxed) {
            CUDA_SUCCESS => Ok(()),
            fault => Err(fault),
        }
    }

    /// The sticky error, or an earlier asynchronous one, which is told once.
    pub(crate) fn report(&self) -> Result<(), CUresult> {
        self.check()?;
        if self.late_error.load(Relaxed) == CUDA_SUCCESS {
            return Ok(());
        }
        match self.late_error.swap(CUDA_SUCCESS, Relaxed) {
            CUDA_SUCCESS => Ok(()),
            error => Err(error),
        }
    }
}

impl Streams {
    fn are_finished(&self, of_interest: impl Fn(&Stream) -> bool) -> bool {
        self.live
            .iter()
            .filter_map(Weak::upgrade)
            .all(|stream| !of_interest(&stream) || stream.is_itself_finished())
    }
}

/// What kind of stream this is to the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamKind {
    Legacy,
    PerThread,
    Created,
}

pub(crate) struct Stream {
    pub(crate) handle: u64,
    pub(crate) id: u64,
    pub(crate) context: Arc<Context>,
    pub(crate) kind: StreamKind,
    pub(crate) flags: u32,
    pub(crate) priority: i32,
    /// Number of the last operation on the stream.
    pub(crate) last: AtomicU64,
    /// Operations of the stream up to this number are known to be finished.
    pub(crate) done: AtomicU64,
    /// Number of the last operation that put the stream behind others.
    pub(crate) waited: AtomicU64,
    /// What the stream has been put behind by events, until that is known to be finished.
    behind: Mutex<VecDeque<Behind>>,
    /// There may be something of that.
    is_behind: AtomicBool,
    /// Number of the last query that found the stream busy. The server says when what was there then is finished.
    pub(crate) watched: AtomicU64,
    /// Number of the last operation that the program has been told is finished.
    pub(super) told: AtomicU64,
    /// How often the program had been told of finished streams when it was last asked whether this one is busy.
    pub(super) asked: AtomicU64,
    /// The capture the stream takes part in; 0 when none.
    pub(crate) capture: AtomicU64,
    pub(crate) attributes: Mutex<HashMap<u32, [u8; 64]>>,
}

/// Of so many waits for others it is kept what a stream comes behind. Of others the server is asked
/// ([`Session::ask_again`](super::session::Session::ask_again)).
const BEHIND: usize = 16;

/// A stream's wait for another, that was not known to be over, has been forgotten or not followed up.
static FORGOTTEN: AtomicBool = AtomicBool::new(false);

/// Whether streams may come behind events of which it is not kept that they do.
#[inline]
pub(crate) fn waits_are_forgotten() -> bool {
    FORGOTTEN.load(Relaxed)
}

/// Operation `wait` of a stream comes behind operation `record` of another.
struct Behind {
    wait: u64,
    other: Weak<Stream>,
    record: u64,
}

/// `CU_STREAM_NON_BLOCKING`.
pub(crate) const NON_BLOCKING: u32 = 1;

impl Stream {
    pub(crate) fn new(
        handle: u64,
        context: Arc<Context>,
        kind: StreamKind,
        flags: u32,
        priority: i32,
    ) -> Self {
        static IDS: AtomicU64 = AtomicU64::new(8);
        let id = match kind {
            StreamKind::Legacy => 1,
            StreamKind::PerThread => 2,
            StreamKind::Created => IDS.fetch_add(1, Relaxed),
        };
        Self {
            handle,
            id,
            context,
            kind,
            flags,
            priority,
            last: AtomicU64::new(0),
            done: AtomicU64::new(0),
            waited: AtomicU64::new(0),
            behind: Mutex::default(),
            is_behind: AtomicBool::new(false),
            watched: AtomicU64::new(0),
            told: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            capture: AtomicU64::new(0),
            attributes: Mutex::new(HashMap::new()),
        }
    }

    /// Whether the next operation on this stream may come behind operation `number` of another one, and did not come
    /// behind it after its own operation `since`. Only who has been put behind others does: by an event or a word, or by
    /// the legacy stream, which is behind all streams that block with it and whatever those are behind. `words`: streams
    /// have waited for words, so that what holds them up may be younger than their wait.
    pub(crate) fn may_come_behind(&self, number: u64, of: &Self, since: u64, words: bool) -> bool {
        let by = |last: &AtomicU64| {
            let last = last.load(Relaxed);
            last > since && (words || last >= number)
        };
        if self.handle == of.handle {
            return number > since;
        }
        let by_legacy = || match self.kind {
            StreamKind::Legacy => {
                let barred = of.blocks_with_legacy() && of.context.handle == self.context.handle;
                !barred || number > since
            }
            _ => {
                self.blocks_with_legacy() && self.context.legacy.get().is_some_and(|legacy| by(&legacy.last))
            }
        };
        by(&self.waited) || by_legacy()
    }

    /// The stream is finished for a part, and what that comes behind is not followed up.
    pub(super) fn forgets_others(&self) {
        if self.is_behind.load(Acquire) {
            FORGOTTEN.store(true, Relaxed);
        }
    }

    /// Whether the stream may ever have come behind another one.
    pub(super) fn may_come_behind_others(&self) -> bool {
        self.blocks_with_legacy() || self.waited.load(Relaxed) != 0
    }

    pub(crate) fn blocks_with_legacy(&self) -> bool {
        self.flags & NON_BLOCKING == 0
    }

    /// Operation `number` goes to this stream. Called in the order of numbers, under the lane's lock.
    #[inline]
    pub(crate) fn issued(&self, number: u64) {
        self.last.store(number, Relaxed);
        // Who sees these sees the stream's own.
        self.context.last.store(number, Release);
        if self.blocks_with_legacy() {
            self.context.last_blocking.store(number, Release);
        }
    }

    /// Operation `wait` has put the stream behind operation `record` of another.
    pub(crate) fn comes_behind(&self, wait: u64, other: &Arc<Self>, record: u64) {
        let mut behind = self.behind.lock().unwrap_or_else(PoisonError::into_inner);
        // Of what is gone nobody asks any more, and of what is finished it is known.
        behind.retain(|earlier| {
            earlier.other.upgrade().is_some_and(|other| !other.has_finished(earlier.record))
        });
        let is_of_it = |earlier: &Behind| ptr::eq(earlier.other.as_ptr(), Arc::as_ptr(other));
        if behind.iter().any(|earlier| is_of_it(earlier) && earlier.record >= record) {
            return;
        }
        if behind.len() >= BEHIND {
            behind.pop_front();
            FORGOTTEN.store(true, Relaxed);
        }
        behind.push_back(Behind { wait, other: Arc::downgrade(other), record });
        self.is_behind.store(true, Release);
    }

    /// Everything of the stream up to `number` is finished.
    pub(crate) fn finished(&self, number: u64) {
        self.done.fetch_max(number, Release);
    }

    /// The same, and so is what that comes behind. The server may not have said so yet: an event is reached before the
    /// ticket behind it. No copy into the program's memory may be pending, which is finished only when it has landed.
    pub(super) fn finished_with_others(&self, number: u64) {
        self.finished(number);
        while self.is_behind.load(Acquire) {
            let mut behind = self.behind.lock().unwrap_or_else(PoisonError::into_inner);
            let over = behind.iter().position(|one| one.wait <= number);
            let Some(one) = over.and_then(|place| behind.remove(place)) else { return };
            self.is_behind.store(!behind.is_empty(), Release);
            drop(behind);
            if let Some(other) = one.other.upgrade()
                && !other.has_finished(one.record)
            {
                other.finished_with_others(one.record);
            }
        }
    }

    /// Whether everything of the stream up to `number` is known to be finished.
    pub(crate) fn has_finished(&self, number: u64) -> bool {
        self.known_done() >= number
    }

    /// Up to where the stream is known to be finished. What the legacy stream has done comes behind all earlier
    /// operations of streams that block with it.
    #[inline]
    fn known_done(&self) -> u64 {
        let done = self.done.load(Acquire).max(self.context.done.load(Acquire));
        let legacy = if self.blocks_with_legacy() {
            self.context.legacy.get().map_or(0, |legacy| legacy.done.load(Acquire))
        } else {
            0
        };
        done.max(legacy)
    }

    /// Whether everything issued to the stream so far is known to be finished.
    ///
    /// An operation on the legacy stream comes after all earlier ones on streams that block with it, and
    /// before all later ones; so its end says as much of them, and it is finished when they are.
    pub(crate) fn is_known_finished(&self) -> bool {
        self.context.relying(|| self.seems_finished())
    }

    fn seems_finished(&self) -> bool {
        if self.kind != StreamKind::Legacy {
            return self.is_itself_finished();
        }
        let last = self.context.last_blocking.load(Acquire);
        let done = || self.done.load(Acquire).max(self.context.done.load(Acquire));
        if done() >= last {
            return true;
        }
        let streams = self.context.streams();
        let finished = self.is_itself_finished()
            && streams.left <= done()
            && streams.are_finished(Self::blocks_with_legacy);
        if finished {
            self.finished(last);
        }
        finished
    }

    /// Whether everything issued to this very stream so far is known to be finished.
    fn is_itself_finished(&self) -> bool {
        self.known_done() >= self.last.load(Relaxed)
    }

    /// Whether the stream was busy when it was last asked for, and has been given nothing since: the server says
    /// when that changes.
    pub(crate) fn is_watched(&self) -> bool {
        let watched = self.watched.load(Acquire);
        watched > self.last.load(Relaxed) && watched > self.done.load(Acquire)
    }

    /// Whether the server may watch the stream for this process. What it puts on the legacy stream for that must
    /// not keep other streams in an order that the program has not asked for. Called under the lane's lock.
    pub(crate) fn may_be_watched(&self) -> bool {
        self.kind != StreamKind::Legacy || self.last.load(Relaxed) >= self.context.last_blocking.load(Relaxed)
    }

    pub(crate) fn is_capturing(&self) -> bool {
        self.capture.load(Relaxed) != 0
    }
}

pub(crate) struct Event {
    pub(crate) handle: u64,
    pub(crate) context: Arc<Context>,
    pub(crate) flags: u32,
    pub(crate) state: Mutex<EventState>,
    pub(crate) changed: std::sync::Condvar,
    /// Number of the last record that is known to be reached; with `recorded`, the fast path of a query.
    pub(crate) reached: AtomicU64,
    pub(crate) recorded: AtomicU64,
    /// Status of the last record reached. Who sees that it is reached sees this.
    status: AtomicU32,
    /// How often it was recorded, as far as that matters.
    records: AtomicU32,
    /// The program has asked whether it is reached, once at least.
    asked: AtomicBool,
    /// Number of the last record that the program has been told is reached, where that matters.
    pub(crate) told: AtomicU64,
    /// Number of the last record, if the server says nothing of it and has not been asked.
    silent: AtomicU64,
    /// How often the program had been told of finished streams when the server was last asked for what it would have
    /// said by itself.
    pub(super) asked_again: AtomicU64,
}

/// Records of an event after which it seems that the program will never ask for it.
const RECORDS_UNASKED: u32 = 3;

#[derive(Default)]
pub(crate) struct EventState {
    /// The stream of the last record.
    pub(crate) stream: Option<Arc<Stream>>,
    /// The capture that the last record was part of; 0 when none.
    pub(crate) capture: u64,
    /// Callers asleep until the event is reached.
    pub(crate) asleep: u32,
    /// The last answer to how long it took from another event to this one.
    pub(crate) elapsed: Option<Elapsed>,
}

/// The time between two events.
#[derive(Clone, Copy)]
pub(crate) struct Elapsed {
    /// Handle of the first.
    pub(crate) start: u64,
    /// Number of the last record of the first and of the second: it holds until there is another.
    pub(crate) records: (u64, u64),
    pub(crate) milliseconds: f32,
}

/// `CU_EVENT_DISABLE_TIMING`.
pub(crate) const DISABLE_TIMING: u32 = 2;

impl Event {
    pub(crate) fn new(handle: u64, context: Arc<Context>, flags: u32) -> Self {
        Self {
            handle,
            context,
            flags,
            state: Mutex::new(EventState::default()),
            changed: std::sync::Condvar::new(),
            reached: AtomicU64::new(0),
            recorded: AtomicU64::new(0),
            status: AtomicU32::new(CUDA_SUCCESS),
            records: AtomicU32::new(0),
            asked: AtomicBool::new(false),
            told: AtomicU64::new(0),
            silent: AtomicU64::new(0),
            asked_again: AtomicU64::new(0),
        }
    }

    /// Whether the next record need not be told of, as it seems: the event cannot be timed, and has been recorded again
    /// and again without the program's asking for it. It orders streams.
    pub(crate) fn may_be_silent(&self) -> bool {
        if self.flags & DISABLE_TIMING == 0 || self.was_asked() {
            return false;
        }
        let records = self.records.load(Relaxed);
        if records < RECORDS_UNASKED {
            self.records.store(records + 1, Relaxed);
        }
        records >= RECORDS_UNASKED
    }

    /// Whether the program has asked for the event. Then it has no more silent records.
    #[inline]
    pub(crate) fn was_asked(&self) -> bool {
        self.asked.load(Acquire)
    }

    /// Whether there is nothing to ask for, which is so nearly always.
    #[inline]
    pub(crate) fn is_asked_for_and_reached(&self) -> bool {
        self.is_reached() && self.was_asked()
    }

    /// The last record is this one, on this stream; the server says nothing of a silent one. Under the lane's lock.
    pub(crate) fn is_recorded(&self, number: u64, stream: &Arc<Stream>, silent: bool) {
        self.lock_state().stream = Some(stream.clone());
        self.silent.store(if silent { number } else { 0 }, Relaxed);
        self.recorded.store(number, Release);
    }

    /// The program asks for the first time. Gives the record for which the server has to be asked, if there is one; to
    /// one of those who ask at the same time. Under the lane's lock, so that no silent record comes after this.
    pub(crate) fn first_asked(&self) -> Option<u64> {
        self.asked.store(true, Release);
        let silent = self.silent.swap(0, Relaxed);
        (silent != 0 && silent == self.recorded.load(Relaxed)).then_some(silent)
    }

    /// Reaches the last record if its stream is known to have got so far.
    pub(crate) fn catch_up(&self) {
        let recorded = self.recorded.load(Acquire);
        let state = self.lock_state();
        let stream = state.stream.clone().filter(|_| state.capture == 0);
        drop(state);
        // Of an event that is recorded meanwhile on another stream nothing is said.
        let is_last = || self.recorded.load(Acquire) == recorded;
        if stream.is_some_and(|stream| stream.has_finished(recorded)) && is_last() {
            self.reach(recorded, CUDA_SUCCESS);
        }
    }

    fn lock_state(&self) -> MutexGuard<'_, EventState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_reached(&self) -> bool {
        self.reached.load(Acquire) >= self.recorded.load(Relaxed)
    }

    /// What an event that is reached, or was never recorded, says.
    ///
    /// # Errors
    /// The fault of its context, or why its last record failed.
    #[inline]
    pub(crate) fn outcome(&self) -> Result<(), CUresult> {
        self.context.check()?;
        match self.status.load(Relaxed) {
            CUDA_SUCCESS => Ok(()),
            status => Err(status),
        }
    }

    /// Record `number` has been reached.
    pub(crate) fn reach(&self, number: u64, status: CUresult) {
        let state = self.lock_state();
        self.status.store(status, Relaxed);
        self.reached.fetch_max(number, Release);
        if state.asleep != 0 {
            self.changed.notify_all();
        }
    }
}

/// What a function was loaded from.
pub(crate) enum Owner {
    Module(Arc<Module>),
    Library(Arc<Library>),
}

/// A kernel: a function of a module, or a kernel of a library.
pub(crate) struct Function {
    pub(crate) handle: u64,
    pub(crate) name: CString,
    pub(crate) owner: Owner,
    pub(crate) parameters: Vec<ParameterInfo>,
    pub(crate) parameter_bytes: usize,
    /// `CUfunction_attribute` values as last known, by attribute, then device ordinal.
    pub(crate) attributes: RwLock<HashMap<(i32, i32), i32>>,
    pub(crate) max_threads: u32,
    pub(crate) static_shared: u32,
    /// Dynamic shared memory that a launch may ask for now.
    pub(crate) max_dynamic_shared: AtomicI32,
    pub(crate) occupancy: Mutex<HashMap<(u64, u64), (u64, u64)>>,
}

pub(crate) struct Module {
    pub(crate) handle: u64,
    pub(crate) context: Arc<Context>,
    pub(crate) functions: Mutex<HashMap<Vec<u8>, u64>>,
    pub(crate) globals: Mutex<HashMap<Vec<u8>, Span>>,
    /// Functions that came with the load; `functions` has those that the program asked for.
    pub(crate) known: KnownKernels,
    /// The library that the module is an instance of.
    pub(crate) library: Option<u64>,
}

/// Address and bytes.
type Span = (u64, u64);

pub(crate) struct Library {
    pub(crate) handle: u64,
    pub(crate) kernels: Mutex<HashMap<Vec<u8>, u64>>,
    /// Kernels that came with the load; `kernels` has those that the program asked for.
    pub(crate) known: KnownKernels,
    pub(crate) names: OnceLock<Vec<CString>>,
    pub(crate) modules: Mutex<HashMap<u64, u64>>,
    pub(crate) globals: Mutex<HashMap<(u64, Vec<u8>), Span>>,
}

/// What replays of a graph read from and write to host memory.
#[derive(Clone, Default)]
pub(crate) struct HostUse {
    /// Mirrored ranges: address, bytes.
    pub(crate) ranges: Vec<(u64, u64)>,
    /// Host functions that a replay calls, by the number the server asks for them under.
    pub(crate) functions: Vec<u64>,
}

pub(crate) struct Graph {
    pub(crate) handle: u64,
    pub(crate) host: Mutex<HostUse>,
}

impl Graph {
    pub(crate) fn new(handle: u64) -> Self {
        Self { handle, host: Mutex::new(HostUse::default()) }
    }
}

pub(crate) struct GraphExec {
    pub(crate) handle: u64,
    pub(crate) context: Arc<Context>,
    pub(crate) host: Mutex<HostUse>,
}

pub(crate) struct Array {
    pub(crate) handle: u64,
    pub(crate) context: Arc<Context>,
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) depth: usize,
    pub(crate) format: u32,
    pub(crate) channels: u32,
    pub(crate) flags: u32,
}

/// Physical memory of `cuMemCreate`.
pub(crate) struct Allocation {
    pub(crate) handle: u64,
    pub(crate) bytes: u64,
    pub(crate) device: i32,
    pub(crate) properties: [u8; 32],
    /// References: one of the program's, one a mapping.
    pub(crate) references: AtomicU32,
}

/// A memory pool: attributes alone, its memory comes from the device's.
pub(crate) struct Pool {
    pub(crate) handle: u64,
    pub(crate) device: usize,
    pub(crate) attributes: Mutex<HashMap<u32, u64>>,
    pub(crate) is_default: bool,
}

/// `cuLinkCreate`'s state: inputs, until they are linked.
pub(crate) struct LinkState {
    pub(crate) inputs: Mutex<Vec<(u32, Vec<u8>, CString)>>,
    pub(crate) options: Mutex<Vec<(u32, u64)>>,
    /// The image, which the program reads until it destroys the state.
    pub(crate) image: OnceLock<Vec<u8>>,
    pub(crate) logs: Mutex<Logs>,
}

/// The program's buffers for the compiler's logs.
#[derive(Clone, Copy, Default)]
pub(crate) struct Logs {
    pub(crate) info: usize,
    pub(crate) info_bytes: usize,
    pub(crate) info_length: usize,
    pub(crate) error: usize,
    pub(crate) error_bytes: usize,
    pub(crate) error_length: usize,
}

/// A host function and its argument, as the program gave them.
#[derive(Clone, Copy)]
pub(crate) struct HostFunction {
    pub(crate) run: HostCode,
    pub(crate) argument: *mut c_void,
}

#[derive(Clone, Copy)]
pub(crate) enum HostCode {
    Function(unsafe extern "C" fn(*mut c_void)),
    /// `cuStreamAddCallback`: the stream, as the program named it.
    Callback(unsafe extern "C" fn(*mut c_void, CUresult, *mut c_void), usize),
}

// SAFETY: the argument is the program's, which asked for the function to be run on another thread.
unsafe impl Send for HostFunction {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_comes_behind_what_it_was_put_behind() {
        let context = Arc::new(Context::new(1, 0, true, 0, 3020));
        let stream = |handle, kind, flags| Arc::new(Stream::new(handle, context.clone(), kind, flags, 0));
        let (free, other) = (stream(1, StreamKind::Created, 1), stream(2, StreamKind::Created, 1));
        let (one, two) = (stream(3, StreamKind::Created, 0), stream(4, StreamKind::Created, 0));
        let legacy = stream(5, StreamKind::Legacy, 0);
        assert!(context.legacy.set(legacy.clone()).is_ok());
        let behind = |stream: &Stream, number, of: &Stream| stream.may_come_behind(number, of, 0, false);

        assert!(behind(&free, 10, &free) && !behind(&free, 10, &other) && !behind(&one, 10, &two));
        assert!(!free.may_come_behind(10, &free, 11, false), "it stopped for that");
        // An event, which cannot put it behind what came later; a word can.
        free.waited.store(20, Relaxed);
        assert!(behind(&free, 10, &other) && !behind(&free, 30, &other));
        assert!(free.may_come_behind(30, &other, 0, true) && !free.may_come_behind(10, &other, 20, false));
        // Behind the legacy stream itself, and what that was behind.
        legacy.issued(40);
        assert!(behind(&one, 40, &legacy) && behind(&one, 10, &two) && !behind(&one, 50, &two));
        assert!(behind(&one, 10, &free), "the legacy stream may have been behind it");
        assert!(!behind(&other, 40, &legacy));
        assert!(behind(&legacy, 50, &one) && !legacy.may_come_behind(50, &one, 60, false));
        assert!(
            legacy.may_come_behind(50, &other, 60, false),
            "one that blocks with it may have waited for that"
        );
    }
}
