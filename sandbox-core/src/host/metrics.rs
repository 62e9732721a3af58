//! A host's figures in the text format of Prometheus.
//!
//! Runs in the host, or wherever figures were brought to. Owns the names of the metrics, which are an interface: a name is not
//! given to something else. The `prometheus` crate writes, and escapes, the text.

use prometheus::TextEncoder;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use super::figures::{CallLatency, HostFigures, PluginFigures};
use super::limits::usage::{ResourceUsage, Used};

/// What the text is, as HTTP says it.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

impl HostFigures {
    /// The figures as text that Prometheus reads: the exposition format, version 0.0.4.
    ///
    /// Names begin with `plugin_sandbox_`; times are in seconds, sizes in bytes, and what a plugin did is labelled `plugin`.
    pub fn prometheus(&self) -> String {
        let mut text = String::new();
        // Fails for a family without a name or a metric: none is made.
        let _ = TextEncoder::new().encode_utf8(&families(self), &mut text);
        text
    }
}

/// One measurement with its labels.
type Sample<'a> = (Vec<(&'static str, &'a str)>, f64);

/// A metric's name, its help, and where its value is.
type Named<T, V> = (&'static str, &'static str, fn(&T) -> V);

fn families(host: &HostFigures) -> Vec<MetricFamily> {
    let mut made = Families::default();
    let own = [("version", host.version.as_str())];
    made.gauges(
        "plugin_sandbox_host_info",
        "The host, with the version of its sandbox.",
        [(own.into(), 1.0)],
    );
    made.counters(
        "plugin_sandbox_host_events_lost_total",
        "Events that subscribers of the manager and audit logs have lost.",
        [(Vec::new(), float(host.events_lost))],
    );
    let of = |plugin| vec![("plugin", plugin)];
    made.gauges(
        "plugin_sandbox_state",
        "1 for the state that a plugin is in.",
        host.plugins.iter().map(|p| (vec![("plugin", p.plugin.as_str()), ("state", p.state.as_str())], 1.0)),
    );
    made.counters(
        "plugin_sandbox_calls_total",
        "Calls into a plugin that have come to an end.",
        host.plugins.iter().flat_map(|p| {
            let outcome =
                |outcome, count| (vec![("outcome", outcome), ("plugin", p.plugin.as_str())], float(count));
            [outcome("ok", p.calls.saturating_sub(p.failed_calls)), outcome("failed", p.failed_calls)]
        }),
    );
    made.histograms(
        "plugin_sandbox_call_duration_seconds",
        "How long calls into a plugin took.",
        host.plugins.iter().map(|p| (of(p.plugin.as_str()), &p.latency)),
    );
    made.counters(
        "plugin_sandbox_denials_total",
        "What a plugin was refused, by the permission that it lacked.",
        host.plugins.iter().flat_map(|p| {
            p.denials.iter().map(|(permission, count)| {
                (vec![("permission", permission.as_str()), ("plugin", p.plugin.as_str())], float(*count))
            })
        }),
    );
    let counted: [Named<PluginFigures, u64>; 7] = [
        ("plugin_sandbox_service_calls_total", "Services that a plugin has called.", |p| p.service_calls),
        ("plugin_sandbox_sent_bytes_total", "Bytes that a plugin was sent.", |p| p.sent_bytes),
        ("plugin_sandbox_received_bytes_total", "Bytes that a plugin has sent.", |p| p.received_bytes),
        ("plugin_sandbox_loads_total", "Loads of a plugin that succeeded.", |p| p.loads),
        ("plugin_sandbox_crashes_total", "Ends of a plugin that the host did not ask for.", |p| p.crashes),
        ("plugin_sandbox_restarts_total", "Loads of a plugin that succeeded after a crash.", |p| p.restarts),
        ("plugin_sandbox_events_lost_total", "Events that a plugin's subscribers have lost.", |p| {
            p.events_lost
        }),
    ];
    for (name, help, value) in counted {
        made.counters(name, help, host.plugins.iter().map(|p| (of(p.plugin.as_str()), float(value(p)))));
    }
    let limits: [Named<PluginFigures, Option<u64>>; 7] = [
        ("plugin_sandbox_memory_limit_bytes", "Memory that a plugin may use.", |p| {
            p.limits.max_memory_mb.map(|mb| mb.saturating_mul(1 << 20))
        }),
        ("plugin_sandbox_cpu_limit_seconds", "CPU time that a plugin may use for one activation.", |p| {
            p.limits.max_cpu_time_sec
        }),
        ("plugin_sandbox_file_handles_limit", "Descriptors that a plugin may hold.", |p| {
            p.limits.max_file_handles
        }),
        ("plugin_sandbox_network_connections_limit", "Connections that a plugin may have.", |p| {
            p.limits.max_network_connections
        }),
        ("plugin_sandbox_threads_limit", "Threads that a plugin may run beside its first.", |p| {
            p.limits.max_threads
        }),
        ("plugin_sandbox_processes_limit", "Processes that a plugin may have beside its own.", |p| {
            p.limits.max_processes
        }),
        (
            "plugin_sandbox_scratch_limit_bytes",
            "Scratch space that a plugin may use; 0 if it has none.",
            |p| Some(p.limits.max_scratch_mb.saturating_mul(1 << 20)),
        ),
    ];
    for (name, help, limit) in limits {
        let limited = host.plugins.iter().filter_map(|p| Some((of(p.plugin.as_str()), float(limit(p)?))));
        made.gauges(name, help, limited);
    }
    usage(&mut made, host);
    made.0
}

