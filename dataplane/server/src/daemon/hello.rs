//! Reading a Hello and judging it.
//!
//! Whoever can reach the port can send anything here, so reading is bounded in
//! size (by the Hello's limits) and in time (by the caller), and judging is a
//! function of the bytes and the settings only.

use fusewire_wire::bulk::MAX_LANES;
use fusewire_wire::error::ProtocolError;
use fusewire_wire::hello::{
    HELLO_MAGIC, Hello, Lines, Opening, PROTOCOL_VERSION, Refusal, RefusedReason, Role, features,
};
use futures_lite::{AsyncRead, AsyncReadExt};
use subtle::ConstantTimeEq;
use zerocopy::FromBytes;

/// What a connection asks for, found sound.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// A new session.
    Open,
    /// Another connection of a session: a bulk lane, or a command lane that resumes.
    Join,
    /// What devices there are.
    Query,
}

/// Reads one Hello with its tail, and not a byte more.
pub(super) async fn read<R: AsyncRead + Unpin>(from: &mut R) -> Result<(Hello, Lines), Refusal> {
    let fixed = size_of::<Hello>();
    let mut bytes = Vec::with_capacity(fixed);
    let mut piece = [0; 1024];
    loop {
        let whole = match Hello::read_from_prefix(&bytes) {
            Ok((hello, _)) => fixed + hello.tail_len().map_err(malformed)?,
            Err(_) => fixed,
        };
        let wanted = (whole - bytes.len()).min(piece.len());
        if wanted == 0 {
            break;
        }
        match from.read(&mut piece[..wanted]).await {
            Ok(0) => return Err(cut_short("the connection ended")),
            Ok(got) => bytes.extend_from_slice(&piece[..got]),
            Err(error) => return Err(cut_short(&error.to_string())),
        }
        if bytes.iter().zip(HELLO_MAGIC).any(|(found, expected)| *found != expected) {
            return Err(malformed(ProtocolError::BadHello {
                what: "it does not start with FUSEWIRE; is that a Fusewire client?",
            }));
        }
        // Other versions share only the first 16 bytes, so nothing past them is awaited.
        if let Some(version) = bytes.get(8..12).and_then(|at| u32::read_from_bytes(at).ok())
            && version != PROTOCOL_VERSION
        {
            let hello = Hello { version, ..Hello::blank() };
            return Err(hello.negotiate(0, 0).err().unwrap_or_else(|| cut_short("another version")));
        }
    }
    let tail = bytes.split_off(fixed);
    let hello = Hello::read_from_bytes(&bytes).map_err(|_| cut_short("cut short"))?;
    Ok((hello, Lines::parse(tail).map_err(malformed)?))
}

/// Decides what the connection gets to ask for, if anything.
pub(super) fn judge(hello: &Hello, lines: &Lines, token: Option<&str>) -> Result<Request, Refusal> {
    hello.negotiate(features::ALL, 0)?;
    if let Some(token) = token {
        let shown = lines.get("token").unwrap_or_default();
        // Constant time in the contents; only the length can be learned.
        if !bool::from(shown.as_bytes().ct_eq(token.as_bytes())) {
            let text = if shown.is_empty() {
                "this server wants a token: set FUSEWIRE_TOKEN or FUSEWIRE_TOKEN_FILE, or use --token-file"
            } else {
                "the token is not the one this server wants: compare the client's token file with the server's"
            };
            return Err(Refusal::new(RefusedReason::Authentication, text));
        }
    }
    match hello.role().map_err(malformed)? {
        _ if hello.lane as usize >= MAX_LANES || hello.lanes as usize > MAX_LANES => {
            Err(malformed(ProtocolError::BadHello { what: "it names more than 8 bulk lanes" }))
        }
        Role::Command if hello.session == [0; 2] => Ok(Request::Open),
        Role::Command | Role::Bulk => Ok(Request::Join),
        Role::Query => Ok(Request::Query),
    }
}

pub(super) fn unknown_session() -> Refusal {
    Refusal::new(
        RefusedReason::UnknownSession,
        "this server has no such session (any more): it has ended, or the server was restarted; start the program again",
    )
}

fn malformed(error: ProtocolError) -> Refusal {
    Refusal::new(RefusedReason::Malformed, error.to_string())
}

