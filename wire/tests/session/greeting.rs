//! Hello and Welcome: pieces, versions, features, refusals, joining and resuming.

use fusewire_wire::error::{Culprit, ProtocolError};
use fusewire_wire::hello::{
    Hello, Lines, Opening, OpeningReader, PROTOCOL_VERSION, Progress, Refusal, RefusedReason, Role, Welcome,
    features,
};
use fusewire_wire::session::{ClientConfig, ClientSession, Next, ServerConfig, ServerSession};
use zerocopy::IntoBytes;

use crate::allocations;

fn about() -> Lines {
    Lines::default().with("program", "train.py").with("token", "secret")
}

fn client() -> ClientSession {
    ClientSession::new(ClientConfig { about: about(), ..ClientConfig::default() }, 0)
}

fn read<M: Opening>(bytes: &[u8]) -> (M, Vec<u8>) {
    OpeningReader::default().receive::<M>(&mut &bytes[..]).unwrap().unwrap()
}

fn offer() -> Welcome {
    Welcome { session: [1, 2], slot_bytes: 64, h2d_slots: 4, bulk_lanes: 2, ..Welcome::blank() }
}

fn answer(client: &mut ClientSession, bytes: &[u8]) -> Result<(), ProtocolError> {
    client.receive(0, bytes, |_| Ok(Next::Continue))
}

fn greeted() -> (ClientSession, ServerSession) {
    let mut client = client();
    let (hello, _) = read::<Hello>(&client.connect(0).unwrap());
    let mut server = ServerSession::open(0, &hello, ServerConfig::new(offer()), b"snapshot").unwrap();
    answer(&mut client, &server.transmit().unwrap()).unwrap();
    (client, server)
}

#[test]
fn a_session_opens_in_any_pieces() {
    let hello_bytes = client().connect(0).unwrap();
    for piece in 1..=hello_bytes.len() {
        let mut reader = OpeningReader::default();
        let mut found = None;
        for mut bytes in hello_bytes.chunks(piece) {
            assert!(found.is_none());
            found = reader.receive::<Hello>(&mut bytes).unwrap();
        }
        let (hello, tail) = found.unwrap();
        let lines = Lines::parse(tail).unwrap();
        assert_eq!((lines.get("token"), lines.get("program")), (Some("secret"), Some("train.py")));
        assert_eq!(lines.get("toke"), None);

        let mut client = client();
        client.connect(0).unwrap();
        client.outbox().push(1, 0, &[0; 8], &[]).unwrap();
        let mut server = ServerSession::open(0, &hello, ServerConfig::new(offer()), b"snapshot").unwrap();
        for bytes in server.transmit().unwrap().chunks(piece) {
            assert!(!client.is_open() && client.transmit().is_none());
            answer(&mut client, bytes).unwrap();
        }
        assert!(client.is_open());
        assert_eq!(client.take_snapshot().as_deref(), Some(&b"snapshot"[..]));
        assert_eq!(client.take_snapshot(), None);
        assert_eq!(client.welcome(), Some(&Welcome { tail_len: 8, ..*server.welcome() }));
        assert!(client.transmit().is_some(), "what was pushed before travels now");
    }
}

#[test]
fn events_right_behind_the_welcome_are_not_lost() {
    let mut client = client();
    let (hello, _) = read::<Hello>(&client.connect(0).unwrap());
    let mut server = ServerSession::open(0, &hello, ServerConfig::new(offer()), b"").unwrap();
    server.outbox().push(9, 0, &[0; 8], &[]).unwrap();
    let mut stream = server.transmit().unwrap().to_vec();
    stream.extend_from_slice(&server.transmit().unwrap());
    let mut ops = Vec::new();
    client
        .receive(0, &stream, |record| {
            ops.push(record.op);
            Ok::<_, ProtocolError>(Next::Continue)
        })
        .unwrap();
    assert_eq!(ops, [9]);
}

#[test]
fn both_ends_name_both_versions() {
    let (mut hello, _) = read::<Hello>(&client().connect(0).unwrap());
    hello.version = 7;
    let refusal = ServerSession::open(0, &hello, ServerConfig::new(offer()), &[]).unwrap_err();
    assert_eq!(refusal.reason, RefusedReason::Version);
    assert!(refusal.text.contains("protocol 7") && refusal.text.contains(&PROTOCOL_VERSION.to_string()));

    let mut client = client();
    client.connect(0).unwrap();
    // What a server of version 7 says, even when it calls that a refusal.
    let bytes = Welcome { version: 7, status: 1, ..Welcome::blank() }.with_tail(b"go away");
    let error = answer(&mut client, &bytes).unwrap_err();
    assert_eq!(error, ProtocolError::VersionMismatch { ours: PROTOCOL_VERSION, theirs: 7 });
    assert_eq!(error.culprit(), Culprit::Incompatible);
    let line = error.to_string();
    assert!(line.contains(&format!("protocol {PROTOCOL_VERSION}")) && line.contains('7'), "{line}");
    assert_eq!(client.connect(1).unwrap_err(), error, "the session has ended");
}

