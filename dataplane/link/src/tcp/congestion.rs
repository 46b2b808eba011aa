//! Which congestion control (tcp(7), `TCP_CONGESTION`) a connection has: the host's own, except that BBR is replaced
//! between machines that are close to each other.
//!
//! BBR is made for the internet. It sends no faster than it has seen the network deliver, and when it has not seen the
//! shortest round trip for a while it all but stops for 200 ms (draft-ietf-ccwg-bbr, ProbeRTT), however short that is.

use std::os::fd::BorrowedFd;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use socket2::SockRef;

use super::info::Info;
use crate::ring::note_once;

/// Overrules the choice made here: a name of the kernel's, or `host`.
const VARIABLE: &str = "FUSEWIRE_CONGESTION";
/// A round trip shorter than this stays within a building.
const CLOSE: Duration = Duration::from_millis(1);
/// What is taken instead: what most hosts have. The other is always there, and everybody may have it.
const PLAIN: [&str; 2] = ["cubic", "reno"];

/// Sets what a connected socket is to have. Where the kernel refuses, and on sockets that know no such thing, all stays
/// as it was: it is a matter of speed alone.
pub(super) fn choose(fd: BorrowedFd<'_>) {
    let socket = SockRef::from(&fd);
    let Ok(now) = socket.tcp_congestion() else { return };
    let now = now.split(|byte| *byte == 0).next().unwrap_or_default();
    let wanted = std::env::var(VARIABLE).unwrap_or_default();
    let names = better(&wanted, now, Info::of(fd).and_then(|info| info.round_trip));
    let mut refused = None;
    for name in names {
        match socket.set_tcp_congestion(name.as_bytes()) {
            Ok(()) => return,
            Err(error) => refused = Some((name, error)),
        }
    }
    if let Some((name, error)) = refused {
        static SAID: AtomicBool = AtomicBool::new(false);
        let now = String::from_utf8_lossy(now);
        note_once(
            &SAID,
            format_args!(
                "the kernel refuses the congestion control {name:?} ({error}); connections keep {now}. \
                 /proc/sys/net/ipv4/tcp_allowed_congestion_control lists what there is"
            ),
        );
    }
}

/// What to set, the best first. `wanted`: by the user; `now`: what the socket has.
fn better<'a>(wanted: &'a str, now: &[u8], round_trip: Option<Duration>) -> Vec<&'a str> {
    match wanted {
        "" | "auto" if now == b"bbr" && round_trip.is_some_and(|time| time < CLOSE) => PLAIN.to_vec(),
        "" | "auto" | "host" => Vec::new(),
        name => vec![name],
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn bbr_is_replaced_between_neighbours_only_and_not_against_the_users_will() {
        let (near, far) = (Some(Duration::from_micros(40)), Some(Duration::from_millis(20)));
        assert_eq!(better("", b"bbr", near), PLAIN);
        assert_eq!(better("auto", b"bbr", near), PLAIN);
        assert!(better("", b"bbr", far).is_empty());
        assert!(better("", b"bbr", None).is_empty());
        assert!(better("", b"dctcp", near).is_empty());
        assert!(better("host", b"bbr", near).is_empty());
        assert_eq!(better("reno", b"bbr", far), ["reno"]);
    }

    #[test]
    fn a_connection_that_would_have_bbr_does_not_if_the_kernel_has_another() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let name = |of: &TcpStream| {
            let name = SockRef::from(of).tcp_congestion().unwrap();
            String::from_utf8(name.split(|byte| *byte == 0).next().unwrap().to_vec()).unwrap()
        };
        let before = name(&stream);
        choose(stream.as_fd());
        // The host's choice is BBR only here and there: then, and if nobody has said otherwise, it is replaced.
        let replaced = before == "bbr" && std::env::var_os(VARIABLE).is_none();
        let found = name(&stream);
        assert!(if replaced { PLAIN.contains(&&*found) } else { found == before }, "{before}, then {found}");
    }

    #[test]
    fn bbr_itself_is_replaced_where_it_can_be_had() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        if std::env::var_os(VARIABLE).is_some() || SockRef::from(&stream).set_tcp_congestion(b"bbr").is_err()
        {
            return;
        }
        choose(stream.as_fd());
        let name = SockRef::from(&stream).tcp_congestion().unwrap();
        assert!(PLAIN.iter().any(|plain| name.starts_with(plain.as_bytes())), "{name:?}");
    }

    #[test]
    fn other_sockets_are_left_alone() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        choose(one.as_fd());
        assert!(SockRef::from(&one).tcp_congestion().is_err());
    }
}
