//! What must hold for frames, greetings and chunk headers, whatever bytes come and however they are cut.
//!
//! The first byte of the data says how long the pieces are that the rest arrives in.

use std::fmt::Debug;

use fusewire_wire::bulk::{CHUNK_HEADER_BYTES, ChunkHeader, ChunkKind};
use fusewire_wire::error::{Culprit, ProtocolError};
use fusewire_wire::frame::{CloseReason, Frame, FrameKind, Record};
use fusewire_wire::hello::{Hello, Lines, Opening, OpeningReader, Progress, Welcome};
use fusewire_wire::session::{
    AckPolicy, ClientConfig, ClientSession, Flow, Inbox, Next, ServerConfig, ServerSession, Sink,
};

/// Panics if a promise is broken on `data`.
pub(crate) fn check(data: &[u8]) {
    let Some((pace, stream)) = data.split_first() else { return };
    let piece = 1 + usize::from(*pace % 64);
    check_inbox(stream, piece);
    check_opening::<Hello>(stream, piece);
    check_opening::<Welcome>(stream, piece);
    check_lines(stream);
    check_chunks(stream);
    check_server(stream, piece);
    check_client(stream, piece);
}

/// All that an inbox says, in order.
#[derive(Debug, PartialEq)]
enum Said {
    Record(u64, u16, u16, Vec<u8>),
    Ack(u64),
    Close(CloseReason, String),
    Ping(u64),
    Pong(u64),
}

#[derive(Default)]
struct Listener {
    said: Vec<Said>,
    pause_every: u64,
}

impl Sink for Listener {
    type Error = ProtocolError;

    fn record(&mut self, record: Record<'_>) -> Result<Flow, ProtocolError> {
        self.said.push(Said::Record(record.number, record.op, record.flags, record.body.to_vec()));
        let pause = self.pause_every != 0 && record.number.is_multiple_of(self.pause_every);
        Ok(if pause { Flow::Pause } else { Flow::Continue })
    }

    fn ack(&mut self, seq: u64) -> Result<(), ProtocolError> {
        self.said.push(Said::Ack(seq));
        Ok(())
    }

    fn close(&mut self, reason: CloseReason, text: String) -> Result<(), ProtocolError> {
        self.said.push(Said::Close(reason, text));
        Ok(())
    }

    fn ping(&mut self, number: u64) {
        self.said.push(Said::Ping(number));
    }

    fn pong(&mut self, number: u64) {
        self.said.push(Said::Pong(number));
    }
}

/// What one inbox makes of a stream: how it ended, the last batch applied, and all that was said.
type Heard = (Result<(), ProtocolError>, u64, Vec<Said>);

fn hear(stream: &[u8], piece: usize, pause_every: u64) -> Heard {
    let mut inbox = Inbox::new(AckPolicy::default());
    let mut listener = Listener { pause_every, ..Listener::default() };
    let mut result = Ok(());
    for piece in stream.chunks(piece) {
        result = inbox.receive(piece, &mut listener);
        while result.is_ok() && inbox.is_paused() {
            result = inbox.resume(&mut listener);
        }
        if result.is_err() {
            break;
        }
    }
    (result, inbox.applied(), listener.said)
}

fn check_inbox(stream: &[u8], piece: usize) {
    let whole = hear(stream, usize::MAX, 0);
    same("pieces", &whole, &hear(stream, piece, 0));
    same("pauses", &whole, &hear(stream, piece, 2));
    same("pauses in place", &whole, &hear(stream, usize::MAX, 1));
    if let Err(error) = whole.0 {
        assert_eq!(error.culprit(), Culprit::Peer, "{error}");
    }
    let said: usize =
        whole.2.iter().map(|said| if let Said::Record(.., body) = said { body.len() } else { 0 }).sum();
    assert!(said <= stream.len(), "nothing is delivered that did not come");
}

fn same<T: PartialEq + Debug>(what: &str, one: &T, other: &T) {
    assert!(one == other, "{what} make a difference: {one:?} / {other:?}");
}

