//! What is shown of a plugin: figures of two moments become rates, and these become the cells of a table.
//!
//! Runs in the application's process. Pure. Escapes what is shown.

use std::cmp::Ordering;
use std::time::Duration;

use sandbox_core::{HostFigures, PluginFigures, Used};

use crate::output::escape;

/// What is shown of one plugin.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    /// As the host knows it: not escaped.
    pub(crate) plugin: String,
    pub(crate) state: String,
    pub(crate) permissions: Vec<String>,
    pub(crate) last_end: Option<String>,
    process_id: Option<u32>,
    /// Of one CPU.
    cpu_percent: Option<f64>,
    memory_bytes: Option<u64>,
    memory_limit_mb: Option<u64>,
    handles: Option<u64>,
    handles_limit: Option<u64>,
    connections: Option<u64>,
    connections_limit: Option<u64>,
    calls_per_second: Option<f64>,
    /// Of the calls since the last look; of all where there were none.
    median: Option<Duration>,
    nearly_all: Option<Duration>,
    denied: u64,
    restarts: u64,
}

/// One column: what stands above it, how much room it needs, its text and its order.
#[derive(Clone, Copy)]
pub(crate) struct Column {
    pub(crate) heading: &'static str,
    pub(crate) width: u16,
    /// The columns with the highest go first where there is no room.
    pub(crate) dispensable: u8,
    pub(crate) cell: fn(&Row) -> String,
    pub(crate) order: fn(&Row, &Row) -> Ordering,
}

pub(crate) const COLUMNS: [Column; 12] = [
    Column {
        heading: "PLUGIN",
        width: 16,
        dispensable: 0,
        cell: |row| escape::line(&row.plugin),
        // Names go up where numbers go down.
        order: |a, b| b.plugin.cmp(&a.plugin),
    },
    Column {
        heading: "STATE",
        width: 12,
        dispensable: 0,
        cell: |row| escape::line(&row.state),
        order: |a, b| b.state.cmp(&a.state),
    },
    Column {
        heading: "PID",
        width: 8,
        dispensable: 8,
        cell: |row| row.process_id.map_or_else(dash, |pid| pid.to_string()),
        order: |a, b| a.process_id.cmp(&b.process_id),
    },
    Column {
        heading: "CPU%",
        width: 6,
        dispensable: 1,
        cell: |row| row.cpu_percent.map_or_else(dash, |percent| format!("{percent:.1}")),
        order: |a, b| a.cpu_percent.partial_cmp(&b.cpu_percent).unwrap_or(Ordering::Equal),
    },
    Column {
        heading: "MEMORY MiB",
        width: 12,
        dispensable: 2,
        cell: |row| of_limit(row.memory_bytes.map(mebibytes), row.memory_limit_mb),
        order: |a, b| a.memory_bytes.cmp(&b.memory_bytes),
    },
    Column {
        heading: "FILES",
        width: 7,
        dispensable: 5,
        cell: |row| of_limit(row.handles, row.handles_limit),
        order: |a, b| a.handles.cmp(&b.handles),
    },
    Column {
        heading: "CONNS",
        width: 7,
        dispensable: 6,
        cell: |row| of_limit(row.connections, row.connections_limit),
        order: |a, b| a.connections.cmp(&b.connections),
    },
    Column {
        heading: "CALLS/s",
        width: 8,
        dispensable: 0,
        cell: |row| row.calls_per_second.map_or_else(dash, |rate| format!("{rate:.1}")),
        order: |a, b| a.calls_per_second.partial_cmp(&b.calls_per_second).unwrap_or(Ordering::Equal),
    },
    Column {
        heading: "MEDIAN",
        width: 8,
        dispensable: 9,
        cell: |row| row.median.map_or_else(dash, short),
        order: |a, b| a.median.cmp(&b.median),
    },
    Column {
        heading: "99%",
        width: 8,
        dispensable: 3,
        cell: |row| row.nearly_all.map_or_else(dash, short),
        order: |a, b| a.nearly_all.cmp(&b.nearly_all),
    },
    Column {
        heading: "DENIED",
        width: 7,
        dispensable: 4,
        cell: |row| row.denied.to_string(),
        order: |a, b| a.denied.cmp(&b.denied),
    },
    Column {
        heading: "RESTARTS",
        width: 8,
        dispensable: 7,
        cell: |row| row.restarts.to_string(),
        order: |a, b| a.restarts.cmp(&b.restarts),
    },
];

/// A row for each plugin; with rates, if it was looked before.
pub(crate) fn rows(now: &HostFigures, before: Option<(&HostFigures, Duration)>) -> Vec<Row> {
    let of = |plugin: &PluginFigures| {
        let earlier = before.and_then(|(host, ago)| {
            let same = |then: &&PluginFigures| then.plugin == plugin.plugin;
            Some((host.plugins.iter().find(same)?, ago))
        });
        row(plugin, earlier)
    };
    now.plugins.iter().map(of).collect()
}

fn row(now: &PluginFigures, before: Option<(&PluginFigures, Duration)>) -> Row {
    // What another process has used is no base to count from.
    let same_process = before.filter(|(then, _)| then.process_id == now.process_id);
    let cpu = |figures: &PluginFigures| figures.usage.as_ref().map(|usage| usage.cpu_time);
    let cpu_percent = same_process.filter(|_| now.process_id.is_some()).and_then(|(then, ago)| {
        let used = cpu(now)?.checked_sub(cpu(then)?)?;
        Some(100.0 * used.as_secs_f64() / ago.as_secs_f64().max(f64::EPSILON))
    });
    let recent = before.map(|(then, _)| now.latency.since(&then.latency));
    let latency = recent.as_ref().filter(|recent| recent.count() > 0).unwrap_or(&now.latency);
    let living = now.usage.as_ref().filter(|_| now.process_id.is_some());
    let used = |of: fn(&sandbox_core::ResourceUsage) -> Option<Used>| Some(of(living?)?.now);
    Row {
        plugin: now.plugin.clone(),
        state: now.state.clone(),
        permissions: now.permissions.clone(),
        last_end: now.last_end.clone(),
        process_id: now.process_id,
        cpu_percent,
        memory_bytes: used(|usage| Some(usage.memory_bytes)),
        memory_limit_mb: now.limits.max_memory_mb,
        handles: used(|usage| usage.file_handles),
        handles_limit: now.limits.max_file_handles,
        connections: used(|usage| Some(usage.network_connections)),
        connections_limit: now.limits.max_network_connections,
        calls_per_second: before.map(|(then, ago)| {
            #[expect(clippy::cast_precision_loss, reason = "it is shown with one digit")]
            let calls = now.calls.saturating_sub(then.calls) as f64;
            calls / ago.as_secs_f64().max(f64::EPSILON)
        }),
        median: latency.quantile(0.5),
        nearly_all: latency.quantile(0.99),
        denied: now.denied(),
        restarts: now.restarts,
    }
}

fn dash() -> String {
    "-".to_owned()
}

/// As much as is allowed of it, or without a limit.
fn of_limit(used: Option<u64>, limit: Option<u64>) -> String {
    match (used, limit) {
        (None, _) => dash(),
        (Some(used), Some(limit)) => format!("{used}/{limit}"),
        (Some(used), None) => used.to_string(),
    }
}

/// Rounded up, so that what is used is not nothing.
fn mebibytes(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

fn short(time: Duration) -> String {
    let micros = time.as_micros();
    match micros {
        0..=9_999 => format!("{micros}µs"),
        10_000..=9_999_999 => format!("{}ms", time.as_millis()),
        _ => format!("{}s", time.as_secs()),
    }
}
