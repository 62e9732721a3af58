//! The enforcement report: per layer what was asked, what the kernel has, what stands, and why not if not.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::shared::policy::{Demand, Layer, PluginId};

/// What stands between one plugin and the machine, as the kernel told it when the plugin was loaded.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct EnforcementReport {
    /// The plugin.
    #[serde(serialize_with = "as_text")]
    pub plugin: PluginId,
    /// The running kernel, as uname(2) calls it.
    pub kernel: String,
    /// One entry for each layer, in the order in which they are put up.
    pub layers: Vec<LayerReport>,
    /// By what each limit is held.
    pub limits: Vec<LimitReport>,
}

/// By what one limit is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LimitReport {
    /// The field of [`ResourceLimits`](crate::ResourceLimits).
    pub limit: &'static str,
    /// What it was when the plugin was loaded; `None` for no limit.
    pub value: Option<u64>,
    /// By what it is held, the strongest first.
    pub held_by: String,
}

/// How one layer stands.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct LayerReport {
    /// The layer.
    #[serde(serialize_with = "as_text")]
    pub layer: Layer,
    /// What the policy asks of it.
    pub demand: Demand,
    /// Whether this kernel, for this user, has it.
    pub supported: bool,
    /// Whether it stands.
    pub enforced: bool,
    /// How that is known: what was read back.
    pub evidence: String,
    /// Why it does not stand.
    pub why_not: Option<String>,
}

fn as_text<T: fmt::Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

impl EnforcementReport {
    /// Whether every layer stands.
    pub fn is_complete(&self) -> bool {
        self.layers.iter().all(|layer| layer.enforced)
    }

    /// The layers that do not stand.
    pub fn missing(&self) -> impl Iterator<Item = &LayerReport> {
        self.layers.iter().filter(|layer| !layer.enforced)
    }

    /// By what one limit is held, by its field's name.
    pub fn limit(&self, name: &str) -> Option<&LimitReport> {
        self.limits.iter().find(|report| report.limit == name)
    }

    /// How one layer stands.
    pub fn layer(&self, layer: Layer) -> Option<&LayerReport> {
        self.layers.iter().find(|report| report.layer == layer)
    }

    /// Whether this layer stands.
    pub(crate) fn stands(&self, layer: Layer) -> bool {
        self.layer(layer).is_some_and(|layer| layer.enforced)
    }

    /// The first layer that is insisted on and does not stand.
    pub(crate) fn first_lacking(&self) -> Option<&LayerReport> {
        self.missing().find(|layer| layer.demand == Demand::Required)
    }
}

impl fmt::Display for EnforcementReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "plugin {} on Linux {}", self.plugin, self.kernel)?;
        for layer in &self.layers {
            let mark = match (layer.enforced, layer.demand) {
                (true, _) => "stands",
                (false, Demand::Required) => "MISSING",
                (false, _) => "not had",
            };
            let why = layer.why_not.as_deref().unwrap_or(&layer.evidence);
            writeln!(f, "  {:<26} {mark:<8} {why}", layer.layer.name())?;
        }
        for LimitReport { limit, value, held_by } in &self.limits {
            if let Some(value) = value {
                writeln!(f, "  {limit:<26} {value:<8} {held_by}")?;
            }
        }
        Ok(())
    }
}
