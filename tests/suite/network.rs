//! `network`: whom a plugin reaches, where it listens, what it may not do with a socket, and that its bytes go by no host.

use std::net::TcpStream;

use crossbeam_channel::Receiver;
use rig::plugins::Attempts;
use rig::servers;
use rig::wait;
use rig::{Answer, Scratch, probe, probe_with, unconfined};
use sandbox_core::{
    EventKind, Grade, PERMISSION_NETWORK, PluginPermission, PluginPolicy, PluginSandbox, PluginState,
    ResourceLimits, SandboxEvent,
};

const REFUSED: Answer = Answer::Errno(libc::EACCES);

fn network(scope: impl std::fmt::Display) -> PluginPermission {
    PERMISSION_NETWORK.scoped(&scope.to_string()).expect("a scope")
}

fn with(permissions: impl IntoIterator<Item = PluginPermission>) -> PluginSandbox {
    let limits = ResourceLimits::default().max_file_handles(64);
    probe_with(PluginPolicy::new().permissions(permissions).limits(limits))
}

fn got(text: &str) -> Answer {
    Answer::Got(text.into())
}

/// Waits for a denial of `action` whose rule has `rule` in it.
#[track_caller]
fn expect_refusal(events: &Receiver<SandboxEvent>, action: &str, rule: &str) {
    rig::events::expect(events, &format!("a refusal of {action} by {rule:?}"), |kind| match kind {
        EventKind::Access { permission: "network", action: tried, granted: false, rule: by, .. }
            if *tried == action && by.contains(rule) =>
        {
            Some(())
        }
        _ => None,
    });
}

#[test]
fn without_the_permission_there_is_no_socket_and_each_try_is_reported() {
    let server = servers::tcp();
    let address = server.address.to_string();
    assert!(unconfined::attempt("net_connect", &address).reached());
    let plugin = probe();
    let events = plugin.events();
    assert_eq!(plugin.attempt("net_connect", &address), REFUSED);
    expect_refusal(&events, "socket", "not granted");
    assert_eq!(plugin.attempt("udp_connect", &address), REFUSED);
    assert_eq!(plugin.attempt("net_listen", "127.0.0.1:0"), REFUSED);
    assert_eq!(server.seen(), 1, "the control's");
}

#[test]
fn a_scope_opens_the_hosts_and_ports_inside_it_and_no_others() {
    let (one, other) = (servers::tcp(), servers::tcp());
    let (port, other_port) = (one.address.port(), other.address.port());
    for (scope, opens_one, opens_other) in [
        (format!("127.0.0.1:{port}"), true, false),
        ("127.0.0.1".to_owned(), true, true),
        ("127.0.0.0/8".to_owned(), true, true),
        (format!("127.0.0.0/8:{other_port}"), false, true),
        (format!("*:{port}"), true, false),
        ("*".to_owned(), true, true),
        ("::ffff:127.0.0.1".to_owned(), true, true),
        ("10.0.0.0/8".to_owned(), false, false),
        ("127.0.0.2".to_owned(), false, false),
        ("::/0".to_owned(), false, false),
        (format!("localhost:{port}"), false, false),
        ("listen:*".to_owned(), false, false),
    ] {
        let plugin = with([network(&scope)]);
        for (server, opens) in [(&one, opens_one), (&other, opens_other)] {
            let answer = plugin.attempt("net_connect", server.address.to_string());
            assert_eq!(answer.got_it(), opens, "{scope} {}: {answer:?}", server.address);
            assert!(opens || answer == REFUSED, "{scope} {}: {answer:?}", server.address);
        }
    }
    let plugin = with([PERMISSION_NETWORK]);
    assert_eq!(plugin.attempt("net_connect", one.address.to_string()), got("0"));
    assert_eq!(plugin.attempt("net_talk", "0 hello"), got("hello"));
}

#[test]
fn an_address_of_ipv6_is_one_and_one_of_ipv4_stays_what_it_is() {
    let server = servers::tcp();
    let mapped = format!("[::ffff:127.0.0.1]:{}", server.address.port());
    assert!(with([network("127.0.0.1")]).attempt("net_connect", &mapped).got_it());
    assert_eq!(with([network("::/0")]).attempt("net_connect", &mapped), REFUSED);
    let Some(server) = servers::tcp6() else { return };
    let address = server.address.to_string();
    for (scope, opens) in [("::1", true), ("::/64", true), ("127.0.0.1", false), ("0.0.0.0/0", false)] {
        assert_eq!(with([network(scope)]).attempt("net_connect", &address).got_it(), opens, "{scope}");
    }
    assert!(
        with([network(format!("[::1]:{}", server.address.port()))]).attempt("net_connect", &address).got_it()
    );
}

#[test]
fn the_errors_of_a_connection_are_those_of_the_kernel() {
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a port");
    let plugin = with([PERMISSION_NETWORK]);
    for method in ["net_connect", "net_connect_in_background"] {
        let answer = plugin.attempt(method, free.to_string());
        let answer = if method == "net_connect" { answer } else { plugin.attempt("net_background", "") };
        assert_eq!(answer, Answer::Errno(libc::ECONNREFUSED), "{method}");
    }
    assert_eq!(
        plugin.attempt("net_connect_timeout", format!("10000 {free}")),
        Answer::Errno(libc::ECONNREFUSED)
    );
}

