//! Attempts at the network, by the standard library as any vendor would and by the C library below it. Loopback only.

use std::ffi::{CStr, CString};
use std::io::{self, Read, Write};
use std::mem::{ManuallyDrop, size_of, zeroed};
use std::net::{Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::{Attempt, check, number, text};

/// What is kept from one call to the next.
#[derive(Default)]
pub(crate) struct Held {
    sockets: Vec<OwnedFd>,
    background: Vec<JoinHandle<Attempt>>,
}

fn words<const N: usize>(payload: &[u8]) -> io::Result<[&str; N]> {
    let mut words = text(payload)?.split_ascii_whitespace();
    let found: [Option<&str>; N] = std::array::from_fn(|_| words.next());
    if found.contains(&None) {
        return Err(io::Error::other(format!("want {N} words")));
    }
    Ok(found.map(Option::unwrap_or_default))
}

fn address(word: &str) -> io::Result<SocketAddr> {
    word.parse().map_err(io::Error::other)
}

/// The same socket as a type of the standard library's, without becoming its owner.
fn borrowed<T: FromRawFd>(fd: RawFd) -> ManuallyDrop<T> {
    // SAFETY: the descriptor is held, and not closed by this.
    ManuallyDrop::new(unsafe { T::from_raw_fd(fd) })
}

fn on_thread(work: impl FnOnce() -> Attempt + Send + 'static) -> io::Result<JoinHandle<Attempt>> {
    std::thread::Builder::new().stack_size(256 << 10).spawn(work)
}

/// Sends `word` and reads as many bytes.
fn talk(stream: &mut (impl Read + Write), word: &str) -> Attempt {
    stream.write_all(word.as_bytes())?;
    let mut back = vec![0; word.len()];
    stream.read_exact(&mut back)?;
    Ok(back)
}

impl Held {
    fn hold(&mut self, socket: impl Into<OwnedFd>) -> Vec<u8> {
        self.sockets.push(socket.into());
        (self.sockets.len() - 1).to_string().into_bytes()
    }

    fn fd(&self, index: &str) -> io::Result<RawFd> {
        let index = number(index.as_bytes())?;
        self.sockets.get(index).map(AsRawFd::as_raw_fd).ok_or_else(|| io::Error::other("no such socket"))
    }

    /// The descriptor's number.
    pub(crate) fn number(&self, payload: &[u8]) -> Attempt {
        Ok(self.fd(text(payload)?)?.to_string().into_bytes())
    }

    /// Where it is bound to.
    pub(crate) fn local(&self, payload: &[u8]) -> Attempt {
        let socket = borrowed::<UdpSocket>(self.fd(text(payload)?)?);
        Ok(socket.local_addr()?.to_string().into_bytes())
    }

    /// Connects to an address and keeps the stream.
    pub(crate) fn connect(&mut self, payload: &[u8]) -> Attempt {
        let stream = TcpStream::connect(address(text(payload)?)?)?;
        Ok(self.hold(stream))
    }

    /// `MILLISECONDS ADDRESS`: the same without waiting, and then waiting for it in its own way: poll(2).
    pub(crate) fn connect_timeout(&mut self, payload: &[u8]) -> Attempt {
        let [milliseconds, to] = words(payload)?;
        let timeout = Duration::from_millis(number(milliseconds.as_bytes())? as u64);
        let stream = TcpStream::connect_timeout(&address(to)?, timeout)?;
        Ok(self.hold(stream))
    }

    /// `MILLISECONDS ADDRESS`: the same with a timeout of the socket's own, which blocks.
    pub(crate) fn connect_with_send_timeout(&mut self, payload: &[u8]) -> Attempt {
        let [milliseconds, to] = words(payload)?;
        let timeout = Duration::from_millis(number(milliseconds.as_bytes())? as u64);
        let fd = socket(libc::SOCK_STREAM)?;
        borrowed::<TcpStream>(fd.as_raw_fd()).set_write_timeout(Some(timeout))?;
        connect(fd.as_raw_fd(), to)?;
        Ok(self.hold(fd))
    }

    /// A stream that is connected on a thread of its own; `background` tells what came of it.
    pub(crate) fn connect_in_background(&mut self, payload: &[u8]) -> Attempt {
        let to = address(text(payload)?)?;
        self.background.push(on_thread(move || TcpStream::connect(to).map(|_| b"connected".to_vec()))?);
        Ok(Vec::new())
    }

    /// `INDEX TEXT`: sends and reads back.
    pub(crate) fn talk(&mut self, payload: &[u8]) -> Attempt {
        let [index, word] = words(payload)?;
        talk(&mut *borrowed::<TcpStream>(self.fd(index)?), word)
    }

    /// `INDEX COUNT BYTES`: sends and reads back so many bytes, so often.
    pub(crate) fn talk_much(&mut self, payload: &[u8]) -> Attempt {
        let [index, count, bytes] = words(payload)?;
        let (mut stream, word) =
            (borrowed::<TcpStream>(self.fd(index)?), "x".repeat(number(bytes.as_bytes())?));
        (0..number(count.as_bytes())?).try_for_each(|_| talk(&mut *stream, &word).map(drop))?;
        Ok(Vec::new())
    }

    /// Reads what is there, or waits for it.
    pub(crate) fn read(&mut self, payload: &[u8]) -> Attempt {
        let mut stream = borrowed::<TcpStream>(self.fd(text(payload)?)?);
        let mut bytes = vec![0; 64];
        let len = stream.read(&mut bytes)?;
        bytes.truncate(len);
        Ok(bytes)
    }

    /// The same on a thread of its own.
    pub(crate) fn read_in_background(&mut self, payload: &[u8]) -> Attempt {
        let fd = self.fd(text(payload)?)?;
        let read = move || {
            let mut bytes = vec![0; 64];
            let len = borrowed::<TcpStream>(fd).read(&mut bytes)?;
            bytes.truncate(len);
            Ok(bytes)
        };
        self.background.push(on_thread(read)?);
        Ok(Vec::new())
    }

    /// What came of the oldest thread that was started and not asked for yet.
    pub(crate) fn background(&mut self) -> Attempt {
        if self.background.is_empty() {
            return Err(io::Error::other("nothing was started"));
        }
        self.background.remove(0).join().map_err(|_| io::Error::other("it panicked"))?
    }

    /// Closes every socket that is kept.
    pub(crate) fn close(&mut self) -> Attempt {
        self.sockets.clear();
        Ok(Vec::new())
    }

    /// Listens there and answers where that is.
    pub(crate) fn listen(&mut self, payload: &[u8]) -> Attempt {
        let listener = TcpListener::bind(address(text(payload)?)?)?;
        let at = listener.local_addr()?.to_string();
        self.hold(listener);
        Ok(at.into_bytes())
    }

    /// Listens without having bound.
    pub(crate) fn listen_unbound(&mut self) -> Attempt {
        let fd = socket(libc::SOCK_STREAM)?;
        // SAFETY: two integers.
        check(unsafe { libc::listen(fd.as_raw_fd(), 1) })?;
        Ok(self.hold(fd))
    }

    /// Accepts at the listener of this index, and keeps the stream.
    pub(crate) fn accept(&mut self, payload: &[u8]) -> Attempt {
        let (stream, peer) = borrowed::<TcpListener>(self.fd(text(payload)?)?).accept()?;
        if peer != stream.peer_addr()? {
            return Err(io::Error::other("accept and getpeername differ"));
        }
        Ok(self.hold(stream))
    }

    /// The same on a thread of its own, which tells from where.
    pub(crate) fn accept_in_background(&mut self, payload: &[u8]) -> Attempt {
        let fd = self.fd(text(payload)?)?;
        let accept = move || {
            let (_, peer) = borrowed::<TcpListener>(fd).accept()?;
            Ok(peer.to_string().into_bytes())
        };
        self.background.push(on_thread(accept)?);
        Ok(Vec::new())
    }

    /// accept(2) of one that does not wait.
    pub(crate) fn accept_now(&mut self, payload: &[u8]) -> Attempt {
        let listener = borrowed::<TcpListener>(self.fd(text(payload)?)?);
        listener.set_nonblocking(true)?;
        let (stream, _) = listener.accept()?;
        Ok(self.hold(stream))
    }

    /// Binds a datagram socket, keeps it, and answers where that is.
    pub(crate) fn udp_bind(&mut self, payload: &[u8]) -> Attempt {
        let socket = UdpSocket::bind(address(text(payload)?)?)?;
        let at = socket.local_addr()?.to_string();
        self.hold(socket);
        Ok(at.into_bytes())
    }

    /// A datagram socket that is connected.
    pub(crate) fn udp_connect(&mut self, payload: &[u8]) -> Attempt {
        let fd = socket(libc::SOCK_DGRAM)?;
        connect(fd.as_raw_fd(), text(payload)?)?;
        Ok(self.hold(fd))
    }

    /// `INDEX ADDRESS`: connects one that is kept, again.
    pub(crate) fn udp_reconnect(&mut self, payload: &[u8]) -> Attempt {
        let [index, to] = words(payload)?;
        connect(self.fd(index)?, to)?;
        Ok(Vec::new())
    }

    /// Sends a byte on every thousandth of a second for as long as there is a process, on a thread of its own.
    pub(crate) fn send_in_background(&mut self, payload: &[u8]) -> Attempt {
        let fd = self.fd(text(payload)?)?;
        on_thread(move || {
            loop {
                // A datagram that is not taken is one that is lost.
                let _ = borrowed::<UdpSocket>(fd).send(b"x");
                std::thread::sleep(Duration::from_millis(1));
            }
        })?;
        Ok(Vec::new())
    }

    /// The same, under another number each time.
    pub(crate) fn move_in_background(&mut self, payload: &[u8]) -> Attempt {
        let first = self.fd(text(payload)?)?;
        on_thread(move || {
            let mut fd = first;
            for lowest in [40, first].into_iter().cycle() {
                let _ = borrowed::<UdpSocket>(fd).send(b"x");
                // SAFETY: three integers.
                let moved = check(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, lowest) })?;
                // SAFETY: an integer; whoever else has this number gets an error by it.
                unsafe { libc::close(fd) };
                fd = i32::try_from(moved).unwrap_or(-1);
            }
            Ok(Vec::new())
        })?;
        Ok(Vec::new())
    }

    /// `INDEX TEXT`: the same on a connected datagram socket.
    pub(crate) fn udp_talk(&mut self, payload: &[u8]) -> Attempt {
        let [index, word] = words(payload)?;
        let socket = borrowed::<UdpSocket>(self.fd(index)?);
        socket.send(word.as_bytes())?;
        receive(&socket)
    }

    /// `ADDRESS TEXT`: sends a datagram there from a socket that is not connected, and waits for one.
    pub(crate) fn udp_send_to(&mut self, payload: &[u8]) -> Attempt {
        let [to, word] = words(payload)?;
        let fd = socket(libc::SOCK_DGRAM)?;
        let socket = borrowed::<UdpSocket>(fd.as_raw_fd());
        socket.send_to(word.as_bytes(), address(to)?)?;
        let got = receive(&socket);
        self.hold(fd);
        got
    }

    /// `INDEX ADDRESS TEXT`: sends there by sendmsg(2), whatever the socket is connected to.
    pub(crate) fn send_message_to(&mut self, payload: &[u8]) -> Attempt {
        let [index, to, word] = words(payload)?;
        let (mut to, bytes) = (c_address(to)?, word.as_bytes().to_vec());
        let mut message = message_of(&bytes);
        message.msg_hdr.msg_name = (&raw mut to).cast();
        message.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in>() as u32;
        // SAFETY: header, address and bytes live until the call returns.
        let sent = check(unsafe { libc::sendmsg(self.fd(index)?, &raw const message.msg_hdr, 0) } as i64)?;
        Ok(sent.to_string().into_bytes())
    }

    /// `INDEX TEXT`: by sendmmsg(2), twice the same message in three pieces; how many were sent, and how long the first was.
    pub(crate) fn send_messages(&mut self, payload: &[u8]) -> Attempt {
        let [index, word] = words(payload)?;
        let bytes = word.as_bytes().to_vec();
        let mut pieces = [piece(&bytes[..1]), piece(&[]), piece(&bytes[1..])];
        let mut messages = [message_of(&bytes), message_of(&bytes)];
        for message in &mut messages {
            message.msg_hdr.msg_iov = pieces.as_mut_ptr();
            message.msg_hdr.msg_iovlen = pieces.len();
        }
        // SAFETY: the two headers and what they point at live until the call returns.
        let sent = check(unsafe { libc::sendmmsg(self.fd(index)?, messages.as_mut_ptr(), 2, 0) })?;
        Ok(format!("{sent} {}", messages[0].msg_len).into_bytes())
    }

    /// TCP_NODELAY, as every client sets it.
    pub(crate) fn no_delay(&mut self, payload: &[u8]) -> Attempt {
        borrowed::<TcpStream>(self.fd(text(payload)?)?).set_nodelay(true).map(|()| Vec::new())
    }

    /// `INDEX TEXT`: sends, says that nothing more comes, and reads to the end.
    pub(crate) fn half_close(&mut self, payload: &[u8]) -> Attempt {
        let [index, word] = words(payload)?;
        let mut stream = borrowed::<TcpStream>(self.fd(index)?);
        stream.write_all(word.as_bytes())?;
        stream.shutdown(Shutdown::Write)?;
        let mut back = Vec::new();
        stream.read_to_end(&mut back)?;
        Ok(back)
    }

    /// Accepts at the listener of this index, whatever the peer is called, and keeps the stream.
    pub(crate) fn accept_unnamed(&mut self, payload: &[u8]) -> Attempt {
        let (stream, _) = borrowed::<TcpListener>(self.fd(text(payload)?)?).accept()?;
        Ok(self.hold(stream))
    }

    /// Sends a descriptor along with a byte.
    pub(crate) fn send_descriptor(&mut self, payload: &[u8]) -> Attempt {
        let fd = self.fd(text(payload)?)?;
        send_descriptor(fd, fd)
    }
}

