//! The whole path from a host application to a plugin in its confined process and back, tried for real.
//!
//! Runs as a host application; each helper is this program run again. Each area is a module, each test a claim.
//! Never confines this process itself: what must be harmed is a child, played by the test named `child`.
#![allow(unsafe_code, reason = "children of the tests close streams, set limits and handle signals")]

mod audit;
mod bad_input;
mod causes;
mod cgroup;
mod concurrency;
mod containment;
mod faults;
mod files;
mod hand_over;
mod host_conditions;
mod host_faults;
mod hostile;
mod information;
mod layers;
mod lifecycle;
mod limits;
mod machine;
mod messages;
mod modules;
mod monitor;
mod network;
mod order;
mod permissions;
mod processes;
mod prompting;
mod revoke;
mod scratch;
mod services;
mod spec_examples;
mod stock;
mod supervision;
mod syscalls;
mod system;
mod weakened;

/// What other tests start in child processes. By itself it does nothing.
#[test]
#[ignore = "the body of child processes that other tests start"]
fn child() {
    let parts = [
        audit::PARTS,
        causes::PARTS,
        containment::PARTS,
        hand_over::PARTS,
        host_conditions::PARTS,
        hostile::PARTS,
        monitor::PARTS,
        supervision::PARTS,
        host_faults::PARTS,
        syscalls::PARTS,
        weakened::PARTS,
    ];
    rig::child::play(&parts.concat());
}
