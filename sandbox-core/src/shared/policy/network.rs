//! How far `network` reaches: hosts and ports, address ranges, ports to listen on, Unix sockets.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};

use super::scope::{Scope, ScopeError, short};

/// Which part of the network a permission reaches.
///
/// | written | reaches |
/// | --- | --- |
/// | `example.org`, `example.org:443` | that name, and the addresses that the sandbox answered for it |
/// | `*.example.org[:443]` | every name below that domain, and not the domain itself |
/// | `127.0.0.1[:80]`, `::1`, `[::1]:80` | that address |
/// | `10.0.0.0/8[:443]`, `fd00::/8`, `[fd00::/8]:443` | that range of addresses |
/// | `*[:443]` | every name and address |
/// | `listen:8080`, `listen:127.0.0.1:8080`, `listen:[::1]:*`, `listen:*` | that address and port to listen on and to receive at; `*` is any |
/// | `unix:/run/app.sock` | that Unix socket, or those below that folder |
///
/// An IPv4 address that is written as an IPv6 one (`::ffff:10.0.0.1`) is the IPv4 address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NetworkScope(Reach);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Reach {
    Connect {
        host: Host,
        port: Option<u16>,
    },
    Listen {
        address: Option<IpAddr>,
        port: Option<u16>,
    },
    /// A socket, or a folder with those below it. Absolute.
    Unix(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Host {
    Any,
    /// In lower case, without a dot at its end.
    Name(String),
    /// Every name below this one.
    Below(String),
    Addresses(IpNet),
}

/// How narrow the narrowest host is: an address, or a name.
const EXACT: usize = 128;

impl NetworkScope {
    /// To connect to `address`.
    pub(crate) fn to(address: SocketAddr) -> Self {
        Self::to_host(address.ip(), Some(address.port()))
    }

    /// To connect to a port of `address`; without one, to any.
    pub(crate) fn to_host(address: IpAddr, port: Option<u16>) -> Self {
        Self(Reach::Connect { host: Host::Addresses(IpNet::from(address.to_canonical())), port })
    }

    /// To connect to a port of the host called `name`; `None` if that is no name.
    pub(crate) fn to_name(name: &str, port: Option<u16>) -> Option<Self> {
        Some(Self(Reach::Connect { host: Host::Name(host_name(name).ok()?), port }))
    }

    /// To listen there.
    pub(crate) fn listen(address: SocketAddr) -> Self {
        let ip = address.ip().to_canonical();
        // Every address of the machine is what `*` stands for.
        let address_given = (!ip.is_unspecified()).then_some(ip);
        Self(Reach::Listen { address: address_given, port: Some(address.port()) })
    }

    /// The Unix socket at `path`, which is absolute.
    pub(crate) fn unix(path: impl AsRef<Path>) -> Result<Self, ScopeError> {
        match Scope::path(path)? {
            Scope::Path(path) => Ok(Self(Reach::Unix(path))),
            other => Err(ScopeError { scope: short(&other.to_string()), why: "is no path" }),
        }
    }

    /// The path of a Unix socket, if this is about one.
    pub(crate) fn unix_path(&self) -> Option<&Path> {
        match &self.0 {
            Reach::Unix(path) => Some(path),
            Reach::Connect { .. } | Reach::Listen { .. } => None,
        }
    }

    /// Whether this is about addresses, ports and names, as opposed to Unix sockets.
    pub(crate) fn is_internet(&self) -> bool {
        self.unix_path().is_none()
    }

    /// Whether this is about hosts to connect to, and names to look up.
    pub(crate) fn is_connect(&self) -> bool {
        matches!(self.0, Reach::Connect { .. })
    }

    /// The one port of the hosts that this is about, if it is about one.
    pub(crate) fn port(&self) -> Option<u16> {
        match self.0 {
            Reach::Connect { port, .. } => port,
            Reach::Listen { .. } | Reach::Unix(_) => None,
        }
    }

    pub(super) fn covers(&self, other: &Self) -> bool {
        fn given<T: PartialEq>(own: &Option<T>, other: &Option<T>) -> bool {
            own.is_none() || own == other
        }
        match (&self.0, &other.0) {
            (Reach::Connect { host, port }, Reach::Connect { host: other_host, port: other_port }) => {
                host.covers(other_host) && given(port, other_port)
            }
            (Reach::Listen { address, port }, Reach::Listen { address: other_address, port: other_port }) => {
                given(address, other_address) && given(port, other_port)
            }
            (Reach::Unix(tree), Reach::Unix(path)) => path.starts_with(tree),
            _ => false,
        }
    }

    /// How narrow this is among those that cover one object: the host first, then the port.
    pub(super) fn width(&self) -> usize {
        match &self.0 {
            Reach::Connect { host, port } => 1 + 2 * host.width() + usize::from(port.is_some()),
            Reach::Listen { address, port } => {
                1 + 2 * usize::from(address.is_some()) + usize::from(port.is_some())
            }
            Reach::Unix(path) => path.components().count(),
        }
    }
}

impl Host {
    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (Self::Name(own), Self::Name(other)) => own == other,
            (Self::Below(own), Self::Name(other)) => is_below(other, own),
            (Self::Below(own), Self::Below(other)) => own == other || is_below(other, own),
            (Self::Addresses(own), Self::Addresses(other)) => own.contains(other),
            _ => false,
        }
    }

    fn width(&self) -> usize {
        match self {
            Self::Any => 0,
            Self::Name(_) => EXACT,
            // A domain has fewer labels than a name that is below it.
            Self::Below(domain) => (EXACT / 2 + domain.split('.').count()).min(EXACT - 1),
            Self::Addresses(IpNet::V4(range)) => usize::from(range.prefix_len()) * 4,
            Self::Addresses(IpNet::V6(range)) => usize::from(range.prefix_len()),
        }
    }
}