/// What plugins use: of those only that have or had a helper.
fn usage(made: &mut Families, host: &HostFigures) {
    let used =
        || host.plugins.iter().filter_map(|p| Some((vec![("plugin", p.plugin.as_str())], p.usage.as_ref()?)));
    made.counters(
        "plugin_sandbox_cpu_seconds_total",
        "CPU time of a plugin and its programs since its last load.",
        used().map(|(labels, usage)| (labels, usage.cpu_time.as_secs_f64())),
    );
    for (name, help, value) in [
        (
            "plugin_sandbox_printed_bytes_total",
            "Bytes that a plugin has printed since its last load.",
            (|usage| usage.printed_bytes) as fn(&ResourceUsage) -> u64,
        ),
        (
            "plugin_sandbox_dropped_output_bytes_total",
            "Bytes of them that were over a limit, and dropped.",
            |usage| usage.dropped_output_bytes,
        ),
    ] {
        made.counters(name, help, used().map(|(labels, usage)| (labels, float(value(usage)))));
    }
    let gauges: [Named<ResourceUsage, Option<u64>>; 7] = [
        ("plugin_sandbox_memory_bytes", "Memory that a plugin uses.", |usage| now(usage.memory_bytes)),
        (
            "plugin_sandbox_memory_peak_bytes",
            "The most memory that a plugin has used since its last load.",
            |usage| Some(usage.memory_bytes.peak),
        ),
        ("plugin_sandbox_file_handles", "Descriptors that a plugin holds.", |usage| now(usage.file_handles?)),
        ("plugin_sandbox_network_connections", "Live connections of a plugin.", |usage| {
            now(usage.network_connections)
        }),
        ("plugin_sandbox_threads", "Threads of a plugin beside its first.", |usage| now(usage.threads)),
        ("plugin_sandbox_processes", "Processes of a plugin beside its own.", |usage| now(usage.processes)),
        ("plugin_sandbox_scratch_bytes", "Scratch space that a plugin uses.", |usage| {
            now(usage.scratch_bytes?)
        }),
    ];
    for (name, help, value) in gauges {
        made.gauges(name, help, used().filter_map(|(labels, usage)| Some((labels, float(value(usage)?)))));
    }
}

fn now(used: Used) -> Option<u64> {
    Some(used.now)
}

