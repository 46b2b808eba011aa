//! Memory pools: allocation and freeing in the order of a stream.
//!
//! Memory is there as soon as it is asked for, and goes when the stream reaches the freeing. A pool
//! keeps nothing for later, so its reserved and used sizes are the same.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex};

use crate::abi::{CUmemAccessDesc, CUmemLocation, CUmemPoolProps, In, Out};
use crate::capture;
use crate::context::Context;
use crate::device;
use crate::entry::api;
use crate::errors::{Code, Res};
use crate::handles::{self, Registry};
use crate::memory;
use crate::space::{self, Kind};
use crate::stream;
use crate::sync::lock;
use crate::work::Work;

const PINNED: u32 = 1;
const DEVICE_LOCATION: u32 = 1;
const RELEASE_THRESHOLD: u32 = 4;

static POOLS: Registry<Pool> = Registry::new();
/// The default pool of each device and the one that cuMemAllocAsync uses.
static CHOSEN: Mutex<BTreeMap<u32, (u64, u64)>> = Mutex::new(BTreeMap::new());

struct Pool {
    handle: u64,
    device: u32,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The three reuse switches and the release threshold, by attribute number.
    settings: BTreeMap<u32, u64>,
    used: u64,
    high: u64,
}

impl Pool {
    fn start(device: u32) -> u64 {
        let state = State {
            settings: BTreeMap::from([(1, 1), (2, 1), (3, 1), (RELEASE_THRESHOLD, 0)]),
            ..State::default()
        };
        let pool = Pool { handle: handles::mint(), device, state: Mutex::new(state) };
        let handle = pool.handle;
        POOLS.insert(handle, Arc::new(pool));
        handle
    }

    fn count(&self, more: u64, less: u64) {
        let mut state = lock(&self.state);
        state.used = (state.used + more).saturating_sub(less);
        state.high = state.high.max(state.used);
    }
}

fn get(handle: u64) -> Res<Arc<Pool>> {
    POOLS.find(handle).ok_or(Code::INVALID_VALUE)
}

/// (default pool, current pool) of a device.
fn chosen(device: u32) -> (u64, u64) {
    *lock(&CHOSEN).entry(device).or_insert_with(|| {
        let pool = Pool::start(device);
        (pool, pool)
    })
}

fn choose(device: u32, pool: u64) -> Res {
    if get(pool)?.device != device {
        return Err(Code::INVALID_VALUE);
    }
    let default = chosen(device).0;
    lock(&CHOSEN).insert(device, (default, pool));
    Ok(())
}

fn located(location: CUmemLocation) -> Res<u32> {
    if location.kind != DEVICE_LOCATION {
        return Err(Code::NOT_SUPPORTED);
    }
    Ok(device::get(location.id)?.ordinal)
}

fn allocate(ctx: &Arc<Context>, out: Out<u64>, len: usize, pool: u64, handle: u64) -> Res {
    let stream = stream::get(ctx, handle)?;
    if capture::invalidate(&stream) {
        // Memory nodes of graphs are not provided.
        return Err(Code::STREAM_CAPTURE_UNSUPPORTED);
    }
    let (pool, len) = (get(pool)?, len as u64);
    if len == 0 || out.is_null() || pool.device != ctx.device {
        return Err(Code::INVALID_VALUE);
    }
    let kind = Kind::Pooled { pool: pool.handle };
    let address = match memory::allocate(ctx, len, kind) {
        // Memory may be on its way back.
        Err(Code::OUT_OF_MEMORY) => {
            stream::synchronize(&stream)?;
            memory::allocate(ctx, len, kind)?
        }
        other => other?,
    };
    pool.count(len, 0);
    out.set(address)
}

/// The context ends, and its memory with it.
pub(crate) fn forget(ctx: &Context) {
    for region in space::map().iter().filter(|region| region.ctx == ctx.handle) {
        if let Kind::Pooled { pool } = region.kind
            && let Ok(pool) = get(pool)
        {
            pool.count(0, region.len);
        }
    }
}

fn free(address: u64) {
    let gone = space::remove_at(address, |region| matches!(region.kind, Kind::Pooled { .. } | Kind::Plain));
    if let Some(region) = gone
        && let Kind::Pooled { pool } = region.kind
        && let Ok(pool) = get(pool)
    {
        pool.count(0, region.len);
    }
}

