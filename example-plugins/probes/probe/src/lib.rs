//! A plugin whose methods each try one thing that a plugin must not be able to do, or may do only so often.
//!
//! Runs in a helper, and unconfined in the tests' control processes: the same code, so that a refusal is the sandbox's.
//! Owns the way of answering: `ok` and what was got, `errno` and a number, or `error` and a text.
//! Never goes further than it must to show that a door is open, and connects only to the loopback address.
#![allow(unsafe_code, reason = "asks the kernel directly, as a plugin that means harm would")]

mod channel;
mod churn;
mod endings;
mod exhaustion;
mod facts;
mod faults;
mod file_changes;
mod files;
mod held;
mod kernel;
mod machine;
mod memory;
mod messages;
mod network;
mod processes;
mod services;
mod threads;

use std::io;

use plugin_abi::{Host, Plugin, PluginError, PluginResult, export_plugin};

/// What an attempt came to.
type Attempt = io::Result<Vec<u8>>;

#[derive(Default)]
struct Probe {
    host: Option<Host>,
    memory: Vec<Vec<u8>>,
    held: held::Held,
    network: network::Held,
}

impl Plugin for Probe {
    fn activate(&mut self, host: Host) -> Result<(), PluginError> {
        self.host = Some(host);
        Ok(())
    }

