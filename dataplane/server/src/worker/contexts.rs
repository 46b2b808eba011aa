//! Contexts: the primary ones and those that the program creates.

use fusewire_wire::ops::table::{CtxCreate, CtxEnablePeer, CtxSetLimit, PrimaryRetain};
use fusewire_wire::ops::{Call, Nothing, Status};

use super::fences::Purpose;
use super::gpu::{Context, Gpu};
use super::pinned::Home;
use crate::driver::{INVALID_DEVICE, INVALID_VALUE, NOT_READY, check};

/// Flags of a context that concern the GPU: keep local memory's size. The others say how a host thread waits,
/// which is the client's own business.
const CONTEXT_FLAGS: u32 = 0x10;
/// Highest `CUlimit` of CUDA 13, exclusive.
const LIMITS: u32 = 9;
/// Bytes that a program may set aside for printf, stacks or the heap of device code.
const MAX_LIMIT: u64 = 1 << 40;

impl Gpu {
    pub(super) fn primary_retain(&mut self, record: &PrimaryRetain) -> Result<(), Status> {
        if let Ok(context) = self.contexts.get(record.context) {
            // Retained again after a release: the handle stays.
            if context.primary && context.device == record.device {
                return context.lost.map_or(Ok(()), Err);
            }
            self.mint("context", record.context, true)?;
        }
        self.mint("context", record.context, false)?;
        let device = self.device(record.device)?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the result is a live pointer; the reference is kept until the process ends.
        unsafe {
            self.d.cuDevicePrimaryCtxSetFlags_v2(device, record.flags & CONTEXT_FLAGS);
            check(self.d.cuDevicePrimaryCtxRetain(&raw mut raw, device))?;
        }
        self.add_context(record.context, Context { raw, device, primary: true, lost: None, captures: 0 })
    }

    pub(super) fn ctx_create(&mut self, record: &CtxCreate) -> Result<(), Status> {
        self.mint("context", record.context, self.contexts.has(record.context))?;
        let device = self.device(record.device)?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the result is a live pointer.
        check(unsafe { self.d.cuCtxCreate_v2(&raw mut raw, record.flags & CONTEXT_FLAGS, device) })?;
        // The driver has made it current.
        self.current = 0;
        self.add_context(record.context, Context { raw, device, primary: false, lost: None, captures: 0 })
    }

    fn add_context(&mut self, handle: u64, context: Context) -> Result<(), Status> {
        let device = context.device;
        self.contexts.put(handle, context);
        let ready = self.enter(handle).and_then(|_| self.first_context(device));
        self.admit_device(device);
        if ready.is_err() {
            // An uninitialised staging area is no context to work in. The driver's own reference stays; it is
            // given again at the next attempt.
            let _ = self.contexts.take(handle);
            self.current = 0;
        }
        ready
    }

    /// Once there is a context on some device, the staging memory is registered in that device's primary one.
    fn first_context(&mut self, device: i32) -> Result<(), Status> {
        if self.home.is_none() {
            let mut raw = std::ptr::null_mut();
            // SAFETY: the result is a live pointer; the reference is kept until the process ends.
            check(unsafe { self.d.cuDevicePrimaryCtxRetain(&raw mut raw, device) })?;
            self.pinned.register(self.d, Home(raw))?;
            self.home = Some(Home(raw));
        }
        Ok(())
    }

    fn device(&self, ordinal: i32) -> Result<i32, Status> {
        let mut device = 0;
        if ordinal < 0 {
            return Err(INVALID_DEVICE);
        }
        // SAFETY: a live integer.
        check(unsafe { self.d.cuDeviceGet(&raw mut device, ordinal) })?;
        Ok(device)
    }

    pub(super) fn primary_release(&mut self, handle: u64) -> Result<(), Status> {
        if !self.contexts.get(handle)?.primary {
            return Err(INVALID_VALUE);
        }
        self.fence(handle, Purpose::Purge { reply: None, destroy: false });
        Ok(())
    }

    pub(super) fn primary_reset(&mut self, call: Call, handle: u64) -> Result<Option<Nothing>, Status> {
        if !self.contexts.get(handle)?.primary {
            return Err(INVALID_VALUE);
        }
        self.fence(handle, Purpose::Purge { reply: Some(call.number), destroy: false });
        Ok(None)
    }

