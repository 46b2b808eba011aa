//! What a stream executes and a graph remembers: one piece of device work.
//!
//! Everything a piece needs is in it, so that a graph can run it again; what it must find at the
//! moment it runs (the address map, the contents of host memory) it looks up then.

use std::ffi::c_void;
use std::sync::{Arc, Mutex};

use crate::context::Health;
use crate::copy::{Copy3, Fill};
use crate::errors::Res;
use crate::event::{Event, Record};
use crate::graph_exec::Run;
use crate::launch::Launch;
use crate::memops::{self, MemOp};
use crate::stream::Fence;
use crate::sync::lock;

#[derive(Clone)]
pub(crate) enum Work {
    /// Does nothing, after what it waits for.
    Empty,
    Kernel(Arc<Launch>),
    Copy(Arc<Copy3>),
    Fill(Fill),
    Host {
        function: unsafe extern "C" fn(*mut c_void),
        data: Opaque,
    },
    Callback {
        stream: u64,
        function: unsafe extern "C" fn(u64, u32, *mut c_void),
        data: Opaque,
    },
    MemOps(Arc<[MemOp]>),
    /// Notes the time for a recorded event.
    Stamp(Arc<Record>),
    /// A node of a graph that records an event, or waits for one.
    RecordEvent(Arc<Event>),
    WaitEvent(Arc<Event>),
    /// What becomes of that wait when the graph is launched.
    WaitFence(Fence),
    /// A whole graph: one launch of it, or a child of another.
    Graph(Arc<Run>),
    /// Housekeeping that is done even when the context has failed. Never part of a graph.
    Internal(Internal),
}

/// A pointer of the program's, carried but never followed.
#[derive(Clone, Copy)]
pub(crate) struct Opaque(pub(crate) *mut c_void);

// SAFETY: the pointer is only handed back to the program, which asked for it to be used on a thread
// of the driver's.
unsafe impl Send for Opaque {}
// SAFETY: as above.
unsafe impl Sync for Opaque {}

type Action = Box<dyn FnOnce() + Send>;

#[derive(Clone)]
pub(crate) struct Internal(Arc<Mutex<Option<Action>>>);

impl Internal {
    fn run(&self) {
        let action = lock(&self.0).take();
        if let Some(action) = action {
            action();
        }
    }
}

impl Work {
    pub(crate) fn host(function: unsafe extern "C" fn(*mut c_void), data: *mut c_void) -> Work {
        Work::Host { function, data: Opaque(data) }
    }

    pub(crate) fn callback(
        stream: u64,
        function: unsafe extern "C" fn(u64, u32, *mut c_void),
        data: *mut c_void,
    ) -> Work {
        Work::Callback { stream, function, data: Opaque(data) }
    }

    pub(crate) fn internal(action: impl FnOnce() + Send + 'static) -> Work {
        Work::Internal(Internal(Arc::new(Mutex::new(Some(Box::new(action))))))
    }

    /// Executes it, on the thread of a stream.
    pub(crate) fn run(&self, health: &Health) -> Res {
        match self {
            Work::Empty => Ok(()),
            Work::Kernel(launch) => launch.run(health),
            Work::Copy(copy) => copy.run(),
            Work::Fill(fill) => fill.run(),
            Work::Host { function, data } => {
                // SAFETY: the program gave the function together with its argument.
                unsafe { function(data.0) };
                Ok(())
            }
            Work::Callback { stream, function, data } => {
                // SAFETY: the program gave the function together with its argument.
                unsafe { function(*stream, 0, data.0) };
                Ok(())
            }
            Work::MemOps(ops) => memops::run(ops, health),
            Work::Stamp(record) => {
                record.stamp();
                Ok(())
            }
            Work::RecordEvent(event) => {
                event.record_now();
                Ok(())
            }
            Work::WaitEvent(event) => event.pending().map_or(Ok(()), |fence| fence.wait(health)),
            Work::WaitFence(fence) => fence.wait(health),
            Work::Graph(run) => run.run(health),
            Work::Internal(action) => {
                action.run();
                Ok(())
            }
        }
    }

    /// What happens instead when the context has failed or is going away.
    pub(crate) fn dropped(&self, health: &Health) {
        match self {
            Work::Internal(action) => action.run(),
            Work::Callback { stream, function, data } => {
                let status = health.check().err().map_or(0, |code| code.0);
                if status != 0 {
                    // SAFETY: the program gave the function together with its argument; callbacks,
                    // unlike host functions, are told about failures.
                    unsafe { function(*stream, status, data.0) };
                }
            }
            _ => {}
        }
    }

    /// The number of the node type in `CUgraphNodeType`.
    pub(crate) fn node_type(&self) -> u32 {
        match self {
            Work::Kernel(_) => 0,
            Work::Copy(_) => 1,
            Work::Fill(_) => 2,
            Work::Host { .. } | Work::Callback { .. } => 3,
            Work::Graph(_) => 4,
            Work::Empty | Work::Stamp(_) | Work::Internal(_) => 5,
            Work::WaitEvent(_) | Work::WaitFence(_) => 6,
            Work::RecordEvent(_) => 7,
            Work::MemOps(_) => 12,
        }
    }
}
