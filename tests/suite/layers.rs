//! Each layer taken away: what then succeeds is what it held. A layer that others hold the same with is judged with those away in
//! both runs, so that it stands alone.
//!
//! Helpers are made without a layer by the feature `test-support`, which only test programs have. What a row tries is harmless
//! where it succeeds: it reads a file of the test's, signals nobody, and asks what it would be allowed.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use ::containment::row::HeldBy;
use ::containment::{Answer as RowAnswer, Group, Inside, Rig, Stage, table};
use rig::plugins::{Attempts, explained};
use rig::unconfined;
use rig::wait::PATIENCE;
use rig::{Answer, Scratch, library};
use sandbox_core::{
    Layer, LayerPolicy, PERMISSION_FILE_READ, PluginPolicy, PluginSandbox, PluginSandboxError, ResourceLimits,
};

/// What came of a row.
#[derive(Debug)]
enum Outcome {
    /// The plugin did not get it.
    Held(String),
    /// It did.
    Got(String),
    /// Nothing can be said here, and why.
    NotProven(String),
}
use Outcome::{Got, Held, NotProven};

/// Whose host a row says something about.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Host {
    Any,
    Root,
    Ordinary,
}

struct Row {
    name: &'static str,
    /// The layer that is judged: with it `act` is held, without it the plugin gets it.
    judges: Layer,
    /// What else holds the same: away in both runs. Empty where the layer alone holds it.
    beside: &'static [Layer],
    host: Host,
    act: fn(LayerPolicy) -> Outcome,
}

const ROWS: &[Row] = &[
    Row {
        name: "a helper is made at all, for a user who may make no other namespace",
        judges: Layer::UserNamespace,
        beside: &[],
        host: Host::Ordinary,
        act: is_loaded,
    },
    Row {
        name: "administers the machine with every capability there is",
        judges: Layer::UserNamespace,
        beside: &[Layer::Seccomp, Layer::Capabilities, Layer::Ids],
        host: Host::Root,
        act: swaps_off,
    },
    Row {
        name: "knows its number among the host's processes",
        judges: Layer::PidNamespace,
        beside: &[],
        host: Host::Any,
        act: knows_its_number,
    },
    Row {
        name: "signals the host",
        judges: Layer::PidNamespace,
        beside: &[Layer::Seccomp, Layer::LandlockScopes, Layer::Ids],
        host: Host::Any,
        act: signals_the_host,
    },
    Row {
        name: "connects to a service of the host's network",
        judges: Layer::NetworkNamespace,
        beside: &[Layer::Seccomp, Layer::Landlock],
        host: Host::Any,
        act: connects,
    },
    Row {
        name: "finds the host's System V memory",
        judges: Layer::OtherNamespaces,
        beside: &[Layer::Seccomp],
        host: Host::Any,
        act: finds_shared_memory,
    },
    Row {
        name: "takes more memory than it may, the kernel's included",
        judges: Layer::MemoryCgroup,
        beside: &[Layer::Rlimits],
        host: Host::Any,
        act: takes_memory,
    },
    Row {
        name: "makes more timers than it may",
        judges: Layer::Rlimits,
        beside: &[],
        host: Host::Any,
        act: makes_timers,
    },
    Row {
        name: "opens a file of the host's",
        judges: Layer::EmptyRoot,
        beside: &[Layer::Seccomp, Layer::Landlock],
        host: Host::Any,
        act: opens_a_file,
    },
    Row {
        name: "opens a file that only root may read",
        judges: Layer::Ids,
        beside: &[Layer::Seccomp, Layer::EmptyRoot, Layer::Landlock],
        host: Host::Root,
        act: opens_roots_file,
    },
    Row { name: "is root", judges: Layer::Ids, beside: &[], host: Host::Root, act: is_root },
    Row {
        name: "changes its root, as an administrator may",
        judges: Layer::Capabilities,
        beside: &[Layer::Seccomp, Layer::Ids],
        host: Host::Any,
        act: changes_its_root,
    },
    Row {
        name: "is confined at all: the kernel takes no filter and no Landlock ruleset without",
        judges: Layer::NoNewPrivs,
        beside: &[],
        host: Host::Any,
        act: is_loaded,
    },
    Row {
        name: "becomes root by a set-user-id program",
        judges: Layer::NoNewPrivs,
        beside: &[Layer::Seccomp, Layer::EmptyRoot, Layer::Landlock],
        host: Host::Root,
        act: runs_setuid,
    },
    Row {
        name: "turns a page into code",
        judges: Layer::MemoryDenyWriteExecute,
        beside: &[Layer::Seccomp],
        host: Host::Any,
        act: |layers| tries(layers, "mprotect_exec", ""),
    },
    Row {
        name: "opens a file of its root",
        judges: Layer::Landlock,
        beside: &[Layer::Seccomp, Layer::EmptyRoot],
        host: Host::Any,
        act: opens_a_file,
    },
    Row {
        name: "signals another plugin",
        judges: Layer::LandlockScopes,
        beside: &[Layer::Seccomp, Layer::Ids],
        host: Host::Any,
        act: signals_a_sibling,
    },
    Row {
        name: "makes a process",
        judges: Layer::Seccomp,
        beside: &[],
        host: Host::Any,
        act: |layers| tries(layers, "fork", ""),
    },
    Row {
        name: "asks for the kernel's name and version",
        judges: Layer::Seccomp,
        beside: &[],
        host: Host::Any,
        act: tells_the_version,
    },
    Row {
        name: "maps a file that it may read as code",
        judges: Layer::NoExecFiles,
        beside: &[],
        host: Host::Any,
        act: maps_a_file_as_code,
    },
];