fn check_opening<M: Opening + PartialEq + Debug>(stream: &[u8], piece: usize) {
    let read = |piece: usize| {
        let mut reader = OpeningReader::default();
        let mut taken = 0;
        for piece in stream.chunks(piece) {
            let mut rest = piece;
            let result = reader.receive::<M>(&mut rest);
            taken += piece.len() - rest.len();
            match result {
                Ok(None) => assert!(rest.is_empty()),
                Ok(Some(message)) => return Ok(Some((message, taken))),
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    };
    let whole = read(usize::MAX);
    same("pieces of an opening", &whole, &read(piece));
    match whole {
        Ok(Some(((message, tail), taken))) => {
            assert_eq!(message.as_bytes(), &stream[..size_of::<M>()]);
            assert_eq!(tail, stream[size_of::<M>()..taken]);
        }
        Ok(None) => {}
        Err(error) => assert_eq!(error.culprit(), Culprit::Peer, "{error}"),
    }
}

fn check_lines(stream: &[u8]) {
    let Ok(lines) = Lines::parse(stream.to_vec()) else { return };
    if let Ok(progress) = Progress::read(&lines) {
        let again = Progress::read(&progress.write(Lines::default()));
        assert_eq!(again, Ok(progress));
    }
}

fn check_chunks(stream: &[u8]) {
    const SLOT_BYTES: u32 = 1 << 20;
    for kind in [ChunkKind::HostToDevice, ChunkKind::DeviceToHost] {
        match ChunkHeader::parse(stream, kind, SLOT_BYTES) {
            Ok(None) => assert!(stream.len() < CHUNK_HEADER_BYTES),
            Ok(Some(header)) => {
                assert!(header.bytes != 0 && header.bytes <= SLOT_BYTES);
                assert!(header.offset.checked_add(header.bytes.into()).is_some());
            }
            Err(error) => assert_eq!(error.culprit(), Culprit::Peer, "{error}"),
        }
    }
}

/// A server whose client sends `stream` after a sound Hello.
fn check_server(stream: &[u8], piece: usize) {
    let offer = Welcome { session: [1, 2], slot_bytes: 64, h2d_slots: 4, bulk_lanes: 4, ..Welcome::blank() };
    let Ok(mut server) = ServerSession::open(0, &Hello::blank(), ServerConfig::new(offer), &[]) else {
        panic!("a sound Hello is accepted")
    };
    assert!(server.transmit().is_some(), "the Welcome");
    let mut result = Ok(());
    for piece in stream.chunks(piece) {
        result = server.receive(1, piece, |_| Ok::<_, ProtocolError>(Flow::Continue));
        if result.is_err() {
            break;
        }
    }
    let Err(error) = result else { return };
    assert_eq!(server.ended(), Some(&error));
    let last = server.transmit();
    if error.culprit() == Culprit::Peer {
        let last = last.as_deref().map(Frame::parse);
        assert!(matches!(last, Some(Ok(Some(Frame { kind: FrameKind::Close, .. })))), "the client is told");
    } else {
        assert!(last.is_none());
    }
    assert!(server.transmit().is_none(), "nothing follows the last word");
    assert_eq!(server.receive(2, stream, |_| Ok::<_, ProtocolError>(Flow::Continue)), Err(error));
}

/// A client whose server answers its Hello with `stream`.
fn check_client(stream: &[u8], piece: usize) {
    let mut client = ClientSession::new(ClientConfig::default(), 0);
    let Ok(_) = client.connect(0) else { panic!("a client may connect") };
    for piece in stream.chunks(piece) {
        let result = client.receive(1, piece, |record| {
            Ok::<_, ProtocolError>(match record.op % 4 {
                0 => Next::Continue,
                1 => Next::Barrier(record.flags.into()),
                2 => Next::Credit(record.flags.into()),
                _ => Next::Pause,
            })
        });
        if let Err(error) = result {
            assert_eq!(client.ended(), Some(&error));
            assert!(!client.is_open());
            return;
        }
    }
}
