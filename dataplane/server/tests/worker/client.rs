//! A client as the tests need one: wire's session over real sockets, against a worker process of its own.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use fusewire_server::control::{self, DaemonEnd, FromWorker, Open, Staging, ToWorker};
use fusewire_wire::bulk::{ChunkHeader, ChunkKind};
use fusewire_wire::error::ProtocolError;
use fusewire_wire::frame::CloseReason;
use fusewire_wire::hello::{Hello, OpeningReader, Welcome};
use fusewire_wire::ops::events::Event;
use fusewire_wire::ops::snapshot::Snapshot;
use fusewire_wire::ops::table::*;
use fusewire_wire::ops::{AsyncRecord, Dim3, Record, SyncRecord};
use fusewire_wire::session::{ClientConfig, ClientSession, Next};
use zerocopy::{FromBytes, IntoBytes};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);
pub const SESSION: [u64; 2] = [7, 9];

/// How a test's worker is to be.
#[derive(Clone)]
pub struct Setup {
    pub staging: Staging,
    pub lanes: u32,
    pub environment: Vec<(&'static str, &'static str)>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            staging: Staging { slot_bytes: 64 << 10, h2d_slots: 4, d2h_slots: 4, reserved: 0 },
            lanes: 2,
            environment: Vec::new(),
        }
    }
}

/// A worker process and the daemon's end of its control socket.
pub struct Worker {
    pub child: Child,
    pub daemon: DaemonEnd,
}

/// The driver: the software GPU, which the build puts next to this program, unless the environment names another.
pub fn driver() -> PathBuf {
    let here = std::env::current_exe().unwrap();
    let softgpu = || here.parent().unwrap().join("libsoftgpu.so");
    std::env::var_os("FUSEWIRE_TEST_DRIVER").map_or_else(softgpu, PathBuf::from)
}

pub fn is_softgpu() -> bool {
    std::env::var_os("FUSEWIRE_TEST_DRIVER").is_none()
}

impl Worker {
    pub fn start(driver: &std::path::Path, environment: &[(&str, &str)]) -> Self {
        let (daemon, theirs) = control::pair().unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("worker").arg(driver).stdin(Stdio::null());
        command.envs(environment.iter().copied());
        command.fd_mappings(vec![FdMapping { parent_fd: theirs, child_fd: 3 }]).unwrap();
        Self { child: command.spawn().unwrap(), daemon }
    }

    pub fn hear(&self) -> FromWorker {
        self.daemon.recv_within(PATIENCE).unwrap()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connected pair of TCP sockets.
pub fn connection() -> (TcpStream, OwnedFd) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    ours.set_nodelay(true).unwrap();
    (ours, listener.accept().unwrap().0.into())
}

/// What arrived on a bulk lane.
struct Landed {
    header: ChunkHeader,
    payload: Vec<u8>,
}

pub struct Client {
    pub worker: Worker,
    pub session: ClientSession,
    pub command: TcpStream,
    pub lanes: Vec<TcpStream>,
    pub snapshot: Snapshot,
    landed: Receiver<Landed>,
    start: Instant,
    next_handle: u64,
    next_address: u64,
    queued: Vec<Vec<u8>>,
    /// Chunks to send when there is credit, by number.
    chunks: HashMap<u64, Vec<u8>>,
    pub hold_chunks: bool,
    pub replies: HashMap<u64, (u32, Vec<u8>)>,
    pub done: HashMap<u64, u32>,
    pub failed: Vec<(u64, u32, bool)>,
    pub data: HashMap<u64, Vec<u8>>,
    pub printed: String,
    pub host_calls: Vec<u64>,
    /// Of what data had come when the last host function was called.
    pub data_then: Vec<u64>,
    pub words: Vec<(u64, u64)>,
    pub ended: Option<ProtocolError>,
}

impl Client {
    pub fn open(setup: &Setup) -> Self {
        let worker = Worker::start(&driver(), &setup.environment);
        assert!(matches!(worker.hear(), FromWorker::Ready { .. }));
        let (command, theirs) = connection();
        let config = ClientConfig { lanes: setup.lanes, ..ClientConfig::default() };
        let mut session = ClientSession::new(config, 0);
        let mut hello: &[u8] = &session.connect(0).unwrap();
        let (hello, _) = OpeningReader::default().receive::<Hello>(&mut hello).unwrap().unwrap();
        let open = Open {
            hello,
            lines: Vec::new(),
            session: SESSION,
            device: 0,
            staging: setup.staging,
            peer: "a test".into(),
            cores: Vec::new(),
            tenant: [7; 32],
        };
        worker.daemon.send(&ToWorker::Open { open, socket: theirs }).unwrap();
        let (sender, landed) = channel();
        let mut client = Self {
            worker,
            session,
            command,
            lanes: Vec::new(),
            snapshot: Snapshot::default(),
            landed,
            start: Instant::now(),
            next_handle: 0x1000,
            next_address: 0,
            queued: Vec::new(),
            chunks: HashMap::new(),
            hold_chunks: false,
            replies: HashMap::new(),
            done: HashMap::new(),
            failed: Vec::new(),
            data: HashMap::new(),
            printed: String::new(),
            host_calls: Vec::new(),
            data_then: Vec::new(),
            words: Vec::new(),
            ended: None,
        };
        client.command.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        client.until("the welcome", |client| client.session.is_open());
        client.snapshot = Snapshot::decode(&client.session.take_snapshot().unwrap()).unwrap();
        client.next_address = client.session.welcome().unwrap().window_base;
        for lane in 0..setup.lanes {
            client.open_lane(lane, sender.clone());
        }
        client
    }

