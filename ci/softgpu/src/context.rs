//! Contexts: one for each device by default (the primary), more on request, and a stack of current
//! ones for each thread.
//!
//! A context's health is its sticky error. Once work has failed, nothing more of that context runs,
//! and every call that needs the context returns the error.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use crate::abi::{In, Out};
use crate::device::{self, VERSION};
use crate::entry::api;
use crate::errors::{Code, Res};
use crate::event;
use crate::handles::{self, Registry};
use crate::stream::{Fence, Stream};
use crate::sync::lock;
use crate::{array, module, pool, space, stream};

/// Whether a context's work may go on, and why not. Shared with everything that executes its work.
pub(crate) struct Health {
    pub(crate) device: u32,
    fault: AtomicU32,
    /// Set on failure and on destruction: kernels, waits and queued work give up.
    pub(crate) stop: AtomicBool,
    /// A bit for each device whose memory this context's kernels may use.
    pub(crate) peers: AtomicU32,
}

impl Health {
    /// The sticky error, if there is one.
    pub(crate) fn check(&self) -> Res {
        match self.fault.load(Ordering::Acquire) {
            0 => Ok(()),
            code => Err(Code(code)),
        }
    }

    /// The first failure is the one that is remembered.
    pub(crate) fn fail(&self, code: Code) {
        let _ = self.fault.compare_exchange(0, code.0, Ordering::AcqRel, Ordering::Acquire);
        self.stop.store(true, Ordering::Release);
    }

    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

pub(crate) struct Context {
    pub(crate) handle: u64,
    id: u64,
    pub(crate) device: u32,
    pub(crate) health: Arc<Health>,
    flags: AtomicU32,
    /// The stream that NULL means, and one that no program sees, for waits on the whole context.
    pub(crate) legacy: Arc<Stream>,
    pub(crate) hidden: Arc<Stream>,
    streams: Mutex<Vec<Arc<Stream>>>,
    per_thread: Mutex<HashMap<ThreadId, Arc<Stream>>>,
    /// Held while work is put on a stream that others wait for, so that all agree on the order.
    pub(crate) order: Mutex<()>,
    /// How many of its blocking streams are capturing.
    pub(crate) capturing: AtomicU32,
    limits: Mutex<[usize; 10]>,
    cache_config: AtomicU32,
}

/// A device's primary context and who holds it.
#[derive(Default)]
pub(crate) struct Primary {
    handle: u64,
    context: Option<Arc<Context>>,
    holders: u32,
    flags: u32,
}

static CONTEXTS: Registry<Context> = Registry::new();

thread_local! {
    static STACK: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

impl Context {
    fn start(handle: u64, device: u32, flags: u32) -> Arc<Context> {
        static IDS: AtomicU64 = AtomicU64::new(1);
        let health = Arc::new(Health {
            device,
            fault: AtomicU32::new(0),
            stop: AtomicBool::new(false),
            peers: AtomicU32::new(0),
        });
        let context = Arc::new_cyclic(|me| Context {
            handle,
            id: IDS.fetch_add(1, Ordering::Relaxed),
            device,
            health: health.clone(),
            flags: AtomicU32::new(flags),
            legacy: Stream::new(1, me.clone(), health.clone(), 0, 0),
            hidden: Stream::new(handles::mint(), me.clone(), health, stream::NON_BLOCKING, 0),
            streams: Mutex::default(),
            per_thread: Mutex::default(),
            order: Mutex::new(()),
            capturing: AtomicU32::new(0),
            limits: Mutex::new([1024, 1 << 20, 8 << 20, 2, 2048, 128, 0, 0, 0, 0]),
            cache_config: AtomicU32::new(0),
        });
        CONTEXTS.insert(handle, context.clone());
        context
    }

    /// Stops all work and gives everything back.
    fn end(self: &Arc<Self>) {
        let _ = CONTEXTS.remove(self.handle);
        self.health.stop.store(true, Ordering::Release);
        // Work that runs notices within milliseconds; a host function may take as long as it likes,
        // and is not waited for for ever.
        let patience = Instant::now() + Duration::from_secs(10);
        for fence in self.fences(|_| true) {
            fence.wait_until(patience);
        }
        for stream in self.all_streams() {
            stream.close();
        }
        stream::forget(self.handle);
        event::forget(self.handle);
        module::forget(self.handle);
        array::forget(self.handle);
        pool::forget(self);
        space::remove(|region| region.ctx == self.handle);
    }

    pub(crate) fn adopt(&self, stream: Arc<Stream>) {
        lock(&self.streams).push(stream);
    }

    pub(crate) fn disown(&self, handle: u64) {
        lock(&self.streams).retain(|stream| stream.handle != handle);
    }

    /// The calling thread's own default stream.
    pub(crate) fn thread_stream(self: &Arc<Self>) -> Arc<Stream> {
        let mut streams = lock(&self.per_thread);
        let new = || Stream::new(2, Arc::downgrade(self), self.health.clone(), 0, 0);
        streams.entry(std::thread::current().id()).or_insert_with(new).clone()
    }

    pub(crate) fn all_streams(&self) -> Vec<Arc<Stream>> {
        let mut all = vec![self.legacy.clone(), self.hidden.clone()];
        all.extend(lock(&self.streams).iter().cloned());
        all.extend(lock(&self.per_thread).values().cloned());
        all
    }

    /// What the chosen streams have not finished yet.
    pub(crate) fn fences(&self, which: impl Fn(&Stream) -> bool) -> Vec<Fence> {
        self.all_streams().iter().filter(|stream| which(stream)).filter_map(Stream::unfinished).collect()
    }

    /// Waits for everything that was submitted before the call.
    pub(crate) fn synchronize(&self) -> Res {
        for fence in self.fences(|_| true) {
            fence.wait(&self.health)?;
        }
        self.health.check()
    }
}

/// The context on top of this thread's stack.
pub(crate) fn current() -> Res<Arc<Context>> {
    let handle = current_handle();
    if handle == 0 {
        return Err(Code::INVALID_CONTEXT);
    }
    CONTEXTS.find(handle).ok_or(Code::CONTEXT_IS_DESTROYED)
}

pub(crate) fn current_handle() -> u64 {
    STACK.with_borrow(|stack| stack.last().copied().unwrap_or(0))
}

pub(crate) fn get(handle: u64) -> Res<Arc<Context>> {
    CONTEXTS.find(handle).ok_or(Code::INVALID_CONTEXT)
}

/// The context that a handle means, where 0 means the current one.
fn get_or_current(handle: u64) -> Res<Arc<Context>> {
    if handle == 0 { current() } else { get(handle) }
}

fn push(handle: u64) {
    STACK.with_borrow_mut(|stack| stack.push(handle));
}

fn create(out: Out<u64>, flags: u32, device: i32) -> Res {
    let device = device::get(device)?;
    let context = Context::start(handles::mint(), device.ordinal, flags);
    push(context.handle);
    out.set(context.handle)
}

api! {
    fn cuDevicePrimaryCtxRetain(out: Out<u64>, device: i32) [init] {
        let device = device::get(device)?;
        let mut primary = lock(&device.primary);
        if primary.handle == 0 {
            primary.handle = handles::mint();
        }
        let context = match &primary.context {
            Some(context) => context.clone(),
            None => Context::start(primary.handle, device.ordinal, primary.flags),
        };
        context.health.check()?;
        primary.context = Some(context);
        primary.holders += 1;
        out.set(primary.handle)
    }

    fn cuDevicePrimaryCtxRelease_v2(device: i32) [init] {
        let mut primary = lock(&device::get(device)?.primary);
        primary.holders = primary.holders.checked_sub(1).ok_or(Code::INVALID_CONTEXT)?;
        if primary.holders == 0
            && let Some(context) = primary.context.take()
        {
            context.end();
        }
        Ok(())
    }

    fn cuDevicePrimaryCtxReset_v2(device: i32) [init] {
        let mut primary = lock(&device::get(device)?.primary);
        if let Some(context) = primary.context.take() {
            context.end();
            // The holders keep holding: the next use finds a fresh context under the same handle.
            if primary.holders > 0 {
                primary.context = Some(Context::start(primary.handle, context.device, primary.flags));
            }
        }
        Ok(())
    }

    fn cuDevicePrimaryCtxGetState(device: i32, flags: Out<u32>, active: Out<i32>) [init] {
        let primary = lock(&device::get(device)?.primary);
        flags.set_if_wanted(primary.flags);
        active.set_if_wanted(i32::from(primary.context.is_some()));
        Ok(())
    }

    fn cuDevicePrimaryCtxSetFlags_v2(device: i32, flags: u32) [init] {
        let mut primary = lock(&device::get(device)?.primary);
        primary.flags = flags;
        if let Some(context) = &primary.context {
            context.flags.store(flags, Ordering::Release);
        }
        Ok(())
    }

    fn cuCtxCreate_v2(out: Out<u64>, flags: u32, device: i32) [init] {
        create(out, flags, device)
    }

    fn cuCtxCreate_v3(out: Out<u64>, affinity: In<u64>, count: i32, flags: u32, device: i32) [init] {
        if count != 0 || !affinity.is_null() {
            return Err(Code::UNSUPPORTED_EXEC_AFFINITY);
        }
        create(out, flags, device)
    }

    fn cuCtxCreate_v4(out: Out<u64>, params: In<[u64; 3]>, flags: u32, device: i32) [init] {
        if !params.is_null() && params.get()?.iter().any(|word| *word != 0) {
            return Err(Code::UNSUPPORTED_EXEC_AFFINITY);
        }
        create(out, flags, device)
    }

    fn cuCtxDestroy_v2(ctx: u64) [init] {
        let context = get(ctx)?;
        for device in device::all() {
            if lock(&device.primary).handle == ctx {
                return Err(Code::INVALID_CONTEXT);
            }
        }
        context.end();
        STACK.with_borrow_mut(|stack| {
            if stack.last() == Some(&ctx) {
                stack.pop();
            }
        });
        Ok(())
    }

    fn cuCtxPushCurrent_v2(ctx: u64) [init] {
        get(ctx)?;
        push(ctx);
        Ok(())
    }

    fn cuCtxPopCurrent_v2(out: Out<u64>) [init] {
        let handle = STACK.with_borrow_mut(Vec::pop).ok_or(Code::INVALID_CONTEXT)?;
        out.set_if_wanted(handle);
        Ok(())
    }

    fn cuCtxSetCurrent(ctx: u64) [init] {
        if ctx != 0 {
            get(ctx)?;
        }
        STACK.with_borrow_mut(|stack| {
            stack.pop();
            if ctx != 0 {
                stack.push(ctx);
            }
        });
        Ok(())
    }

    fn cuCtxGetCurrent(out: Out<u64>) [init] {
        out.set(current_handle())
    }

    fn cuCtxGetDevice(device: Out<i32>) [init] {
        device.set(current()?.device.cast_signed())
    }

    fn cuCtxGetDevice_v2(device: Out<i32>, ctx: u64) [init] {
        device.set(get_or_current(ctx)?.device.cast_signed())
    }

    fn cuCtxGetId(ctx: u64, id: Out<u64>) [init] {
        id.set(get_or_current(ctx)?.id)
    }

    fn cuCtxGetFlags(flags: Out<u32>) [init] {
        flags.set(current()?.flags.load(Ordering::Acquire))
    }

    fn cuCtxSetFlags(flags: u32) [init] {
        current()?.flags.store(flags, Ordering::Release);
        Ok(())
    }

    fn cuCtxGetApiVersion(ctx: u64, version: Out<u32>) [init] {
        get_or_current(ctx)?;
        // The version of the context interface, which is not the driver's.
        version.set(if VERSION >= 13000 { 3020 } else { 3010 })
    }

    fn cuCtxSynchronize() [ctx context] {
        crate::capture::forbid_in_context(context)?;
        context.synchronize()
    }

    fn cuCtxSynchronize_v2(ctx: u64) [init] {
        let context = get_or_current(ctx)?;
        crate::capture::forbid_in_context(&context)?;
        context.synchronize()
    }

    fn cuCtxGetLimit(value: Out<usize>, limit: u32) [ctx context] {
        let limits = lock(&context.limits);
        value.set(*usize::try_from(limit).ok().and_then(|index| limits.get(index)).ok_or(Code::UNSUPPORTED_LIMIT)?)
    }

    fn cuCtxSetLimit(limit: u32, value: usize) [ctx context] {
        let mut limits = lock(&context.limits);
        *usize::try_from(limit).ok().and_then(|index| limits.get_mut(index)).ok_or(Code::UNSUPPORTED_LIMIT)? = value;
        Ok(())
    }

    fn cuCtxGetCacheConfig(config: Out<u32>) [ctx context] {
        config.set(context.cache_config.load(Ordering::Acquire))
    }

    fn cuCtxSetCacheConfig(config: u32) [ctx context] {
        if config > 3 {
            return Err(Code::INVALID_VALUE);
        }
        context.cache_config.store(config, Ordering::Release);
        Ok(())
    }

    fn cuCtxGetSharedMemConfig(config: Out<u32>) [ctx _] {
        config.set(1)
    }

    fn cuCtxSetSharedMemConfig(config: u32) [ctx _] {
        if config > 2 { Err(Code::INVALID_VALUE) } else { Ok(()) }
    }

    fn cuCtxGetStreamPriorityRange(least: Out<i32>, greatest: Out<i32>) [ctx _] {
        least.set_if_wanted(stream::LEAST_PRIORITY);
        greatest.set_if_wanted(stream::GREATEST_PRIORITY);
        Ok(())
    }

    fn cuCtxResetPersistingL2Cache() [ctx _] {
        Ok(())
    }

    fn cuCtxEnablePeerAccess(peer: u64, flags: u32) [ctx context] {
        let peer = get(peer)?;
        if flags != 0 {
            return Err(Code::INVALID_VALUE);
        }
        if peer.device == context.device {
            return Err(Code::PEER_ACCESS_UNSUPPORTED);
        }
        let before = context.health.peers.fetch_or(1 << peer.device, Ordering::AcqRel);
        if before & (1 << peer.device) != 0 { Err(Code::PEER_ACCESS_ALREADY_ENABLED) } else { Ok(()) }
    }

    fn cuCtxDisablePeerAccess(peer: u64) [ctx context] {
        let peer = get(peer)?;
        let before = context.health.peers.fetch_and(!(1 << peer.device), Ordering::AcqRel);
        if before & (1 << peer.device) == 0 { Err(Code::PEER_ACCESS_NOT_ENABLED) } else { Ok(()) }
    }

    fn cuCtxRecordEvent(ctx: u64, event: u64) [init] {
        let context = get_or_current(ctx)?;
        context.health.check()?;
        event::record_context(&context, event)
    }

    fn cuCtxWaitEvent(ctx: u64, event: u64) [init] {
        let context = get_or_current(ctx)?;
        context.health.check()?;
        event::wait_context(&context, event)
    }
}
