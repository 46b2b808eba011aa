//! Host functions: run here, on a thread of their own, when their stream gets there. Likewise, on another, what
//! streams stop for because of mirrored memory ([`Stop`]): no function of the program's holds that up.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use fusewire_wire::ops::table::HostFuncDone;

use crate::abi::result::CUDA_SUCCESS;

use super::connect::quiet_thread;
use super::handles;
use super::mirror::Stop;
use super::objects::{HostCode, HostFunction};
use super::pending::Pending;
use super::session::{Session, lock};

/// The threads that do what streams wait for: host functions one after the other, as the driver's does, and stops.
pub(crate) struct HostThreads {
    session: Arc<Session>,
    functions: Option<Sender<Job>>,
    stops: Option<Sender<Job>>,
}

enum Job {
    Function { number: u64, function: HostFunction, again: bool },
    Stop { number: u64, stop: Arc<Stop> },
}

impl HostThreads {
    pub(crate) fn new(session: Arc<Session>) -> Self {
        Self { session, functions: None, stops: None }
    }

    /// The server says that the stream has got to what was published as operation `number`.
    pub(crate) fn call(&mut self, number: u64) {
        let (job, queue, name) = match lock(&self.session.pending).get(&number) {
            Some(Pending::HostFunction { function, again, .. }) => {
                let job = Job::Function { number, function: *function, again: *again };
                (job, &mut self.functions, "fusewire-host")
            }
            Some(Pending::Stop(stop)) => {
                (Job::Stop { number, stop: stop.clone() }, &mut self.stops, "fusewire-mirror")
            }
            _ => return,
        };
        if queue.is_none() {
            let (sender, receiver) = channel();
            let session = self.session.clone();
            // We may be on a thread of the program's, which turns the lane.
            let started =
                quiet_thread(name, move || receiver.into_iter().for_each(|job| work(&session, job)));
            match started {
                Ok(()) => *queue = Some(sender),
                Err(error) => {
                    self.session.lose(&format!("starting the thread for host functions failed: {error}"));
                    return;
                }
            }
        }
        if let Some(queue) = queue {
            let _ = queue.send(job);
        }
    }
}

fn work(session: &Session, job: Job) {
    match job {
        Job::Function { number, function, again } => {
            run(&function);
            // Pending until here: what reads what it writes has to wait for it.
            if !again {
                let gone = lock(&session.pending).remove(number);
                drop(gone);
            }
            // A session that is over has told its callers already.
            let _ = session.post_answer(&HostFuncDone { function: number });
        }
        Job::Stop { number, stop } => stop.pass(session, number),
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