/// The plugin `probe` with these layers, or why there is none.
fn probe(layers: LayerPolicy, policy: PluginPolicy) -> Result<PluginSandbox, PluginSandboxError> {
    let plugin = PluginSandbox::new("probe", policy.layers(layers))?;
    plugin.load_plugin(library("probe"))?;
    plugin.activate_plugin(())?;
    Ok(plugin)
}

#[track_caller]
fn with(layers: LayerPolicy) -> PluginSandbox {
    let limits = ResourceLimits::default().call_timeout(PATIENCE);
    let plugin = probe(layers, PluginPolicy::new().limits(limits));
    plugin.unwrap_or_else(|error| panic!("{}", explained(&error)))
}

fn judged(answer: Answer) -> Outcome {
    match answer {
        Answer::Got(bytes) => Got(String::from_utf8_lossy(&bytes).into_owned()),
        other => Held(format!("{other:?}")),
    }
}

fn tries(layers: LayerPolicy, method: &str, payload: &str) -> Outcome {
    judged(with(layers).attempt(method, payload))
}

fn fact(plugin: &PluginSandbox, name: &str) -> String {
    let facts = plugin.attempt("facts", "").text();
    let value = facts.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    value.expect("the probe tells it").to_owned()
}

fn is_loaded(layers: LayerPolicy) -> Outcome {
    match probe(layers, PluginPolicy::new()) {
        Ok(_) => Held("it is loaded, and confined".to_owned()),
        // The load fails closed: that is what the layer's absence comes to.
        Err(error @ PluginSandboxError::LayerMissing { .. }) => Got(error.to_string()),
        Err(error) => panic!("{}", explained(&error)),
    }
}

fn swaps_off(layers: LayerPolicy) -> Outcome {
    // Of no file: the kernel asks for the right first, and then finds that there is none.
    match with(layers).attempt("syscall", format!("{} s:/nowhere", libc::SYS_swapoff)) {
        Answer::Errno(libc::ENOENT) => Got("swapoff(2) looks for the file".to_owned()),
        other => judged(other),
    }
}

fn knows_its_number(layers: LayerPolicy) -> Outcome {
    let plugin = with(layers);
    let (inside, outside) = (fact(&plugin, "pid"), plugin.process_id().expect("it lives").to_string());
    if inside == outside { Got(inside) } else { Held(format!("{inside}, where it is {outside}")) }
}

fn signals_the_host(layers: LayerPolicy) -> Outcome {
    // Signal 0 does nothing, and needs the same rights as any other.
    tries(layers, "kill", &std::process::id().to_string())
}

fn signals_a_sibling(layers: LayerPolicy) -> Outcome {
    let sibling = with(layers.clone());
    let outcome = tries(layers, "kill", &fact(&sibling, "pid"));
    assert!(sibling.attempt("echo", "x").got_it());
    outcome
}

fn connects(layers: LayerPolicy) -> Outcome {
    let service = TcpListener::bind(("127.0.0.1", 0)).expect("loopback");
    let port = service.local_addr().expect("it has one").port();
    tries(layers, "connect_loopback", &port.to_string())
}

fn finds_shared_memory(layers: LayerPolicy) -> Outcome {
    // Gone with this process, whatever becomes of it: removed as soon as it is attached.
    // SAFETY: integers.
    let id = unsafe { libc::shmget(libc::IPC_PRIVATE, 4096, 0o666) };
    assert!(id >= 0, "shmget: {}", std::io::Error::last_os_error());
    // SAFETY: the kernel chooses the address.
    let at = unsafe { libc::shmat(id, std::ptr::null(), 0) };
    // SAFETY: two integers and no buffer.
    unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) };
    let words = ["0"; 16].join(",");
    let outcome =
        tries(layers, "syscall", &format!("{} {id} {} q:{words}", libc::SYS_shmctl, libc::IPC_STAT));
    // SAFETY: attached above, and nothing points into it.
    unsafe { libc::shmdt(at) };
    outcome
}

