//! Each limit, tried just under and just over, with the cause that it ends in.

use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use rig::inventory::cpu_time_used;
use rig::libraries::constructor_that;
use rig::plugins::{Attempts, explained};
use rig::unconfined::{self, Outcome};
use rig::wait::{PATIENCE, watch};
use rig::{Answer, Scratch, active, library, probe, probe_with};
use sandbox_core::{
    App, Cause, Operation, PERMISSION_FILE_READ, PluginPolicy, PluginSandbox, PluginSandboxError,
    PluginState, ResourceLimits,
};

/// Short, but longer than a scheduler keeps anybody waiting.
const SHORT: Duration = Duration::from_millis(300);

fn limited(limits: ResourceLimits) -> PluginSandbox {
    probe_with(PluginPolicy::new().limits(limits))
}

fn patient() -> ResourceLimits {
    ResourceLimits::default().call_timeout(Duration::from_secs(60))
}

#[track_caller]
fn cause_of(error: &PluginSandboxError) -> &Cause {
    match error {
        PluginSandboxError::Ended { cause, .. } => cause,
        other => panic!("it did not end: {}", explained(other)),
    }
}

/// It ended for this limit on memory, and what it had is told: no more than that, and a little that is shared.
#[track_caller]
fn is_memory(cause: &Cause, limit: u64) {
    match cause {
        Cause::Memory { used_mb, limit_mb } => {
            assert_eq!(*limit_mb, limit);
            assert!((1..=limit + 64).contains(used_mb), "{cause}");
        }
        other => panic!("{other}"),
    }
}

/// It ended for this limit on CPU time, having used at least that.
#[track_caller]
fn is_cpu_time(cause: &Cause, limit: u64) {
    match cause {
        Cause::CpuTime { used, limit_sec } => {
            assert_eq!(*limit_sec, limit);
            assert!(used.as_secs() >= limit, "{cause}");
        }
        other => panic!("{other}"),
    }
}

#[test]
fn memory_under_the_limit_is_had_and_over_it_refused() {
    let plugin = limited(patient().max_memory_mb(100));
    assert!(plugin.attempt("alloc", "60").got_it());
    assert!(plugin.attempt("free", "").got_it());
    assert!(plugin.attempt("alloc", "85").got_it());
    assert!(plugin.attempt("free", "").got_it());
    // With a cgroup the plugin ends; without one the allocation is refused.
    match plugin.call("alloc", b"140") {
        Ok(reply) => assert_eq!(Answer::read(&reply), Answer::Errno(libc::ENOMEM)),
        Err(error) => is_memory(cause_of(&error), 100),
    }
    let free = limited(patient().max_memory_mb(None));
    assert!(free.attempt("alloc", "140").got_it(), "without the limit it is had");
}

#[test]
fn a_plugin_that_dies_of_its_memory_limit_says_so() {
    let plugin = limited(patient().max_memory_mb(100));
    assert!(plugin.attempt("alloc_abort", "60").got_it());
    let error = plugin.refused("alloc_abort", "60");
    is_memory(cause_of(&error), 100);
    assert!(error.help().is_some_and(|help| help.contains("max_memory_mb")), "{}", explained(&error));
}

#[test]
fn cpu_time_under_the_limit_is_had_and_over_it_ends_the_plugin() {
    let plugin = limited(patient().max_cpu_time_sec(1));
    assert!(plugin.attempt("spin", "300").got_it());
    let error = plugin.refused("spin_forever", "");
    is_cpu_time(cause_of(&error), 1);
    assert_eq!(plugin.state(), PluginState::Crashed);
}

#[test]
fn cpu_time_counts_over_all_calls() {
    let plugin = limited(patient().max_cpu_time_sec(1));
    let mut error = None;
    for _ in 0..40 {
        if let Err(ended) = plugin.call("spin", b"50") {
            error = Some(ended);
            break;
        }
    }
    is_cpu_time(cause_of(&error.expect("two seconds are more than one")), 1);
}

#[test]
fn cpu_time_of_a_constructor_counts() {
    let scratch = Scratch::new();
    let limits = ResourceLimits::default().max_cpu_time_sec(1).load_timeout(Duration::from_secs(60));
    let plugin = PluginSandbox::new("spin", PluginPolicy::new().limits(limits)).expect("a sandbox");
    let error = plugin.load_plugin(constructor_that(&scratch, "spin")).expect_err("it never ends");
    is_cpu_time(cause_of(&error), 1);
}