#[test]
fn a_connection_that_is_not_made_keeps_its_caller_waiting_and_nobody_else() {
    let full = servers::full();
    let plugin = with([PERMISSION_NETWORK]);
    for _ in 0..3 {
        assert!(plugin.attempt("net_connect_in_background", full.address.to_string()).got_it());
    }
    // Its own other calls are served meanwhile, those that connect too.
    let server = servers::tcp();
    assert!(plugin.attempt("open", "/dev/null").got_it());
    assert!(plugin.attempt("net_connect", server.address.to_string()).got_it());
    // A timeout of the socket's own ends the wait, as socket(7) says; one of its caller's is its caller's own.
    let timed_out = plugin.attempt("net_connect_send_timeout", format!("50 {}", full.address));
    assert_eq!(timed_out, Answer::Errno(libc::EINPROGRESS));
    assert!(matches!(
        plugin.attempt("net_connect_timeout", format!("50 {}", full.address)),
        Answer::Failed(_)
    ));
    full.take();
    for _ in 0..3 {
        assert_eq!(plugin.attempt("net_background", ""), got("connected"));
    }
}

#[test]
fn plugins_that_wait_for_connections_hold_up_no_other_plugin_and_leave_nothing() {
    let full = servers::full();
    let held = servers::sockets_to(full.address);
    let waiting: Vec<_> = (0..6)
        .map(|_| {
            let plugin = with([PERMISSION_NETWORK]);
            for _ in 0..3 {
                plugin.attempt("net_connect_in_background", full.address.to_string());
            }
            plugin
        })
        .collect();
    wait::until("all of them wait", || (servers::sockets_to(full.address) == held + 18).then_some(()));
    let free = probe();
    for _ in 0..100 {
        assert!(free.attempt("open", "/dev/null").got_it());
    }
    for plugin in waiting {
        let id = plugin.process_id().expect("it lives");
        let process = wait::watch(id);
        // In the middle of it.
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(id as i32), nix::sys::signal::Signal::SIGKILL)
            .expect("it lives");
        process.ended();
    }
    let left = || servers::sockets_to(full.address);
    wait::until("no copy of a waiting socket is left", || (left() == held).then_some(()));
}

#[test]
fn a_plugin_listens_where_a_scope_says_and_nowhere_else() {
    for (scope, at, opens) in [
        ("listen:127.0.0.1:0", "127.0.0.1:0", true),
        ("listen:127.0.0.1:*", "127.0.0.1:0", true),
        ("listen:*", "127.0.0.1:0", true),
        ("listen:0", "0.0.0.0:0", true),
        ("listen:127.0.0.1:*", "0.0.0.0:0", false),
        ("listen:127.0.0.1:1", "127.0.0.1:0", false),
        ("127.0.0.1", "127.0.0.1:0", false),
    ] {
        let plugin = with([network(scope)]);
        let events = plugin.events();
        let answer = plugin.attempt("net_listen", at);
        assert_eq!(answer.got_it(), opens, "{scope} {at}: {answer:?}");
        if !opens {
            assert_eq!(answer, REFUSED, "{scope} {at}");
            expect_refusal(&events, "bind", "not granted");
            continue;
        }
        let address = answer.text().replace("0.0.0.0", "127.0.0.1");
        let mut client = TcpStream::connect(&address).expect("it listens");
        assert_eq!(plugin.attempt("net_accept", "0"), got("1"), "{scope}");
        std::io::Write::write_all(&mut client, b"hello").expect("it is connected");
        assert_eq!(plugin.attempt("net_read", "1"), got("hello"));
        assert_eq!(plugin.attempt("net_accept_now", "0"), Answer::Errno(libc::EAGAIN));
    }
    assert_eq!(with([network("listen:127.0.0.1:*")]).attempt("net_listen_unbound", ""), REFUSED);
    assert!(with([PERMISSION_NETWORK]).attempt("net_listen_unbound", "").got_it());
}

#[test]
fn a_call_that_waits_for_somebody_to_come_is_answered_when_somebody_does() {
    let plugin = with([network("listen:127.0.0.1:0")]);
    let address = plugin.attempt("net_listen", "127.0.0.1:0").text();
    assert!(plugin.attempt("net_accept_in_background", "0").got_it());
    assert!(plugin.attempt("open", "/dev/null").got_it(), "while it waits");
    let client = TcpStream::connect(&address).expect("it listens");
    let own = client.local_addr().expect("it is connected").to_string();
    assert_eq!(plugin.attempt("net_background", ""), got(&own));
}

#[test]
fn as_many_connections_as_allowed_can_live_and_not_one_more() {
    let server = servers::tcp();
    let address = server.address.to_string();
    let limits = ResourceLimits::default().max_file_handles(64).max_network_connections(3);
    let plugin = probe_with(PluginPolicy::new().permission(PERMISSION_NETWORK).limits(limits.clone()));
    let events = plugin.events();
    for round in 0..3 {
        for n in 0..3 {
            assert!(plugin.attempt("net_connect", &address).got_it(), "round {round}, {n}");
        }
        assert_eq!(plugin.attempt("net_connect", &address), Answer::Errno(libc::EMFILE));
        expect_refusal(&events, "connect", "max_network_connections is 3");
        assert_eq!(plugin.attempt("udp_connect", &address), Answer::Errno(libc::EMFILE), "of any kind");
        assert_eq!(plugin.attempt("udp_send_to", format!("{address} x")), Answer::Errno(libc::EMFILE));
        assert!(plugin.attempt("net_close", "").got_it());
    }
    // Those that are accepted count, those that listen do not.
    let at = plugin.attempt("net_listen", "127.0.0.1:0").text();
    let clients: Vec<_> = (0..4).map(|_| TcpStream::connect(&at).expect("it listens")).collect();
    for n in 1..=3 {
        assert_eq!(plugin.attempt("net_accept", "0"), got(&n.to_string()));
    }
    assert_eq!(plugin.attempt("net_accept", "0"), Answer::Errno(libc::EMFILE));
    plugin.set_resource_limits(limits.clone().max_network_connections(4)).expect("a limit");
    assert!(plugin.attempt("net_accept", "0").got_it(), "after a raise");
    plugin.set_resource_limits(limits.max_network_connections(0)).expect("a limit");
    assert_eq!(plugin.attempt("net_connect", &address), Answer::Errno(libc::EMFILE), "after a cut");
    drop(clients);
}