    fn call(&mut self, method: &str, payload: &[u8]) -> PluginResult {
        let attempt = match method {
            "echo" => Ok(payload.to_vec()),
            "big" => number(payload).map(|bytes| vec![b'x'; bytes]),
            "panic" => panic!("{}", String::from_utf8_lossy(payload)),
            "fail" => return Err(String::from_utf8_lossy(payload).into_owned().into()),
            "abort" => std::process::abort(),
            "exit" => number(payload).map(|code| std::process::exit(i32::try_from(code).unwrap_or(1))),
            "print" => services::print(payload),
            "flood" => number(payload).and_then(services::flood),

            "open" => files::open(payload),
            "open_c" => files::open_c(payload),
            "read_dir" => files::read_dir(payload),
            "stat" => files::stat(payload),
            "stat_forever" => files::stat_forever(payload),
            "lstat" => files::lstat(payload),
            "access" => files::access(payload),
            "readlink" => files::readlink(payload),
            "mkdir" => files::mkdir(payload),
            "write_file" => files::write_file(payload),
            "fill" => files::fill(payload),
            "make_many" => files::make_many(payload),
            "unlink" => files::unlink(payload),
            "lock" => files::lock(payload),
            "lock_whole" => files::lock_whole(payload),
            "sync" => files::sync(payload),
            "sync_data" => files::sync_data(payload),
            "open_many" => number(payload).and_then(files::open_many),
            "open_storm" => files::open_storm(payload),
            "open_numbered" => files::open_numbered(payload),
            "race" => files::race(payload),
            "mmap_exec_file" => files::map_exec(payload),
            "mprotect_exec_file" => files::map_then_exec(payload),

            "fs" => file_changes::by_std(payload),
            "churn" => churn::churn(payload),
            "look_past" => churn::look_past(payload),
            "tour" => file_changes::tour_by_std(payload),
            "tour_c" => file_changes::tour_by_c(payload),

            "alloc" => number(payload).and_then(|mib| memory::allocate(&mut self.memory, mib)),
            "alloc_abort" => number(payload).map(|mib| memory::allocate_or_abort(&mut self.memory, mib)),
            "free" => Ok(memory::free(&mut self.memory)),
            "mprotect_exec" => memory::make_executable(),
            "mmap_exec" => memory::map_executable(),
            "mmap_shared" => memory::map_shared(),
            "mmap_shared_device" => memory::map_shared_device(),
            "mmap_growing" => memory::map_growing(),
            "segfault" => memory::segfault(),
            "fault" => faults::fault(payload),

            "spin" => number(payload).map(threads::spin),
            "spin_forever" => threads::spin_forever(),
            "sleep_forever" => threads::sleep_forever(),
            "threads" => number(payload).map(threads::many),
            "timers" => number(payload).map(threads::timers),
            "own_clocks" => threads::own_clocks(),
            "kill_self" => threads::kill_self(payload),
            "end_first_thread" => threads::end_this_one(),
            "block_signals_and_sleep" => threads::block_signals_and_sleep(),

            "socket" => kernel::socket(),
            "connect_loopback" => number(payload).and_then(kernel::connect_loopback),
            "net_fd" => self.network.number(payload),
            "net_local" => self.network.local(payload),
            "net_connect" => self.network.connect(payload),
            "net_connect_timeout" => self.network.connect_timeout(payload),
            "net_connect_send_timeout" => self.network.connect_with_send_timeout(payload),
            "net_connect_in_background" => self.network.connect_in_background(payload),
            "net_talk" => self.network.talk(payload),
            "net_talk_much" => self.network.talk_much(payload),
            "net_read" => self.network.read(payload),
            "net_read_in_background" => self.network.read_in_background(payload),
            "net_background" => self.network.background(),
            "net_close" => self.network.close(),
            "net_listen" => self.network.listen(payload),
            "net_listen_unbound" => self.network.listen_unbound(),
            "net_accept" => self.network.accept(payload),
            "net_accept_now" => self.network.accept_now(payload),
            "net_accept_in_background" => self.network.accept_in_background(payload),
            "udp_bind" => self.network.udp_bind(payload),
            "udp_connect" => self.network.udp_connect(payload),
            "udp_talk" => self.network.udp_talk(payload),
            "udp_send_to" => self.network.udp_send_to(payload),
            "sendmsg_to" => self.network.send_message_to(payload),
            "sendmmsg" => self.network.send_messages(payload),
            "send_descriptor" => self.network.send_descriptor(payload),
            "send_descriptor_to_itself" => network::send_descriptor_to_itself(),
            "talk_by_name" => network::talk_by_name(payload),
            "dns_query" => network::dns_query(&self.network, payload),
            "look_up" => network::look_up(payload),
            "look_up_c" => network::look_up_c(payload),
            "net_send_in_background" => self.network.send_in_background(payload),
            "net_move_in_background" => self.network.move_in_background(payload),
            "continue_by_timer" => threads::continue_by_timer(payload),
            "udp_reconnect" => self.network.udp_reconnect(payload),
            "udp_hears_unbound" => network::udp_hears_unbound(payload),
            "unix_talk" => network::talk_unix(payload),
            "unix_connect" => network::connect_unix(&mut self.network, payload),
            "abstract_connect" => network::connect_abstract(&mut self.network, payload),
            "unix_receives_descriptors" => network::receive_descriptors(payload),
            "net_nodelay" => self.network.no_delay(payload),
            "net_half_close" => self.network.half_close(payload),
            "net_accept_unnamed" => self.network.accept_unnamed(payload),
            "interfaces" => network::interfaces(),
            "talk_to_itself" => network::talk_to_itself(),
            "fork" => kernel::fork(),
            "exec" => kernel::exec(payload),
            "run" => processes::run(payload),
            "run_by_fork" => processes::run_by_fork(payload),
            "run_in_group" => processes::run_in_group(payload),
            "run_as" => processes::run_as(payload),
            "run_and_kill" => processes::run_and_kill(payload),
            "system" => processes::system(payload),
            "popen" => processes::popen(payload),
            "child_that_aborts" => processes::child_that_aborts(),
            "child_that_computes" => processes::child_that_computes(payload),
            "start_while_it_changes" => processes::start_while_it_changes(payload),
            "start_and_leave" => processes::start_and_leave(payload),
            "sleepers" => processes::sleepers(payload),
            "fork_bomb" => processes::fork_bomb(),
            "daemon" => processes::daemon(),
            "pass_along" => processes::pass_along(payload),
            "stopped" => processes::stopped(),
            "in_child" => {
                let (method, rest) = split_line(payload);
                let method = String::from_utf8_lossy(method).into_owned();
                let answer = |payload: &[u8]| self.call(&method, payload).unwrap_or_default();
                processes::in_child(rest, answer)
            }
            "kill" => number(payload).and_then(kernel::ask_about_process),
            "memfd" => kernel::memory_file(),
            "ptrace" => kernel::trace_me(),
            "ptrace_in_vforked_child" => processes::trace_in_vforked_child(),
            "dlopen" => kernel::load_library(payload),
            "syscall" => kernel::raw(payload),
            "syscall_into_code" => kernel::raw_into_code(payload),
            "int80" => kernel::ask_as_32_bit_program(),

            "take" => exhaustion::take(payload),
            "stretch" => exhaustion::stretch(payload),
            "recurse" => exhaustion::recurse(),
            "spin_on" => exhaustion::spin_on(payload),
            "big_file" => exhaustion::big_file(payload, false),
            "sparse_file" => exhaustion::big_file(payload, true),

            "block_signals" => endings::block_signals(),
            "exit_and_hang" => endings::exit_and_hang(),
            "exit_on_thread" => endings::exit_on_thread(),
            "exit_thread" => endings::exit_thread(),
            "exit_at_once" => endings::exit_at_once(),
            "illegal_instruction" => endings::illegal_instruction(),
            "raise" => endings::raise(payload),

            "facts" => facts::all(),
            "fact" => facts::one(payload),
            "argv" => facts::arguments(),
            "environment" => facts::environment(),
            "descriptors" => facts::descriptors(),
            "host_name" => machine::host_name(),
            "sysinfo" => machine::sysinfo(),

            "close_channel" => channel::close(),
            "write_channel" => channel::write(payload),
            "write_channel_and_exit" => channel::write_and_exit(payload),

            "call_unread" => channel::call_unread(payload),
            "call_and_never_read" => channel::call_and_never_read(payload),
            "compute_as_if_in_service" => channel::compute_as_if_in_service(payload),

            "service" => services::call(self.host()?, payload),
            "service_from_thread" => services::call_from_thread(self.host()?, payload),
            "service_read_file" => services::read_file(self.host()?, payload),
            "service_write_file" => services::write_file(self.host()?, payload),
            "service_file_len" => services::file_len(self.host()?, payload),
            "service_flood" => services::flood_calls(self.host()?, payload),

            "send" => messages::send(self.host()?, payload),
            "send_many" => messages::send_many(self.host()?, payload),
            "receive" => messages::receive(self.host()?, payload),
            "receive_from_thread" => messages::receive_from_thread(self.host()?, payload),
            "receive_all" => messages::receive_all(self.host()?),
            other => match self.held.serve(other, payload) {
                Some(attempt) => attempt,
                None => return Err(PluginError::unknown_method(other)),
            },
        };
        Ok(match attempt {
            Ok(got) => [b"ok ", got.as_slice()].concat(),
            Err(error) => match error.raw_os_error() {
                Some(errno) => format!("errno {errno}").into_bytes(),
                None => format!("error {error}").into_bytes(),
            },
        })
    }
}