fn is_below(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
}

/// A host's name as it is compared: in lower case, without a dot at its end.
pub(crate) fn host_name(text: &str) -> Result<String, &'static str> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let labels = || name.split('.');
    let plain = |label: &str| {
        let bytes = label.bytes();
        (1..=63).contains(&label.len())
            && bytes.into_iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            && !label.starts_with('-')
    };
    if name.len() > 253 || !labels().all(plain) {
        return Err("is no host name, address or range of addresses");
    }
    // The last label of a name is no number (RFC 1123, 2.1): this is an address with something missing.
    if labels().next_back().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit())) {
        return Err("is no IPv4 address");
    }
    Ok(name)
}

fn port(text: &str) -> Result<Option<u16>, &'static str> {
    if text == "*" {
        return Ok(None);
    }
    let digits = text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty();
    match text.parse() {
        Ok(port) if digits => Ok(Some(port)),
        _ => Err("a port is 0 to 65535, or * for any"),
    }
}

/// A text in brackets or not, and the port behind it, if there is one.
fn split_port(text: &str) -> Result<(&str, Option<u16>), &'static str> {
    let brackets = "an IPv6 address with a port is written [ADDRESS]:PORT";
    if let Some(rest) = text.strip_prefix('[') {
        let (address, behind) = rest.split_once(']').ok_or(brackets)?;
        if !address.contains(':') {
            return Err(brackets);
        }
        return match behind.strip_prefix(':') {
            Some(number) => Ok((address, port(number)?)),
            None if behind.is_empty() => Ok((address, None)),
            None => Err(brackets),
        };
    }
    match text.split_once(':') {
        // Two colons and no brackets: an IPv6 address alone.
        Some((_, rest)) if rest.contains(':') => Ok((text, None)),
        Some((host, number)) => Ok((host, port(number)?)),
        None => Ok((text, None)),
    }
}

/// A range of addresses, IPv4 where it is one that is written as IPv6.
fn addresses(text: &str) -> Option<Result<IpNet, &'static str>> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(Ok(IpNet::from(address.to_canonical())));
    }
    let (address, prefix) = text.split_once('/')?;
    let (Ok(address), Ok(prefix)) = (address.parse::<IpAddr>(), prefix.parse::<u8>()) else {
        return Some(Err("is no range of addresses: want ADDRESS/PREFIX, as in 10.0.0.0/8"));
    };
    let range = match (address, address.to_canonical()) {
        (IpAddr::V6(_), IpAddr::V4(own)) if prefix >= 96 => Ipv4Net::new(own, prefix - 96).map(IpNet::V4),
        _ => IpNet::new(address, prefix),
    };
    Some(match range {
        Ok(range) if range.addr() == range.network() => Ok(range),
        Ok(_) => Err("a range of addresses begins with its first one, as in 10.0.0.0/8"),
        Err(_) => Err("a prefix is at most 32, of IPv6 128"),
    })
}