#[test]
fn datagrams_go_to_those_in_scope_and_to_no_other() {
    let (one, other) = (servers::udp(), servers::udp());
    let (inside, outside) = (one.address.to_string(), other.address.to_string());
    assert!(unconfined::attempt("udp_send_to", &format!("{outside} control")).reached());
    let plugin = with([network(&inside)]);
    let events = plugin.events();
    assert_eq!(plugin.attempt("udp_send_to", format!("{inside} hello")), got("hello"));
    assert_eq!(plugin.attempt("udp_send_to", format!("{outside} hello")), REFUSED);
    expect_refusal(&events, "sendto", "not granted");
    assert_eq!(plugin.attempt("udp_connect", &outside), REFUSED);
    // The standard library binds first, to nowhere in particular.
    assert!(plugin.attempt("udp_bind", "0.0.0.0:0").got_it());
    assert_eq!(plugin.attempt("udp_bind", "127.0.0.1:0"), REFUSED);
    plugin.attempt("net_close", "");
    // A connected one sends to its peer, and by a message to nobody else.
    assert_eq!(plugin.attempt("udp_connect", &inside), got("0"));
    assert_eq!(plugin.attempt("udp_talk", "0 ping"), got("ping"));
    assert_eq!(plugin.attempt("sendmsg_to", format!("0 {inside} pong")), got("4"));
    assert_eq!(plugin.attempt("sendmsg_to", format!("0 {outside} pong")), REFUSED);
    expect_refusal(&events, "sendmsg", "not granted");
    assert_eq!(plugin.attempt("sendmmsg", "0 message"), got("1 7"));
    wait::until("the messages have come", || (one.seen() == 4).then_some(()));
    assert_eq!(other.seen(), 1, "the control's");
}

#[test]
fn a_socket_that_is_handed_out_tells_nothing_of_the_host_and_takes_no_other_way() {
    const SIOCGIFCONF: u64 = 0x8912;
    let server = servers::tcp();
    let plugin = with([PERMISSION_NETWORK]);
    let events = plugin.events();
    plugin.attempt("net_connect", server.address.to_string());
    let fd = plugin.attempt("net_fd", "0").text();
    let raw = |call: libc::c_long, rest: String| plugin.attempt("syscall", format!("{call} {rest}"));
    assert_eq!(raw(libc::SYS_ioctl, format!("{fd} {SIOCGIFCONF} q:0,0")), Answer::Errno(libc::ENOTTY));
    let control = unconfined::attempt("interfaces", "");
    assert!(control.reached(), "{control:?}");
    let set = |level: i32, option: i32| raw(libc::SYS_setsockopt, format!("{fd} {level} {option} q:1,0 4"));
    for (level, option) in [
        (libc::SOL_SOCKET, libc::SO_BINDTODEVICE),
        (libc::SOL_SOCKET, libc::SO_MARK),
        (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER),
        (libc::SOL_SOCKET, libc::SO_DETACH_FILTER),
        (libc::SOL_SOCKET, libc::SO_BROADCAST),
        (libc::SOL_SOCKET, libc::SO_REUSEPORT),
        (libc::SOL_IP, libc::IP_TRANSPARENT),
        (libc::SOL_IP, libc::IP_ADD_MEMBERSHIP),
        (libc::SOL_IP, libc::IP_HDRINCL),
        (libc::SOL_TCP, libc::TCP_REPAIR),
        (libc::SOL_TCP, libc::TCP_FASTOPEN_CONNECT),
        (libc::SOL_IPV6, libc::IPV6_ADD_MEMBERSHIP),
    ] {
        assert_eq!(set(level, option), Answer::Errno(libc::EPERM), "{level} {option}");
    }
    expect_refusal(&events, "setsockopt", "this option is not set for a plugin");
    // What every resolver tries is refused without a word.
    assert_eq!(set(libc::SOL_IP, libc::IP_RECVERR), Answer::Errno(libc::EPERM));
    assert_eq!(set(libc::SOL_IPV6, libc::IPV6_RECVERR), Answer::Errno(libc::EPERM));
    assert_eq!(set(libc::SOL_SOCKET, libc::SO_PRIORITY), Answer::Errno(libc::EPERM));
    let of = |level: i32, option: i32| format!("level {level}, option {option}");
    let silent = [of(libc::SOL_IP, libc::IP_RECVERR), of(libc::SOL_IPV6, libc::IPV6_RECVERR)];
    let loud = of(libc::SOL_SOCKET, libc::SO_PRIORITY);
    rig::events::expect(&events, "a refusal of the last", |kind| match kind {
        EventKind::Access { action: "setsockopt", object, .. } => {
            assert!(!silent.contains(object), "{object}");
            (*object == loud).then_some(())
        }
        _ => None,
    });
    for (level, option) in [
        (libc::SOL_SOCKET, libc::SO_REUSEADDR),
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
        (libc::SOL_TCP, libc::TCP_NODELAY),
        (libc::SOL_IP, libc::IP_TOS),
    ] {
        assert!(set(level, option).got_it(), "{level} {option}");
    }
    let linger = |on: u64, seconds: u64| {
        let both = on | seconds << 32;
        raw(libc::SYS_setsockopt, format!("{fd} {} {} q:{both} 8", libc::SOL_SOCKET, libc::SO_LINGER))
    };
    assert_eq!(linger(1, 5), Answer::Errno(libc::EPERM), "the host would wait for it");
    assert!(linger(1, 0).got_it());
    assert!(linger(0, 5).got_it());
    assert_eq!(
        raw(libc::SYS_getsockopt, format!("{fd} {} {} q:0,0 q:16", libc::SOL_SOCKET, libc::SO_PEERCRED)),
        Answer::Errno(libc::ENOPROTOOPT)
    );
    for (what, arguments, errno) in [
        ("raw", "2 3 1", libc::EPERM),
        ("ping", "2 2 1", libc::EPROTONOSUPPORT),
        ("netlink", "16 3 0", libc::EAFNOSUPPORT),
        ("packet", "17 3 0", libc::EAFNOSUPPORT),
        ("vsock", "40 1 0", libc::EAFNOSUPPORT),
        ("Bluetooth", "31 1 0", libc::EAFNOSUPPORT),
    ] {
        assert_eq!(raw(libc::SYS_socket, arguments.to_owned()), Answer::Errno(errno), "{what}");
        expect_refusal(&events, "socket", "no grant opens");
    }
    assert_eq!(plugin.attempt("net_talk", "0 still-works"), got("still-works"));
}