#[test]
fn as_many_descriptors_as_allowed_can_be_held_and_not_one_more() {
    for (most, limits) in [
        ("10", ResourceLimits::default()),
        ("3", ResourceLimits::default().max_file_handles(3)),
        ("0", ResourceLimits::default().max_file_handles(0)),
    ] {
        let plugin = limited(limits);
        assert_eq!(plugin.attempt("open_many", "40").text(), format!("{most} {}", libc::EMFILE));
        assert_eq!(
            plugin.attempt("open_many", most).text(),
            format!("{most} 0"),
            "once closed they can be had again"
        );
    }
    let plugin = limited(ResourceLimits::default().max_file_handles(None));
    assert_eq!(plugin.attempt("open_many", "100").text(), "100 0");
}

#[test]
fn a_brokered_open_counts_against_the_descriptors() {
    let scratch = Scratch::new();
    let file = scratch.file("file", "contents");
    let policy = |most| {
        PluginPolicy::new()
            .permission(PERMISSION_FILE_READ)
            .limits(ResourceLimits::default().max_file_handles(most))
    };
    assert!(probe_with(policy(1)).attempt("open", &file).got_it());
    assert_eq!(probe_with(policy(0)).attempt("open", &file), Answer::Errno(libc::EMFILE));
}

#[test]
fn as_many_threads_as_allowed_can_run_and_not_one_more() {
    for (most, limits) in [
        ("16", ResourceLimits::default()),
        ("2", ResourceLimits::default().max_threads(2)),
        ("0", ResourceLimits::default().max_threads(0)),
    ] {
        let plugin = limited(limits);
        assert_eq!(plugin.attempt("threads", "40").text(), format!("{most} {}", libc::EAGAIN));
    }
    let plugin = limited(ResourceLimits::default().max_threads(None));
    assert_eq!(plugin.attempt("threads", "40").text(), "40 0");
}

#[test]
fn the_threads_of_one_plugin_do_not_count_against_another() {
    let limits = ResourceLimits::default().max_threads(4);
    let plugins: Vec<_> = (0..4).map(|_| limited(limits.clone())).collect();
    thread::scope(|scope| {
        for plugin in &plugins {
            // Once each: the kernel counts a thread a moment longer than pthread_join(3) waits for it.
            scope.spawn(|| assert_eq!(plugin.attempt("threads", "4").text(), "4 0"));
        }
    });
}

#[test]
fn messages_as_large_as_allowed_pass_and_larger_ones_do_not() {
    const MOST: usize = 64 << 10;
    let plugin = limited(ResourceLimits::default().max_message_bytes(MOST as u64));
    let payload = vec![b'x'; MOST];
    // `echo` puts three bytes before what it answers.
    assert_eq!(plugin.attempt("echo", &payload[..MOST - 3]), Answer::Got(payload[..MOST - 3].to_vec()));
    assert!(plugin.attempt("print", "x").got_it());
    assert!(
        plugin.call("echo", &[payload.as_slice(), b"x"].concat()).is_err(),
        "one byte too many to be sent"
    );
    let error = plugin.refused("echo", [payload.as_slice(), b"x"].concat());
    match &error {
        PluginSandboxError::MessageTooLarge { len, max, .. } => {
            assert_eq!((*len as usize, *max as usize), (MOST + 1, MOST))
        }
        other => panic!("{}", explained(other)),
    }
    assert_eq!(plugin.attempt("big", (MOST - 3).to_string()).text().len(), MOST - 3);
    let error = plugin.refused("big", (MOST - 2).to_string());
    assert!(!matches!(error, PluginSandboxError::Ended { .. }), "{}", explained(&error));
    assert!(plugin.attempt("echo", "x").got_it(), "neither did the plugin any harm");
}

#[test]
fn a_large_message_goes_through_whole() {
    let plugin = limited(patient());
    let payload: Vec<u8> = (0..5_000_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[2]).collect();
    assert_eq!(plugin.attempt("echo", &payload), Answer::Got(payload));
}