api! {
    fn cuMemAllocAsync(out: Out<u64>, len: usize, handle: u64) [ctx context] {
        allocate(context, out, len, chosen(context.device).1, handle)
    }

    fn cuMemAllocFromPoolAsync(out: Out<u64>, len: usize, pool: u64, handle: u64) [ctx context] {
        allocate(context, out, len, pool, handle)
    }

    fn cuMemFreeAsync(address: u64, handle: u64) [ctx context] {
        let stream = stream::get(context, handle)?;
        if capture::invalidate(&stream) {
            return Err(Code::STREAM_CAPTURE_UNSUPPORTED);
        }
        let region = space::find(address).filter(|region| region.base == address);
        if !region.is_some_and(|region| matches!(region.kind, Kind::Pooled { .. } | Kind::Plain)) {
            return Err(Code::INVALID_VALUE);
        }
        stream::submit(&stream, Work::internal(move || free(address))).map(drop)
    }

    fn cuDeviceGetDefaultMemPool(out: Out<u64>, device: i32) [init] {
        out.set(chosen(device::get(device)?.ordinal).0)
    }

    fn cuDeviceGetMemPool(out: Out<u64>, device: i32) [init] {
        out.set(chosen(device::get(device)?.ordinal).1)
    }

    fn cuDeviceSetMemPool(device: i32, pool: u64) [init] {
        choose(device::get(device)?.ordinal, pool)
    }

    fn cuMemGetDefaultMemPool(out: Out<u64>, location: In<CUmemLocation>, kind: u32) [init] {
        if kind != PINNED {
            return Err(Code::NOT_SUPPORTED);
        }
        out.set(chosen(located(location.get()?)?).0)
    }

    fn cuMemGetMemPool(out: Out<u64>, location: In<CUmemLocation>, kind: u32) [init] {
        if kind != PINNED {
            return Err(Code::NOT_SUPPORTED);
        }
        out.set(chosen(located(location.get()?)?).1)
    }

    fn cuMemSetMemPool(location: In<CUmemLocation>, kind: u32, pool: u64) [init] {
        if kind != PINNED {
            return Err(Code::NOT_SUPPORTED);
        }
        choose(located(location.get()?)?, pool)
    }

    fn cuDeviceGetGraphMemAttribute(device: i32, attribute: u32, value: Out<u64>) [init] {
        // Graphs have no memory of their own here.
        device::get(device)?;
        if attribute > 3 { Err(Code::INVALID_VALUE) } else { value.set(0) }
    }

    fn cuDeviceSetGraphMemAttribute(device: i32, attribute: u32, value: In<u64>) [init] {
        let _ = (device::get(device)?, value.get()?);
        if attribute > 3 { Err(Code::INVALID_VALUE) } else { Ok(()) }
    }

    fn cuDeviceGraphMemTrim(device: i32) [init] {
        device::get(device).map(drop)
    }

    fn cuMemPoolCreate(out: Out<u64>, props: In<CUmemPoolProps>) [init] {
        let props = props.get()?;
        if props.allocType != PINNED || out.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        if props.handleTypes != 0 {
            return Err(Code::NOT_SUPPORTED);
        }
        out.set(Pool::start(located(props.location)?))
    }

    fn cuMemPoolDestroy(pool: u64) [init] {
        let device = get(pool)?.device;
        let (default, current) = chosen(device);
        if pool == default {
            return Err(Code::INVALID_VALUE);
        }
        if pool == current {
            lock(&CHOSEN).insert(device, (default, default));
        }
        POOLS.remove(pool).map(drop)
    }

    fn cuMemPoolTrimTo(pool: u64, keep: usize) [init] {
        let _ = keep;
        get(pool).map(drop)
    }

    fn cuMemPoolSetAttribute(pool: u64, attribute: u32, value: *mut c_void) [init] {
        let pool = get(pool)?;
        let mut state = lock(&pool.state);
        match attribute {
            1..=3 => drop(state.settings.insert(attribute, u64::from(In::from_raw(value.cast::<u32>()).get()? != 0))),
            RELEASE_THRESHOLD => drop(state.settings.insert(attribute, In::from_raw(value.cast::<u64>()).get()?)),
            // High-water marks can only be reset.
            6 | 8 if In::from_raw(value.cast::<u64>()).get()? == 0 => state.high = state.used,
            _ => return Err(Code::INVALID_VALUE),
        }
        Ok(())
    }

    fn cuMemPoolGetAttribute(pool: u64, attribute: u32, value: *mut c_void) [init] {
        let pool = get(pool)?;
        let state = lock(&pool.state);
        let setting = state.settings.get(&attribute).copied().unwrap_or(0);
        match attribute {
            1..=3 => Out::from_raw(value.cast::<u32>()).set(u32::from(setting != 0)),
            RELEASE_THRESHOLD => Out::from_raw(value.cast::<u64>()).set(setting),
            5 | 7 => Out::from_raw(value.cast::<u64>()).set(state.used),
            6 | 8 => Out::from_raw(value.cast::<u64>()).set(state.high),
            _ => Err(Code::INVALID_VALUE),
        }
    }

    fn cuMemPoolSetAccess(pool: u64, rights: In<CUmemAccessDesc>, count: usize) [init] {
        // Which devices reach a pool's memory follows from peer access here.
        let _ = (get(pool)?, rights.list(count)?);
        Ok(())
    }

    fn cuMemPoolGetAccess(flags: Out<u32>, pool: u64, location: In<CUmemLocation>) [init] {
        let own = get(pool)?.device == located(location.get()?)?;
        flags.set(if own { 3 } else { 0 })
    }
}