fn takes_memory(layers: LayerPolicy) -> Outcome {
    let limits = ResourceLimits::default().max_memory_mb(16).call_timeout(PATIENCE);
    let plugin = probe(layers, PluginPolicy::new().limits(limits)).expect("it loads");
    match plugin.call("alloc", b"64") {
        Ok(reply) => judged(Answer::read(&reply)),
        Err(error) => Held(error.to_string()),
    }
}

fn makes_timers(layers: LayerPolicy) -> Outcome {
    // A few more than a helper may have, and far less than a user of this machine.
    match with(layers).attempt("timers", "300").text().as_str() {
        "300 0" => Got("300 timers".to_owned()),
        other => Held(other.to_owned()),
    }
}

fn opens_a_file(layers: LayerPolicy) -> Outcome {
    let scratch = Scratch::new();
    tries(layers, "open", &scratch.file("file", "contents"))
}

fn opens_roots_file(layers: LayerPolicy) -> Outcome {
    let scratch = Scratch::new();
    let file = scratch.file("file", "contents");
    fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).expect("it is ours");
    tries(layers, "open", &file)
}

fn is_root(layers: LayerPolicy) -> Outcome {
    match fact(&with(layers), "uid").as_str() {
        "0" => Got("user 0".to_owned()),
        other => Held(format!("user {other}")),
    }
}

fn changes_its_root(layers: LayerPolicy) -> Outcome {
    // To where it is already.
    tries(layers, "syscall", &format!("{} s:/", libc::SYS_chroot))
}

fn runs_setuid(layers: LayerPolicy) -> Outcome {
    let scratch = Scratch::new();
    let program = scratch.at("id");
    let found = ["/usr/bin/id", "/bin/id"].into_iter().find(|path| fs::metadata(path).is_ok());
    let Some(found) = found else { return NotProven("there is no id(1)".to_owned()) };
    fs::copy(found, &program).expect("it can be read");
    // It tells who it is, and does nothing else.
    fs::set_permissions(&program, PermissionsExt::from_mode(0o4755)).expect("it is ours");
    let outside = Command::new(&program).arg("-u").output().expect("it runs");
    assert_eq!(outside.stdout, b"0\n", "the control");
    let told = with(layers).attempt("run", format!("{program}\n-u"));
    match told {
        Answer::Got(told) if told == b"exit 0\n0\n" => Got("its user id is 0".to_owned()),
        other => Held(format!("{other:?}")),
    }
}

fn tells_the_version(layers: LayerPolicy) -> Outcome {
    let release = rustix::system::uname();
    let version = release.version().to_string_lossy().into_owned();
    let told = fact(&with(layers), "version");
    if told == version { Got(told) } else { Held(told) }
}

fn maps_a_file_as_code(layers: LayerPolicy) -> Outcome {
    let scratch = Scratch::new();
    let file = scratch.file("file", vec![0_u8; 4096]);
    let policy =
        PluginPolicy::new().permission(PERMISSION_FILE_READ.scoped_to_path(&file).expect("absolute"));
    let plugin = probe(layers, policy).expect("it loads");
    judged(plugin.attempt("mmap_exec_file", &file))
}

fn strict_without(away: &[Layer]) -> LayerPolicy {
    away.iter().copied().fold(LayerPolicy::strict(), LayerPolicy::without)
}

fn is_here(host: Host) -> bool {
    let root = nix::unistd::geteuid().is_root();
    match host {
        Host::Any => true,
        Host::Root => root,
        Host::Ordinary => !root,
    }
}

/// Which layers stand for a helper with this policy.
fn standing(layers: LayerPolicy) -> Result<Vec<Layer>, PluginSandboxError> {
    let plugin = probe(layers, PluginPolicy::new())?;
    let report = plugin.enforcement_report().expect("there was a load");
    Ok(report.layers.iter().filter(|layer| layer.enforced).map(|layer| layer.layer).collect())
}