#[track_caller]
fn check_deadline(error: &PluginSandboxError, operation: Operation) {
    let PluginSandboxError::Ended { cause, .. } = error else { panic!("{}", explained(error)) };
    assert_eq!(cause, &Cause::Deadline { operation, timeout: SHORT }, "{}", explained(error));
    assert!(error.to_string().contains(&operation.to_string()), "the error says which: {error}");
    assert!(error.help().is_some_and(|help| help.contains("_timeout")), "{}", explained(error));
}

#[test]
fn a_constructor_that_hangs_is_ended_by_the_deadline_of_the_load() {
    let scratch = Scratch::new();
    let policy = PluginPolicy::new().limits(ResourceLimits::default().load_timeout(SHORT));
    let plugin = PluginSandbox::new("hang", policy).expect("a sandbox");
    let error = plugin.load_plugin(constructor_that(&scratch, "hang")).expect_err("it hangs");
    check_deadline(&error, Operation::Load);
    assert_eq!((plugin.state(), plugin.process_id()), (PluginState::Crashed, None));
}

#[test]
fn activate_call_and_deactivate_each_have_their_own_deadline() {
    let life = |limits: ResourceLimits, at_activate: &'static str| {
        let policy = PluginPolicy::new().limits(limits);
        let plugin = rig::loaded("life", policy, library("probe-life"));
        let helper = watch(plugin.process_id().expect("it lives"));
        let app = App::new().service("test.activate", move |_| Ok(at_activate.into()));
        (plugin.activate_plugin(app), plugin, helper)
    };

    let (result, plugin, helper) = life(ResourceLimits::default().activate_timeout(SHORT), "hang");
    check_deadline(&result.expect_err("it hangs"), Operation::Activate);
    helper.ended();
    assert_eq!(plugin.state(), PluginState::Crashed);

    let (result, plugin, helper) = life(ResourceLimits::default().call_timeout(SHORT), "ok");
    result.expect("it activates");
    check_deadline(&plugin.refused("now", "hang"), Operation::Call);
    helper.ended();

    let (result, plugin, helper) = life(ResourceLimits::default().deactivate_timeout(SHORT), "ok");
    result.expect("it activates");
    plugin.call("at_deactivate", b"hang").expect("it answers");
    check_deadline(&plugin.deactivate_plugin().expect_err("it hangs"), Operation::Deactivate);
    helper.ended();
    assert_eq!(plugin.state(), PluginState::Crashed);
}

#[test]
fn a_destructor_that_hangs_does_not_hold_up_the_unload() {
    let policy = PluginPolicy::new().limits(ResourceLimits::default().deactivate_timeout(SHORT));
    let plugin = active("life", policy, library("probe-life"), ());
    let helper = watch(plugin.process_id().expect("it lives"));
    plugin.call("at_drop", b"hang").expect("it answers");
    // Unloaded it is, one way or the other; the deadline may be told.
    if let Err(error) = plugin.unload_plugin() {
        assert!(matches!(cause_of(&error), Cause::Deadline { .. }), "{}", explained(&error));
    }
    helper.ended();
    assert_eq!(plugin.process_id(), None);
}

#[test]
fn a_deadline_does_not_run_while_the_plugin_waits_for_the_host() {
    let timeout = Duration::from_secs(1);
    let slow = move |_: &sandbox_core::ServiceRequest<'_>| {
        let until = Instant::now() + timeout * 2;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            thread::park_timeout(left);
        }
        Ok(b"at last".to_vec())
    };
    let policy = PluginPolicy::new().limits(ResourceLimits::default().call_timeout(timeout));
    let plugin = active("probe", policy, library("probe"), App::new().service("slow", slow));
    assert_eq!(plugin.attempt("service", "slow\n").text(), "replied at last");
    let error = plugin.refused("sleep_forever", "");
    assert_eq!(
        cause_of(&error),
        &Cause::Deadline { operation: Operation::Call, timeout },
        "and it runs again"
    );
}

