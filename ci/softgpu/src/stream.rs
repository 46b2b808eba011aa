//! Streams: queues of work, each with a thread of its own that is started when there is work.
//!
//! A piece of work may wait for fences, points in other streams. With that, events and the rules of
//! the default streams need nothing else: work on the legacy stream waits for all that the context's
//! blocking streams hold, and work on a blocking stream waits for all that the legacy stream holds.
//!
//! The thread of a stream never returns an error to anybody: a failure goes into the context's
//! health, and what is queued behind it is dropped.

use std::collections::VecDeque;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::abi::{HostFn, In, Out, StreamCallback};
use crate::capture::{self, Member};
use crate::context::{self, Context, Health};
use crate::entry::api;
use crate::errors::{Code, Res};
use crate::event;
use crate::handles::{self, Registry};
use crate::sync::lock;
use crate::work::Work;

/// Flag of cuStreamCreate: no ordering with the legacy stream.
pub(crate) const NON_BLOCKING: u32 = 1;
pub(crate) const LEAST_PRIORITY: i32 = 0;
pub(crate) const GREATEST_PRIORITY: i32 = -5;

/// How often something that waits looks whether it should give up.
const GLANCE: Duration = Duration::from_millis(5);

static STREAMS: Registry<Stream> = Registry::new();

pub(crate) struct Stream {
    pub(crate) handle: u64,
    id: u64,
    pub(crate) ctx: Weak<Context>,
    pub(crate) health: Arc<Health>,
    pub(crate) flags: u32,
    priority: i32,
    state: Mutex<State>,
    changed: Condvar,
    /// Its part in a capture, if it is capturing.
    pub(crate) capture: Mutex<Option<Member>>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Queued>,
    submitted: u64,
    done: u64,
    has_thread: bool,
    closing: bool,
}

struct Queued {
    waits: Vec<Fence>,
    work: Work,
}

/// A point in a stream: reached when everything submitted up to it has been done or dropped.
#[derive(Clone)]
pub(crate) struct Fence {
    stream: Arc<Stream>,
    sequence: u64,
}

impl Fence {
    pub(crate) fn reached(&self) -> bool {
        lock(&self.stream.state).done >= self.sequence
    }

    /// Waits until it is reached, or the context of whoever waits stops.
    pub(crate) fn wait(&self, health: &Health) -> Res {
        let mut state = lock(&self.stream.state);
        while state.done < self.sequence {
            if health.stopped() {
                return health.check();
            }
            state = self.stream.nap(state);
        }
        drop(state);
        self.stream.health.check()
    }

    pub(crate) fn wait_until(&self, deadline: Instant) {
        let mut state = lock(&self.stream.state);
        while state.done < self.sequence && Instant::now() < deadline {
            state = self.stream.nap(state);
        }
    }
}

impl Stream {
    pub(crate) fn new(
        handle: u64,
        ctx: Weak<Context>,
        health: Arc<Health>,
        flags: u32,
        priority: i32,
    ) -> Arc<Stream> {
        static IDS: AtomicU64 = AtomicU64::new(1);
        Arc::new(Stream {
            handle,
            id: IDS.fetch_add(1, Ordering::Relaxed),
            ctx,
            health,
            flags,
            priority,
            state: Mutex::default(),
            changed: Condvar::new(),
            capture: Mutex::new(None),
        })
    }