/// The same over a pair of sockets of its own.
pub(crate) fn send_descriptor_to_itself() -> Attempt {
    let (one, other) = UnixStream::pair()?;
    send_descriptor(one.as_raw_fd(), other.as_raw_fd())
}

fn send_descriptor(over: RawFd, fd: RawFd) -> Attempt {
    let bytes = [b'x'];
    let mut message = message_of(&bytes);
    // SAFETY: plain numbers, for which zero is a value.
    let mut control: [libc::cmsghdr; 4] = unsafe { zeroed() };
    // SAFETY: arithmetic on an integer.
    let len = unsafe { libc::CMSG_LEN(4) };
    // SAFETY: the same.
    let space = unsafe { libc::CMSG_SPACE(4) };
    control[0].cmsg_len = len as usize;
    control[0].cmsg_level = libc::SOL_SOCKET;
    control[0].cmsg_type = libc::SCM_RIGHTS;
    // SAFETY: the data of a header begins right behind it: arithmetic on a pointer into the array.
    let data = unsafe { libc::CMSG_DATA(control.as_mut_ptr()) };
    // SAFETY: there is room for four bytes.
    unsafe { data.cast::<RawFd>().write_unaligned(fd) };
    message.msg_hdr.msg_control = control.as_mut_ptr().cast();
    message.msg_hdr.msg_controllen = space as usize;
    // SAFETY: header, control data and bytes live until the call returns.
    check(unsafe { libc::sendmsg(over, &raw const message.msg_hdr, 0) } as i64)?;
    Ok(Vec::new())
}

