//! What must hold of addresses and questions about names, whatever a plugin writes. See `crate::fuzzing`.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use simple_dns::RCODE;

use super::address::{self, Address};
use super::names;
use super::send::{Header, MOST_BYTES};

/// An address is read back as it was written; nobody in particular is this machine, and stays it.
pub(crate) fn socket_address(data: &[u8]) {
    let Ok(read) = address::read(data) else { return };
    match &read {
        Address::Internet(read) => {
            assert_eq!(address::read(&address::write(*read)), Ok(Address::Internet(*read)));
            let peer = address::as_peer(*read);
            assert!(!peer.ip().is_unspecified());
            assert_eq!(address::as_peer(peer), peer);
        }
        Address::Unix(path) => assert!(!path.is_empty() && !path.contains(&0) && path.len() < data.len()),
        Address::UnixWithoutPath | Address::Dissolve => {}
    }
    let peer = read.into_peer();
    assert_eq!(peer.clone().into_peer(), peer);
}

/// What sendmsg(2) is told at `at` of a memory that is `bytes`: with control data nothing is sent, else what the pieces hold,
/// up to a bound.
pub(crate) fn message(memory: &File, bytes: &[u8], at: u64) {
    let word = |at: u64| {
        bytes.get(usize::try_from(at).ok()?..)?.first_chunk::<8>().map(|word| u64::from_ne_bytes(*word))
    };
    let Ok(header) = Header::read(memory, at) else { return };
    let told = |index: u64| word(at + 8 * index).expect("it was read");
    assert_eq!(header.has_control(), told(5) != 0);
    for is_stream in [false, true] {
        let Ok(gathered) = header.gather(memory, is_stream) else { continue };
        let (pieces, count) = (told(2), told(3));
        assert!(count <= 1024 && gathered.len() <= MOST_BYTES);
        let mut expected = Vec::new();
        for piece in 0..count {
            let (base, len) = (word(pieces + 16 * piece), word(pieces + 16 * piece + 8));
            let (base, len) = (base.expect("it was read"), len.expect("it was read"));
            let room = u64::try_from(MOST_BYTES - expected.len()).expect("a bound");
            let end = base + len.min(room);
            // Of nothing it does not matter where it would be.
            if end > base {
                let range = usize::try_from(base).expect("read")..usize::try_from(end).expect("read");
                expected.extend_from_slice(bytes.get(range).expect("it was read"));
            }
            assert!(is_stream || len <= room, "a datagram that was cut");
        }
        assert_eq!(gathered, expected);
    }
}

/// A question about a name: what is asked is a host's name as scopes have it, and the answer is no question itself.
pub(crate) fn dns_message(data: &[u8]) {
    let parsed = names::parse(data);
    if let Some(Ok((name, _))) = &parsed {
        assert_eq!(crate::shared::policy::host_name(name).as_ref(), Ok(name), "normalised");
    }
    if parsed.is_none() {
        return;
    }
    let addresses = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    for (rcode, addresses) in [(RCODE::NoError, &addresses[..]), (RCODE::NameError, &[])] {
        if let Some(answer) = names::reply(data, rcode, addresses) {
            assert_eq!(answer.get(..2), data.get(..2), "the answer to another question");
            assert!(names::parse(&answer).is_none(), "an answer that is a question");
            assert!(answer.len() <= data.len() + 512, "{} bytes for {}", answer.len(), data.len());
        }
    }
}

#[cfg(test)]
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    use simple_dns::{CLASS, Name, Packet, QCLASS, QTYPE, Question, TYPE};
    let question = |name: &str, kind| {
        let mut packet = Packet::new_query(0x1234);
        let name = Name::new(name).unwrap().into_owned();
        packet.questions.push(Question::new(name, QTYPE::TYPE(kind), QCLASS::CLASS(CLASS::IN), false));
        packet.build_bytes_vec().unwrap()
    };
    let unix = u16::try_from(libc::AF_UNIX).unwrap().to_ne_bytes();
    vec![
        ("inet", address::write("127.0.0.1:80".parse().unwrap())),
        ("inet6", address::write("[fe80::1%3]:65535".parse().unwrap())),
        ("inet6-nobody", address::write("[::ffff:0.0.0.0]:80".parse().unwrap())),
        ("unix", [&unix[..], b"/run/app.sock\0rest"].concat()),
        ("dns-a", question("example.org", TYPE::A)),
        ("dns-aaaa", question("a.b.example.org", TYPE::AAAA)),
        ("dns-mx", question("example.org", TYPE::MX)),
    ]
}