fn parse(text: &str) -> Result<Reach, &'static str> {
    if let Some(rest) = text.strip_prefix("listen:") {
        if rest == "*" || rest.bytes().all(|b| b.is_ascii_digit()) {
            return Ok(Reach::Listen { address: None, port: port(rest)? });
        }
        let (address, port) = match (split_port(rest)?, rest.rsplit_once(':')) {
            ((address, Some(port)), _) => (address, Some(port)),
            ((address, None), Some((_, "*"))) => (address, None),
            _ => return Err("to listen wants a port: listen:8080, listen:127.0.0.1:8080, * for any"),
        };
        let address = match address {
            "*" => None,
            address => Some(address.parse().map_err(|_| "listen: takes an address, or * for any")?),
        };
        let any = |ip: &IpAddr| *ip == IpAddr::V4(Ipv4Addr::UNSPECIFIED) || ip.is_unspecified();
        let address = address.map(|ip: IpAddr| ip.to_canonical()).filter(|ip| !any(ip));
        return Ok(Reach::Listen { address, port });
    }
    let (host, port) = split_port(text)?;
    let host = if host == "*" {
        Host::Any
    } else if let Some(domain) = host.strip_prefix("*.") {
        Host::Below(host_name(domain)?)
    } else if let Some(range) = addresses(host) {
        Host::Addresses(range?)
    } else {
        Host::Name(host_name(host)?)
    };
    Ok(Reach::Connect { host, port })
}

impl FromStr for NetworkScope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Self::unix(path);
        }
        parse(text).map(Self).map_err(|why| ScopeError { scope: short(text), why })
    }
}