#[test]
fn requests_without_end_do_not_put_off_the_deadline() {
    let scratch = Scratch::new();
    let folder = scratch.folder("folder");
    // As much work for each as the broker does for one: folders climbed out of, and a long way that leads nowhere.
    let path = format!("{folder}{}/nothing{}", "/../folder".repeat(30), "/x".repeat(1000));
    let limits = ResourceLimits::default().call_timeout(SHORT);
    let plugin = probe_with(PluginPolicy::new().permission(PERMISSION_FILE_READ).limits(limits));
    assert_eq!(plugin.attempt("stat", &path), Answer::Errno(libc::ENOENT), "the broker goes all the way");
    // Time in which the host works for it is given back once, and not for ever: long before another's ten times as long.
    let patient = limited(ResourceLimits::default().call_timeout(SHORT * 10));
    let (ended, has_ended) = channel();
    thread::scope(|scope| {
        scope.spawn(|| ended.send(patient.call("sleep_forever", b"")));
        scope.spawn(|| ended.send(plugin.call("stat_forever", path.as_bytes())));
        let first = has_ended.recv_timeout(PATIENCE).expect("both end").expect_err("neither answers");
        let _ = patient.unload_plugin();
        check_deadline(&first, Operation::Call);
    });
}

#[test]
fn a_service_called_in_the_name_of_a_call_that_goes_on_does_not_stop_its_clock() {
    let helper: Arc<OnceLock<u32>> = Arc::default();
    let (entered, was_entered) = channel();
    let app = {
        let helper = Arc::clone(&helper);
        App::new().service("slow", move |_| {
            let pid = *helper.get().ok_or("set below")?;
            let _ = entered.send(());
            let before = cpu_time_used(pid);
            // Longer than the call may take: by the plugin's own time, whatever else the machine does. It may also be gone.
            rig::wait::until("the plugin to compute", || {
                let used = cpu_time_used(pid);
                (used == 0 || used >= before + 40).then_some(Ok(Vec::new()))
            })
        })
    };
    let limits = ResourceLimits::default().call_timeout(SHORT);
    let plugin = active("probe", PluginPolicy::new().limits(limits), library("probe"), app);
    helper.set(plugin.process_id().expect("it lives")).expect("set once");
    check_deadline(&plugin.refused("compute_as_if_in_service", "5000\nslow"), Operation::Call);
    was_entered.try_recv().expect("the service was called");
}

#[test]
fn as_many_timers_as_allowed_can_be_made_and_not_one_more() {
    let control = unconfined::attempt("timers", "300");
    assert_eq!(control, Outcome::Answered(Answer::Got(b"300 0".to_vec())), "outside they can be had");
    assert_eq!(probe().attempt("timers", "256").text(), "256 0");
    assert_eq!(probe().attempt("timers", "300").text(), format!("256 {}", libc::EAGAIN));
}

#[test]
fn limits_can_be_changed_while_the_plugin_runs() {
    let plugin = probe();
    assert_eq!(plugin.attempt("open_many", "40").text(), format!("10 {}", libc::EMFILE));
    plugin.set_resource_limits(ResourceLimits::default().max_file_handles(20)).expect("in range");
    assert_eq!(plugin.attempt("open_many", "40").text(), format!("20 {}", libc::EMFILE));
    plugin.set_resource_limits(ResourceLimits::default().max_file_handles(4)).expect("in range");
    assert_eq!(plugin.attempt("open_many", "40").text(), format!("4 {}", libc::EMFILE));
    plugin.set_resource_limits(ResourceLimits::default().call_timeout(SHORT)).expect("in range");
    check_deadline(&plugin.refused("sleep_forever", ""), Operation::Call);
}

#[test]
fn a_change_of_limits_that_is_refused_changes_none_of_them() {
    let plugin = limited(ResourceLimits::default());
    let before = plugin.resource_limits();
    let error = plugin.set_resource_limits(before.clone().max_memory_mb(300).max_file_handles(4000));
    let error = error.expect_err("more than eight times what it was loaded with");
    assert!(error.to_string().starts_with("limit max_file_handles is 4000: "), "{error}");
    assert_eq!(plugin.resource_limits(), before);
    assert!(!plugin.attempt("alloc", "140").got_it(), "the memory limit is as it was");
    plugin.set_resource_limits(before.max_memory_mb(300).max_file_handles(40)).expect("within eight times");
    assert!(plugin.attempt("alloc", "140").got_it(), "and is raised where nothing is refused");
}