    fn nap<'a>(&self, state: std::sync::MutexGuard<'a, State>) -> std::sync::MutexGuard<'a, State> {
        self.changed.wait_timeout(state, GLANCE).unwrap_or_else(PoisonError::into_inner).0
    }

    pub(crate) fn is_blocking(&self) -> bool {
        self.flags & NON_BLOCKING == 0
    }

    pub(crate) fn is_legacy(&self) -> bool {
        self.handle == 1
    }

    /// The end of what has been submitted, unless that has been reached.
    pub(crate) fn unfinished(self: &Arc<Self>) -> Option<Fence> {
        let state = lock(&self.state);
        (state.done < state.submitted).then(|| Fence { stream: self.clone(), sequence: state.submitted })
    }

    /// The thread ends when the queue is empty.
    pub(crate) fn close(&self) {
        lock(&self.state).closing = true;
        self.changed.notify_all();
    }

    fn enqueue(self: &Arc<Self>, waits: Vec<Fence>, work: Work) -> Fence {
        let mut state = lock(&self.state);
        state.queue.push_back(Queued { waits, work });
        state.submitted += 1;
        let fence = Fence { stream: self.clone(), sequence: state.submitted };
        if !state.has_thread {
            state.has_thread = true;
            let stream = self.clone();
            let named = std::thread::Builder::new().name(format!("softgpu-{}", self.id));
            if named.spawn(move || stream.execute()).is_err() {
                state.has_thread = false;
                state.done = state.submitted;
                state.queue.clear();
                self.health.fail(Code::OPERATING_SYSTEM);
            }
        }
        drop(state);
        self.changed.notify_all();
        fence
    }

    fn execute(self: Arc<Self>) {
        let mut state = lock(&self.state);
        loop {
            let Some(next) = state.queue.pop_front() else {
                if state.closing {
                    state.has_thread = false;
                    return;
                }
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(state);
            let outcome = catch_unwind(AssertUnwindSafe(|| self.perform(&next)));
            drop(next);
            match outcome {
                Ok(Ok(())) => {}
                Ok(Err(code)) => self.health.fail(code),
                Err(_) => self.health.fail(Code::UNKNOWN),
            }
            state = lock(&self.state);
            state.done += 1;
            self.changed.notify_all();
        }
    }

    fn perform(&self, next: &Queued) -> Res {
        for fence in &next.waits {
            // A failure of another context is not this one's.
            let _ = fence.wait(&self.health);
        }
        if self.health.stopped() {
            next.work.dropped(&self.health);
            return Ok(());
        }
        next.work.run(&self.health)
    }
}

/// The stream that a handle means in this context.
pub(crate) fn get(ctx: &Arc<Context>, handle: u64) -> Res<Arc<Stream>> {
    match handle {
        0 | 1 => Ok(ctx.legacy.clone()),
        2 => Ok(ctx.thread_stream()),
        _ => {
            let stream = STREAMS.get(handle)?;
            stream.health.check()?;
            Ok(stream)
        }
    }
}

pub(crate) fn forget(ctx: u64) {
    STREAMS.remove_where(|stream| stream.ctx.upgrade().is_none_or(|owner| owner.handle == ctx));
}

/// Puts work on a stream, or into the graph that the stream is capturing,
/// and then there is no fence.
pub(crate) fn submit(stream: &Arc<Stream>, work: Work) -> Res<Option<Fence>> {
    let work = capture::divert(stream, work)?;
    Ok(work.map(|work| submit_after(stream, work, Vec::new())))
}

/// Puts work on a stream, after these fences and what the default-stream rules ask for.
pub(crate) fn submit_after(stream: &Arc<Stream>, work: Work, mut waits: Vec<Fence>) -> Fence {
    let Some(ctx) = stream.ctx.upgrade().filter(|_| stream.is_blocking()) else {
        return stream.enqueue(waits, work);
    };
    let _order = lock(&ctx.order);
    if stream.is_legacy() {
        waits.extend(ctx.fences(|other| other.is_blocking() && !other.is_legacy()));
    } else {
        waits.extend(ctx.legacy.unfinished());
    }
    stream.enqueue(waits, work)
}

/// Waits for all that the stream holds, and for the legacy stream for what it must wait for.
pub(crate) fn synchronize(stream: &Arc<Stream>) -> Res {
    capture::forbid(stream)?;
    let fences = match stream.ctx.upgrade() {
        Some(ctx) if stream.is_legacy() => ctx.fences(Stream::is_blocking),
        _ => stream.unfinished().into_iter().collect(),
    };
    for fence in fences {
        fence.wait(&stream.health)?;
    }
    stream.health.check()
}

fn create(ctx: &Arc<Context>, out: Out<u64>, flags: u32, priority: i32) -> Res {
    if flags & !NON_BLOCKING != 0 || out.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    let priority = priority.clamp(GREATEST_PRIORITY, LEAST_PRIORITY);
    let stream = Stream::new(handles::mint(), Arc::downgrade(ctx), ctx.health.clone(), flags, priority);
    STREAMS.insert(stream.handle, stream.clone());
    ctx.adopt(stream.clone());
    out.set(stream.handle)
}

