//! How long a revoke takes until nothing gets through any more, by the grade of the grant and by what the plugin has of it.

use std::net::{Ipv4Addr, TcpListener};
use std::time::Instant;

use rig::{Scratch, library};
use sandbox_core::{
    Grade, PERMISSION_FILE_READ, PERMISSION_NETWORK, PluginPermission, PluginPolicy, PluginSandbox,
};

use crate::options::Options;
use crate::table::Figures;

/// How many of each make a round, but for the one that ends the plugin.
const TURNS: usize = 5;

const NOTHING: &str = "descriptor, nothing was opened";
const CLOSED: &str = "descriptor, what was opened is closed";
const LEFT: &str = "descriptor, what is open is left so";
const ENDED: &str = "descriptor, one is open: the plugin is ended";
const MEDIATED: &str = "mediated, 1 MiB is open and read";
const SHUT: &str = "a connection, descriptor: its socket is shut";
const RELAYED: &str = "a connection, relay";

pub(crate) fn measure(options: &Options) -> Figures {
    let mut figures = Figures::new("revoke file-read or network of a running plugin, us", "us");
    let scratch = Scratch::new();
    let file = scratch.file("granted", vec![b'x'; 1 << 20]);
    let granted = PERMISSION_FILE_READ.scoped_to_path(&file).expect("an absolute path");
    let path = library("probe-bench");
    let plugin = rig::active("bench", PluginPolicy::new(), &path, ());
    let mediated = plugin.grant_permission_as(granted.clone(), Grade::Mediated);
    plugin.revoke_permission(&granted);
    if let Err(error) = &mediated {
        figures.note(error.to_string());
    }
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = server.local_addr().expect("bound").to_string();
    let reached = PERMISSION_NETWORK.scoped(&address).expect("an address is a scope");
    let rows = [NOTHING, CLOSED, LEFT, ENDED, MEDIATED, SHUT, RELAYED];
    rows.into_iter().for_each(|name| figures.row(name, (name != NOTHING).then_some(NOTHING)));

    figures.rounds(options.rounds(40), |figures| {
        for _ in 0..TURNS {
            for (name, keeps, lets_go) in [(NOTHING, false, false), (CLOSED, true, true), (LEFT, true, false)]
            {
                plugin.grant_permission_as(granted.clone(), Grade::Descriptor).expect("any has this grade");
                if keeps {
                    plugin.call("keep", file.as_bytes()).expect("it is granted");
                }
                if lets_go {
                    plugin.call("let_go", b"").expect("it answers");
                }
                timed(figures, name, &plugin, &granted);
                plugin.call("let_go", b"").expect("it lives");
                plugin.revoke_permission(&granted); // what was left is closed, and forgotten by this
            }
            if mediated.is_ok() {
                plugin.grant_permission_as(granted.clone(), Grade::Mediated).expect("as before");
                plugin.call("keep", file.as_bytes()).expect("it is granted");
                timed(figures, MEDIATED, &plugin, &granted);
            }
        }
        for (name, grade) in [(SHUT, Grade::Descriptor), (RELAYED, Grade::Relay)] {
            for _ in 0..TURNS {
                plugin.grant_permission_as(reached.clone(), grade).expect("network has both");
                plugin.call("connect", address.as_bytes()).expect("it is granted");
                let (_peer, _) = server.accept().expect("it has connected");
                timed(figures, name, &plugin, &reached);
                plugin.call("let_go", b"").expect("it lives");
            }
        }
        let ended = rig::active("ended", PluginPolicy::new().permission(granted.clone()), &path, ());
        ended.call("keep", file.as_bytes()).expect("it is granted");
        timed(figures, ENDED, &ended, &granted);
    });
    figures
}

fn timed(figures: &mut Figures, name: &str, plugin: &PluginSandbox, granted: &PluginPermission) {
    let began = Instant::now();
    let held = match name {
        LEFT => plugin.revoke_permission_leaving_open(granted),
        _ => plugin.revoke_permission(granted),
    };
    figures.put_time(name, began.elapsed());
    assert!(held, "{name}");
}