fn piece(bytes: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}

/// A message of these bytes, for as long as they live. Its vector is leaked: this is a probe.
fn message_of(bytes: &[u8]) -> libc::mmsghdr {
    // SAFETY: plain numbers and pointers, for which zero is a value.
    let mut message: libc::mmsghdr = unsafe { zeroed() };
    message.msg_hdr.msg_iov = Box::leak(Box::new(piece(bytes)));
    message.msg_hdr.msg_iovlen = 1;
    message
}

fn socket(kind: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: three integers.
    let fd = check(unsafe { libc::socket(libc::AF_INET, kind | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: made just now, and nothing else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap_or(-1)) })
}

fn c_address(word: &str) -> io::Result<libc::sockaddr_in> {
    let to: SocketAddrV4 = word.parse().map_err(io::Error::other)?;
    Ok(libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: to.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(to.ip().octets()) },
        sin_zero: [0; 8],
    })
}

fn connect(fd: RawFd, to: &str) -> io::Result<()> {
    let to = c_address(to)?;
    // SAFETY: the address lives until the call returns, and is this long.
    check(unsafe { libc::connect(fd, (&raw const to).cast(), size_of::<libc::sockaddr_in>() as u32) })?;
    Ok(())
}

fn receive(socket: &UdpSocket) -> Attempt {
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut bytes = vec![0; 2048];
    let (len, _) = socket.recv_from(&mut bytes)?;
    bytes.truncate(len);
    Ok(bytes)
}

