//! Steps 2 to 8, one file per layer. Each makes it so, decides nothing, and notes what the kernel refused.

pub(crate) mod detach;
pub(crate) mod landlock;
pub(crate) mod no_new_privs;
pub(crate) mod privileges;
pub(crate) mod rlimits;
pub(crate) mod root;
pub(crate) mod seccomp;