#[test]
fn switching_off_a_layer_turns_a_row_red() {
    let here = standing(LayerPolicy::strict()).expect("a strict load");
    let (mut wrong, mut green) = (Vec::new(), Vec::new());
    for layer in Layer::ALL {
        if !here.contains(&layer) {
            println!("{layer}: NOT PROVEN: this machine does not have it");
            continue;
        }
        let mut red = 0;
        for row in ROWS.iter().filter(|row| row.judges == layer && is_here(row.host)) {
            let beside: Vec<String> = row.beside.iter().map(|layer| layer.to_string()).collect();
            let alone = if beside.is_empty() {
                String::new()
            } else {
                format!(" (alone, without {})", beside.join(", "))
            };
            let without: Vec<Layer> = row.beside.iter().copied().chain([layer]).collect();
            let (standing, taken) =
                ((row.act)(strict_without(row.beside)), (row.act)(strict_without(&without)));
            match (standing, taken) {
                (Held(held), Got(got)) => {
                    red += 1;
                    println!("{layer}: red: {}{alone}: {got:?}; with it: {held}", row.name);
                }
                (NotProven(why), _) | (_, NotProven(why)) => {
                    println!("{layer}: NOT PROVEN: {}: {why}", row.name);
                }
                (standing, taken) => {
                    wrong.push(format!(
                        "{layer}: {}{alone}: with it {standing:?}, without {taken:?}",
                        row.name
                    ));
                }
            }
        }
        if red == 0 && (layer != Layer::Ids || is_here(Host::Root)) {
            green.push(layer.name());
        }
    }
    if !is_here(Host::Root) {
        println!(
            "ids: NOT PROVEN: an ordinary user's helpers have no other id to take, so that there is nothing to leave out"
        );
    }
    assert!(wrong.is_empty(), "rows that do not tell:\n{}", wrong.join("\n"));
    assert!(green.is_empty(), "no row turns red without {green:?}");
}

#[test]
fn a_layer_is_left_out_alone() {
    let here = standing(LayerPolicy::strict()).expect("a strict load");
    let root = is_here(Host::Root);
    for layer in Layer::ALL {
        let left = match standing(LayerPolicy::strict().without(layer)) {
            Ok(left) => left,
            // Without these nothing else could be had: the load says so, and nothing is loaded.
            Err(PluginSandboxError::LayerMissing { layer: missing, .. }) => {
                assert!(
                    layer == Layer::NoNewPrivs || (layer == Layer::UserNamespace && !root),
                    "{layer}: {missing} is missing"
                );
                continue;
            }
            Err(error) => panic!("{layer}: {}", explained(&error)),
        };
        let gone: Vec<Layer> = here.iter().copied().filter(|of| !left.contains(of)).collect();
        let expected: Vec<Layer> = match layer {
            // The one is a part of the other's ruleset.
            Layer::Landlock => vec![Layer::Landlock, Layer::LandlockScopes],
            Layer::Ids if !root => vec![],
            _ => vec![layer],
        };
        let expected: Vec<Layer> = expected.into_iter().filter(|of| here.contains(of)).collect();
        assert_eq!(gone, expected, "without {layer}");
    }
}

/// Calls that the filter without which no library comes ends too, as any filter of its maker's does.
const OTHER_ARCHITECTURES: [&str; 2] =
    ["asks for its id as a 32-bit program", "asks for its id as an x32 program"];

/// What came of the table's rows that `layer` alone holds, with every other layer standing.
fn rows_without(layer: Layer, unchanged: &mut Vec<String>) {
    // Bombs are tried only under their limits.
    let is_its = |row: &::containment::Row| {
        row.held_by == [HeldBy::Layer(layer)]
            && row.group != Group::Exhaustion
            && !OTHER_ARCHITECTURES.contains(&row.name)
    };
    let rows: Vec<_> = table().into_iter().filter(is_its).collect();
    if rows.is_empty() {
        return;
    }
    let rig = Rig {
        probes: rig::libraries::folder().to_owned(),
        starter: Box::new(unconfined::starter),
        policy: Box::new(move |policy| policy.layers(LayerPolicy::strict().without(layer))),
        patience: PATIENCE,
    };
    // A layer without which no plugin is loaded has its own row.
    let Ok(stage) = Stage::new(&rig) else { return };
    let (mut got, mut other) = (Vec::new(), 0);
    for row in &rows {
        let Some(grants) = row.under.first() else { continue };
        let (inside, wrong) = stage.try_inside(row, grants);
        match inside {
            _ if wrong.is_empty() => unchanged.push(format!("{layer}: {}: still {inside}", row.name)),
            Inside::Answered(RowAnswer::Got(_)) => got.push(row.name),
            _ => other += 1,
        }
    }
    println!(
        "{layer}: of {} rows that it alone holds, {} go through without it, {other} fail for the kernel's own reasons: {}",
        rows.len(),
        got.len(),
        got.join("; ")
    );
}

#[test]
fn what_the_table_says_a_layer_alone_holds_it_holds() {
    let here = standing(LayerPolicy::strict()).expect("a strict load");
    let mut unchanged = Vec::new();
    // An ordinary user's helpers have no other id to take: nothing is left out there.
    let is_there = |layer: &Layer| here.contains(layer) && (*layer != Layer::Ids || is_here(Host::Root));
    for layer in Layer::ALL.into_iter().filter(is_there) {
        rows_without(layer, &mut unchanged);
    }
    assert!(unchanged.is_empty(), "rows that something else holds too:\n{}", unchanged.join("\n"));
}
