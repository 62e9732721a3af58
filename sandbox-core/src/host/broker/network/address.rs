//! Socket addresses as the kernel has them in memory: read, and written.
//!
//! Runs in the host, on a worker. What is read is hostile.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use nix::errno::Errno;

/// The longest address there is: `struct sockaddr_storage`.
pub(super) const MOST_BYTES: usize = 128;

/// An address as a plugin gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    Internet(SocketAddr),
    /// A Unix socket at this path, without a NUL.
    Unix(Vec<u8>),
    /// A Unix socket that has no path: abstract, or one that the kernel is to name.
    UnixWithoutPath,
    /// AF_UNSPEC: none any more.
    Dissolve,
}

impl Address {
    /// The same, for who sends or connects there.
    pub(super) fn into_peer(self) -> Self {
        match self {
            Self::Internet(address) => Self::Internet(as_peer(address)),
            other => other,
        }
    }
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// Reads a `struct sockaddr` of any family.
pub(super) fn read(bytes: &[u8]) -> Result<Address, Errno> {
    let family = number(bytes, 0).map(u16::from_ne_bytes).ok_or(Errno::EINVAL)?;
    match i32::from(family) {
        libc::AF_UNSPEC => Ok(Address::Dissolve),
        libc::AF_INET => {
            let port = number(bytes, 2).map(u16::from_be_bytes).ok_or(Errno::EINVAL)?;
            let ip: [u8; 4] = number(bytes, 4).ok_or(Errno::EINVAL)?;
            // The kernel wants all of it, the padding too.
            if bytes.len() < size_of::<libc::sockaddr_in>() {
                return Err(Errno::EINVAL);
            }
            Ok(Address::Internet(SocketAddrV4::new(Ipv4Addr::from(ip), port).into()))
        }
        libc::AF_INET6 => {
            let port = number(bytes, 2).map(u16::from_be_bytes).ok_or(Errno::EINVAL)?;
            let flow = number(bytes, 4).map(u32::from_be_bytes).ok_or(Errno::EINVAL)?;
            let ip: [u8; 16] = number(bytes, 8).ok_or(Errno::EINVAL)?;
            let scope = number(bytes, 24).map(u32::from_ne_bytes).unwrap_or_default();
            Ok(Address::Internet(SocketAddrV6::new(Ipv6Addr::from(ip), port, flow, scope).into()))
        }
        libc::AF_UNIX => {
            let path = bytes.get(2..).unwrap_or_default();
            let path = path.split(|byte| *byte == 0).next().unwrap_or_default();
            Ok(if path.is_empty() { Address::UnixWithoutPath } else { Address::Unix(path.to_vec()) })
        }
        _ => Err(Errno::EAFNOSUPPORT),
    }
}

/// The peer that the kernel takes `address` for: who sends to no address in particular sends to this machine.
pub(super) fn as_peer(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip == Ipv4Addr::UNSPECIFIED.to_ipv6_mapped() => {
            Ipv4Addr::LOCALHOST.to_ipv6_mapped().into()
        }
        _ => return address,
    };
    SocketAddr::new(ip, address.port())
}

/// A `struct sockaddr_in` or `sockaddr_in6`.
pub(super) fn write(address: SocketAddr) -> Vec<u8> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let mut bytes = u16::try_from(family).unwrap_or_default().to_ne_bytes().to_vec();
    bytes.extend(address.port().to_be_bytes());
    match address {
        SocketAddr::V4(address) => {
            bytes.extend(address.ip().octets());
            bytes.extend([0; 8]);
        }
        SocketAddr::V6(address) => {
            bytes.extend(address.flowinfo().to_be_bytes());
            bytes.extend(address.ip().octets());
            bytes.extend(address.scope_id().to_ne_bytes());
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_back_as_it_was_written() {
        for text in ["127.0.0.1:80", "[::1]:80", "[fe80::1%3]:65535", "0.0.0.0:0"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(read(&write(address)), Ok(Address::Internet(address)), "{text}");
        }
    }

    #[test]
    fn no_address_in_particular_is_this_machine() {
        for (given, peer) in [
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "[::1]:80"),
            ("[::ffff:0.0.0.0]:80", "[::ffff:127.0.0.1]:80"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("[fe80::1%3]:80", "[fe80::1%3]:80"),
        ] {
            assert_eq!(as_peer(given.parse().unwrap()), peer.parse().unwrap(), "{given}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let unix = u16::try_from(libc::AF_UNIX).unwrap().to_ne_bytes();
        for (bytes, expected) in [
            (vec![], Err(Errno::EINVAL)),
            (vec![0], Err(Errno::EINVAL)),
            (vec![0, 0], Ok(Address::Dissolve)),
            (write("127.0.0.1:80".parse().unwrap())[..15].to_vec(), Err(Errno::EINVAL)),
            (write("[::1]:80".parse().unwrap())[..23].to_vec(), Err(Errno::EINVAL)),
            (vec![16, 0, 0, 0], Err(Errno::EAFNOSUPPORT)),
            (unix.to_vec(), Ok(Address::UnixWithoutPath)),
            ([&unix[..], b"\0abstract"].concat(), Ok(Address::UnixWithoutPath)),
            ([&unix[..], b"/a/b\0c"].concat(), Ok(Address::Unix(b"/a/b".to_vec()))),
            ([&unix[..], b"/a"].concat(), Ok(Address::Unix(b"/a".to_vec()))),
        ] {
            assert_eq!(read(&bytes), expected, "{bytes:?}");
        }
    }
}