#[test]
fn no_descriptor_is_sent_and_a_pair_of_ones_own_is_harmless() {
    let server = servers::tcp();
    assert!(unconfined::attempt("send_descriptor_to_itself", "").reached());
    let plugin = with([PERMISSION_NETWORK]);
    let events = plugin.events();
    plugin.attempt("net_connect", server.address.to_string());
    assert_eq!(plugin.attempt("send_descriptor", "0"), Answer::Errno(libc::EPERM));
    expect_refusal(&events, "sendmsg", "descriptors, credentials");
    assert_eq!(plugin.attempt("send_descriptor_to_itself", ""), Answer::Errno(libc::EPERM));
    assert_eq!(plugin.attempt("talk_to_itself", ""), got("pair"));
    assert_eq!(probe().attempt("talk_to_itself", ""), got("pair"), "it leads nowhere");
}

#[test]
fn a_grant_on_an_active_plugin_makes_the_next_connection_and_a_revoke_refuses_it() {
    let server = servers::tcp();
    let (address, plugin) = (server.address.to_string(), with([network("127.0.0.2")]));
    for turn in 0..20 {
        assert_eq!(plugin.attempt("net_connect", &address), REFUSED, "turn {turn}");
        plugin.grant_permission(network(&address));
        assert!(plugin.attempt("net_connect", &address).got_it(), "turn {turn}");
        assert!(plugin.revoke_permission(&network(&address)));
        plugin.attempt("net_close", "");
    }
}

#[test]
fn a_revoke_shuts_the_sockets_that_it_concerns_and_no_others() {
    let (one, other) = (servers::tcp(), servers::tcp());
    let (lost, kept) = (network(one.address), network(other.address));
    let plugin = with([lost.clone(), kept.clone()]);
    let events = plugin.events();
    assert_eq!(plugin.attempt("net_connect", one.address.to_string()), got("0"));
    assert_eq!(plugin.attempt("net_connect", other.address.to_string()), got("1"));
    assert!(plugin.attempt("net_read_in_background", "0").got_it());
    assert_eq!(plugin.attempt("net_talk", "1 before"), got("before"));
    assert!(plugin.revoke_permission(&lost));
    expect_refusal(&events, "revoke", "the socket was shut");
    assert_eq!(plugin.attempt("net_background", ""), got(""), "who waits to read is told of the end");
    one.ended();
    assert_eq!(plugin.attempt("net_talk", "0 x"), Answer::Errno(libc::EPIPE));
    assert_eq!(plugin.attempt("net_connect", one.address.to_string()), REFUSED);
    assert_eq!(plugin.attempt("net_talk", "1 after"), got("after"));
    assert!(!other.has_one_ended());
    plugin.revoke_permission(&PERMISSION_NETWORK);
    other.ended();
}

#[test]
fn a_revoke_of_a_part_shuts_what_is_in_that_part() {
    let (one, other) = (servers::tcp(), servers::tcp());
    let plugin = with([PERMISSION_NETWORK]);
    plugin.attempt("net_connect", one.address.to_string());
    plugin.attempt("net_connect", other.address.to_string());
    let by_no_address = format!("0.0.0.0:{}", one.address.port());
    assert!(plugin.attempt("net_connect_timeout", format!("10000 {by_no_address}")).got_it());
    plugin.revoke_permission(&network(one.address));
    one.ended();
    one.ended();
    assert_eq!(plugin.attempt("net_connect", &by_no_address), REFUSED, "which is the same");
    let mapped = format!("[::ffff:127.0.0.1]:{}", one.address.port());
    assert_eq!(plugin.attempt("net_connect", mapped), REFUSED, "as is this");
    assert_eq!(plugin.attempt("net_talk", "1 stays"), got("stays"));
    assert_eq!(plugin.attempt("net_connect", one.address.to_string()), REFUSED);
}

#[test]
fn a_revoke_shuts_those_that_listen_that_were_accepted_and_that_wait() {
    let plugin = with([network("listen:127.0.0.1:0")]);
    let at = plugin.attempt("net_listen", "127.0.0.1:0").text();
    let mut client = TcpStream::connect(&at).expect("it listens");
    assert_eq!(plugin.attempt("net_accept", "0"), got("1"));
    assert!(plugin.attempt("net_accept_in_background", "0").got_it());
    assert!(plugin.revoke_permission(&network("listen:127.0.0.1:0")));
    assert_eq!(plugin.attempt("net_background", ""), REFUSED);
    assert_eq!(std::io::Read::read(&mut client, &mut [0; 8]).unwrap_or(0), 0, "the peer sees the end");
    assert!(TcpStream::connect(&at).is_err(), "nobody listens any more");

    let full = servers::full();
    let plugin = with([PERMISSION_NETWORK]);
    assert!(plugin.attempt("net_connect_in_background", full.address.to_string()).got_it());
    wait::until("it waits", || (servers::sockets_to(full.address) > 1).then_some(()));
    plugin.revoke_permission(&PERMISSION_NETWORK);
    assert_eq!(plugin.attempt("net_background", ""), REFUSED);
}