    fn open_lane(&mut self, lane: u32, landed: Sender<Landed>) {
        let (mut ours, theirs) = connection();
        let hello = self.session.bulk_hello(lane).unwrap();
        let (hello, _) = OpeningReader::default().receive::<Hello>(&mut &hello[..]).unwrap().unwrap();
        self.worker.daemon.send(&ToWorker::Join { hello, lines: Vec::new(), socket: theirs }).unwrap();
        let mut welcome = [0; size_of::<Welcome>()];
        ours.read_exact(&mut welcome).unwrap();
        let (welcome, tail) =
            OpeningReader::default().receive::<Welcome>(&mut &welcome[..]).unwrap().unwrap();
        welcome.accept(&tail, 0).unwrap();
        let slot_bytes = welcome.slot_bytes;
        let mut reader = ours.try_clone().unwrap();
        self.lanes.push(ours);
        std::thread::spawn(move || {
            let mut head = [0; size_of::<ChunkHeader>()];
            while reader.read_exact(&mut head).is_ok() {
                let header = ChunkHeader::parse(&head, ChunkKind::DeviceToHost, slot_bytes).unwrap().unwrap();
                let mut payload = vec![0; header.bytes as usize];
                if reader.read_exact(&mut payload).is_err()
                    || landed.send(Landed { header, payload }).is_err()
                {
                    return;
                }
            }
        });
    }

    pub fn handle(&mut self) -> u64 {
        self.next_handle += 16;
        self.next_handle
    }

    /// Publishes a record; gives its number.
    pub fn push<R: Record>(&mut self, record: &R, tail: &[u8]) -> u64 {
        self.push_raw(R::CODE, record.as_bytes(), tail)
    }

    pub fn push_raw(&mut self, code: u16, fixed: &[u8], tail: &[u8]) -> u64 {
        self.session.outbox().push(code, 0, fixed, &[tail]).unwrap()
    }

    pub fn send<R: AsyncRecord>(&mut self, record: R) -> u64 {
        self.push(&record, &[])
    }

    pub fn ask<R: SyncRecord>(&mut self, record: R) -> Result<R::Reply, u32> {
        self.ask_with(record, &[]).map(|(reply, _)| reply)
    }

    pub fn ask_with<R: SyncRecord>(&mut self, record: R, tail: &[u8]) -> Result<(R::Reply, Vec<u8>), u32> {
        let number = self.push(&record, tail);
        self.answer::<R>(number)
    }

    pub fn answer<R: SyncRecord>(&mut self, number: u64) -> Result<(R::Reply, Vec<u8>), u32> {
        self.until(R::NAME, |client| client.replies.contains_key(&number));
        let (status, body) = self.replies.remove(&number).unwrap();
        if status != 0 {
            return Err(status);
        }
        let (reply, tail) = R::Reply::read_from_prefix(&body).unwrap();
        Ok((reply, tail.to_vec()))
    }

    /// The status of a marked point, once it is reached or refused.
    pub fn point(&mut self, number: u64) -> u32 {
        let refused =
            |client: &Self| client.failed.iter().find(|failed| failed.0 == number).map(|failed| failed.1);
        self.until("a marked point", |client| client.done.contains_key(&number) || refused(client).is_some());
        self.done.remove(&number).or_else(|| refused(self)).unwrap()
    }

