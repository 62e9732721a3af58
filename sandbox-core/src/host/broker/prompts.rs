//! Requests that wait until somebody has been asked about them.
//!
//! Runs in the host, on threads that do nothing else. A plugin whose request waits here has no other served meanwhile, so
//! that it has one question at a time, and slows only itself.

use std::sync::Arc;

use super::Brokered;
use super::requests::{self, Request, Served};
use super::workers::Shared;
use crate::host::decider::{self, AccessRequest, Decider, Ruling};
use crate::host::instance::Instance;
use crate::shared::policy::PluginPermission;
use crate::shared::sys::seccomp::Notification;
use crate::shared::sys::signals;

/// How many questions one request may cause: a rename has two ends, and a path can become another meanwhile.
pub(super) const MOST_FOR_ONE: usize = 8;

/// A request that waits for an answer.
pub(super) struct Pending {
    pub(super) instance: Arc<Instance>,
    pub(super) brokered: Arc<Brokered>,
    pub(super) notification: Notification,
    pub(super) wish: Box<AccessRequest>,
}

/// Has somebody asked, and serves the request by what was said; then its plugin has its next request served.
pub(super) fn ask(pending: Pending, shared: &Arc<Shared>) {
    if matches!(pending.instance.subject.decider(), Some(Decider::Learn)) {
        pending.settle(shared);
        return shared.rearm(&pending.instance, &pending.brokered);
    }
    let pending = Arc::new(pending);
    let for_thread = (Arc::clone(&pending), Arc::clone(shared));
    let work = move || {
        signals::block_all();
        let (pending, shared) = for_thread;
        pending.settle(&shared);
        shared.rearm(&pending.instance, &pending.brokered);
    };
    // A thread that cannot be had is an answer that does not come.
    if std::thread::Builder::new().name("plugin-prompt".to_owned()).spawn(work).is_err() {
        pending.deny();
        shared.rearm(&pending.instance, &pending.brokered);
    }
}

impl Pending {
    fn request<'a>(&'a self, rulings: &'a [(PluginPermission, Ruling)], revokes_before: u64) -> Request<'a> {
        let Self { instance, brokered, notification, .. } = self;
        Request { instance, brokered, notification, rulings, revokes_before, waited_since: None }
    }

    /// Asks, and serves the request anew, until nothing is left to be asked.
    fn settle(&self, shared: &Shared) {
        let (mut rulings, mut wish, mut revokes) = (Vec::new(), self.wish.clone(), None);
        loop {
            let ruling = {
                let _waits = self.instance.waits_for_a_person(self.notification.tid);
                decider::rule(&self.instance, &wish)
            };
            rulings.push((wish.permission, ruling));
            let revokes = *revokes.get_or_insert_with(|| self.instance.subject.policy().grants().revokes());
            let request = self.request(&rulings, revokes);
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
        let _ = requests::serve(&self.request(&vec![ruling; MOST_FOR_ONE], 0));
    }
}
