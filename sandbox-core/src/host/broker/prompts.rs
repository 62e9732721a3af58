//! Requests that wait until somebody has been asked about them.
//!
//! Runs in the host, on threads that do nothing else. A plugin whose request waits here has no other served meanwhile, so
//! that it has one question at a time, and slows only itself. Owns that an answer which does not come in time means no.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crossbeam_channel::bounded;

use super::Brokered;
use super::requests::{self, Request, Served};
use super::workers::Shared;
use crate::host::decider::{AccessRequest, Decider, Ruling};
use crate::host::instance::Instance;
use crate::shared::policy::PluginPermission;
use crate::shared::sys::seccomp::Notification;
use crate::shared::sys::signals;

/// How many questions may be open at once, of all plugins, those that a decider never answers included.
const MOST_OPEN: usize = 32;

/// How many questions one request may cause: a rename has two ends, and a path can become another meanwhile.
pub(super) const MOST_FOR_ONE: usize = 8;

/// The questions that are open.
#[derive(Debug, Default)]
pub(super) struct Prompts {
    open: Arc<AtomicUsize>,
}

/// A request that waits for an answer.
pub(super) struct Pending {
    pub(super) instance: Arc<Instance>,
    pub(super) brokered: Arc<Brokered>,
    pub(super) notification: Notification,
    pub(super) wish: Box<AccessRequest>,
}

/// The right to have a question open.
struct Seat(Arc<AtomicUsize>);

impl Seat {
    fn take(open: &Arc<AtomicUsize>) -> Option<Self> {
        let took =
            open.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < MOST_OPEN).then_some(n + 1));
        took.is_ok().then(|| Self(Arc::clone(open)))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Prompts {
    /// Has somebody asked, and serves the request by what was said; then its plugin has its next request served.
    pub(super) fn ask(&self, pending: Pending, shared: &Arc<Shared>) {
        let pending = Arc::new(pending);
        let (open, for_thread) = (Arc::clone(&self.open), (Arc::clone(&pending), Arc::clone(shared)));
        let work = move || {
            signals::block_all();
            let (pending, shared) = for_thread;
            pending.settle(&open, &shared);
            shared.rearm(&pending.instance, &pending.brokered);
        };
        // A thread that cannot be had is an answer that does not come.
        if std::thread::Builder::new().name("plugin-prompt".to_owned()).spawn(work).is_err() {
            pending.deny();
            shared.rearm(&pending.instance, &pending.brokered);
        }
    }
}

impl Pending {
    fn request<'a>(&'a self, rulings: &'a [(PluginPermission, Ruling)]) -> Request<'a> {
        let Self { instance, brokered, notification, .. } = self;
        Request { instance, brokered, notification, rulings, waited_since: None }
    }

    /// Asks, and serves the request anew, until nothing is left to be asked.
    fn settle(&self, open: &Arc<AtomicUsize>, shared: &Shared) {
        let (mut rulings, mut wish) = (Vec::new(), self.wish.clone());
        loop {
            let ruling = self.rule(&wish, open);
            let permission = wish.permission;
            match ruling {
                Ruling::AllowOnce => {}
                Ruling::AllowAlways => self.instance.subject.grant(permission.clone()),
                Ruling::Deny => self.instance.questions().remember_denied(permission.clone()),
            }
            rulings.push((permission, ruling));
            let request = self.request(&rulings);
            match requests::serve(&request) {
                Served::Answered => return,
                Served::Undecided(next) => wish = next,
                Served::Later(wait) => return shared.parked.park(&request, wait),
            }
        }
    }

    fn deny(&self) {
        let ruling = (self.wish.permission.clone(), Ruling::Deny);
        // What else it needs is nobody's to allow either.
        let _ = requests::serve(&self.request(&vec![ruling; MOST_FOR_ONE]));
    }

    /// What is said about `wish`; no, if nothing is said in time.
    fn rule(&self, wish: &AccessRequest, open: &Arc<AtomicUsize>) -> Ruling {
        let asks = self.instance.questions().may_ask(&wish.permission, Instant::now());
        let Some(decider) = self.instance.subject.decider().filter(|_| asks) else { return Ruling::Deny };
        let Some(seat) = Seat::take(open) else { return Ruling::Deny };
        let (say, said) = bounded(1);
        let (Decider { decide, timeout }, wish) = (decider, wish.clone());
        let ask = move || {
            signals::block_all();
            // The seat is taken for as long as the embedder's code runs, whether anybody still waits for it or not.
            let _seat = seat;
            let ruling = catch_unwind(AssertUnwindSafe(|| decide(&wish)));
            let _ = say.send(ruling.unwrap_or(Ruling::Deny));
        };
        if std::thread::Builder::new().name("plugin-decider".to_owned()).spawn(ask).is_err() {
            return Ruling::Deny;
        }
        let _waits = self.instance.waits_for_a_person(self.notification.tid);
        said.recv_timeout(timeout).unwrap_or(Ruling::Deny)
    }
}