#[test]
fn a_refusal_says_why() {
    for code in 1..20 {
        let reason = RefusedReason::from_code(code).unwrap();
        assert_eq!(reason.code(), code);
        let mut client = client();
        client.connect(0).unwrap();
        let bytes = Refusal::new(reason, "no GPU has 8 GiB free;\x1b[2J try later").to_bytes();
        let error = answer(&mut client, &bytes).unwrap_err();
        let text = "no GPU has 8 GiB free; [2J try later".to_owned();
        assert_eq!(error, ProtocolError::Refused { reason, text });
        assert!(client.transmit().is_none());
    }
    assert_eq!(RefusedReason::from_code(0), None);
}

#[test]
fn features_are_what_both_have() {
    let (hello, _) = read::<Hello>(&client().connect(0).unwrap());
    let have = Hello { features: 0b0111, ..hello };
    assert_eq!(have.negotiate(0b1101, 0b0001), Ok(0b0101));
    let refusal = have.negotiate(0b1101, 0b1000).unwrap_err();
    assert_eq!(refusal.reason, RefusedReason::Features);
    assert!(refusal.text.contains("0x8"), "{}", refusal.text);

    let config = ClientConfig { features: 0b11, required: 0b10, ..ClientConfig::default() };
    let mut client = ClientSession::new(config.clone(), 0);
    client.connect(0).unwrap();
    let error = answer(&mut client, &Welcome { features: 0b01, ..offer() }.with_tail(&[])).unwrap_err();
    assert_eq!(error, ProtocolError::MissingFeatures { missing: 0b10 });

    let mut client = ClientSession::new(config, 0);
    client.connect(0).unwrap();
    let error = answer(&mut client, &Welcome { features: 0b111, ..offer() }.with_tail(&[])).unwrap_err();
    assert_eq!(error.culprit(), Culprit::Peer, "{error}");
}

#[test]
fn greetings_that_are_none() {
    let sound = client().connect(0).unwrap();
    let (hello, _) = read::<Hello>(&sound);
    let (long, longest) = (Hello { tail_len: 4097, ..hello }, Hello { tail_len: u32::MAX, ..hello });
    let bad: [(&[u8], &str); 5] = [
        (b"SSH-2.0-OpenSSH_9.2", "does not start with FUSEWIRE"),
        (b"F\0", "does not start with FUSEWIRE"),
        (&[0; 200], "does not start with FUSEWIRE"),
        (long.as_bytes(), "4097 bytes; the limit is 4096"),
        (longest.as_bytes(), "limit is 4096"),
    ];
    for (bytes, words) in bad {
        let mut bytes = bytes;
        let (_, largest, result) =
            allocations::during(|| OpeningReader::default().receive::<Hello>(&mut bytes));
        let line = result.unwrap_err().to_string();
        assert!(line.contains(words), "{line}");
        assert!(largest < 1024);
    }
    let mut long = Welcome { tail_len: (1 << 20) + 1, ..offer() }.as_bytes().to_vec();
    long.extend([0; 100]);
    let mut client = client();
    client.connect(0).unwrap();
    assert!(answer(&mut client, &long).unwrap_err().to_string().contains("limit is 1048576"));

    // A Welcome that promises the longest tail and never sends it.
    let promise = Welcome { tail_len: 1 << 20, ..offer() };
    let (_, largest, result) =
        allocations::during(|| OpeningReader::default().receive::<Welcome>(&mut promise.as_bytes()));
    assert_eq!(result, Ok(None));
    assert!(largest < 1024);
}

#[test]
fn welcomes_that_make_no_sense() {
    let bad = [
        Welcome { bulk_lanes: 9, ..offer() },
        Welcome { bulk_lanes: 5, ..offer() },
        Welcome { h2d_slots: 0, ..offer() },
        Welcome { slot_bytes: 0, ..offer() },
    ];
    for welcome in bad {
        let mut client = client();
        client.connect(0).unwrap();
        let error = answer(&mut client, &welcome.with_tail(&[])).unwrap_err();
        assert_eq!(error.culprit(), Culprit::Peer, "{error}");
        assert!(client.connect(1).is_err());
    }
}

