//! The thread that reads figures when it is asked to.
//!
//! The one who asks never waits here: it is told by a byte on a socket, and then takes what was read. A call
//! that hangs in the driver holds up this thread and nobody else.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use fusewire_wire::inventory::{Inventory, set_text};

use super::library::{Handle, Nvml, NvmlError};
use super::probes;

/// How long the library stays open when nobody asks.
const IDLE: Duration = Duration::from_secs(30);

/// What the thread has last found.
#[derive(Debug)]
pub enum Latest {
    /// The inventory with its figures.
    Read(Inventory),
    /// There are none to be had; the thread has ended.
    Absent(NvmlError),
}

/// The thread, for as long as this lives.
#[derive(Debug)]
pub struct Reader {
    ask: SyncSender<()>,
    latest: Arc<Mutex<Option<Latest>>>,
}

impl Reader {
    /// Starts the thread, which loads nothing yet. A byte comes on the socket after each reading.
    ///
    /// # Errors
    /// When there can be no thread or no socket.
    pub fn start(inventory: Inventory, library: PathBuf) -> io::Result<(Self, UnixStream)> {
        let (ask, asked) = sync_channel(1);
        let (told, teller) = UnixStream::pair()?;
        let latest = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&latest);
        thread::Builder::new().name("nvml".into()).spawn(move || {
            let mut work = Work { inventory, library, latest: slot, teller };
            if let Err(error) = work.run(&asked) {
                work.tell(Latest::Absent(error));
            }
        })?;
        Ok((Self { ask, latest }, told))
    }

    /// Asks for a reading, unless one is already asked for.
    pub fn ask(&self) {
        // Full: asked for already. Closed: the last word was that there is nothing.
        let _ = self.ask.try_send(());
    }

    /// What was read since this was last called.
    #[must_use]
    pub fn take(&self) -> Option<Latest> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

struct Work {
    /// What does not change, once the library is open.
    inventory: Inventory,
    library: PathBuf,
    latest: Arc<Mutex<Option<Latest>>>,
    teller: UnixStream,
}

struct Open {
    nvml: Nvml,
    /// One for each device of the inventory.
    handles: Vec<Option<Handle>>,
}

impl Work {
    /// Reads until nobody is left to ask.
    fn run(&mut self, asked: &Receiver<()>) -> Result<(), NvmlError> {
        let mut open: Option<Open> = None;
        loop {
            let next = match open {
                Some(_) => asked.recv_timeout(IDLE),
                None => asked.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match next {
                Ok(()) => {
                    let open = match &open {
                        Some(open) => open,
                        None => open.insert(self.open()?),
                    };
                    let read = self.read(open);
                    self.tell(Latest::Read(read));
                }
                Err(RecvTimeoutError::Timeout) => open = None,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    fn open(&mut self) -> Result<Open, NvmlError> {
        let nvml = Nvml::load(&self.library)?;
        let handles: Vec<_> =
            self.inventory.devices.iter().map(|device| nvml.handle(&device.uuid_text())).collect();
        if handles.iter().all(Option::is_none) {
            return Err(NvmlError::OtherDevices);
        }
        let header = &mut self.inventory.header;
        if let Some(version) = nvml.system_text(c"nvmlSystemGetDriverVersion") {
            set_text(&mut header.driver, &version);
        }
        if let Some(version) = nvml.system_text(c"nvmlSystemGetNVMLVersion") {
            set_text(&mut header.nvml, &version);
        }
        for (device, handle) in self.inventory.devices.iter_mut().zip(&handles) {
            if let Some(handle) = *handle {
                probes::read_fixed(&nvml, handle, device);
            }
        }
        Ok(Open { nvml, handles })
    }

    /// On a copy of what does not change, so that nothing is left of the last reading.
    fn read(&self, open: &Open) -> Inventory {
        let mut inventory = self.inventory.clone();
        for (device, handle) in inventory.devices.iter_mut().zip(&open.handles) {
            if let Some(handle) = *handle {
                probes::read_live(&open.nvml, handle, device);
            }
        }
        inventory
    }

    fn tell(&mut self, latest: Latest) {
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = Some(latest);
        // Nobody is there to hear it when the server is ending.
        let _ = self.teller.write_all(&[1]);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_missing_library_is_said_once_and_nothing_is_loaded_before() {
        let (reader, mut told) =
            Reader::start(Inventory::new(Vec::new()), "/nonexistent/libnvidia-ml.so.1".into()).unwrap();
        assert!(reader.take().is_none());
        reader.ask();
        told.read_exact(&mut [0]).unwrap();
        let Some(Latest::Absent(why)) = reader.take() else { panic!("something was read") };
        assert!(why.to_string().contains("/nonexistent/libnvidia-ml.so.1"), "{why}");
        // The thread has ended: to ask again is harmless, and the socket is closed.
        reader.ask();
        assert_eq!(told.read(&mut [0]).unwrap(), 0);
    }
}