/// `HOW`: what a datagram socket hears that was bound to no port by anybody but the kernel, `bound` or by being `written` to.
pub(crate) fn udp_hears_unbound(payload: &[u8]) -> Attempt {
    let fd = socket(libc::SOCK_DGRAM)?;
    let own = borrowed::<UdpSocket>(fd.as_raw_fd());
    if text(payload)? == "bound" {
        let anywhere = c_address("0.0.0.0:0")?;
        let len = size_of::<libc::sockaddr_in>() as u32;
        // SAFETY: the address lives until the call returns, and is this long.
        check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const anywhere).cast(), len) })?;
    } else if own.send(b"x").is_ok() {
        return Err(io::Error::other("it reaches somebody"));
    }
    let other = socket(libc::SOCK_DGRAM)?;
    let to = SocketAddr::from(([127, 0, 0, 1], own.local_addr()?.port()));
    borrowed::<UdpSocket>(other.as_raw_fd()).send_to(b"heard", to)?;
    own.set_nonblocking(true)?;
    let mut bytes = vec![0; 64];
    let len = own.recv(&mut bytes)?;
    bytes.truncate(len);
    Ok(bytes)
}

/// `INDEX NAME`: asks a name server for its IPv4 addresses; the id, the code and the number of addresses of its answer.
pub(crate) fn dns_query(held: &Held, payload: &[u8]) -> Attempt {
    let [index, name] = words(payload)?;
    let socket = borrowed::<UdpSocket>(held.fd(index)?);
    let mut question = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(u8::try_from(label.len()).unwrap_or(0));
        question.extend_from_slice(label.as_bytes());
    }
    question.extend([0, 0, 1, 0, 1]);
    socket.send(&question)?;
    let answer = receive(&socket)?;
    Ok(format!("{} {} {}", answer[1], answer[3] & 15, answer[7]).into_bytes())
}

