//! A client and a server session, the programs above them, and the link between them.
//!
//! The link is a set of byte pipes: whoever drives the pair says how many bytes of which pipe arrive next, so
//! delay, splitting, joining and reordering between lanes are all choices of the driver, and a cut loses what
//! is under way. The programs check everything that reaches them: records come once, in order and unchanged;
//! a slot is free when a chunk lands in it; a completion is seen only when its data are there.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fusewire_wire::bulk::{CHUNK_HEADER_BYTES, ChunkHeader, ChunkKind, MAX_LANES};
use fusewire_wire::error::ProtocolError;
use fusewire_wire::frame::Record;
use fusewire_wire::hello::{Hello, OpeningReader, Welcome};
use fusewire_wire::session::{
    ChannelConfig, ClientConfig, ClientSession, Flow, Nanos, Next, OutboxConfig, ServerConfig, ServerSession,
    Transmit,
};

pub(crate) const SESSION: [u64; 2] = [7, 9];
pub(crate) const SLOT_BYTES: u32 = 64;

const PLAIN: u16 = 1;
const TO_DEVICE: u16 = 2;
const TO_HOST: u16 = 3;
const ECHO: u16 = 10;
const BARRIER: u16 = 11;
const CREDIT: u16 = 12;
const DONE: u16 = 13;

/// What is under way on one connection in one direction.
type Pipe = VecDeque<u8>;

fn carry(pipe: &mut Pipe, most: usize) -> Vec<u8> {
    let count = most.min(pipe.len());
    pipe.drain(..count).collect()
}

/// How a pair is set up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) lanes: u32,
    pub(crate) slots: u32,
    pub(crate) window_bytes: usize,
    pub(crate) batch_bytes: usize,
    /// The server pauses after every so many operations, the client after as many events; 0 for never.
    pub(crate) pause_every: u64,
}

impl Default for Setup {
    fn default() -> Self {
        Self { lanes: 3, slots: 5, window_bytes: 1 << 20, batch_bytes: 1 << 16, pause_every: 0 }
    }
}

/// One thing that the link or a program does next.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Push {
        bytes: u16,
    },
    CopyToDevice {
        chunks: u8,
    },
    CopyToHost {
        chunks: u8,
    },
    ClientWrites,
    ServerWrites,
    CommandArrives {
        bytes: u16,
    },
    EventArrives {
        bytes: u16,
    },
    SendChunks {
        lane: u8,
    },
    BulkUpArrives {
        lane: u8,
        bytes: u16,
    },
    BulkDownArrives {
        lane: u8,
        bytes: u16,
    },
    Retire {
        pick: u8,
    },
    ServerResumes,
    ClientResumes,
    Acknowledge,
    /// The last batch of either end goes out once more.
    Repeat,
    /// Everything under way is lost. The server may or may not notice before the client is back.
    Cut {
        server_notices: bool,
    },
    Reconnect,
}

pub(crate) struct Pair {
    pub(crate) now: Nanos,
    pub(crate) client: ClientSession,
    pub(crate) server: Option<ServerSession>,
    setup: Setup,
    connected: bool,
    hello: OpeningReader,
    greeted: bool,
    up: Pipe,
    down: Pipe,
    /// The last batch written on this connection, each way.
    last_up: Vec<u8>,
    last_down: Vec<u8>,
    bulk_up: [Pipe; MAX_LANES],
    bulk_down: [Pipe; MAX_LANES],
    program: Program,
    worker: Worker,
    pub(crate) cuts: u32,
}

/// What the client's program knows.
#[derive(Default)]
struct Program {
    pushed: u64,
    events: u64,
    /// By copy: the offsets that have landed.
    landed: BTreeMap<u64, BTreeSet<u64>>,
    done: u64,
    copies: u64,
    partial: [Vec<u8>; MAX_LANES],
}

/// What the server's worker knows.
#[derive(Default)]
struct Worker {
    operations: u64,
    /// Events that wait for the window, in order.
    events: VecDeque<(u16, [u64; 2])>,
    pushed: u64,
    slots: Vec<Option<u64>>,
    partial: [Vec<u8>; MAX_LANES],
    /// Every device-to-host chunk ever sent, for sending again.
    sent: Vec<Vec<u8>>,
    numbered: u64,
    retired: u64,
    next_lane: usize,
}

fn pattern(seed: u64, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| (seed.wrapping_mul(31).wrapping_add(i as u64) % 251) as u8).collect()
}

