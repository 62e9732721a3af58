//! Workers for services that plugins call outside of any operation. What they run is the embedder's code.
//!
//! Runs in the host, on at most four threads, started when first needed. The queue is bounded by each plugin's own bound.

use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::shared::sys::signals;

const WORKERS: usize = 4;

type Job = Box<dyn FnOnce() + Send>;

/// The pool.
pub(crate) struct ServicePool {
    state: Mutex<State>,
}

struct State {
    /// `None` once it is stopped.
    queue: Option<Sender<Job>>,
    jobs: Receiver<Job>,
    threads: Vec<JoinHandle<()>>,
}

impl ServicePool {
    pub(crate) fn new() -> Self {
        let (queue, jobs) = unbounded();
        Self { state: Mutex::new(State { queue: Some(queue), jobs, threads: Vec::new() }) }
    }

    /// Runs `job` as soon as a worker is free.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(queue) = &state.queue else { return };
        let _ = queue.send(Box::new(job));
        if state.threads.len() < WORKERS {
            let jobs = state.jobs.clone();
            let work = move || {
                signals::block_all();
                jobs.iter().for_each(|job| job());
            };
            let thread = std::thread::Builder::new().name("plugin-services".to_owned()).spawn(work);
            state.threads.extend(thread); // with none at all the plugin waits, to its own deadline
        }
    }

    /// Ends the workers once they have run what they run.
    pub(crate) fn stop(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.queue = None;
        let left: Vec<Job> = state.jobs.try_iter().collect();
        let threads = std::mem::take(&mut state.threads);
        drop(state);
        drop(left); // with no lock held: what a job owns may be anything
        let own = std::thread::current().id();
        for thread in threads.into_iter().filter(|thread| thread.thread().id() != own) {
            let _ = thread.join();
        }
    }
}