    pub fn until(&mut self, what: &str, reached: impl Fn(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !reached(self) {
            if let Some(error) = &self.ended {
                panic!("the session ended while {what} was waited for: {error}");
            }
            assert!(Instant::now() < end, "{what} never came; failed: {:?}", self.failed);
            self.turn();
        }
    }

    /// Goes on for a while.
    pub fn linger(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end && self.ended.is_none() {
            self.turn();
        }
    }

    /// How the session ends.
    pub fn end(&mut self) -> ProtocolError {
        let end = Instant::now() + PATIENCE;
        while self.ended.is_none() {
            assert!(Instant::now() < end, "the session does not end");
            self.turn();
        }
        self.ended.clone().unwrap()
    }

    fn nanos(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn turn(&mut self) {
        let now = self.nanos();
        while let Some(frame) = self.session.transmit() {
            self.queued.push(frame.to_vec());
        }
        // The hello went to the worker in its `Open`; a session sends nothing else before the welcome.
        for frame in std::mem::take(&mut self.queued) {
            if self.command.write_all(&frame).is_err() {
                break;
            }
        }
        self.send_chunks();
        let mut buffer = vec![0; 256 << 10];
        let mut result = Ok(());
        if !self.session.is_held() {
            match self.command.read(&mut buffer) {
                Ok(0) => result = Err(lost()),
                Ok(bytes) => result = self.receive(now, Some(&buffer[..bytes])),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => result = Err(lost()),
            }
        }
        while let Ok(landed) = self.landed.try_recv() {
            let data = self.data.entry(landed.header.copy).or_default();
            let (start, end) =
                (landed.header.offset as usize, landed.header.offset as usize + landed.payload.len());
            if data.len() < end {
                data.resize(end, 0);
            }
            data[start..end].copy_from_slice(&landed.payload);
            if self.session.chunk_landed(now, landed.header.number).unwrap() && result.is_ok() {
                result = self.receive(now, None);
            }
        }
        if self.session.is_held() {
            std::thread::sleep(Duration::from_micros(100));
        }
        if let Err(error) = result {
            self.ended = Some(self.session.ended().cloned().unwrap_or(error));
        }
    }

    fn receive(&mut self, now: u64, bytes: Option<&[u8]>) -> Result<(), ProtocolError> {
        let Self { session, replies, done, failed, data, data_then, printed, host_calls, words, .. } = self;
        let take = |record: fusewire_wire::frame::Record<'_>| -> Result<Next, ProtocolError> {
            match Event::decode(record.op, record.body).expect("an event that this client knows") {
                Event::Reply(reply, tail) => {
                    replies.insert(reply.number, (reply.status, tail.to_vec()));
                }
                Event::Done(event, _) => {
                    done.insert(event.number, event.status);
                }
                Event::Failed(event, _) => failed.push((event.number, event.status, event.sticky != 0)),
                Event::Credit(event, _) => return Ok(Next::Credit(event.upto)),
                Event::Barrier(event, _) => return Ok(Next::Barrier(event.chunks)),
                Event::Data(event, tail) => {
                    let all = data.entry(event.number).or_default();
                    let (start, end) =
                        (event.offset as usize, (event.offset + u64::from(event.bytes)) as usize);
                    if all.len() < end {
                        all.resize(end, 0);
                    }
                    all[start..end].copy_from_slice(&tail[..end - start]);
                }
                Event::HostCall(event, _) => {
                    host_calls.push(event.number);
                    *data_then = data.keys().copied().collect();
                }
                Event::Print(event, tail) => {
                    printed.push_str(&String::from_utf8_lossy(&tail[..event.bytes as usize]));
                }
                Event::Word(event, _) => words.push((event.address, event.value)),
            }
            Ok(Next::Continue)
        };
        match bytes {
            Some(bytes) => session.receive(now, bytes, take),
            None => session.resume(now, take),
        }
    }

    fn send_chunks(&mut self) {
        if self.hold_chunks {
            return;
        }
        while let Some(number) = self.session.chunks().due() {
            let payload = self.chunks.remove(&number).unwrap();
            let header = ChunkHeader::host_to_device(number, payload.len() as u32);
            // Now one lane, now another.
            let lane = (number / 2) as usize % self.lanes.len();
            let written = self.lanes[lane].write_all(header.as_bytes());
            if written.and_then(|()| self.lanes[lane].write_all(&payload)).is_err() {
                return;
            }
            self.session.chunks().sent().unwrap();
        }
    }

    // What most tests do.

    pub fn context(&mut self) -> u64 {
        let context = self.handle();
        self.ask(PrimaryRetain { context, device: 0, flags: 0 }).unwrap();
        context
    }

    pub fn stream(&mut self, context: u64) -> u64 {
        let stream = self.handle();
        self.send(StreamCreate { stream, context, flags: 1, priority: 0 });
        stream
    }

    pub fn granularity(&self) -> u64 {
        self.snapshot.devices[0].info.granularity
    }

    pub fn address(&mut self, bytes: u64) -> u64 {
        let address = self.next_address;
        self.next_address += bytes;
        address
    }

    /// Maps a block; gives its address.
    pub fn block(&mut self, context: u64, bytes: u64) -> u64 {
        let bytes = bytes.next_multiple_of(self.granularity());
        let address = self.address(bytes);
        self.ask(BlockMap { context, address, bytes }).unwrap();
        address
    }

    pub fn copy_in(&mut self, stream: u64, destination: u64, data: &[u8]) -> u64 {
        let slot = self.session.welcome().unwrap().slot_bytes as usize;
        let numbers = self.session.chunks().number(data.len().div_ceil(slot) as u64);
        for (number, piece) in numbers.clone().zip(data.chunks(slot)) {
            self.chunks.insert(number, piece.to_vec());
        }
        self.send(CopyIn { stream, destination, bytes: data.len() as u64, first_chunk: numbers.start })
    }

    /// Queues one bulk chunk; gives its number.
    pub fn bulk(&mut self, data: &[u8]) -> u64 {
        let number = self.session.chunks().number(1).start;
        self.chunks.insert(number, data.to_vec());
        number
    }

    pub fn copy_in_inline(&mut self, stream: u64, destination: u64, data: &[u8]) -> u64 {
        let record = CopyInInline { stream, destination, bytes: data.len() as u64 };
        self.push(&record, data)
    }

    /// Copies out and waits for it.
    pub fn copy_out(&mut self, stream: u64, source: u64, bytes: u64) -> Result<Vec<u8>, u32> {
        let number = self.send(CopyOut { stream, source, bytes });
        match self.point(number) {
            0 => Ok(self.data.remove(&number).unwrap_or_default()),
            status => Err(status),
        }
    }

    pub fn synchronize(&mut self, stream: u64) -> Result<(), u32> {
        self.ask(StreamSynchronize { stream }).map(drop)
    }

    pub fn module(&mut self, context: u64, image: &[u8]) -> u64 {
        let (module, blob) = (self.handle(), self.handle());
        for part in image.chunks(BLOB_PART_BYTES) {
            self.push(&BlobPart { blob, total: image.len() as u64 }, part);
        }
        let record = ModuleLoad { module, context, blob, options: 0, reserved: 0 };
        self.ask(record).unwrap();
        module
    }

    pub fn function(&mut self, module: u64, name: &str) -> (u64, FunctionInfo) {
        let function = self.handle();
        let (info, _) = self.ask_with(ModuleGetFunction { module, function }, name.as_bytes()).unwrap();
        (function, info)
    }

    pub fn launch(&mut self, function: u64, stream: u64, threads: u32, parameters: &[u64]) -> u64 {
        let one = Dim3 { x: 1, y: 1, z: 1 };
        let record = Launch {
            function,
            stream,
            grid: one,
            block: Dim3 { x: threads, y: 1, z: 1 },
            shared_bytes: 0,
            parameter_bytes: (parameters.len() * 8) as u32,
        };
        self.push(&record, parameters.as_bytes())
    }

    /// Ends the session as programs do, and gives what the worker said of it.
    pub fn close(mut self) -> FromWorker {
        self.session.close(CloseReason::Done, "");
        self.turn();
        let said = self.worker.hear();
        let end = Instant::now() + PATIENCE;
        while self.worker.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < end, "the worker does not exit");
            std::thread::sleep(Duration::from_millis(1));
        }
        said
    }
}

fn lost() -> ProtocolError {
    ProtocolError::PeerSilent { millis: 0, during: "the connection is gone" }
}

/// The 32-bit words of some bytes.
pub fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|word| u32::read_from_bytes(word).unwrap()).collect()
}
