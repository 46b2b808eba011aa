//! Servers of every bad kind, and what is said about each.

#![allow(clippy::unwrap_used, reason = "all of it is a test; the helpers lack the attribute")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use fusewire_connect::{Config, ConnectError, Stream, open_session, query};
use fusewire_wire::hello::{Hello, PROTOCOL_VERSION, Refusal, RefusedReason, Welcome};
use fusewire_wire::inventory::Inventory;
use socket2::{Domain, SockAddr, Socket, Type};
use zerocopy::{FromBytes, IntoBytes};

/// A server that does `act` with each connection, in turn.
fn server(act: impl Fn(usize, TcpStream) + Send + 'static) -> Config {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = Config::for_server(&listener.local_addr().unwrap().to_string()).unwrap();
    config.timeout = Duration::from_millis(400);
    thread::spawn(move || {
        for (index, stream) in listener.incoming().enumerate() {
            act(index, stream.unwrap());
        }
    });
    config
}

/// A server that reads a hello and answers with `bytes`, then keeps the connection open.
fn answers(bytes: Vec<u8>) -> Config {
    server(move |_, mut stream| {
        hello(&mut stream);
        stream.write_all(&bytes).unwrap();
        std::mem::forget(stream);
    })
}

fn hello(stream: &mut TcpStream) -> (Hello, String) {
    let mut fixed = [0; size_of::<Hello>()];
    stream.read_exact(&mut fixed).unwrap();
    let hello = Hello::read_from_bytes(&fixed).unwrap();
    let mut tail = vec![0; hello.tail_len as usize];
    stream.read_exact(&mut tail).unwrap();
    (hello, String::from_utf8(tail).unwrap())
}

/// The error of both ways to talk to a server, which must be the same and come in time.
fn fails(config: &Config) -> (ConnectError, String) {
    let since = Instant::now();
    let error = open_session(config).unwrap_err();
    let text = error.to_string();
    assert_eq!(query(config).unwrap_err().to_string(), text);
    assert!(since.elapsed() < 3 * config.timeout, "{text} after {:?}", since.elapsed());
    assert_eq!(text.lines().count(), 1);
    (error, text)
}

#[test]
fn nobody_listens() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = Config::for_server(&format!("127.0.0.1:{port}")).unwrap();
    let (error, text) = fails(&config);
    assert!(matches!(error, ConnectError::Connect { .. }), "{text}");
    assert!(text.contains(&port.to_string()) && text.contains("fusewire serve"), "{text}");
}

#[test]
fn nobody_accepts_on_this_host() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let address = SockAddr::unix(&path).unwrap();
    let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    listener.bind(&address).unwrap();
    listener.listen(1).unwrap();
    let mut waiting = Vec::new();
    loop {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        match socket.connect(&address) {
            Ok(()) => waiting.push(socket),
            Err(_) => break,
        }
    }
    let mut config = Config::for_server(&format!("unix:{}", path.display())).unwrap();
    config.timeout = Duration::from_millis(400);
    let asked = thread::spawn(move || {
        let (error, text) = fails(&config);
        assert!(matches!(error, ConnectError::Connect { .. }) && text.contains("timed out"), "{text}");
    });
    let end = Instant::now() + Duration::from_secs(30);
    while !asked.is_finished() {
        assert!(Instant::now() < end, "it waits for ever");
        thread::sleep(Duration::from_millis(10));
    }
    asked.join().unwrap();
}

#[test]
fn the_name_does_not_resolve() {
    let error = open_session(&Config::for_server("no-such-host.invalid:1").unwrap()).unwrap_err();
    assert!(matches!(error, ConnectError::Resolve { .. }), "{error}");
    assert!(error.to_string().contains("no-such-host.invalid"), "{error}");
}

#[test]
fn it_says_nothing() {
    let config = server(|_, stream| std::mem::forget(stream));
    let (error, text) = fails(&config);
    assert!(matches!(error, ConnectError::Silent { .. }), "{text}");
    assert!(text.contains("0.4 s"), "{text}");
}

#[test]
fn it_says_one_letter_at_a_time() {
    let config = server(|_, mut stream| {
        thread::spawn(move || {
            let welcome = Welcome { tail_len: 1 << 20, ..Welcome::blank() };
            let endless = welcome.as_bytes().iter().chain(std::iter::repeat(&0));
            for byte in endless {
                if stream.write_all(&[*byte]).is_err() {
                    return;
                }
                thread::sleep(Duration::from_millis(5));
            }
        });
    });
    let (error, text) = fails(&config);
    assert!(matches!(error, ConnectError::Silent { .. }), "{text}");
}

#[test]
fn it_hangs_up() {
    let config = server(|_, mut stream| {
        hello(&mut stream);
    });
    let (error, text) = fails(&config);
    assert!(matches!(error, ConnectError::Lost { .. }), "{text}");
    let half = Welcome::blank().as_bytes()[..50].to_vec();
    let config = server(move |_, mut stream| {
        hello(&mut stream);
        stream.write_all(&half).unwrap();
    });
    assert!(matches!(fails(&config).0, ConnectError::Lost { .. }));
}

