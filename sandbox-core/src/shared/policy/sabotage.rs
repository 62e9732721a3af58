//! What a test takes away from a helper: layers, or its life at a step.
//!
//! A plain value, read by whoever makes a layer. Without the feature `test-support` the type is empty: nothing can be taken
//! away, and nothing of it is stored or sent.

use serde::{Deserialize, Serialize};

use super::Layer;

/// Nothing, unless a test says otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sabotage {
    #[cfg(feature = "test-support")]
    without: std::collections::BTreeSet<Layer>,
    #[cfg(feature = "test-support")]
    ends_before: Option<u8>,
}

#[cfg(not(feature = "test-support"))]
impl Sabotage {
    /// Whether this layer is left out: never.
    pub(crate) fn takes(&self, _: Layer) -> bool {
        false
    }

    /// Whether the helper kills itself before this step: never.
    pub(crate) fn ends_before(&self, _: u8) -> bool {
        false
    }

    /// What of it concerns the zygote: nothing.
    pub(crate) fn zygotes(&self) -> Self {
        Self::default()
    }
}

#[cfg(feature = "test-support")]
impl Sabotage {
    /// Whether this layer is left out.
    pub(crate) fn takes(&self, layer: Layer) -> bool {
        self.without.contains(&layer)
    }

    /// Whether the helper kills itself before this step.
    pub(crate) fn ends_before(&self, step: u8) -> bool {
        self.ends_before == Some(step)
    }

    /// What of it concerns the zygote, which then is one of its own.
    pub(crate) fn zygotes(&self) -> Self {
        let zygotes = |layer: &Layer| {
            matches!(
                layer,
                Layer::UserNamespace
                    | Layer::PidNamespace
                    | Layer::NetworkNamespace
                    | Layer::OtherNamespaces
                    | Layer::NoExecFiles
            )
        };
        Self { without: self.without.iter().copied().filter(zygotes).collect(), ends_before: None }
    }

    /// The same, and without `layer`.
    pub(super) fn taking(mut self, layer: Layer) -> Self {
        self.without.insert(layer);
        self
    }

    /// The same, and the helper ends before `step`.
    pub(super) fn ending_before(mut self, step: u8) -> Self {
        self.ends_before = Some(step);
        self
    }
}
