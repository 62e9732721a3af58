//! What host, zygote and helper have in common: data, decisions, messages and system calls.
//!
//! Runs in any process. Owns every type that two processes must agree on. Names none of `host`, `zygote`, `helper`.

pub(crate) mod empty_root;
pub(crate) mod errno;
pub(crate) mod fuse_mount;
pub(crate) mod nearness;
pub(crate) mod notes;
pub(crate) mod plan;
pub mod policy;
pub(crate) mod sys;
pub(crate) mod wire;