impl fmt::Display for NetworkScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// What stands before a port: an IPv6 address in brackets.
        fn with_port(f: &mut fmt::Formatter<'_>, host: &str, port: Option<u16>) -> fmt::Result {
            match port {
                Some(port) if host.contains(':') => write!(f, "[{host}]:{port}"),
                Some(port) => write!(f, "{host}:{port}"),
                None => f.write_str(host),
            }
        }
        match &self.0 {
            Reach::Connect { host, port } => {
                let host = match host {
                    Host::Any => "*".to_owned(),
                    // With the dot of the root: `listen:80` would be read as something else than a host of that name.
                    Host::Name(name) if port.is_some() && matches!(&**name, "listen" | "unix") => {
                        format!("{name}.")
                    }
                    Host::Name(name) => name.clone(),
                    Host::Below(domain) => format!("*.{domain}"),
                    Host::Addresses(range) if range.prefix_len() == range.max_prefix_len() => {
                        range.addr().to_string()
                    }
                    Host::Addresses(range) => range.to_string(),
                };
                with_port(f, &host, *port)
            }
            Reach::Listen { address, port } => {
                let port = port.map_or_else(|| "*".to_owned(), |port| port.to_string());
                match address {
                    Some(IpAddr::V6(address)) => write!(f, "listen:[{address}]:{port}"),
                    Some(address) => write!(f, "listen:{address}:{port}"),
                    None => write!(f, "listen:{port}"),
                }
            }
            Reach::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(text: &str) -> NetworkScope {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn a_scope_reads_back_as_it_was_written() {
        for text in [
            "example.org",
            "example.org:443",
            "*.example.org",
            "*.example.org:443",
            "*",
            "*:53",
            "127.0.0.1",
            "127.0.0.1:8080",
            "10.0.0.0/8",
            "10.0.0.0/8:443",
            "::1",
            "[::1]:443",
            "fd00::/8",
            "[fd00::/8]:443",
            "listen:8080",
            "listen:*",
            "listen:127.0.0.1:0",
            "listen:127.0.0.1:*",
            "listen:[::1]:8080",
            "listen:[::1]:*",
            "unix:/run/app.sock",
        ] {
            assert_eq!(scope(text).to_string(), text);
        }
        for (text, same) in [
            ("Example.ORG.", "example.org"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("[::ffff:10.0.0.0/104]:1", "10.0.0.0/8:1"),
            ("[::1]", "::1"),
            ("10.1.2.3/32", "10.1.2.3"),
            ("example.org:*", "example.org"),
            ("listen:0.0.0.0:80", "listen:80"),
            ("listen:*:80", "listen:80"),
            ("listen:*:*", "listen:*"),
        ] {
            assert_eq!(scope(text), scope(same), "{text}");
        }
    }

    #[test]
    fn what_is_no_scope_is_refused_with_a_reason() {
        for (text, why) in [
            ("", "is no host name"),
            ("exa mple.org", "is no host name"),
            ("example..org", "is no host name"),
            ("-x.org", "is no host name"),
            ("*.", "is no host name"),
            ("a.*.org", "is no host name"),
            ("example.org:", "a port is"),
            ("example.org:https", "a port is"),
            ("example.org:65536", "a port is"),
            ("example.org:+1", "a port is"),
            ("1.2.3", "is no IPv4 address"),
            ("1.2.3.4.5", "is no IPv4 address"),
            ("10.1.2.3/8", "begins with its first"),
            ("10.0.0.0/33", "at most 32"),
            ("10.0.0.0/x", "is no range"),
            ("[::1", "is written [ADDRESS]:PORT"),
            ("[::1]443", "is written [ADDRESS]:PORT"),
            ("[127.0.0.1]:80", "is written [ADDRESS]:PORT"),
            ("::1:x", "is no host name"),
            ("listen:", "a port is"),
            ("listen:127.0.0.1", "wants a port"),
            ("listen:example.org:80", "takes an address"),
            ("unix:run/app.sock", "must be absolute"),
            ("unix:@name", "must be absolute"),
        ] {
            let error = text.parse::<NetworkScope>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn a_scope_covers_what_is_inside_it() {
        for (own, other, covered) in [
            ("*", "example.org:1", true),
            ("*", "10.0.0.1:1", true),
            ("*:1", "10.0.0.1:2", false),
            ("*", "listen:80", false),
            ("*", "unix:/a", false),
            ("example.org", "example.org:1", true),
            ("example.org:1", "example.org", false),
            ("example.org", "www.example.org", false),
            ("*.example.org", "www.example.org:1", true),
            ("*.example.org", "a.b.example.org", true),
            ("*.example.org", "example.org", false),
            ("*.example.org", "badexample.org", false),
            ("*.example.org", "*.www.example.org", true),
            ("10.0.0.0/8", "10.1.2.3:4", true),
            ("10.0.0.0/8:4", "10.1.2.3:4", true),
            ("10.0.0.0/8:4", "10.1.2.3:5", false),
            ("10.0.0.0/8", "11.0.0.0/8", false),
            ("::/0", "10.0.0.1", false),
            ("0.0.0.0/0", "::1", false),
            ("listen:80", "listen:127.0.0.1:80", true),
            ("listen:127.0.0.1:80", "listen:80", false),
            ("listen:127.0.0.1:*", "listen:127.0.0.1:1", true),
            ("unix:/a", "unix:/a/b", true),
            ("unix:/a", "unix:/ab", false),
        ] {
            assert_eq!(scope(own).covers(&scope(other)), covered, "{own} {other}");
        }
    }

    #[test]
    fn the_narrower_scope_is_the_one_with_the_narrower_host_and_then_the_one_with_a_port() {
        let widening = [
            "10.1.2.3:4",
            "10.1.2.3",
            "10.1.0.0/16:4",
            "10.1.0.0/16",
            "10.0.0.0/8:4",
            "10.0.0.0/8",
            "*:4",
            "*",
        ];
        assert!(widening.is_sorted_by(|a, b| scope(a).width() > scope(b).width()));
        let widening = ["a.b.org:4", "a.b.org", "*.b.org:4", "*.b.org", "*.org", "*"];
        assert!(widening.is_sorted_by(|a, b| scope(a).width() > scope(b).width()));
    }
}