#[test]
fn what_a_plugin_uses_is_readable_while_it_runs_and_after_its_end() {
    let plugin = PluginSandbox::new("probe", PluginPolicy::new().limits(patient())).expect("a sandbox");
    assert_eq!(plugin.resource_usage(), None, "it was never loaded");
    let plugin = probe_with(PluginPolicy::new().limits(patient()));
    let usage = || plugin.resource_usage().expect("it was loaded");
    assert!(plugin.attempt("spin", "100").got_it());
    assert!(plugin.attempt("alloc", "50").got_it());
    plugin.call("print", b"x").expect("it prints");
    let now =
        rig::wait::until("what it printed to be read", || Some(usage()).filter(|now| now.printed_bytes > 0));
    assert!(!now.ended);
    assert!(now.activation_cpu_time >= Duration::from_millis(100), "{now:?}");
    assert!(now.memory_bytes.now >= 50 << 20 && now.memory_bytes.peak >= now.memory_bytes.now, "{now:?}");
    assert!(now.memory_bytes.peak < 100 << 20, "{now:?}");
    assert_eq!((now.threads.now, now.processes.now, now.network_connections.now), (0, 0, 0));
    if let Some(handles) = now.file_handles {
        assert_eq!(handles.now, 0);
    }
    assert!(plugin.attempt("free", "").got_it());
    let freed = usage();
    assert!(freed.memory_bytes.now < 50 << 20 && freed.memory_bytes.peak >= 50 << 20, "{freed:?}");
    plugin.unload_plugin().expect("it ends");
    let last = usage();
    assert!(last.ended && last.memory_bytes.now == 0, "{last:?}");
    assert!(last.memory_bytes.peak >= 50 << 20 && last.cpu_time >= freed.cpu_time, "{last:?}");
}

#[test]
fn the_report_says_of_every_limit_by_what_it_is_held() {
    let plugin = probe();
    let report = plugin.enforcement_report().expect("it was loaded");
    for (limit, value) in [
        ("max_memory_mb", Some(100)),
        ("max_cpu_time_sec", Some(10)),
        ("max_cpu_percent", None),
        ("max_file_handles", Some(10)),
        ("max_file_size_mb", Some(1024)),
        ("max_scratch_mb", Some(0)),
        ("max_network_connections", Some(5)),
        ("max_threads", Some(16)),
        ("max_processes", Some(8)),
        ("max_message_bytes", Some(16 << 20)),
        ("max_output_bytes", None),
        ("max_output_bytes_per_sec", Some(1 << 20)),
        ("max_pending_services", Some(64)),
        ("max_queued_messages", Some(256)),
    ] {
        let held = report.limit(limit).unwrap_or_else(|| panic!("{limit} is missing"));
        assert_eq!(held.value, value, "{limit}");
        assert!(!held.held_by.is_empty(), "{limit}");
        assert_eq!(report.to_string().contains(&format!("  {limit} ")), value.is_some(), "{report}");
    }
}

#[test]
fn output_within_its_limits_is_taken_and_what_is_over_is_dropped_and_counted() {
    const FLOOD: u64 = 1 << 20;
    let default = || ResourceLimits::default().max_output_bytes_per_sec(None);
    for (limits, dropped) in [
        (default(), 0),
        (default().max_output_bytes(FLOOD), 0),
        (default().max_output_bytes(FLOOD - 1), 1),
        (default().max_output_bytes(0), FLOOD),
        (default().max_output_bytes_per_sec(0), FLOOD),
    ] {
        let plugin = limited(limits.clone().call_timeout(PATIENCE));
        assert!(plugin.attempt("flood", FLOOD.to_string()).got_it(), "nobody waits");
        let usage = rig::wait::until("all of it to be read", || {
            plugin.resource_usage().filter(|usage| usage.printed_bytes == FLOOD)
        });
        assert_eq!(usage.dropped_output_bytes, dropped, "{limits:?}");
        assert_eq!(plugin.printed().contains("bytes dropped]"), dropped > 4096);
        assert!(plugin.attempt("echo", "x").got_it(), "and it goes on");
    }
    let plugin = limited(default().max_output_bytes(0));
    plugin.set_resource_limits(default()).expect("in range");
    assert!(plugin.attempt("flood", "100").got_it());
    plugin.set_resource_limits(default().max_output_bytes(0)).expect("in range");
    assert_eq!(plugin.state(), PluginState::Active);
}
