//! What a fresh exec of the host's own image is to become, as its maker and its entry agree.

use std::ffi::CStr;
use std::os::fd::RawFd;

use rustix::fs::FileType;

/// What a fresh exec is to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Launcher,
    Zygote,
    Helper,
}

impl Role {
    /// The mark, as the first argument.
    pub(crate) const fn mark(self) -> &'static CStr {
        match self {
            Self::Launcher => c"--plugin-sandbox-becomes=launcher",
            Self::Zygote => c"--plugin-sandbox-becomes=zygote",
            Self::Helper => c"--plugin-sandbox-becomes=helper",
        }
    }

    /// The descriptors that a process with this role was given, and what each must be.
    pub(crate) fn descriptors(self) -> &'static [(RawFd, FileType)] {
        match self {
            Self::Launcher | Self::Zygote => &[(0, FileType::Socket)],
            Self::Helper => &[(3, FileType::Fifo), (4, FileType::Fifo)],
        }
    }
}
