//! Servers on the loopback address that send back what they get, each on a thread of its own until the program ends.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, unbounded};

use crate::wait::PATIENCE;

/// A server that can be asked what it has seen.
#[derive(Debug)]
pub struct Echo {
    /// Where it is.
    pub address: SocketAddr,
    seen: Arc<AtomicUsize>,
    ended: Receiver<()>,
}

impl Echo {
    /// How many connections, or datagrams, have come so far.
    pub fn seen(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }

    /// Waits until one more connection has come to its end.
    ///
    /// # Panics
    /// If none does.
    #[track_caller]
    pub fn ended(&self) {
        self.ended.recv_timeout(PATIENCE).expect("a connection that ends");
    }

    /// Whether a connection has ended that nobody has asked for.
    pub fn has_one_ended(&self) -> bool {
        self.ended.try_recv().is_ok()
    }
}

fn echo(stream: &mut (impl Read + Write)) {
    let mut bytes = [0; 4096];
    while let Ok(len @ 1..) = stream.read(&mut bytes) {
        if stream.write_all(&bytes[..len]).is_err() {
            return;
        }
    }
}

/// A TCP server at any port of this address.
///
/// # Panics
/// If nobody may listen there.
pub fn tcp_at(ip: IpAddr) -> Echo {
    let listener = TcpListener::bind((ip, 0)).expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let seen = Arc::new(AtomicUsize::new(0));
    let (end, ended) = unbounded();
    let count = Arc::clone(&seen);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            count.fetch_add(1, Ordering::SeqCst);
            let end = end.clone();
            std::thread::spawn(move || {
                echo(&mut stream);
                drop(stream);
                let _ = end.send(());
            });
        }
    });
    Echo { address, seen, ended }
}

/// A TCP server of IPv4.
pub fn tcp() -> Echo {
    tcp_at(Ipv4Addr::LOCALHOST.into())
}

/// One of IPv6; `None`, loudly, where this machine has none.
pub fn tcp6() -> Option<Echo> {
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        eprintln!("NOT TESTED: this machine has no ::1");
        return None;
    }
    Some(tcp_at(Ipv6Addr::LOCALHOST.into()))
}

/// A UDP server of IPv4.
///
/// # Panics
/// If nobody may bind there.
pub fn udp() -> Echo {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = socket.local_addr().expect("it is bound");
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    let (_, ended) = unbounded();
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok((len, from)) = socket.recv_from(&mut bytes) {
            count.fetch_add(1, Ordering::SeqCst);
            let _ = socket.send_to(&bytes[..len], from);
        }
    });
    Echo { address, seen, ended }
}

/// A Unix server at this path, which answers each connection with what it sends.
///
/// # Panics
/// If the path is taken.
pub fn unix(path: impl AsRef<Path>) {
    let listener = UnixListener::bind(path).expect("a new name");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || echo(&mut stream));
        }
    });
}

/// A Unix server at this path that answers the first byte of each connection with a byte and a descriptor; tells how often.
///
/// # Panics
/// If the path is taken.
pub fn unix_with_descriptors(path: impl AsRef<Path>) -> impl Fn() -> usize {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    let listener = UnixListener::bind(path).expect("a new name");
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut byte = [0];
            if stream.read_exact(&mut byte).is_err() {
                continue;
            }
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let descriptors = [std::os::fd::AsFd::as_fd(&listener)];
            control.push(SendAncillaryMessage::ScmRights(&descriptors));
            let bytes = [std::io::IoSlice::new(&byte)];
            if sendmsg(&stream, &bytes, &mut control, SendFlags::empty()).is_ok() {
                count.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    move || sent.load(Ordering::SeqCst)
}

/// A port that nobody takes connections from: its queue is full, so that a connection is never made.
#[derive(Debug)]
pub struct Full {
    /// Where it is.
    pub address: SocketAddr,
    listener: TcpListener,
    waiting: Vec<TcpStream>,
}

/// A full port.
///
/// # Panics
/// If it does not become full.
pub fn full() -> Full {
    use rustix::net::{AddressFamily, SocketType, bind, listen, socket};
    let raw = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    bind(&raw, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a free port");
    listen(&raw, 0).expect("it is bound");
    let listener = TcpListener::from(raw);
    let address = listener.local_addr().expect("it is bound");
    let mut waiting = Vec::new();
    while waiting.len() < 16 {
        match TcpStream::connect_timeout(&address, std::time::Duration::from_millis(300)) {
            Ok(stream) => waiting.push(stream),
            Err(_) => return Full { address, listener, waiting },
        }
    }
    panic!("the queue of a listener is never full");
}

impl Full {
    /// Takes connections from now on, and sends back what they send.
    pub fn take(self) {
        let Self { listener, waiting, .. } = self;
        drop(waiting);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                std::thread::spawn(move || echo(&mut stream));
            }
        });
    }
}

/// How many sockets of this machine are open to an address of IPv4, whoever has them, connected or about to be.
///
/// # Panics
/// If /proc does not tell.
pub fn sockets_to(address: SocketAddr) -> usize {
    let all = std::fs::read_to_string("/proc/net/tcp").expect("/proc is there");
    let port = format!(":{:04X}", address.port());
    let open = all.lines().filter(|line| {
        let columns: Vec<&str> = line.split_ascii_whitespace().collect();
        let to = columns.get(2).is_some_and(|remote| remote.ends_with(&port));
        to && columns.get(9).is_some_and(|inode| *inode != "0")
    });
    open.count()
}
