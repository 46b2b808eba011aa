//! A session's side of the driver: every object, range and pending completion that the session has.
//!
//! One thread owns it, the shard, and no call it makes waits for the GPU. What is done to which kind of object is
//! in the files named after them; here are the state itself and the rules that all of them share:
//!
//! * a handle or an address is looked up before the driver hears of it;
//! * the context is made current only when it changes;
//! * an error that means a lost context is remembered, and answered to everything later.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cudarc::driver::sys::{
    CUarray, CUcontext, CUevent, CUgraph, CUgraphExec, CUgraphNode, CUmemGenericAllocationHandle,
};
use fusewire_wire::ops::Status;
use rustc_hash::FxHashMap;

use super::backlog::{self, Continuing};
use super::bulk::Lanes;
use super::events::Watched;
use super::fences::Fences;
use super::handles::{MAX_OBJECTS, Table};
use super::hostfunc::HostFunctions;
use super::images::Blobs;
use super::known::Loaded;
use super::memory::Memory;
use super::modules::{Function, Library, Module};
use super::outgoing::Outgoing;
use super::output::Output;
use super::pinned::{Arena, Block, Home, Pinned, Words};
use super::ranges::Ranges;
use super::streams::{StreamId, Streams};
use crate::driver::{Driver, INVALID_CONTEXT, INVALID_VALUE, OUT_OF_MEMORY, check, is_sticky};

/// A context of the session.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) raw: CUcontext,
    pub(super) device: i32,
    /// A primary context is never really released: staging memory is registered in it. Its release and reset
    /// destroy what the session has in it.
    pub(super) primary: bool,
    /// The error after which nothing works in it any more.
    pub(super) lost: Option<Status>,
    /// Captures under way that began on streams of it.
    pub(super) captures: u32,
}

#[derive(Debug)]
pub(super) struct Event {
    pub(super) raw: CUevent,
    pub(super) context: u64,
}

#[derive(Debug)]
pub(super) struct Array {
    pub(super) raw: CUarray,
    pub(super) context: u64,
}

/// A graph, possibly one that belongs to a capture or a node and only has a name here.
#[derive(Debug)]
pub(super) struct Graph {
    pub(super) raw: CUgraph,
    pub(super) owned: bool,
}

#[derive(Debug)]
pub(super) struct Exec {
    pub(super) raw: CUgraphExec,
    pub(super) context: u64,
    /// The first launch uploads the graph.
    pub(super) launched: bool,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) raw: CUgraphNode,
    /// The graph it is in, by the driver's address.
    pub(super) graph: usize,
}

#[derive(Debug)]
pub(super) struct Allocation {
    pub(super) raw: CUmemGenericAllocationHandle,
    pub(super) bytes: u64,
}

/// See the module's comment.
pub(super) struct Gpu {
    pub(super) d: &'static Driver,
    pub(super) out: Outgoing,
    pub(super) output: Output,
    /// Some image prints: completions have the driver flush what was printed.
    pub(super) prints: bool,

    pub(super) pinned: Arc<Pinned>,
    /// Where pinned memory is registered, once there is a context.
    pub(super) home: Option<Home>,
    pub(super) words: Words,
    pub(super) arena: Arena,
    pub(super) lanes: Lanes,

    pub(super) memory: Memory,
    pub(super) ranges: Ranges,
    pub(super) streams: Streams,
    pub(super) fences: Fences,
    pub(super) hosts: HostFunctions,
    pub(super) blobs: Blobs,

    pub(super) contexts: Table<Context>,
    /// Streams by handle.
    pub(super) stream_names: Table<StreamId>,
    pub(super) events: Table<Event>,
    /// Events that the client has asked for and that were not reached then.
    pub(super) watched: Vec<Watched>,
    pub(super) modules: Table<Module>,
    pub(super) libraries: Table<Library>,
    pub(super) functions: Table<Function>,
    /// What is known of images that are kept, by the module or library they were loaded as.
    pub(super) loaded: FxHashMap<u64, Loaded>,
    pub(super) graphs: Table<Graph>,
    pub(super) execs: Table<Exec>,
    pub(super) nodes: Table<Node>,
    /// Nodes by the driver's address.
    pub(super) node_names: FxHashMap<usize, u64>,
    pub(super) arrays: Table<Array>,
    pub(super) allocations: Table<Allocation>,
    /// Texture and surface objects, which kernels are given by the driver's value: the context of each.
    pub(super) textures: FxHashMap<u64, u64>,
    pub(super) surfaces: FxHashMap<u64, u64>,

    /// Entries on the GPU's queues that are not known to be finished.
    pub(super) queued: u32,
    /// Those of them that no ticket follows.
    pub(super) unticketed: u32,
    /// How many are to lie between two tickets.
    pub(super) ticket_every: u32,
    /// Completions that the client probably waits for: answers, and data for host memory.
    pub(super) awaited: u32,
    /// When the driver was last asked whether a context has met a fault.
    pub(super) fault_check: Instant,
    /// When entries of the queues were last found finished.
    pub(super) shortened: Instant,
    /// A copy of which only a part has been enqueued.
    pub(super) continuing: Option<Continuing>,
    /// The context that is current on this thread; 0 for none.
    pub(super) current: u64,
    /// The context that the operation at hand concerns; 0 for none.
    pub(super) concerned: u64,
    /// Number of the operation at hand.
    pub(super) serving: u64,
    /// The client broke the protocol; the session ends when the operation at hand is over.
    pub(super) misbehaved: Option<String>,
}