/// `HOST PORT TEXT`: looks the host up, connects, sends and reads back.
pub(crate) fn talk_by_name(payload: &[u8]) -> Attempt {
    let [host, port, word] = words(payload)?;
    let port = u16::try_from(number(port.as_bytes())?).map_err(io::Error::other)?;
    let mut stream = TcpStream::connect((host, port))?;
    let got = talk(&mut stream, word);
    stream.shutdown(Shutdown::Both)?;
    got
}

/// The addresses of a host, as the standard library finds them.
pub(crate) fn look_up(payload: &[u8]) -> Attempt {
    let mut found: Vec<String> =
        (text(payload)?, 80).to_socket_addrs()?.map(|address| address.ip().to_string()).collect();
    found.sort();
    found.dedup();
    Ok(found.join(" ").into_bytes())
}

/// The same as the C library finds them; fails with its own number and words.
pub(crate) fn look_up_c(payload: &[u8]) -> Attempt {
    let name = CString::new(payload).map_err(io::Error::other)?;
    let mut found: *mut libc::addrinfo = std::ptr::null_mut();
    // SAFETY: a terminated string, null pointers where they may be, and a pointer to fill.
    let rc = unsafe { libc::getaddrinfo(name.as_ptr(), std::ptr::null(), std::ptr::null(), &raw mut found) };
    if rc != 0 {
        // SAFETY: an integer.
        let words = unsafe { libc::gai_strerror(rc) };
        // SAFETY: a terminated string that is never freed.
        let words = unsafe { CStr::from_ptr(words) };
        return Err(io::Error::other(format!("{rc} {}", words.to_string_lossy())));
    }
    let (mut at, mut count) = (found, 0);
    while !at.is_null() {
        count += 1;
        // SAFETY: not null, and of the list that getaddrinfo made.
        at = unsafe { (*at).ai_next };
    }
    // SAFETY: the list that getaddrinfo made, freed once.
    unsafe { libc::freeaddrinfo(found) };
    Ok(count.to_string().into_bytes())
}