#[test]
fn it_is_something_else() {
    for bytes in [b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), b"220".to_vec(), vec![0xff; 5000], b"FUSE\0".to_vec()]
    {
        let (error, text) = fails(&answers(bytes));
        assert!(matches!(error, ConnectError::NotFusewire { .. }), "{text}");
        assert!(text.contains("not a Fusewire server"), "{text}");
    }
    let oversized = Welcome { tail_len: u32::MAX, ..Welcome::blank() };
    let (error, text) = fails(&answers(oversized.as_bytes().to_vec()));
    assert!(matches!(error, ConnectError::NotFusewire { .. }), "{text}");
    // A Welcome, but with no inventory in it.
    let error = query(&answers(Welcome::blank().with_tail(b"x"))).unwrap_err();
    assert!(matches!(error, ConnectError::NotFusewire { .. }), "{error}");
}

#[test]
fn it_speaks_another_version() {
    let other = Welcome { version: 4711, status: 1, ..Welcome::blank() };
    // The other version's Welcome may be shorter than ours.
    for bytes in [other.with_tail(b"the client is too old"), other.as_bytes()[..16].to_vec()] {
        let (error, text) = fails(&answers(bytes));
        assert!(matches!(error, ConnectError::Version { theirs: 4711, .. }), "{text}");
        assert!(text.contains("4711") && text.contains(&format!("protocol {PROTOCOL_VERSION},")), "{text}");
    }
}

#[test]
fn it_refuses() {
    let refusal = Refusal::new(RefusedReason::NoCapacity, "all 2 sessions\x1b[2J are taken");
    let (error, text) = fails(&answers(refusal.to_bytes()));
    assert!(matches!(error, ConnectError::Refused { reason: RefusedReason::NoCapacity, .. }), "{text}");
    assert!(text.contains("all 2 sessions") && !text.contains('\x1b'), "{text}");
}

#[test]
fn it_refuses_a_bulk_lane() {
    let config = server(|index, mut stream| {
        hello(&mut stream);
        let bytes = match index {
            0 => Welcome { bulk_lanes: 2, h2d_slots: 1, slot_bytes: 4096, ..Welcome::blank() }.with_tail(b""),
            1 => Welcome::blank().with_tail(b""),
            _ => Refusal::new(RefusedReason::UnknownSession, "no such session").to_bytes(),
        };
        stream.write_all(&bytes).unwrap();
        std::mem::forget(stream);
    });
    let error = open_session(&config).unwrap_err();
    assert!(matches!(error, ConnectError::Refused { reason: RefusedReason::UnknownSession, .. }), "{error}");
}

#[test]
fn all_is_well() {
    let config = server(|_, mut stream| {
        let (hello, lines) = hello(&mut stream);
        assert!(
            lines.contains("program=") && lines.contains("pid=") && lines.contains("patience=400\n"),
            "{lines}"
        );
        assert!(lines.contains("token=s3cret\n"), "{lines}");
        let bytes = match hello.role {
            0 => {
                let session = [5, 6];
                let welcome =
                    Welcome { session, bulk_lanes: 2, h2d_slots: 1, slot_bytes: 4096, ..Welcome::blank() };
                let mut bytes = welcome.with_tail(b"snapshot");
                bytes.extend_from_slice(b"frame");
                bytes
            }
            1 => {
                assert_eq!((hello.session, hello.lanes), ([5, 6], 2));
                let mut bytes = Welcome::blank().with_tail(b"");
                bytes.push(hello.lane as u8);
                bytes
            }
            _ => Welcome::blank().with_tail(&Inventory::new(Vec::new()).to_bytes()),
        };
        stream.write_all(&bytes).unwrap();
        std::mem::forget(stream);
    });
    let config = Config { token: Some(fusewire_connect::Token::new("s3cret").unwrap()), ..config };
    let mut opened = open_session(&config).unwrap();
    assert_eq!((opened.welcome.session, opened.tail), ([5, 6], b"snapshot".to_vec()));
    // What came right behind the Welcome is still there for the link.
    let mut frame = [0; 5];
    opened.command.read_exact(&mut frame).unwrap();
    assert_eq!(&frame, b"frame");
    let Stream::Tcp(command) = &opened.command else { panic!("{:?}", opened.command) };
    assert!(command.read_timeout().unwrap().is_none() && command.nodelay().unwrap());
    assert_eq!(opened.bulk.len(), 2);
    for (lane, stream) in opened.bulk.iter_mut().enumerate() {
        let mut byte = [9];
        stream.read_exact(&mut byte).unwrap();
        assert_eq!(usize::from(byte[0]), lane);
    }
    assert!(query(&config).unwrap().is_empty());
}