    pub(super) fn ctx_destroy(&mut self, handle: u64) -> Result<(), Status> {
        if self.contexts.get(handle)?.primary {
            return Err(crate::driver::INVALID_CONTEXT);
        }
        self.fence(handle, Purpose::Purge { reply: None, destroy: true });
        Ok(())
    }

    pub(super) fn ctx_synchronize(&mut self, call: Call, handle: u64) -> Result<Option<Nothing>, Status> {
        self.enter(handle)?;
        if self.contexts.get(handle)?.captures != 0 {
            return Err(crate::driver::CAPTURE_UNSUPPORTED);
        }
        self.fence(handle, Purpose::Reply { number: call.number });
        Ok(None)
    }

    /// Asks the driver whether the context has met a fault.
    pub(super) fn context_fault(&mut self, handle: u64) -> Status {
        if self.contexts.get(handle).is_ok_and(|context| context.captures != 0) {
            return 0;
        }
        let status = match self.enter(handle) {
            Err(status) => status,
            // SAFETY: the null stream of the current context. A query does not wait.
            Ok(_) => unsafe { self.d.cuStreamQuery(std::ptr::null_mut()) },
        };
        if matches!(status, 0 | NOT_READY) {
            return 0;
        }
        self.lose(handle, status);
        status
    }

    /// Destroys everything that the session has in a context.
    pub(super) fn purge(&mut self, handle: u64, destroy: bool) {
        self.drop_streams(handle, destroy);
        self.drop_modules(handle);
        self.drop_textures(handle);
        self.drop_execs(handle);
        self.drop_memory(handle);
        if !destroy {
            return;
        }
        if let Ok(context) = self.contexts.take(handle) {
            // SAFETY: ours, and nothing names it any more. Destroying the current one leaves none current.
            unsafe {
                self.d.cuCtxDestroy_v2(context.raw);
                self.d.cuCtxSetCurrent(std::ptr::null_mut());
            }
            self.current = 0;
        }
    }

    pub(super) fn ctx_set_limit(&mut self, record: &CtxSetLimit) -> Result<(), Status> {
        if record.limit >= LIMITS || record.value > MAX_LIMIT {
            return Err(INVALID_VALUE);
        }
        self.enter(record.context)?;
        // SAFETY: plain numbers.
        let status = unsafe { self.d.cuCtxSetLimit(record.limit, record.value as usize) };
        self.ok(status)
    }

    pub(super) fn ctx_get_limit(&mut self, context: u64, limit: u32) -> Result<u64, Status> {
        if limit >= LIMITS {
            return Err(INVALID_VALUE);
        }
        self.enter(context)?;
        let mut value = 0usize;
        // SAFETY: a live integer.
        let status = unsafe { self.d.cuCtxGetLimit(&raw mut value, limit) };
        self.ok(status)?;
        Ok(value as u64)
    }

    pub(super) fn ctx_set_cache_config(&mut self, context: u64, config: u32) -> Result<(), Status> {
        if config > 3 {
            return Err(INVALID_VALUE);
        }
        self.enter(context)?;
        // SAFETY: a checked number.
        let status = unsafe { self.d.cuCtxSetCacheConfig(config) };
        self.ok(status)
    }

    pub(super) fn ctx_reset_persisting_l2(&mut self, context: u64) -> Result<(), Status> {
        self.enter(context)?;
        // SAFETY: no arguments.
        let status = unsafe { self.d.cuCtxResetPersistingL2Cache() };
        self.ok(status)
    }

    pub(super) fn ctx_enable_peer(&mut self, record: &CtxEnablePeer) -> Result<(), Status> {
        if record.flags != 0 {
            return Err(INVALID_VALUE);
        }
        let peer = self.contexts.get(record.peer)?.raw;
        self.enter(record.context)?;
        // SAFETY: a live context.
        let status = unsafe { self.d.cuCtxEnablePeerAccess(peer, 0) };
        self.ok(status)
    }

    pub(super) fn ctx_disable_peer(&mut self, context: u64, peer: u64) -> Result<(), Status> {
        let peer = self.contexts.get(peer)?.raw;
        self.enter(context)?;
        // SAFETY: a live context.
        let status = unsafe { self.d.cuCtxDisablePeerAccess(peer) };
        self.ok(status)
    }

    pub(super) fn profiler(&mut self, context: u64, start: bool) -> Result<(), Status> {
        self.enter(context)?;
        // SAFETY: no arguments.
        let status = unsafe { if start { self.d.cuProfilerStart() } else { self.d.cuProfilerStop() } };
        self.ok(status)
    }
}
