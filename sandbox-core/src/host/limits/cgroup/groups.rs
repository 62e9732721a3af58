//! Makes groups for helpers, in the places that were found for each controller.
//!
//! Runs in the host. Its end waits, within a bound, for groups that were not empty yet.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::group::Group;
use super::home::{Controller, Home, Unified, legacy_home, new_name, sweep};
use super::leftovers::Leftovers;
use crate::shared::policy::{Layer, ResourceLimits, Sabotage};

/// Where groups can be made with each controller, or why none can.
#[derive(Debug)]
pub(crate) struct Groups {
    memory: Result<Home, String>,
    pids: Result<Home, String>,
    cpu: Result<Home, String>,
    leftovers: Arc<Leftovers>,
}

impl Groups {
    /// Looks for folders below which this process may make groups: its own group, or, where that may have no groups beside
    /// processes, the one above, as a service manager delegates it.
    pub(crate) fn find() -> Self {
        let unified = Unified::find();
        let home = |controller: Controller| {
            let of_two = unified.as_ref().map_err(Clone::clone).and_then(|unified| unified.home(controller));
            // Threads and processes are counted by an rlimit where there is no version 2.
            of_two.or_else(|why| match controller {
                Controller::Pids => Err(why),
                _ => legacy_home(controller).map_err(|of_one| format!("{why}; {of_one}")),
            })
        };
        let groups = Self {
            memory: home(Controller::Memory),
            pids: home(Controller::Pids),
            cpu: home(Controller::Cpu),
            leftovers: Arc::default(),
        };
        for home in [&groups.memory, &groups.cpu].into_iter().flatten() {
            let (Home::Unified(folder) | Home::Legacy(folder)) = home;
            sweep(folder);
        }
        groups
    }

    /// New groups for a helper with these limits, as far as they can be had. They bound nothing yet.
    pub(crate) fn make(&self, limits: &ResourceLimits, sabotage: &Sabotage) -> Group {
        let left_out = Err("it was left out, for a test".to_owned());
        let memory = if sabotage.takes(Layer::MemoryCgroup) { &left_out } else { &self.memory };
        let name = new_name();
        let make = |folder: &Path| {
            let folder = folder.join(&name);
            fs::create_dir(&folder).map(|()| folder).map_err(|error| format!("making a group: {error}"))
        };
        let homes = [memory, &self.pids, &self.cpu];
        let unified = homes.into_iter().flatten().find_map(|home| match home {
            Home::Unified(folder) => Some(make(folder)),
            Home::Legacy(_) => None,
        });
        let legacy = |home: &Result<Home, String>, wanted: bool| match home {
            Ok(Home::Legacy(folder)) if wanted => Some(make(folder)),
            _ => None,
        };
        let mut group = Group {
            legacy_memory: None,
            legacy_cpu: None,
            memory: memory.as_ref().map(drop).map_err(Clone::clone),
            pids: self.pids.as_ref().map(drop).map_err(Clone::clone),
            cpu: self.cpu.as_ref().map(drop).map_err(Clone::clone),
            unified: None,
            counts_threads: false,
            removed: AtomicBool::new(false),
            leftovers: Arc::clone(&self.leftovers),
        };
        match unified {
            Some(Ok(folder)) => group.unified = Some(folder),
            Some(Err(why)) => {
                let lost = [(memory, &mut group.memory), (&self.pids, &mut group.pids)];
                for (home, state) in lost.into_iter().chain([(&self.cpu, &mut group.cpu)]) {
                    if matches!(home, Ok(Home::Unified(_))) {
                        *state = Err(why.clone());
                    }
                }
            }
            None => {}
        }
        match legacy(memory, true) {
            Some(Ok(folder)) => group.legacy_memory = Some(folder),
            Some(Err(why)) => group.memory = Err(why),
            None => {}
        }
        match legacy(&self.cpu, limits.max_cpu_percent.is_some()) {
            Some(Ok(folder)) => group.legacy_cpu = Some(folder),
            Some(Err(why)) => group.cpu = Err(why),
            None => {}
        }
        group
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        self.leftovers.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};
    use std::time::Instant;

    use super::*;
    use crate::host::limits::cgroup::leftovers::EMPTIED_WITHIN;

    /// Ends with the test, however that ends.
    struct Member(Child);

    impl Drop for Member {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_group_with_a_member_that_lives_on_is_not_waited_for_and_goes_with_it() {
        let groups = Groups::find();
        let group = groups.make(&ResourceLimits::default(), &Sabotage::default());
        let Some(folder) = group.unified.clone().or_else(|| group.legacy_memory.clone()) else {
            println!("no group can be made here: nothing is proven");
            return;
        };
        let member = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let member = Member(member);
        fs::write(folder.join("cgroup.procs"), member.0.id().to_string()).unwrap();
        group.remove();
        assert!(folder.exists(), "it has a member");
        // Which outlives whatever whoever ends plugins could wait for.
        drop(groups);
        assert!(folder.exists(), "it has a member");
        drop(member);
        let deadline = Instant::now() + EMPTIED_WITHIN;
        while folder.exists() && Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert!(!folder.exists(), "{}", folder.display());
    }
}