api! {
    fn cuStreamCreate(out: Out<u64>, flags: u32) [ctx context] {
        create(context, out, flags, 0)
    }

    fn cuStreamCreateWithPriority(out: Out<u64>, flags: u32, priority: i32) [ctx context] {
        create(context, out, flags, priority)
    }

    fn cuStreamDestroy_v2(handle: u64) [ctx context] {
        if handle <= 2 {
            return Err(Code::INVALID_HANDLE);
        }
        let stream = STREAMS.remove(handle)?;
        capture::abandon(&stream);
        let owner = stream.ctx.upgrade();
        if stream.unfinished().is_none() {
            owner.as_ref().unwrap_or(context).disown(handle);
        } else if let Some(owner) = owner {
            // Its work goes on, and whoever waits for the context still waits for it.
            let reaper = move || owner.disown(handle);
            stream.enqueue(Vec::new(), Work::internal(reaper));
        }
        stream.close();
        Ok(())
    }

    fn cuStreamSynchronize(handle: u64) [ctx context] {
        synchronize(&get(context, handle)?)
    }

    fn cuStreamQuery(handle: u64) [ctx context] {
        let stream = get(context, handle)?;
        capture::forbid(&stream)?;
        stream.health.check()?;
        let busy = match stream.ctx.upgrade() {
            Some(ctx) if stream.is_legacy() => !ctx.fences(Stream::is_blocking).is_empty(),
            _ => stream.unfinished().is_some(),
        };
        // The fault may have come between the two looks.
        stream.health.check()?;
        if busy { Err(Code::NOT_READY) } else { Ok(()) }
    }

    fn cuStreamWaitEvent(handle: u64, event: u64, flags: u32) [ctx context] {
        event::wait(&get(context, handle)?, event, flags)
    }

    fn cuStreamGetPriority(handle: u64, priority: Out<i32>) [ctx context] {
        priority.set(get(context, handle)?.priority)
    }

    fn cuStreamGetFlags(handle: u64, flags: Out<u32>) [ctx context] {
        flags.set(get(context, handle)?.flags)
    }

    fn cuStreamGetCtx(handle: u64, out: Out<u64>) [ctx context] {
        out.set(get(context, handle)?.ctx.upgrade().ok_or(Code::CONTEXT_IS_DESTROYED)?.handle)
    }

    fn cuStreamGetCtx_v2(handle: u64, out: Out<u64>, green: Out<u64>) [ctx context] {
        green.set_if_wanted(0);
        out.set(get(context, handle)?.ctx.upgrade().ok_or(Code::CONTEXT_IS_DESTROYED)?.handle)
    }

    fn cuStreamGetId(handle: u64, id: Out<u64>) [ctx context] {
        id.set(get(context, handle)?.id)
    }

    fn cuStreamGetDevice(handle: u64, device: Out<i32>) [ctx context] {
        device.set(get(context, handle)?.health.device.cast_signed())
    }

    fn cuStreamGetAttribute(handle: u64, attribute: u32, value: Out<[u64; 8]>) [ctx context] {
        let stream = get(context, handle)?;
        let mut words = [0; 8];
        if attribute == 8 {
            words[0] = u64::from(stream.priority.cast_unsigned());
        }
        value.set(words)
    }

    fn cuStreamSetAttribute(handle: u64, attribute: u32, value: In<[u64; 8]>) [ctx context] {
        // All of them are hints to a scheduler that is not there.
        let _ = (get(context, handle)?, attribute, value.get()?);
        Ok(())
    }

    fn cuStreamCopyAttributes(to: u64, from: u64) [ctx context] {
        let _ = (get(context, to)?, get(context, from)?);
        Ok(())
    }

    fn cuStreamAttachMemAsync(handle: u64, address: u64, len: usize, flags: u32) [ctx context] {
        let _ = (get(context, handle)?, address, len, flags);
        Err(Code::NOT_SUPPORTED)
    }

    fn cuLaunchHostFunc(handle: u64, function: HostFn, data: *mut c_void) [ctx context] {
        let function = function.ok_or(Code::INVALID_VALUE)?;
        submit(&get(context, handle)?, Work::host(function, data)).map(drop)
    }

    fn cuStreamAddCallback(handle: u64, function: StreamCallback, data: *mut c_void, flags: u32) [ctx context] {
        let function = function.ok_or(Code::INVALID_VALUE)?;
        if flags != 0 {
            return Err(Code::INVALID_VALUE);
        }
        let stream = get(context, handle)?;
        capture::forbid(&stream)?;
        submit(&stream, Work::callback(handle, function, data)).map(drop)
    }
}

/// The context to use for a call that names only a stream.
pub(crate) fn owner(stream: &Stream) -> Res<Arc<Context>> {
    stream.ctx.upgrade().map_or_else(context::current, Ok)
}
