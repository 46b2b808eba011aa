//! Which congestion control (tcp(7), `TCP_CONGESTION`) a connection has: the host's own, except that BBR is replaced
//! between machines that are close to each other.
//!
//! BBR's clock is made for the internet. It sends by a timer, which at the speed of a local network costs more processor
//! time than the sending, and when it has not seen the shortest round trip for a while it all but stops for 200 ms
//! (draft-ietf-ccwg-bbr, ProbeRTT), however short that is.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use socket2::SockRef;

use crate::ring::note_once;

/// Overrules the choice made here: a name of the kernel's, or `host`.
const VARIABLE: &str = "FUSEWIRE_CONGESTION";
/// A round trip shorter than this stays within a building.
const CLOSE: Duration = Duration::from_millis(1);
/// What is taken instead, and may be by everybody where the kernel has it.
const PLAIN: &str = "cubic";

/// Sets what a connected socket is to have. Where the kernel refuses, and on sockets that know no such thing, all stays
/// as it was: it is a matter of speed alone.
pub(super) fn choose(fd: BorrowedFd<'_>) {
    let socket = SockRef::from(&fd);
    let Ok(now) = socket.tcp_congestion() else { return };
    let now = now.split(|byte| *byte == 0).next().unwrap_or_default();
    let wanted = std::env::var(VARIABLE).unwrap_or_default();
    let Some(name) = better(&wanted, now, round_trip(fd)) else { return };
    if let Err(error) = socket.set_tcp_congestion(name.as_bytes()) {
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

/// What to set, if anything. `wanted`: by the user; `now`: what the socket has.
fn better<'a>(wanted: &'a str, now: &[u8], round_trip: Option<Duration>) -> Option<&'a str> {
    match wanted {
        "host" => None,
        "" | "auto" => (now == b"bbr" && round_trip.is_some_and(|time| time < CLOSE)).then_some(PLAIN),
        name => Some(name),
    }
}

/// As the kernel has measured it, at the latest when the connection was made.
fn round_trip(fd: BorrowedFd<'_>) -> Option<Duration> {
    // SAFETY: integers, for which zeros are fine.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    let to = (&raw mut info).cast();
    // SAFETY: as much room as is said, and a live length.
    let status =
        unsafe { libc::getsockopt(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, to, &raw mut length) };
    (status == 0 && info.tcpi_rtt != 0).then(|| Duration::from_micros(info.tcpi_rtt.into()))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn bbr_is_replaced_between_neighbours_only_and_not_against_the_users_will() {
        let (near, far) = (Some(Duration::from_micros(40)), Some(Duration::from_millis(20)));
        assert_eq!(better("", b"bbr", near), Some("cubic"));
        assert_eq!(better("auto", b"bbr", near), Some("cubic"));
        assert_eq!(better("", b"bbr", far), None);
        assert_eq!(better("", b"bbr", None), None);
        assert_eq!(better("", b"dctcp", near), None);
        assert_eq!(better("host", b"bbr", near), None);
        assert_eq!(better("reno", b"bbr", far), Some("reno"));
    }

    #[test]
    fn a_connection_that_would_have_bbr_does_not_if_the_kernel_has_another() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let name = |of: &TcpStream| {
            let name = SockRef::from(of).tcp_congestion().unwrap();
            String::from_utf8(name.split(|byte| *byte == 0).next().unwrap().to_vec()).unwrap()
        };
        assert!(round_trip(stream.as_fd()).is_some_and(|time| time < CLOSE));
        let before = name(&stream);
        choose(stream.as_fd());
        let may = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_allowed_congestion_control").unwrap();
        let replaced = before == "bbr" && may.split_whitespace().any(|allowed| allowed == PLAIN);
        assert_eq!(name(&stream), if replaced { PLAIN } else { &before });
    }

    #[test]
    fn other_sockets_are_left_alone() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        choose(one.as_fd());
        assert_eq!(round_trip(one.as_fd()), None);
    }
}