#[test]
fn a_revoke_ends_what_datagrams_come_and_go() {
    let server = servers::udp();
    let address = server.address.to_string();
    let plugin = with([network(&address)]);
    assert_eq!(plugin.attempt("udp_connect", &address), got("0"));
    assert_eq!(plugin.attempt("udp_talk", "0 ping"), got("ping"));
    assert_eq!(plugin.attempt("udp_send_to", format!("{address} pong")), got("pong"));
    plugin.revoke_permission(&PERMISSION_NETWORK);
    assert_eq!(plugin.attempt("udp_talk", "0 ping"), Answer::Errno(libc::EPIPE));
    // What comes from now on is not seen either.
    let own: std::net::SocketAddr = plugin.attempt("net_local", "1").text().parse().expect("an address");
    let stranger = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
    stranger.send_to(b"late", ("127.0.0.1", own.port())).expect("it is there");
    assert_eq!(plugin.attempt("net_read", "1"), got(""));
    assert_eq!(server.seen(), 2);
    assert_eq!(plugin.attempt("udp_send_to", format!("{address} x")), REFUSED);
}

#[test]
fn a_datagram_socket_that_fails_to_reach_somebody_else_still_reaches_who_it_did() {
    // The kernel lets nobody send to everybody who has not said so: EACCES of its own.
    const EVERYBODY: &str = "255.255.255.255:9";
    let server = servers::udp();
    let address = server.address.to_string();
    let limits = ResourceLimits::default().max_network_connections(1);
    let plugin = probe_with(PluginPolicy::new().permission(PERMISSION_NETWORK).limits(limits));
    assert_eq!(plugin.attempt("udp_connect", &address), got("0"));
    assert!(!plugin.attempt("udp_reconnect", format!("0 {EVERYBODY}")).got_it());
    assert_eq!(plugin.attempt("udp_talk", "0 ping"), got("ping"), "as ever");
    assert_eq!(plugin.attempt("udp_connect", &address), Answer::Errno(libc::EMFILE), "it counts");
    plugin.revoke_permission(&network(&address));
    assert_eq!(plugin.attempt("udp_talk", "0 ping"), Answer::Errno(libc::EPIPE));
    assert_eq!(server.seen(), 1);
}

#[test]
fn a_datagram_socket_that_points_at_a_host_and_no_port_is_one_that_reaches_it() {
    let server = servers::udp();
    let plugin = with([network(server.address)]);
    assert_eq!(plugin.attempt("udp_connect", "127.0.0.1:0"), got("0"));
    assert_eq!(plugin.attempt("udp_connect", "127.0.0.2:0"), REFUSED);
    assert_eq!(plugin.attempt("udp_talk", "0 ping"), got("ping"), "at the port that is in scope");
    plugin.revoke_permission(&network(server.address));
    assert_eq!(plugin.attempt("udp_talk", "0 ping"), Answer::Errno(libc::EPIPE));
    assert_eq!(server.seen(), 1);
}

#[test]
fn a_datagram_socket_hears_nobody_before_it_was_judged() {
    for how in ["bound", "written"] {
        assert!(unconfined::attempt("udp_hears_unbound", how).reached(), "{how}");
        let plugin = with([network("127.0.0.1")]);
        assert_eq!(plugin.attempt("udp_hears_unbound", how), Answer::Errno(libc::EAGAIN), "{how}");
    }
}

#[test]
fn no_address_in_particular_is_this_machine() {
    let server = servers::tcp();
    let port = server.address.port();
    for to in [format!("0.0.0.0:{port}"), format!("[::ffff:0.0.0.0]:{port}")] {
        assert!(unconfined::attempt("net_connect", &to).reached(), "{to}");
        assert!(with([network("127.0.0.1")]).attempt("net_connect", &to).got_it(), "{to}");
        assert_eq!(with([network("0.0.0.0/8")]).attempt("net_connect", &to), REFUSED, "{to}");
        let plugin = with([PERMISSION_NETWORK]);
        plugin.revoke_permission(&network("127.0.0.0/8"));
        assert_eq!(plugin.attempt("net_connect", &to), REFUSED, "{to}");
    }
    let server = servers::udp();
    let to = format!("0.0.0.0:{}", server.address.port());
    let plugin = with([PERMISSION_NETWORK]);
    assert_eq!(plugin.attempt("udp_send_to", format!("{to} hello")), got("hello"));
    plugin.revoke_permission(&network("127.0.0.0/8"));
    assert_eq!(plugin.attempt("udp_send_to", format!("{to} hello")), REFUSED);
}

