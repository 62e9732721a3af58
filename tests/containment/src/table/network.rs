//! Sockets and names of hosts.
//!
//! Runs in a host. Whoever is to be reached is at the loopback address or has a name of the row's own, and takes nothing.

use sandbox_core::Layer;

use crate::Control::{Granted, Reaches, Works, WorksForRoot};
use crate::Expected::{Errno, Failed, Got};
use crate::row::{ALL_BUT_NETWORK, EVERYTHING, Grants, NOTHING};
use crate::{Control, HeldBy, Row};

const SOCKETS: &[HeldBy] = &[HeldBy::Broker, HeldBy::Layer(Layer::NetworkNamespace)];
const ELSEWHERE: Grants = &["network:example.org:443", "network:127.0.0.1:1"];

fn socket(name: &'static str, arguments: &str, errno: i32, control: Control) -> Row {
    Row::raw(name, libc::SYS_socket, arguments, Errno(errno), control).told("network").held_by(SOCKETS)
}

/// A way to somebody who is not in scope.
fn reaches(name: &'static str, method: &str, payload: &str, control: Control) -> Row {
    Row::new(name, method, payload, Errno(libc::EACCES), control).told("network").held_by(SOCKETS).under(&[
        NOTHING,
        ALL_BUT_NETWORK,
        ELSEWHERE,
    ])
}

pub(super) fn rows() -> Vec<Row> {
    vec![
        socket("makes a Unix socket", "1 1 0", libc::EACCES, Works),
        socket("makes a netlink socket", "16 3 0", libc::EAFNOSUPPORT, Works),
        socket("makes a raw socket", "2 3 1", libc::EPERM, WorksForRoot),
        socket("makes a raw socket of IPv6", "10 3 58", libc::EPERM, WorksForRoot),
        socket("makes a packet socket", "17 3 0", libc::EAFNOSUPPORT, WorksForRoot),
        socket("makes a socket to the hypervisor", "40 1 0", libc::EAFNOSUPPORT, Works),
        socket("makes a socket to the kernel's ciphers", "38 5 0", libc::EAFNOSUPPORT, Works),
        socket("makes a Bluetooth socket", "31 3 1", libc::EAFNOSUPPORT, WorksForRoot),
        socket("makes a CAN socket", "29 3 1", libc::EAFNOSUPPORT, Works),
        socket("makes a socket to a card's queues", "44 3 0", libc::EAFNOSUPPORT, WorksForRoot),
        socket("makes a TIPC socket", "30 2 0", libc::EAFNOSUPPORT, Works),
        socket("makes a multipath socket", "2 1 262", libc::EPROTONOSUPPORT, Works),
        socket("makes a TCP socket", "2 1 0", libc::EACCES, Works).under(&[NOTHING, ALL_BUT_NETWORK]),
        socket("makes a UDP socket of IPv6", "10 2 0", libc::EACCES, Works)
            .under(&[NOTHING, ALL_BUT_NETWORK]),
        Row::raw(
            "makes a pair of another family",
            libc::SYS_socketpair,
            "2 1 0 q:0",
            Errno(libc::EACCES),
            Reaches(&[libc::EOPNOTSUPP]),
        )
        .told("network"),
        reaches("connects to a service of this machine's", "net_connect", "127.0.0.1:{tcp}", Works),
        reaches("connects by no address in particular", "net_connect", "0.0.0.0:{tcp}", Works),
        reaches(
            "connects by an address in another's clothes",
            "net_connect",
            "[::ffff:127.0.0.1]:{tcp}",
            Works,
        ),
        reaches(
            "connects by another address of its own",
            "net_connect",
            "127.1.2.3:{tcp}",
            Reaches(&[libc::ECONNREFUSED]),
        ),
        reaches("connects without waiting", "net_connect_timeout", "1000 127.0.0.1:{tcp}", Works),
        reaches("sends datagrams to a service of this machine's", "udp_connect", "127.0.0.1:{udp}", Works),
        reaches(
            "asks where machines in a cloud ask",
            "net_connect_timeout",
            "1 169.254.169.254:80",
            Granted(&["network:127.0.0.1:{tcp}"], Errno(libc::EACCES)),
        )
        .told("network"),
        // EAI_AGAIN: there is nobody to ask. EAI_NONAME: somebody is, and says that there is no such name.
        Row::new("looks up a name", "look_up_c", "localhost", Failed("-3 "), Works)
            .told("network")
            .held_by(SOCKETS)
            .under(&[NOTHING]),
        Row::new("looks up a name that is not in scope", "look_up_c", "localhost", Failed("-2 "), Works)
            .without(Layer::NetworkNamespace, Failed("-3 ")) // no socket to ask with, where none can be judged
            .told("network")
            .held_by(SOCKETS)
            .under(&[ELSEWHERE]),
        reaches("listens", "net_listen", "127.0.0.1:0", Works),
        reaches("listens wherever there is room", "net_listen_unbound", "", Works),
        reaches("binds a datagram socket", "udp_bind", "127.0.0.1:0", Works),
        reaches(
            "connects to a socket with a path",
            "unix_connect",
            "{unix}",
            Granted(&["network:unix:{unix}"], Got("0".to_owned())),
        ),
        reaches("connects to a socket with a name and no path", "abstract_connect", "{abstract}", Works)
            .held_by(&[
                HeldBy::Broker,
                HeldBy::Layer(Layer::NetworkNamespace),
                HeldBy::Layer(Layer::LandlockScopes),
            ])
            .under(&[NOTHING, ELSEWHERE, EVERYTHING]),
        Row::new("lists the interfaces", "interfaces", "", Errno(libc::ENOTTY), Works)
            .without(Layer::NetworkNamespace, Errno(libc::EACCES))
            .held_by(&[HeldBy::Broker])
            .under(&[EVERYTHING]),
        Row::new("sends a descriptor to itself", "send_descriptor_to_itself", "", Errno(libc::EPERM), Works),
    ]
}