fn cut_short(what: &str) -> Refusal {
    Refusal::new(RefusedReason::Malformed, format!("the greeting was not completed ({what})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::block_on;

    fn read_all(bytes: &[u8]) -> Result<(Hello, Lines), Refusal> {
        block_on(read(&mut &bytes[..]))
    }

    fn refused(hello: Hello, lines: &Lines, token: Option<&str>) -> Refusal {
        judge(&hello, lines, token).unwrap_err()
    }

    #[test]
    fn a_hello_is_read_whole_and_nothing_after_it() {
        let lines = Lines::default().with("program", "python3");
        let mut bytes = Hello { lanes: 2, ..Hello::blank() }.with_tail(&lines).unwrap();
        let whole = bytes.len();
        bytes.extend_from_slice(b"frames");
        let mut rest = &bytes[..];
        let (hello, got) = block_on(read(&mut rest)).unwrap();
        assert_eq!((hello.lanes, got.get("program"), rest), (2, Some("python3"), &b"frames"[..]));
        for end in 0..whole {
            let refusal = read_all(&bytes[..end]).unwrap_err();
            assert_eq!(refusal.reason, RefusedReason::Malformed, "{end}");
        }
    }

    #[test]
    fn other_versions_are_told_so_before_the_rest_comes() {
        let mut bytes = Hello { version: 77, ..Hello::blank() }.with_tail(&Lines::default()).unwrap();
        bytes.truncate(12);
        let refusal = read_all(&bytes).unwrap_err();
        assert_eq!(refusal.reason, RefusedReason::Version);
        assert!(
            refusal.text.contains("77") && refusal.text.contains(&PROTOCOL_VERSION.to_string()),
            "{refusal:?}"
        );
    }

    #[test]
    fn random_and_oversized_greetings_are_refused() {
        assert!(read_all(b"GET / HTTP/1.1\r\n\r\n").unwrap_err().text.contains("FUSEWIRE"));
        for tail_len in [4097, u32::MAX] {
            let hello = Hello { tail_len, ..Hello::blank() };
            let mut bytes = zerocopy::IntoBytes::as_bytes(&hello).to_vec();
            bytes.resize(100_000, b'x');
            let mut rest = &bytes[..];
            let refusal = block_on(read(&mut rest)).unwrap_err();
            assert_eq!(refusal.reason, RefusedReason::Malformed);
            assert_eq!(
                rest.len(),
                100_000 - size_of::<Hello>(),
                "read on after the length was known to be wrong"
            );
        }
    }

    #[test]
    fn tokens() {
        let with = |token| Lines::default().with("token", token);
        let command = Hello { lanes: 4, ..Hello::blank() };
        assert_eq!(refused(command, &Lines::default(), Some("secret")).reason, RefusedReason::Authentication);
        for wrong in ["secres", "secret2", "secre"] {
            let refusal = refused(command, &with(wrong), Some("secret"));
            assert_eq!(refusal.reason, RefusedReason::Authentication);
            assert!(!refusal.text.contains("secret"));
        }
        assert!(judge(&command, &with("secret"), Some("secret")).is_ok());
        assert!(judge(&command, &with("anything"), None).is_ok());
        // A query and a bulk lane need it as much.
        for role in [Role::Bulk, Role::Query] {
            let hello = Hello { role: role as u32, session: [1, 2], ..Hello::blank() };
            assert_eq!(
                refused(hello, &Lines::default(), Some("secret")).reason,
                RefusedReason::Authentication
            );
        }
    }

    #[test]
    fn roles() {
        let none = Lines::default();
        let hello = |role: u32, session, lane, lanes| Hello { role, session, lane, lanes, ..Hello::blank() };
        assert_eq!(judge(&hello(0, [0; 2], 0, 8), &none, None), Ok(Request::Open));
        assert_eq!(judge(&hello(0, [1, 2], 0, 4), &none, None), Ok(Request::Join));
        assert_eq!(judge(&hello(1, [1, 2], 7, 8), &none, None), Ok(Request::Join));
        assert_eq!(judge(&hello(2, [0; 2], 0, 0), &none, None), Ok(Request::Query));
        for bad in [
            hello(0, [0; 2], 0, u32::MAX),
            hello(1, [1, 2], 8, 8),
            hello(1, [1, 2], u32::MAX, 8),
            hello(3, [0; 2], 0, 0),
        ] {
            assert_eq!(refused(bad, &none, None).reason, RefusedReason::Malformed, "{bad:?}");
        }
    }
}