/// `PATH TEXT`: connects to a Unix socket, sends and reads back.
pub(crate) fn talk_unix(payload: &[u8]) -> Attempt {
    let [path, word] = words(payload)?;
    talk(&mut UnixStream::connect(path)?, word)
}

/// Connects to a Unix socket and keeps it.
pub(crate) fn connect_unix(held: &mut Held, payload: &[u8]) -> Attempt {
    let stream = UnixStream::connect(text(payload)?)?;
    Ok(held.hold(stream))
}

/// Connects to a Unix socket that has a name and no path.
pub(crate) fn connect_abstract(held: &mut Held, payload: &[u8]) -> Attempt {
    use std::os::linux::net::SocketAddrExt;
    let address = std::os::unix::net::SocketAddr::from_abstract_name(payload)?;
    let stream = UnixStream::connect_addr(&address)?;
    Ok(held.hold(stream))
}

/// Connects to a Unix socket, says so, receives a byte and whatever comes with it: how many descriptors that was.
pub(crate) fn receive_descriptors(payload: &[u8]) -> Attempt {
    let mut stream = UnixStream::connect(text(payload)?)?;
    stream.write_all(b"x")?;
    let byte = [0];
    let mut message = message_of(&byte);
    // SAFETY: plain numbers, for which zero is a value.
    let mut control: [libc::cmsghdr; 4] = unsafe { zeroed() };
    message.msg_hdr.msg_control = control.as_mut_ptr().cast();
    message.msg_hdr.msg_controllen = size_of_val(&control);
    // SAFETY: header, control data and byte live until the call returns.
    check(unsafe { libc::recvmsg(stream.as_raw_fd(), &raw mut message.msg_hdr, 0) } as i64)?;
    let came = message.msg_hdr.msg_controllen > 0 && control[0].cmsg_type == libc::SCM_RIGHTS;
    Ok(u8::from(came).to_string().into_bytes())
}

/// The interfaces of the machine, as a socket shows them.
pub(crate) fn interfaces() -> Attempt {
    let fd = socket(libc::SOCK_DGRAM)?;
    let mut buffer = [0_u64; 64];
    let mut wanted = libc::ifconf {
        ifc_len: size_of_val(&buffer) as i32,
        ifc_ifcu: libc::__c_anonymous_ifc_ifcu { ifcu_buf: buffer.as_mut_ptr().cast() },
    };
    // SAFETY: the request fills the structure and the buffer that it points at, both alive until the call returns.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCGIFCONF, &raw mut wanted) })?;
    Ok(wanted.ifc_len.to_string().into_bytes())
}

/// Talks over a pair of sockets of its own.
pub(crate) fn talk_to_itself() -> Attempt {
    let (mut one, mut other) = UnixStream::pair()?;
    one.write_all(b"pair")?;
    let mut bytes = vec![0; 4];
    other.read_exact(&mut bytes)?;
    let fd = one.into_raw_fd();
    // SAFETY: taken from its owner just now.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    Ok(bytes)
}