#[expect(clippy::cast_precision_loss, reason = "the format has no other numbers")]
fn float(count: u64) -> f64 {
    count as f64
}

#[derive(Default)]
struct Families(Vec<MetricFamily>);

impl Families {
    fn add(&mut self, name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) {
        if metrics.is_empty() {
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.set_metric(metrics);
        self.0.push(family);
    }

    fn counters<'a>(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = Sample<'a>>) {
        let metrics = samples.into_iter().map(|(labels, value)| {
            let mut counter = Counter::default();
            counter.set_value(value);
            let mut metric = labelled(&labels);
            metric.set_counter(counter);
            metric
        });
        self.add(name, help, MetricType::COUNTER, metrics.collect());
    }

    fn gauges<'a>(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = Sample<'a>>) {
        let metrics = samples.into_iter().map(|(labels, value)| {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            let mut metric = labelled(&labels);
            metric.set_gauge(gauge);
            metric
        });
        self.add(name, help, MetricType::GAUGE, metrics.collect());
    }

    fn histograms<'a>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Vec<(&'static str, &'a str)>, &'a CallLatency)>,
    ) {
        let metrics = samples.into_iter().map(|(labels, latency)| {
            let mut metric = labelled(&labels);
            metric.set_histogram(histogram(latency));
            metric
        });
        self.add(name, help, MetricType::HISTOGRAM, metrics.collect());
    }
}

fn labelled(labels: &[(&'static str, &str)]) -> Metric {
    let pairs = labels.iter().map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    });
    Metric::from_label(pairs.collect())
}

