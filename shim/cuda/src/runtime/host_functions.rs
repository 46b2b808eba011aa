//! Host functions: run here, on a thread of their own, when their stream gets there.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use fusewire_wire::ops::table::HostFuncDone;

use crate::abi::result::CUDA_SUCCESS;

use super::connect::quiet_thread;
use super::handles;
use super::objects::{HostCode, HostFunction};
use super::pending::Pending;
use super::session::{Session, lock};

/// The thread that runs host functions, one after the other, as the driver's does.
pub(crate) struct HostThread {
    session: Arc<Session>,
    queue: Option<Sender<(u64, HostFunction, bool)>>,
}

impl HostThread {
    pub(crate) fn new(session: Arc<Session>) -> Self {
        Self { session, queue: None }
    }

    /// The server asks for the function that was published as operation `number`.
    pub(crate) fn call(&mut self, number: u64) {
        let (function, again) = match lock(&self.session.pending).get(&number) {
            Some(Pending::HostFunction { function, again, .. }) => (*function, *again),
            _ => return,
        };
        if self.queue.is_none() {
            let (sender, receiver) = channel::<(u64, HostFunction, bool)>();
            let session = self.session.clone();
            // We may be on a thread of the program's, which turns the lane.
            let started = quiet_thread("fusewire-host", move || {
                for (number, function, again) in receiver {
                    run(&function);
                    // Pending until here: a copy that reads what it writes has to wait for it.
                    if !again {
                        lock(&session.pending).remove(&number);
                    }
                    // A session that is over has told its callers already.
                    let _ = session.post_answer(&HostFuncDone { function: number });
                }
            });
            match started {
                Ok(()) => self.queue = Some(sender),
                Err(error) => {
                    self.session.lose(&format!("starting the thread for host functions failed: {error}"));
                    return;
                }
            }
        }
        if let Some(queue) = &self.queue {
            let _ = queue.send((number, function, again));
        }
    }
}

fn run(function: &HostFunction) {
    match function.run {
        // SAFETY: the program gave function and argument for exactly this call.
        HostCode::Function(code) => unsafe { code(function.argument) },
        // SAFETY: as above.
        HostCode::Callback(code, stream) => unsafe {
            code(handles::pointer(stream as u64), CUDA_SUCCESS, function.argument);
        },
    }
}
