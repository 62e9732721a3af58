//! Files that the host serves, so that they can be taken back: a FUSE file system for each plugin that needs one.
//!
//! Runs in the host. A plugin holds descriptors of files in it, never of a folder; its bytes come from files that the broker
//! has judged and opened, by way of a thread of the view's own.

mod nodes;
mod server;
mod view;

pub(crate) use view::{View, can_be_had};