fn histogram(latency: &CallLatency) -> Histogram {
    let mut seen = 0_u64;
    let buckets = latency.buckets.iter().enumerate().filter_map(|(index, count)| {
        seen = seen.saturating_add(*count);
        let mut bucket = Bucket::default();
        // The last is what the format calls +Inf, which the encoder adds.
        bucket.set_upper_bound(CallLatency::bound(index)?.as_secs_f64());
        bucket.set_cumulative_count(seen);
        Some(bucket)
    });
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(latency.count());
    histogram.set_sample_sum(latency.sum.as_secs_f64());
    histogram
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::super::figures::{CallOutcome, Counters};
    use super::*;

    /// One sample, as a strict reader of the format takes it apart.
    fn sample(line: &str) -> (String, BTreeMap<String, String>, f64) {
        let is_name = |name: &str| {
            name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        };
        let (name, mut rest) = line.split_at(line.find(['{', ' ']).expect("a value"));
        assert!(is_name(name), "{line}");
        let mut labels = BTreeMap::new();
        if let Some(inside) = rest.strip_prefix('{') {
            rest = inside;
            loop {
                let (label, behind) = rest.split_once("=\"").expect("a label");
                assert!(is_name(label), "{line}");
                let (mut value, mut chars) = (String::new(), behind.char_indices());
                let end = loop {
                    match chars.next().expect("the value's end") {
                        (at, '"') => break at + 1,
                        (_, '\\') => value.push(match chars.next().expect("what is escaped").1 {
                            'n' => '\n',
                            c @ ('\\' | '"') => c,
                            c => panic!("{c:?} needs no escape: {line}"),
                        }),
                        (_, c) => value.push(c),
                    }
                };
                assert!(labels.insert(label.to_owned(), value).is_none(), "{label} twice: {line}");
                rest = &behind[end..];
                match rest.strip_prefix(',') {
                    Some(more) => rest = more,
                    None => break,
                }
            }
            rest = rest.strip_prefix('}').expect("the labels' end");
        }
        let value = rest.strip_prefix(' ').expect("one space").parse().expect("a number");
        (name.to_owned(), labels, value)
    }

    /// The whole text by the format's grammar: each family once, its help and type first, and in it no sample twice.
    fn samples(text: &str) -> Vec<(String, BTreeMap<String, String>, f64)> {
        assert!(text.ends_with('\n'));
        let (mut families, mut found) = (BTreeMap::new(), Vec::new());
        let mut current = (String::new(), String::new());
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, words) = help.split_once(' ').expect("a help");
                assert!(words.ends_with('.'), "{line}");
                current = (name.to_owned(), String::new());
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').expect("a type");
                assert_eq!(name, current.0, "the help comes first");
                current.1 = kind.to_owned();
                assert!(families.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} twice");
            } else {
                let taken = sample(line);
                let of = match current.1.as_str() {
                    "histogram" => {
                        ["_bucket", "_sum", "_count"].iter().find_map(|end| taken.0.strip_suffix(end))
                    }
                    "counter" => taken.0.ends_with("_total").then_some(taken.0.as_str()),
                    "gauge" => (!taken.0.ends_with("_total")).then_some(taken.0.as_str()),
                    other => panic!("{other}: {line}"),
                };
                assert_eq!(of, Some(current.0.as_str()), "{line}");
                assert!(
                    !found.iter().any(|(name, labels, _)| (name, labels) == (&taken.0, &taken.1)),
                    "twice: {line}"
                );
                found.push(taken);
            }
        }
        found
    }

    fn figures(id: &str) -> PluginFigures {
        let counters = Counters::default();
        counters.called(Duration::from_micros(3), CallOutcome::Returned);
        counters.called(Duration::from_secs(100), CallOutcome::Failed);
        counters.denied(Some("file-read"));
        counters.loaded();
        PluginFigures {
            plugin: id.to_owned(),
            state: "active".to_owned(),
            usage: Some(ResourceUsage::default()),
            ..counters.read()
        }
    }

    #[test]
    fn the_text_is_what_the_format_says_whatever_a_label_holds() {
        let hostile = "a\"} 1\nforged{x=\"\\";
        let host = HostFigures { plugins: vec![figures("p"), figures(hostile)], ..HostFigures::default() };
        let samples = samples(&host.prometheus());
        let value = |name: &str, labels: &[(&str, &str)]| {
            let labels =
                labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            samples.iter().find(|(of, with, _)| of == name && *with == labels).map(|(.., value)| *value)
        };
        for id in ["p", hostile] {
            let plugin = ("plugin", id);
            let took = |le| value("plugin_sandbox_call_duration_seconds_bucket", &[plugin, ("le", le)]);
            for (value, expected) in [
                (value("plugin_sandbox_calls_total", &[plugin, ("outcome", "ok")]), 1.0),
                (value("plugin_sandbox_calls_total", &[plugin, ("outcome", "failed")]), 1.0),
                (value("plugin_sandbox_denials_total", &[plugin, ("permission", "file-read")]), 1.0),
                (value("plugin_sandbox_denials_total", &[plugin, ("permission", "network")]), 0.0),
                (value("plugin_sandbox_state", &[plugin, ("state", "active")]), 1.0),
                (value("plugin_sandbox_memory_limit_bytes", &[plugin]), 104_857_600.0),
                (value("plugin_sandbox_memory_bytes", &[plugin]), 0.0),
                (took("0.000002"), 0.0),
                (took("0.000004"), 1.0),
                (took("67.108864"), 1.0),
                (took("+Inf"), 2.0),
                (value("plugin_sandbox_call_duration_seconds_count", &[plugin]), 2.0),
                (value("plugin_sandbox_call_duration_seconds_sum", &[plugin]), 100.000_003),
            ] {
                assert_eq!(value, Some(expected), "{id:?}");
            }
        }
        assert!(!samples.iter().any(|(name, ..)| name == "forged"));
    }

    #[test]
    fn a_host_without_plugins_has_figures_of_its_own_only() {
        let names: Vec<_> =
            samples(&HostFigures::default().prometheus()).into_iter().map(|(name, ..)| name).collect();
        assert_eq!(names, ["plugin_sandbox_host_info", "plugin_sandbox_host_events_lost_total"]);
    }
}