#[test]
fn bulk_lanes_join_by_name() {
    let (client, server) = greeted();
    let (hello, tail) = read::<Hello>(&client.bulk_hello(1).unwrap());
    assert_eq!((hello.role(), hello.lane, hello.session), (Ok(Role::Bulk), 1, [1, 2]));
    assert_eq!(Lines::parse(tail).unwrap().get("token"), Some("secret"));
    let (lane, welcome) = server.join_bulk(&hello).unwrap();
    assert_eq!(lane, 1);
    let (welcome, tail) = read::<Welcome>(&welcome);
    assert_eq!(welcome.accept(&tail, features::ALL), Ok(()));
    assert!(client.bulk_hello(2).is_err(), "the server agreed to two");

    assert!(server.join_bulk(&Hello { lane: 2, ..hello }).is_err());
    assert!(server.join_bulk(&Hello { lane: u32::MAX, ..hello }).is_err());
    assert!(server.join_bulk(&Hello { session: [1, 3], ..hello }).is_err());
    assert!(server.join_bulk(&Hello { role: 0, ..hello }).is_err());
    assert!(server.join_bulk(&Hello { role: 77, ..hello }).is_err());
    assert_eq!(server.join_bulk(&Hello { version: 0, ..hello }).unwrap_err().reason, RefusedReason::Version);
}

#[test]
fn a_session_is_opened_only_as_a_new_one() {
    let (hello, _) = read::<Hello>(&client().connect(0).unwrap());
    for hello in [Hello { role: 1, ..hello }, Hello { role: 9, ..hello }, Hello { session: [0, 1], ..hello }]
    {
        let refusal = ServerSession::open(0, &hello, ServerConfig::new(offer()), &[]).unwrap_err();
        assert_eq!(refusal.reason, RefusedReason::Malformed);
    }
    assert_eq!(Hello { role: 9, ..hello }.role().unwrap_err().culprit(), Culprit::Peer);
}

#[test]
fn only_the_same_client_resumes_and_only_from_where_it_was() {
    let (mut client, mut server) = greeted();
    let (hello, tail) = read::<Hello>(&client.connect(1).unwrap());
    assert_eq!(hello.session, [1, 2]);
    let try_with = |server: &mut ServerSession, hello: Hello, lines: &[u8]| {
        server.resume_client(2, &hello, lines.to_vec()).map_err(|refusal| refusal.text)
    };
    let bad: [(Hello, &[u8]); 7] = [
        (Hello { session: [1, 3], ..hello }, &tail),
        (Hello { role: 1, ..hello }, &tail),
        (hello, b""),
        (hello, b"applied=0\n"),
        (hello, b"applied=0\nchunks=0,0\n"),
        (hello, b"applied=9\nchunks=0\n"),
        (hello, b"applied=0\nchunks=1\n"),
    ];
    for (hello, lines) in bad {
        assert!(try_with(&mut server, hello, lines).is_err());
        assert!(server.is_open(), "an impostor changes nothing");
    }
    assert_eq!(try_with(&mut server, hello, &tail), Ok(0));

    // The server that answers must be the same, too.
    let bytes = Welcome { session: [5, 5], ..*server.welcome() }.with_tail(b"applied=0\nchunks=0\n");
    assert_eq!(answer(&mut client, &bytes).unwrap_err().culprit(), Culprit::Peer);
}

#[test]
fn a_session_without_resume_says_so() {
    let mut client = client();
    let (hello, _) = read::<Hello>(&client.connect(0).unwrap());
    let config = ServerConfig { features: 0, ..ServerConfig::new(offer()) };
    let mut server = ServerSession::open(0, &hello, config, b"").unwrap();
    answer(&mut client, &server.transmit().unwrap()).unwrap();
    client.link_lost(1);
    assert_eq!(client.connect(2), Err(ProtocolError::MissingFeatures { missing: features::RESUME }));
    let hello = Hello { session: [1, 2], ..hello };
    let refusal = server.resume_client(2, &hello, Vec::new()).unwrap_err();
    assert_eq!(refusal.reason, RefusedReason::UnknownSession);
}

#[test]
fn lines_cannot_be_forged_through_values() {
    let lines = Lines::default().with("pro=gram\n", "x\ntoken=forged\r").with("token", "real");
    assert_eq!(lines.get("token"), Some("real"));
    assert_eq!(lines.get("program"), Some("x token=forged "));
    assert!(Lines::parse(vec![0xff]).is_err());
    let progress = Progress { applied: u64::MAX, chunks: u64::MAX - 1 };
    assert_eq!(Progress::read(&progress.write(Lines::default())), Ok(progress));
    let long = Lines::default().with("program", &"x".repeat(5000));
    assert_eq!(Hello::blank().with_tail(&long).unwrap_err().culprit(), Culprit::Caller);
}
