//! A network link of a given bandwidth: two network namespaces joined by a veth pair, with a token bucket
//! filter (tbf) on both ends. Made over netlink, since a GPU host may have neither `ip` nor `tc`.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use crate::error::{Error, Result};
use crate::rig::namespace::Namespace;

/// Where the server is, in its namespace.
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// A namespace has this number for itself.
const INDEX: u32 = 10;
const LOOPBACK: u32 = 1;
/// As networks of this speed are run.
const MTU: u32 = 9000;

#[derive(Debug)]
pub(crate) struct Shaped {
    pub(crate) server: Namespace,
    pub(crate) client: Namespace,
}

impl Shaped {
    pub(crate) fn new(gbit: f64) -> Result<Shaped> {
        let shaped = Shaped { server: Namespace::new()?, client: Namespace::new()? };
        let peer = shaped.client.as_raw_fd();
        shaped.server.within(|| {
            let mut netlink = Netlink::open()?;
            netlink.ask(veth(peer), NLM_F_CREATE | NLM_F_EXCL, "a veth pair")?;
            end(&mut netlink, SERVER, gbit)
        })?;
        shaped.client.within(|| end(&mut Netlink::open()?, CLIENT, gbit))?;
        Ok(shaped)
    }
}

/// Sets up one end of the pair.
fn end(netlink: &mut Netlink, address: Ipv4Addr, gbit: f64) -> Result<()> {
    let mut own = AddressMessage::default();
    own.header.family = AddressFamily::Inet;
    own.header.prefix_len = 30;
    own.header.index = INDEX;
    own.attributes =
        vec![AddressAttribute::Local(IpAddr::V4(address)), AddressAttribute::Address(IpAddr::V4(address))];
    netlink.ask(RouteNetlinkMessage::NewAddress(own), NLM_F_CREATE | NLM_F_EXCL, "its address")?;
    let shape = RouteNetlinkMessage::NewQueueDiscipline(Bucket::of(gbit).message());
    netlink.ask(shape, NLM_F_CREATE | NLM_F_REPLACE, "its token bucket filter (sch_tbf)")?;
    for index in [LOOPBACK, INDEX] {
        let mut up = LinkMessage::default();
        up.header.index = index;
        up.header.flags = LinkFlags::Up;
        up.header.change_mask = LinkFlags::Up;
        netlink.ask(RouteNetlinkMessage::SetLink(up), 0, "its start")?;
    }
    Ok(())
}

fn veth(peer_namespace: i32) -> RouteNetlinkMessage {
    let end = || {
        let mut end = LinkMessage::default();
        end.header.index = INDEX;
        end.attributes = vec![LinkAttribute::IfName("fusewire".into()), LinkAttribute::Mtu(MTU)];
        end
    };
    let (mut ours, mut theirs) = (end(), end());
    theirs.attributes.push(LinkAttribute::NetNsFd(peer_namespace));
    ours.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(theirs))),
    ]));
    RouteNetlinkMessage::NewLink(ours)
}

/// A token bucket filter's numbers, in bytes.
#[derive(Debug, PartialEq)]
struct Bucket {
    rate: u64,
    burst: u32,
    limit: u32,
}

impl Bucket {
    fn of(gbit: f64) -> Bucket {
        let rate = gbit * 1e9 / 8.0;
        // What may go out at once: enough for the timer that fills the bucket, and for the largest packet
        // that the kernel hands down whole.
        let burst = (rate * 200e-6).max(256.0 * 1024.0);
        // What may wait, 5 ms of it; more than that is dropped, and TCP slows down.
        Bucket { rate: rate as u64, burst: burst as u32, limit: (burst + rate * 5e-3) as u32 }
    }

    fn message(&self) -> TcMessage {
        // linux/pkt_sched.h: TCA_TBF_*, TC_LINKLAYER_ETHERNET
        const PARAMETERS: u16 = 1;
        const RATE: u16 = 4;
        const BURST: u16 = 6;
        const ETHERNET: u8 = 1;
        // struct tc_ratespec: u8 cell_log, u8 linklayer, u16 overhead, i16 cell_align, u16 mpu, u32 rate
        let mut rate = [0_u8; 12];
        rate[1] = ETHERNET;
        rate[8..].copy_from_slice(&u32::try_from(self.rate).unwrap_or(u32::MAX).to_ne_bytes());
        // struct tc_tbf_qopt: the rate, the peak rate (none), u32 limit, u32 buffer, u32 mtu
        let mut parameters = Vec::with_capacity(36);
        parameters.extend(rate);
        parameters.extend([0; 12]);
        parameters.extend(self.limit.to_ne_bytes());
        parameters.extend([0; 8]);
        let mut message = TcMessage::with_index(INDEX as i32);
        message.header.parent = TcHandle::ROOT;
        message.header.handle = TcHandle { major: 1, minor: 0 };
        message.attributes = vec![
            TcAttribute::Kind("tbf".into()),
            TcAttribute::Options(vec![
                TcOption::Other(DefaultNla::new(PARAMETERS, parameters)),
                TcOption::Other(DefaultNla::new(RATE, self.rate.to_ne_bytes().into())),
                TcOption::Other(DefaultNla::new(BURST, self.burst.to_ne_bytes().into())),
            ]),
        ];
        message
    }
}

/// A conversation with the kernel about the namespace in which it was opened.
struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    fn open() -> Result<Netlink> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(socket)
        };
        let socket = open()
            .map_err(|error: io::Error| Error::Unsupported(format!("netlink cannot be used: {error}")))?;
        Ok(Netlink { socket, sequence: 0 })
    }

    /// Asks for one thing and waits for the kernel's word. What it refuses, this machine cannot do.
    fn ask(&mut self, message: RouteNetlinkMessage, flags: u16, what: &str) -> Result<()> {
        self.exchange(message, flags).map_err(|error| {
            Error::Unsupported(format!(
                "a shaped link cannot be made here: the kernel refuses {what}: {error}"
            ))
        })
    }

    fn exchange(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let (answer, _) = self.socket.recv_from_full()?;
        let answer: NetlinkMessage<RouteNetlinkMessage> =
            NetlinkMessage::deserialize(&answer).map_err(io::Error::other)?;
        match answer.payload {
            NetlinkPayload::Error(error) if error.code.is_none() => Ok(()),
            NetlinkPayload::Error(error) => Err(error.to_io()),
            other => Err(io::Error::other(format!("an answer that was not asked for: {other:?}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_what_its_link_carries() {
        let slow = Bucket::of(10.0);
        assert_eq!((slow.rate, slow.burst), (1_250_000_000, 262_144));
        let fast = Bucket::of(100.0);
        assert_eq!((fast.rate, fast.burst), (12_500_000_000, 2_500_000));
        assert!(fast.limit > fast.burst);
    }
}