#[test]
fn a_plugin_that_hides_what_it_holds_behind_a_thread_that_has_ended_is_ended_by_a_revoke() {
    let server = servers::udp();
    let plugin = with([network(server.address)]);
    let own = plugin.process_id().expect("it lives");
    let state = || {
        let stat = std::fs::read_to_string(format!("/proc/{own}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next())
    };
    plugin.attempt("udp_connect", server.address.to_string());
    plugin.attempt("net_send_in_background", "0");
    std::thread::scope(|scope| {
        // The first thread's end, which nobody is told of.
        scope.spawn(|| plugin.call("syscall", format!("{} 0", libc::SYS_exit).as_bytes()));
        wait::until("its first thread has ended", || (state() == Some('Z')).then_some(()));
        let seen = server.seen();
        wait::until("its other thread goes on", || (server.seen() > seen + 3).then_some(()));
        plugin.revoke_permission(&network(server.address));
        assert!(matches!(plugin.state(), PluginState::Crashed), "{:?}", plugin.state());
    });
}

#[test]
fn a_plugin_that_lets_itself_go_on_hides_no_socket_from_a_revoke() {
    for every in ["20", "300", "2000"] {
        let server = servers::udp();
        let plugin = with([network(server.address)]);
        plugin.attempt("udp_connect", server.address.to_string());
        assert_eq!(plugin.attempt("continue_by_timer", every), got(""));
        plugin.attempt("net_move_in_background", "0");
        wait::until("it sends", || (server.seen() > 20).then_some(()));
        plugin.revoke_permission(&network(server.address));
        // What it sent before comes before what is answered here; some of what is sent now may be lost for it.
        let own = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
        own.set_read_timeout(Some(std::time::Duration::from_millis(100))).expect("a socket");
        let (mut word, mut bytes) = (0_u32, [0; 4]);
        let mut is_silent = || {
            word += 1;
            let before = server.seen();
            own.send_to(&word.to_ne_bytes(), server.address).expect("it is there");
            let answered = own.recv_from(&mut bytes).is_ok() && bytes == word.to_ne_bytes();
            answered && server.seen() == before + 1
        };
        wait::until("nothing more is sent", || (0..50).all(|_| is_silent()).then_some(()));
    }
}

#[test]
fn what_was_allowed_once_and_still_waits_is_refused_by_a_revoke() {
    use sandbox_core::{PluginSandboxManager, Ruling};
    let full = servers::full();
    let held = servers::sockets_to(full.address);
    let manager = PluginSandboxManager::new();
    manager.set_decider(wait::PATIENCE, |_| Ruling::AllowOnce);
    manager.register_plugin("probe", PluginPolicy::new()).expect("a new id");
    manager.load_plugin("probe", rig::library("probe")).expect("it loads");
    manager.activate_plugin("probe", ()).expect("it activates");
    let plugin = manager.create_sandbox("probe").expect("it is there");
    assert!(plugin.attempt("net_connect_in_background", full.address.to_string()).got_it());
    wait::until("it waits", || (servers::sockets_to(full.address) > held).then_some(()));
    plugin.revoke_permission(&PERMISSION_NETWORK);
    full.take();
    assert_eq!(plugin.attempt("net_background", ""), REFUSED);
}

#[test]
fn a_name_in_scope_is_answered_and_what_was_answered_is_reached_by_unmodified_code() {
    let server = servers::tcp();
    let port = server.address.port();
    assert!(unconfined::attempt("talk_by_name", &format!("localhost {port} hello")).reached());
    let by_name = format!("localhost {port} hello");
    for scope in ["localhost".to_owned(), format!("localhost:{port}"), "*".to_owned(), format!("*:{port}")] {
        let plugin = with([network(&scope)]);
        assert_eq!(plugin.attempt("talk_by_name", &by_name), got("hello"), "{scope}");
        assert!(plugin.attempt("look_up", "localhost").text().contains("127.0.0.1"), "{scope}");
        assert!(plugin.attempt("look_up_c", "localhost").got_it(), "{scope}");
    }
    let plugin = with([PERMISSION_NETWORK]);
    assert_eq!(plugin.attempt("talk_by_name", &by_name), got("hello"));
    assert_eq!(plugin.attempt("talk_by_name", format!("LOCALHOST {port} hello")), got("hello"));
    assert!(matches!(plugin.attempt("look_up", "nobody.invalid"), Answer::Failed(_)));
}

#[test]
fn a_name_out_of_scope_is_not_answered_and_an_address_that_was_not_answered_is_not_reached() {
    let server = servers::tcp();
    let (port, address) = (server.address.port(), server.address.to_string());
    for scope in
        ["127.0.0.1".to_owned(), "example.org".to_owned(), "*.localhost".to_owned(), "listen:*".to_owned()]
    {
        let plugin = with([network(&scope)]);
        let events = plugin.events();
        assert!(matches!(plugin.attempt("look_up", "localhost"), Answer::Failed(_)), "{scope}");
        let action = if scope == "listen:*" { "connect" } else { "lookup" };
        if action == "lookup" {
            expect_refusal(&events, action, "not granted");
        }
    }
    let plugin = with([network(format!("localhost:{port}"))]);
    assert_eq!(plugin.attempt("net_connect", &address), REFUSED, "before it was answered");
    assert!(plugin.attempt("look_up", "localhost").got_it());
    assert!(plugin.attempt("net_connect", &address).got_it(), "and after");
    let other = servers::tcp();
    assert_eq!(plugin.attempt("net_connect", other.address.to_string()), REFUSED, "another port");
    plugin.revoke_permission(&network(format!("localhost:{port}")));
    server.ended();
    assert_eq!(plugin.attempt("net_connect", &address), REFUSED, "what was answered is no grant");
    assert!(matches!(plugin.attempt("look_up", "localhost"), Answer::Failed(_)));
    // A part of everything that is taken away is away under its name and under its address.
    let plugin = with([PERMISSION_NETWORK]);
    assert_eq!(plugin.attempt("talk_by_name", format!("localhost {port} hello")), got("hello"));
    plugin.revoke_permission(&network("localhost"));
    assert!(matches!(plugin.attempt("look_up", "localhost"), Answer::Failed(_)));
    assert_eq!(plugin.attempt("net_connect", &address), REFUSED);
}

#[test]
fn a_name_in_scope_that_somebody_says_is_this_machine_is_not_told_to_be() {
    // A name to the sandbox, which the C library of a name server that is not asked takes for an address.
    const NAME: &str = "0x7f000001";
    let found = std::net::ToSocketAddrs::to_socket_addrs(&(NAME, 9)).expect("an address");
    assert!(found.into_iter().any(|address| address.ip().is_loopback()));
    for (scopes, answers) in [(&[NAME][..], "7 0 0"), (&[NAME, "127.0.0.1:9"], "7 0 1")] {
        let plugin = with(scopes.iter().map(network));
        assert_eq!(plugin.attempt("udp_connect", "192.0.2.53:53"), got("0"));
        assert_eq!(plugin.attempt("dns_query", format!("0 {NAME}")), got(answers), "{scopes:?}");
    }
    let server = servers::tcp();
    let plugin = with([network(NAME)]);
    plugin.attempt("udp_connect", "192.0.2.53:53");
    plugin.attempt("dns_query", format!("0 {NAME}"));
    assert_eq!(plugin.attempt("net_connect", server.address.to_string()), REFUSED);
}

#[test]
fn without_a_name_in_scope_there_is_no_name_server() {
    assert!(matches!(probe().attempt("look_up", "localhost"), Answer::Failed(_)));
    assert_eq!(probe().attempt("open", "/etc/resolv.conf"), REFUSED);
    let plugin = with([network("localhost")]);
    let text = plugin.attempt("open", "/etc/resolv.conf").text();
    assert!(text.contains("192.0.2.53"), "the host's own is not told: {text}");
}

#[test]
fn a_name_that_was_refused_is_found_as_soon_as_it_is_granted() {
    let plugin = probe();
    assert!(matches!(plugin.attempt("look_up", "localhost"), Answer::Failed(_)));
    for _ in 0..2 {
        plugin.grant_permission(network("localhost:9"));
        let found = plugin.attempt("look_up", "localhost");
        assert!(found.got_it(), "{found:?}");
        assert!(plugin.revoke_permission(&network("localhost:9")));
        assert!(matches!(plugin.attempt("look_up", "localhost"), Answer::Failed(_)));
    }
}

#[test]
fn names_are_told_over_datagrams_too_and_nonsense_is_not_answered() {
    let plugin = with([network("localhost"), PERMISSION_NETWORK]);
    assert_eq!(plugin.attempt("udp_connect", "192.0.2.53:53"), got("0"));
    let answer = plugin.attempt("dns_query", "0 localhost");
    assert!(answer.text().starts_with("7 0 1"), "id, code, answers: {answer:?}");
    let answer = plugin.attempt("dns_query", "0 nobody.invalid");
    assert!(answer.text().starts_with("7 3 0"), "{answer:?}");
    // What is no question closes the stream or is not answered; the next one is served as ever.
    assert_eq!(plugin.attempt("net_connect", "192.0.2.53:53"), got("1"));
    assert!(!plugin.attempt("net_talk", format!("1 {}", "x".repeat(3000))).got_it());
    assert!(plugin.attempt("look_up", "localhost").got_it());
}

#[test]
fn somebody_can_be_asked_about_a_name_and_then_about_the_connection() {
    use sandbox_core::{PluginSandboxManager, Ruling};
    let server = servers::tcp();
    let port = server.address.port();
    let (manager, (say, asked)) = (PluginSandboxManager::new(), crossbeam_channel::unbounded());
    manager.set_decider(wait::PATIENCE, move |request| {
        // Not about files, which the C library looks for on its way.
        if request.permission.name() == "network" {
            let _ = say.send(request.permission.to_string());
        }
        if request.permission.to_string().contains("localhost") { Ruling::AllowOnce } else { Ruling::Deny }
    });
    manager.register_plugin("probe", PluginPolicy::new()).expect("a new id");
    manager.load_plugin("probe", rig::library("probe")).expect("it loads");
    manager.activate_plugin("probe", ()).expect("it activates");
    let plugin = manager.create_sandbox("probe").expect("it is there");
    assert_eq!(plugin.attempt("talk_by_name", format!("localhost {port} hello")), got("hello"));
    let questions: Vec<String> = asked.try_iter().collect();
    assert_eq!(questions[0], "network:localhost");
    assert!(
        questions[1..].iter().all(|asked| *asked == format!("network:localhost:{port}")),
        "{questions:?}"
    );
    assert!(matches!(plugin.attempt("look_up", "nobody.invalid"), Answer::Failed(_)));
    assert!(asked.try_iter().any(|asked| asked == "network:nobody.invalid"));
    assert_eq!(plugin.attempt("net_connect", "127.0.0.2:9"), REFUSED);
    assert_eq!(asked.try_iter().collect::<Vec<_>>(), ["network:127.0.0.2:9"]);
}

fn relayed(permissions: impl IntoIterator<Item = PluginPermission>) -> PluginSandbox {
    let plugin = with([]);
    for permission in permissions {
        plugin.grant_permission_as(permission, Grade::Relay).expect("network has this grade");
    }
    plugin
}

#[test]
fn a_relayed_connection_is_one_for_unmodified_code_and_a_revoke_cuts_it_in_the_host() {
    let server = servers::tcp();
    let address = server.address.to_string();
    let plugin = relayed([network(&address)]);
    assert_eq!(plugin.attempt("net_connect", &address), got("0"));
    assert_eq!(plugin.attempt("net_talk", "0 hello"), got("hello"));
    assert!(plugin.attempt("net_talk_much", "0 50 100000").got_it(), "more than lies in the host at once");
    assert_eq!(plugin.attempt("net_nodelay", "0"), got(""), "it is a TCP socket");
    assert!(plugin.attempt("net_read_in_background", "0").got_it());
    assert!(plugin.revoke_permission(&network(&address)));
    assert_eq!(plugin.attempt("net_background", ""), got(""));
    server.ended();
    assert!(!plugin.attempt("net_talk", "0 x").got_it());
    assert_eq!(plugin.attempt("net_connect", &address), REFUSED);
}

#[test]
fn a_relayed_connection_ends_at_both_ends_when_either_ends_it() {
    let server = servers::tcp();
    let address = server.address.to_string();
    let plugin = relayed([PERMISSION_NETWORK]);
    plugin.attempt("net_connect", &address);
    assert_eq!(
        plugin.attempt("net_half_close", "0 last-words"),
        got("last-words"),
        "and then the server ends it"
    );
    server.ended();
    plugin.attempt("net_connect", &address);
    plugin.attempt("net_close", "");
    server.ended();
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a port");
    assert_eq!(plugin.attempt("net_connect", free.to_string()), Answer::Errno(libc::ECONNREFUSED));
    let limits = ResourceLimits::default().max_file_handles(64).max_network_connections(2);
    plugin.set_resource_limits(limits).expect("limits");
    for _ in 0..10 {
        assert!(plugin.attempt("net_connect", &address).got_it());
        assert!(plugin.attempt("net_connect", &address).got_it());
        assert_eq!(plugin.attempt("net_connect", &address), Answer::Errno(libc::EMFILE));
        plugin.attempt("net_close", "");
    }
    wait::until("nothing is left of those that are closed", || {
        (servers::sockets_to(server.address) == 0).then_some(())
    });
}

#[test]
fn relayed_calls_wait_and_accept_as_others_do() {
    let full = servers::full();
    let plugin = relayed([PERMISSION_NETWORK]);
    assert!(plugin.attempt("net_connect_in_background", full.address.to_string()).got_it());
    assert!(plugin.attempt("open", "/dev/null").got_it());
    full.take();
    assert_eq!(plugin.attempt("net_background", ""), got("connected"));
    let at = plugin.attempt("net_listen", "127.0.0.1:0").text();
    let mut client = TcpStream::connect(&at).expect("it listens");
    assert_eq!(plugin.attempt("net_accept_unnamed", "0"), got("1"));
    std::io::Write::write_all(&mut client, b"hello").expect("it is connected");
    assert_eq!(plugin.attempt("net_read", "1"), got("hello"));
    plugin.revoke_permission(&PERMISSION_NETWORK);
    assert_eq!(std::io::Read::read(&mut client, &mut [0; 8]).unwrap_or(0), 0, "the peer sees the end");
}

#[test]
fn a_unix_socket_is_reached_by_its_own_scope_and_by_no_other() {
    let scratch = Scratch::new();
    let (inside, outside) = (scratch.at("in/socket"), scratch.at("out/socket"));
    for path in [&inside, &outside] {
        std::fs::create_dir_all(std::path::Path::new(path).parent().expect("a folder")).expect("it is ours");
        servers::unix(path);
    }
    assert!(unconfined::attempt("unix_talk", &format!("{outside} hello")).reached());
    assert_eq!(with([PERMISSION_NETWORK]).attempt("unix_talk", format!("{inside} hello")), REFUSED);
    let file = scratch.file("in/file", "no socket");
    scratch.link("in/link", &outside);
    scratch.link("out/link", &inside);
    for scope in [format!("unix:{inside}"), format!("unix:{}", scratch.at("in"))] {
        let plugin = with([network(&scope)]);
        let events = plugin.events();
        assert_eq!(plugin.attempt("unix_talk", format!("{inside} hello")), got("hello"), "{scope}");
        assert_eq!(
            plugin.attempt("unix_talk", format!("{} hello", scratch.at("out/link"))),
            got("hello"),
            "{scope}"
        );
        assert_eq!(plugin.attempt("unix_talk", format!("{outside} hello")), REFUSED, "{scope}");
        expect_refusal(&events, "connect", "not granted");
        assert_eq!(
            plugin.attempt("unix_talk", format!("{} hello", scratch.at("in/link"))),
            REFUSED,
            "{scope}"
        );
        assert_eq!(plugin.attempt("net_connect", "127.0.0.1:1"), REFUSED, "{scope}");
    }
    let plugin = with([network(format!("unix:{}", scratch.at("in")))]);
    assert_eq!(
        plugin.attempt("unix_talk", format!("{} hello", scratch.at("in/none"))),
        Answer::Errno(libc::ENOENT)
    );
    assert_eq!(plugin.attempt("unix_talk", format!("{file} hello")), Answer::Errno(libc::ECONNREFUSED));
    // A link tells nothing of where it leads.
    for (link, target) in [
        ("in/to-what-is-there", "../out"),
        ("in/to-what-is-not", "../nowhere"),
        ("in/by-what-is-there", "../out/../in/none"),
        ("in/by-what-is-not", "../nowhere/../in/none"),
    ] {
        scratch.link(link, target);
        assert_eq!(plugin.attempt("unix_talk", format!("{} hello", scratch.at(link))), REFUSED, "{link}");
    }
    assert_eq!(plugin.attempt("unix_talk", format!("{} hello", scratch.at("nowhere"))), REFUSED);
    // Revoked, it is cut.
    assert_eq!(plugin.attempt("unix_connect", &inside), got("0"));
    assert_eq!(plugin.attempt("net_talk", "0 hello"), got("hello"));
    assert!(plugin.attempt("net_read_in_background", "0").got_it());
    plugin.revoke_permission(&PERMISSION_NETWORK);
    assert_eq!(plugin.attempt("net_background", ""), got(""));
    assert_eq!(plugin.attempt("unix_talk", format!("{inside} hello")), REFUSED);
}

#[test]
fn no_descriptor_comes_over_a_unix_socket() {
    let scratch = Scratch::new();
    let path = scratch.at("socket");
    let sends = servers::unix_with_descriptors(&path);
    assert_eq!(
        unconfined::attempt("unix_receives_descriptors", &path),
        unconfined::Outcome::Answered(got("1"))
    );
    let plugin = with([network(format!("unix:{path}"))]);
    assert_eq!(plugin.attempt("unix_receives_descriptors", &path), got("0"));
    wait::until("it was sent both times", || (sends() == 2).then_some(()));
}
