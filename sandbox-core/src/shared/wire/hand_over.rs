//! What a helper hands over to a host that may not take it by itself: two packets over a socket of their own, one descriptor each.

use serde::{Deserialize, Serialize};

/// Where the helper finds its end of the socket.
pub(crate) const HAND_OVER_FD: i32 = 6;

/// What the one descriptor is that comes with the packet. In this order, each once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum HandedOver {
    /// The helper's own `/proc/self/mem`, to read and to write.
    Memory,
    /// The listener of its filter.
    Listener,
}