impl Probe {
    fn host(&self) -> Result<&Host, PluginError> {
        self.host.as_ref().ok_or_else(|| "not activated".into())
    }
}

fn text(payload: &[u8]) -> io::Result<&str> {
    std::str::from_utf8(payload).map_err(io::Error::other)
}

fn number(payload: &[u8]) -> io::Result<usize> {
    text(payload)?.trim().parse().map_err(io::Error::other)
}

/// The bytes before the first newline, and those after it.
fn split_line(payload: &[u8]) -> (&[u8], &[u8]) {
    match payload.iter().position(|byte| *byte == b'\n') {
        Some(at) => (&payload[..at], &payload[at + 1..]),
        None => (payload, &[]),
    }
}

/// Two numbers with a blank between them.
fn split_space(head: &[u8]) -> io::Result<(usize, usize)> {
    let at = head.iter().position(|byte| *byte == b' ').unwrap_or(head.len());
    Ok((number(&head[..at])?, number(&head[at..])?))
}

/// What a C function's -1 means.
fn check(rc: impl Into<i64>) -> io::Result<i64> {
    match rc.into() {
        -1 => Err(io::Error::last_os_error()),
        rc => Ok(rc),
    }
}

export_plugin!(
    Probe::default(),
    id: "probe",
    description: "tries what a plugin must not be able to do",
    permissions: ["file-read"]
);
