//! One plugin does not hold up another, whatever it waits for or floods.

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rig::plugins::Attempts;
use rig::{Scratch, active, library};
use sandbox_core::{App, PERMISSION_FILE_READ, PluginPolicy, PluginSandbox, ResourceLimits};

fn reader(id: &str) -> PluginSandbox {
    let limits = ResourceLimits::default().call_timeout(Duration::from_secs(60));
    active(id, PluginPolicy::new().permission(PERMISSION_FILE_READ).limits(limits), library("probe"), ())
}

#[test]
fn a_storm_of_opens_in_one_plugin_does_not_hold_up_another() {
    let scratch = Scratch::new();
    let file = scratch.file("file", "contents");
    let (noisy, quiet) = (reader("noisy"), reader("quiet"));
    thread::scope(|scope| {
        let storm = scope.spawn(|| noisy.attempt("open_storm", format!("8 500\n{file}")).text());
        while !storm.is_finished() {
            assert_eq!(quiet.attempt("open", &file).text(), "contents");
        }
        assert_eq!(storm.join().expect("it ends"), "4000", "and every one of its own was served");
    });
}

#[test]
fn more_plugins_than_there_are_workers_in_bursts_of_opens_do_not_hold_up_another() {
    let scratch = Scratch::new();
    let file = scratch.file("file", "contents");
    let noisy: Vec<_> = (0..6).map(|number| reader(&format!("noisy-{number}"))).collect();
    let quiet = reader("quiet");
    thread::scope(|scope| {
        let storm = |plugin: &PluginSandbox| plugin.attempt("open_storm", format!("1 500\n{file}")).text();
        let storms: Vec<_> = noisy.iter().map(|plugin| scope.spawn(move || storm(plugin))).collect();
        while !storms.iter().all(thread::ScopedJoinHandle::is_finished) {
            assert_eq!(quiet.attempt("open", &file).text(), "contents");
        }
        for storm in storms {
            assert_eq!(storm.join().expect("it ends"), "500", "and every one of its own was served");
        }
    });
}

#[test]
fn a_service_that_does_not_return_holds_up_only_its_caller() {
    let scratch = Scratch::new();
    let file = scratch.file("file", "contents");
    let (entered, wait_for_entry) = channel();
    let (release, wait_for_release) = channel::<()>();
    let wait_for_release = Mutex::new(wait_for_release);
    let app = App::new().service("slow", move |_| {
        let _ = entered.send(());
        let _ = wait_for_release.lock().map(|wait| wait.recv());
        Ok(Vec::new())
    });
    let slow = active("slow", PluginPolicy::new(), library("probe"), app);
    let quick = reader("quick");
    thread::scope(|scope| {
        let waiting = scope.spawn(|| slow.attempt("service", "slow\n").text());
        wait_for_entry.recv().expect("the service runs");
        for _ in 0..20 {
            assert_eq!(quick.attempt("open", &file).text(), "contents");
        }
        let another = reader("another");
        assert_eq!(another.attempt("open", &file).text(), "contents", "loading goes on too");
        release.send(()).expect("the service waits");
        assert_eq!(waiting.join().expect("it ends"), "replied ");
    });
}

#[test]
fn services_called_from_threads_that_do_not_return_hold_up_only_their_plugin() {
    let (release, wait_for_release) = channel::<()>();
    let wait_for_release = Arc::new(Mutex::new(wait_for_release));
    let (entered, wait_for_entry) = channel();
    let app = || {
        let (wait_for_release, entered) = (Arc::clone(&wait_for_release), entered.clone());
        App::new().service("slow", move |_| {
            let _ = entered.send(());
            let _ = wait_for_release.lock().map(|wait| wait.recv());
            Ok(Vec::new())
        })
    };
    let slow: Vec<_> = ["a", "b", "c"]
        .map(|id| active(id, PluginPolicy::new(), library("probe"), app()))
        .into_iter()
        .collect();
    let quick =
        active("quick", PluginPolicy::new(), library("probe"), App::new().service("log", |_| Ok(Vec::new())));
    thread::scope(|scope| {
        let waiting: Vec<_> = slow
            .iter()
            .map(|plugin| scope.spawn(|| plugin.attempt("service_from_thread", "slow\n").text()))
            .collect();
        wait_for_entry.recv().expect("one of the services runs");
        for _ in 0..20 {
            assert_eq!(quick.attempt("service_from_thread", "log\n").text(), "replied ");
        }
        drop(release);
        waiting.into_iter().for_each(|waiting| assert_eq!(waiting.join().expect("it ends"), "replied "));
    });
}

#[test]
fn a_plugin_that_hangs_or_spins_does_not_hold_up_another() {
    let limits = ResourceLimits::default().call_timeout(Duration::from_secs(2));
    let make = |id: &str| active(id, PluginPolicy::new().limits(limits.clone()), library("probe"), ());
    let (hangs, spins, quick) = (make("hangs"), make("spins"), make("quick"));
    thread::scope(|scope| {
        let hanging = scope.spawn(|| hangs.refused("sleep_forever", ""));
        let spinning = scope.spawn(|| spins.refused("spin_forever", ""));
        while !hanging.is_finished() || !spinning.is_finished() {
            assert_eq!(quick.attempt("echo", "x").text(), "x");
        }
        hanging.join().expect("it was ended");
        spinning.join().expect("it was ended");
    });
}

#[test]
fn a_plugin_that_ends_in_the_middle_of_its_broker_requests_harms_no_other() {
    let scratch = Scratch::new();
    let file = scratch.file("file", "contents");
    let quick = reader("quick");
    for turn in 0..5 {
        let storming = reader("storming");
        thread::scope(|scope| {
            let storm = scope.spawn(|| storming.call("open_storm", format!("8 100000\n{file}").as_bytes()));
            assert_eq!(quick.attempt("open", &file).text(), "contents");
            // If the storm has not begun yet, the unload ends a plugin that is about to.
            storming.unload_plugin().expect("it unloads");
            storm.join().expect("it ends").expect_err("it was unloaded");
        });
        assert_eq!(quick.attempt("open", &file).text(), "contents", "turn {turn}");
    }
}