fn words(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn word(body: &[u8], index: usize) -> u64 {
    u64::from_le_bytes(body[index * 8..index * 8 + 8].try_into().unwrap())
}

impl Pair {
    pub(crate) fn new(setup: Setup) -> Self {
        let outbox = OutboxConfig {
            window_bytes: setup.window_bytes,
            batch_bytes: setup.batch_bytes,
            ..OutboxConfig::default()
        };
        let channel = ChannelConfig { outbox, ..ChannelConfig::default() };
        let config = ClientConfig { channel, lanes: setup.lanes, ..ClientConfig::default() };
        let slots = vec![None; setup.slots as usize];
        let mut pair = Self {
            now: 0,
            client: ClientSession::new(config, 0),
            server: None,
            setup,
            connected: false,
            hello: OpeningReader::default(),
            greeted: false,
            up: Pipe::new(),
            down: Pipe::new(),
            last_up: Vec::new(),
            last_down: Vec::new(),
            bulk_up: Default::default(),
            bulk_down: Default::default(),
            program: Program::default(),
            worker: Worker { slots, ..Worker::default() },
            cuts: 0,
        };
        pair.connect();
        pair
    }

    fn connect(&mut self) {
        let hello = self.client.connect(self.now).expect("a client may connect");
        self.up.extend(hello);
        self.hello = OpeningReader::default();
        self.greeted = false;
        self.connected = true;
    }

    pub(crate) fn step(&mut self, step: &Step) {
        self.now += 1_000;
        match *step {
            Step::Push { bytes } => {
                let number = self.client.outbox().next_record();
                self.push_operation(PLAIN, &[number, bytes.into()], &pattern(number, bytes.into()));
            }
            Step::CopyToDevice { chunks } if self.client.is_open() && self.setup.lanes != 0 => {
                let chunks = u64::from(chunks);
                let first = self.client.chunks().next_chunk();
                if self.push_operation(TO_DEVICE, &[first, chunks], &[]) {
                    assert_eq!(self.client.chunks().number(chunks), first..first + chunks);
                }
            }
            Step::CopyToHost { chunks } if self.setup.lanes != 0 => {
                let pushed = self.push_operation(TO_HOST, &[chunks.into()], &[]);
                self.program.copies += u64::from(pushed);
            }
            Step::ClientWrites => self.client_writes(),
            Step::ServerWrites => self.server_writes(),
            Step::CommandArrives { bytes } => self.command_arrives(bytes.into()),
            Step::EventArrives { bytes } => self.event_arrives(bytes.into()),
            Step::SendChunks { lane } => self.send_chunks(lane.into()),
            Step::BulkUpArrives { lane, bytes } => self.bulk_up_arrives(lane.into(), bytes.into()),
            Step::BulkDownArrives { lane, bytes } => self.bulk_down_arrives(lane.into(), bytes.into()),
            Step::Retire { pick } => self.retire(pick.into()),
            Step::ServerResumes => self.server_receives(None),
            Step::ClientResumes => self.client_receives(None),
            Step::Acknowledge => {
                self.client.acknowledge();
                if let Some(server) = &mut self.server {
                    server.acknowledge();
                }
            }
            Step::Repeat => {
                self.up.extend(&self.last_up);
                self.down.extend(&self.last_down);
            }
            Step::Cut { server_notices } => self.cut(server_notices),
            Step::Reconnect if !self.connected => self.connect(),
            _ => {}
        }
    }

    /// Lets everything arrive, however long it takes, and checks that nothing is missing.
    pub(crate) fn settle(&mut self) {
        if !self.connected {
            self.connect();
        }
        for _ in 0..100_000 {
            let before = self.progress();
            self.client.acknowledge();
            if let Some(server) = &mut self.server {
                server.acknowledge();
            }
            self.client_writes();
            self.command_arrives(usize::MAX);
            self.server_writes();
            self.event_arrives(usize::MAX);
            for lane in 0..MAX_LANES {
                self.send_chunks(lane);
                self.bulk_up_arrives(lane, usize::MAX);
                self.bulk_down_arrives(lane, usize::MAX);
            }
            self.retire(0);
            self.server_receives(None);
            self.client_receives(None);
            if before == self.progress() {
                break;
            }
        }
        let server = self.server.as_mut().expect("the server answered");
        assert_eq!(self.worker.operations, self.program.pushed, "every operation was applied once");
        assert_eq!(self.program.events, self.worker.pushed, "every event was seen once");
        assert_eq!(self.program.done, self.program.copies, "every copy to the host was completed");
        assert!(self.worker.events.is_empty());
        assert_eq!(self.worker.retired, self.client.chunks().next_chunk(), "every chunk was used");
        assert_eq!(self.client.chunks().retired(), self.worker.retired, "all credit came back");
        assert_eq!(self.client.outbox().retained_bytes(), 0, "everything was acknowledged");
        assert_eq!(server.outbox().retained_bytes(), 0, "everything was acknowledged");
        assert!(!server.is_held() && !self.client.is_held());
    }

    fn progress(&mut self) -> impl PartialEq + use<> {
        let retained = self.client.outbox().retained_bytes();
        let server = self.server.as_mut().map(|server| (server.outbox().retained_bytes(), server.applied()));
        let program = (self.program.pushed, self.program.events, self.program.done);
        let worker =
            (self.worker.operations, self.worker.pushed, self.worker.retired, self.worker.events.len());
        let slots = self.worker.slots.iter().flatten().count();
        (retained, server, program, worker, slots, self.client.applied(), self.client.is_open())
    }

    fn push_operation(&mut self, op: u16, fixed: &[u64], tail: &[u8]) -> bool {
        let expected = self.program.pushed + 1;
        let (front, back) = tail.split_at(tail.len() / 3);
        let window = self.setup.window_bytes;
        let outbox = self.client.outbox();
        match outbox.push(op, op ^ 0x55, &words(fixed), &[front, back]) {
            Ok(number) => {
                assert_eq!(number, expected);
                self.program.pushed = number;
                true
            }
            Err(error) => {
                assert!(error.must_wait(), "{error}");
                assert!(outbox.retained_bytes() + outbox.open_bytes() + tail.len() + 32 > window);
                false
            }
        }
    }

    fn client_writes(&mut self) {
        while let Some(bytes) = self.client.transmit() {
            assert!(self.connected);
            self.up.extend(bytes.iter());
            if let Transmit::Batch(batch) = bytes {
                self.last_up = batch.to_vec();
            }
        }
    }

    fn server_writes(&mut self) {
        self.push_events();
        let Some(server) = &mut self.server else { return };
        while let Some(bytes) = server.transmit() {
            // A server that has not noticed the cut writes into the void.
            if self.connected && self.greeted {
                self.down.extend(bytes.iter());
                if let Transmit::Batch(batch) = bytes {
                    self.last_down = batch.to_vec();
                }
            }
        }
    }

    fn command_arrives(&mut self, most: usize) {
        let bytes = carry(&mut self.up, most);
        let mut bytes = &bytes[..];
        if !self.greeted {
            let Some((hello, tail)) = self.hello.receive::<Hello>(&mut bytes).unwrap() else { return };
            self.greet(&hello, tail);
        }
        self.server_receives(Some(bytes));
    }

    fn greet(&mut self, hello: &Hello, tail: Vec<u8>) {
        self.greeted = true;
        if hello.session == [0; 2] {
            // The Welcome to an earlier Hello was lost with its connection; nobody knows that session.
            let offer = Welcome {
                session: SESSION,
                slot_bytes: SLOT_BYTES,
                h2d_slots: self.setup.slots,
                d2h_slots: 4,
                bulk_lanes: 8,
                ..Welcome::blank()
            };
            let outbox = OutboxConfig { window_bytes: self.setup.window_bytes, ..OutboxConfig::default() };
            let channel = ChannelConfig { outbox, ..ChannelConfig::default() };
            let config = ServerConfig { channel, ..ServerConfig::new(offer) };
            self.server = Some(ServerSession::open(self.now, hello, config, b"snapshot").unwrap());
            assert_eq!(self.worker.operations, 0);
            return;
        }
        let server = self.server.as_mut().unwrap();
        let held = server.resume_client(self.now, hello, tail).unwrap();
        self.worker.partial = Default::default();
        for (at, chunk) in self.worker.sent[held as usize..].iter().enumerate() {
            self.bulk_down[at % self.setup.lanes as usize].extend(chunk);
        }
        let arrived = server.chunks().arrived_below();
        for slot in &mut self.worker.slots {
            // What came early has been forgotten, and comes again.
            slot.take_if(|chunk| *chunk >= arrived);
        }
    }

    fn server_receives(&mut self, bytes: Option<&[u8]>) {
        let Some(server) = &mut self.server else { return };
        let worker = &mut self.worker;
        let bulk_down = &mut self.bulk_down;
        let (pause_every, lanes) = (self.setup.pause_every, self.setup.lanes as usize);
        let mut numbered = Vec::new();
        let mut to_host = Vec::new();
        let on_operation = |record: Record<'_>| {
            assert_eq!(record.number, worker.operations + 1, "in order, exactly once");
            assert_eq!(record.flags, record.op ^ 0x55);
            worker.operations = record.number;
            match record.op {
                PLAIN => {
                    let (number, bytes) = (word(record.body, 0), word(record.body, 1) as usize);
                    assert_eq!(number, record.number);
                    assert_eq!(record.body[16..16 + bytes], pattern(number, bytes));
                    assert!(record.body[16 + bytes..].iter().all(|byte| *byte == 0));
                    assert!(record.body.len() - 16 - bytes < 8);
                    worker.events.push_back((ECHO, [number; 2]));
                }
                TO_DEVICE => numbered.push((word(record.body, 0), word(record.body, 1))),
                TO_HOST => to_host.push((record.number, word(record.body, 0))),
                op => panic!("op {op}"),
            }
            let pause = pause_every != 0 && record.number.is_multiple_of(pause_every);
            Ok::<_, ProtocolError>(if pause { Flow::Pause } else { Flow::Continue })
        };
        match bytes {
            Some(bytes) => server.receive(self.now, bytes, on_operation).unwrap(),
            None => server.resume(self.now, on_operation).unwrap(),
        }
        for (first, count) in numbered {
            assert_eq!(server.chunks().number(count), first..first + count, "both ends number alike");
            worker.numbered = first + count;
        }
        for (number, count) in to_host {
            for offset in 0..count {
                let lane = worker.next_lane % lanes;
                worker.next_lane += 1;
                let payload = pattern(number, 1 + (offset as usize * 7) % SLOT_BYTES as usize);
                let chunk = server.d2h().next_chunk();
                let header = ChunkHeader::device_to_host(chunk, number, offset * 64, payload.len() as u32);
                let mut chunk = zerocopy::IntoBytes::as_bytes(&header).to_vec();
                chunk.extend(payload);
                if self.connected && self.greeted {
                    bulk_down[lane].extend(&chunk);
                }
                worker.sent.push(chunk);
            }
            worker.events.push_back((BARRIER, [server.d2h().barrier(); 2]));
            worker.events.push_back((DONE, [number, count]));
        }
        self.push_events();
    }

    fn push_events(&mut self) {
        let Some(server) = &mut self.server else { return };
        if let Some(upto) = server.chunks().tell_credit(2.min(self.setup.slots.into())) {
            self.worker.events.push_back((CREDIT, [upto; 2]));
        }
        // The last chunks' credit is less than the threshold: tell it once there is nothing else to do.
        if self.worker.retired == self.worker.numbered
            && let Some(upto) = server.chunks().tell_credit(1)
        {
            self.worker.events.push_back((CREDIT, [upto; 2]));
        }
        while let Some((op, values)) = self.worker.events.front() {
            match server.outbox().push(*op, 0, &words(values), &[]) {
                Ok(number) => {
                    self.worker.pushed = number;
                    self.worker.events.pop_front();
                }
                Err(error) => {
                    assert!(error.must_wait(), "{error}");
                    break;
                }
            }
        }
    }

    fn event_arrives(&mut self, most: usize) {
        let bytes = carry(&mut self.down, most);
        if self.connected {
            self.client_receives(Some(&bytes));
        }
    }

    fn client_receives(&mut self, bytes: Option<&[u8]>) {
        let program = &mut self.program;
        let pause_every = self.setup.pause_every;
        let on_event = |record: Record<'_>| {
            assert_eq!(record.number, program.events + 1, "in order, exactly once");
            program.events = record.number;
            let values: [u64; 2] = std::array::from_fn(|index| word(record.body, index));
            Ok::<_, ProtocolError>(match record.op {
                ECHO if pause_every != 0 && record.number.is_multiple_of(pause_every) => Next::Pause,
                ECHO => Next::Continue,
                BARRIER => Next::Barrier(values[0]),
                CREDIT => Next::Credit(values[0]),
                DONE => {
                    let landed = program.landed.get(&values[0]).map_or(0, BTreeSet::len);
                    assert_eq!(landed as u64, values[1], "completion {} seen before its data", values[0]);
                    program.done += 1;
                    Next::Continue
                }
                op => panic!("event {op}"),
            })
        };
        match bytes {
            Some(bytes) => self.client.receive(self.now, bytes, on_event).unwrap(),
            None => self.client.resume(self.now, on_event).unwrap(),
        }
    }

    fn send_chunks(&mut self, lane: usize) {
        if !self.connected || !self.client.is_open() || lane >= self.setup.lanes as usize {
            return;
        }
        let chunks = self.client.chunks();
        for _ in 0..2 {
            let Some(chunk) = chunks.due() else { return };
            assert!(chunks.may_send(chunk));
            assert_eq!(chunks.sent(), Ok(chunk));
            let payload = pattern(chunk, 1 + chunk as usize % SLOT_BYTES as usize);
            let header = ChunkHeader::host_to_device(chunk, payload.len() as u32);
            self.bulk_up[lane].extend(zerocopy::IntoBytes::as_bytes(&header));
            self.bulk_up[lane].extend(payload);
        }
    }

    fn bulk_up_arrives(&mut self, lane: usize, most: usize) {
        if lane >= self.setup.lanes as usize || !self.greeted {
            return;
        }
        let bytes = carry(&mut self.bulk_up[lane], most);
        let Some(server) = &mut self.server else { return };
        let partial = &mut self.worker.partial[lane];
        partial.extend(bytes);
        while let Some(header) = ChunkHeader::parse(partial, ChunkKind::HostToDevice, SLOT_BYTES).unwrap() {
            let whole = CHUNK_HEADER_BYTES + header.bytes as usize;
            if partial.len() < whole {
                break;
            }
            let slot = server.chunks().admit(header.number).unwrap();
            assert_eq!(self.worker.slots[slot], None, "the slot of chunk {} is still in use", header.number);
            assert_eq!(partial[CHUNK_HEADER_BYTES..whole], pattern(header.number, header.bytes as usize));
            partial.drain(..whole);
            server.chunk_arrived(self.now, header.number).unwrap();
            self.worker.slots[slot] = Some(header.number);
        }
    }

    fn bulk_down_arrives(&mut self, lane: usize, most: usize) {
        if lane >= self.setup.lanes as usize || !self.client.is_open() {
            return;
        }
        let bytes = carry(&mut self.bulk_down[lane], most);
        self.program.partial[lane].extend(bytes);
        loop {
            let partial = &mut self.program.partial[lane];
            let Some(header) = ChunkHeader::parse(partial, ChunkKind::DeviceToHost, SLOT_BYTES).unwrap()
            else {
                break;
            };
            let whole = CHUNK_HEADER_BYTES + header.bytes as usize;
            if partial.len() < whole {
                break;
            }
            assert_eq!(partial[CHUNK_HEADER_BYTES..whole], pattern(header.copy, header.bytes as usize));
            partial.drain(..whole);
            self.program.landed.entry(header.copy).or_default().insert(header.offset);
            if self.client.chunk_landed(self.now, header.number).unwrap() {
                self.client_receives(None);
            }
        }
    }

    fn retire(&mut self, pick: usize) {
        let Some(server) = &mut self.server else { return };
        let numbered = self.worker.numbered;
        let known = numbered.min(server.chunks().arrived_below());
        let full: Vec<u64> = self.worker.slots.iter().flatten().copied().filter(|c| *c < known).collect();
        if full.is_empty() {
            return;
        }
        let chunk = full[pick % full.len()];
        server.chunks().retire(chunk).unwrap();
        let slot = server.chunks().plan().slot_of(chunk);
        self.worker.slots[slot] = None;
        self.worker.retired += 1;
        self.push_events();
    }

    fn cut(&mut self, server_notices: bool) {
        if !self.connected {
            return;
        }
        if self.client.welcome().is_none() {
            // Before the Welcome there is nothing to resume; the program would start over with a new session.
            return;
        }
        self.cuts += 1;
        self.connected = false;
        self.greeted = false;
        self.up.clear();
        self.down.clear();
        self.last_up.clear();
        self.last_down.clear();
        for pipe in self.bulk_up.iter_mut().chain(&mut self.bulk_down) {
            pipe.clear();
        }
        self.program.partial = Default::default();
        self.client.link_lost(self.now);
        if server_notices && let Some(server) = &mut self.server {
            server.link_lost(self.now);
            self.worker.partial = Default::default();
        }
    }
}