impl Gpu {
    pub(super) fn new(
        d: &'static Driver,
        output: Output,
        pinned: Arc<Pinned>,
        lanes: Lanes,
        memory: Memory,
    ) -> Self {
        Self {
            d,
            out: Outgoing::default(),
            output,
            prints: false,
            words: pinned.free_words(),
            pinned,
            home: None,
            arena: Arena::default(),
            lanes,
            memory,
            ranges: Ranges::default(),
            streams: Streams::default(),
            fences: Fences::default(),
            hosts: HostFunctions::default(),
            blobs: Blobs::default(),
            contexts: Table::refusing_with(INVALID_CONTEXT),
            stream_names: Table::default(),
            events: Table::default(),
            watched: Vec::new(),
            modules: Table::default(),
            libraries: Table::default(),
            functions: Table::default(),
            loaded: FxHashMap::default(),
            graphs: Table::refusing_with(INVALID_VALUE),
            execs: Table::refusing_with(INVALID_VALUE),
            nodes: Table::refusing_with(INVALID_VALUE),
            node_names: FxHashMap::default(),
            arrays: Table::default(),
            allocations: Table::refusing_with(INVALID_VALUE),
            textures: FxHashMap::default(),
            surfaces: FxHashMap::default(),
            queued: 0,
            unticketed: 0,
            // Nothing is known of how long they take.
            ticket_every: backlog::ticket_every(0, Duration::MAX),
            awaited: 0,
            fault_check: Instant::now(),
            shortened: Instant::now(),
            continuing: None,
            current: 0,
            concerned: 0,
            serving: 0,
            misbehaved: None,
        }
    }

    /// Makes a context current and says so to whoever reports an error.
    #[inline]
    pub(super) fn enter(&mut self, context: u64) -> Result<CUcontext, Status> {
        let found = self.contexts.get(context)?;
        let raw = found.raw;
        self.concerned = context;
        if let Some(status) = found.lost {
            return Err(status);
        }
        if self.current != context {
            // SAFETY: a live context of this process.
            check(unsafe { self.d.cuCtxSetCurrent(raw) })?;
            self.current = context;
        }
        Ok(raw)
    }

    /// A driver's answer as a `Result`; an error that means a lost context is taken note of.
    #[inline]
    pub(super) fn ok(&mut self, status: Status) -> Result<(), Status> {
        if status != 0 && is_sticky(status) {
            self.lose(self.concerned, status);
        }
        check(status)
    }

    /// Whether a handle that the client minted may be used for a new object. A handle that is in use or cannot
    /// be one is the client's breach; too many objects are refused.
    pub(super) fn mint(&mut self, what: &str, handle: u64, in_use: bool) -> Result<(), Status> {
        if handle == 0 || in_use {
            self.misbehave(format!(
                "it gave a new {what} the handle {handle:#x}, which is in use or cannot be one"
            ));
            return Err(INVALID_VALUE);
        }
        if self.objects() >= MAX_OBJECTS { Err(OUT_OF_MEMORY) } else { Ok(()) }
    }

    /// A small pinned block of at least `bytes`.
    pub(super) fn take_block(&mut self, bytes: usize) -> Result<Block, Status> {
        let home = self.home.ok_or(INVALID_CONTEXT)?;
        self.arena.take(self.d, home, bytes)
    }

    pub(super) fn misbehave(&mut self, how: String) {
        self.misbehaved.get_or_insert(how);
    }

    /// Whether an operation may touch `[address, address + bytes)`.
    #[inline]
    pub(super) fn covered(&self, address: u64, bytes: u64) -> Result<(), Status> {
        if self.ranges.cover(address, bytes) { Ok(()) } else { Err(INVALID_VALUE) }
    }

    /// The text that device code printed goes out before what comes next.
    pub(super) fn forward_output(&mut self) {
        let Self { output, out, .. } = self;
        output.drain(|descriptor, text| out.print(descriptor, text));
    }

    /// The context met an error that it does not recover from. Everything that waits for it completes with that
    /// error, and everything that comes later is answered with it.
    pub(super) fn lose(&mut self, context: u64, status: Status) {
        let Ok(found) = self.contexts.get_mut(context) else { return };
        if found.lost.is_some() {
            return;
        }
        found.lost = Some(status);
        let raw = found.raw;
        // What an assertion had to say is printed by a synchronisation, which a lost context answers at once.
        // SAFETY: a live context of this process.
        if unsafe { self.d.cuCtxSetCurrent(raw) } == 0 {
            self.current = context;
            // SAFETY: as above. Nothing of a lost context runs any more, so this does not wait.
            unsafe { self.d.cuCtxSynchronize() };
        }
        self.forward_output();
        self.out.failed(0, context, status, true);
        for id in self.streams.of_context(context) {
            while let Some(pending) =
                self.streams.get_mut(id).ok().and_then(|stream| stream.pending.pop_front())
            {
                self.complete(id, pending, status);
            }
            if let Ok(stream) = self.streams.get_mut(id) {
                let entries = std::mem::take(&mut stream.unticketed);
                self.forget_unticketed(entries);
            }
        }
        self.give_watches_up(|watched| watched.context == context, status);
        self.fail_fences(context, status);
    }

    /// Whether anything waits for the GPU.
    pub(super) fn is_waiting(&self) -> bool {
        self.streams.is_waiting() || !self.watched.is_empty()
    }

    fn objects(&self) -> usize {
        self.contexts.len()
            + self.stream_names.len()
            + self.events.len()
            + self.modules.len()
            + self.libraries.len()
            + self.functions.len()
            + self.graphs.len()
            + self.execs.len()
            + self.nodes.len()
            + self.arrays.len()
            + self.allocations.len()
            + self.textures.len()
            + self.surfaces.len()
            + self.ranges.len()
            + self.blobs.len()
    }
}
