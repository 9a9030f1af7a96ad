//! Counters with upstream's names, in the Prometheus text format.

use crate::request::RequestInfo;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Different label sets kept; verbs x resources x codes stay far below, and a scan of paths must not eat memory.
const SERIES_MAX: usize = 2000;

/// Upper bounds in seconds of the duration histogram: upstream's, thinned.
const BUCKETS: &[f64] = &[0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0];

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Labels {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
}

#[derive(Debug, Default)]
struct Series {
    by_code: BTreeMap<u16, u64>,
    buckets: [u64; BUCKETS.len()],
    count: u64,
    sum: f64,
}

/// What the server counts.
#[derive(Debug, Default)]
pub(crate) struct Metrics(Mutex<BTreeMap<Labels, Series>>);

impl Metrics {
    /// Counts one answered request.
    pub(crate) fn observe(&self, info: &RequestInfo, status: u16, elapsed: Duration) {
        // A path that names nothing would be a label set of the client's choosing.
        if status == 404 && info.resource().is_none_or(|r| r.name.is_empty()) {
            return;
        }
        let path = info.resource().cloned().unwrap_or_default();
        let labels = Labels {
            verb: info.verb.as_str(),
            group: path.group,
            version: path.version,
            resource: path.resource,
            subresource: path.subresource,
        };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= SERIES_MAX && !all.contains_key(&labels) {
            return;
        }
        let series = all.entry(labels).or_default();
        *series.by_code.entry(status).or_default() += 1;
        if info.is_long_running() {
            return;
        }
        let seconds = elapsed.as_secs_f64();
        for (bucket, bound) in series.buckets.iter_mut().zip(BUCKETS) {
            *bucket += u64::from(seconds <= *bound);
        }
        series.count += 1;
        series.sum += seconds;
    }

    /// The text that Prometheus reads.
    pub(crate) fn render(&self, store_revision: u64) -> String {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::from(
            "# HELP apiserver_request_total Counter of apiserver requests by verb, resource and HTTP response code.\n\
             # TYPE apiserver_request_total counter\n",
        );
        for (labels, series) in all.iter() {
            for (code, count) in &series.by_code {
                line(&mut text, "apiserver_request_total", labels, &format!(",code=\"{code}\""), count);
            }
        }
        text.push_str(
            "# HELP apiserver_request_duration_seconds Response latency distribution in seconds.\n\
             # TYPE apiserver_request_duration_seconds histogram\n",
        );
        for (labels, series) in all.iter().filter(|(_, s)| s.count > 0) {
            for (bound, count) in BUCKETS.iter().zip(series.buckets) {
                let le = format!(",le=\"{bound}\"");
                line(&mut text, "apiserver_request_duration_seconds_bucket", labels, &le, count);
            }
            line(&mut text, "apiserver_request_duration_seconds_bucket", labels, ",le=\"+Inf\"", series.count);
            line(&mut text, "apiserver_request_duration_seconds_sum", labels, "", series.sum);
            line(&mut text, "apiserver_request_duration_seconds_count", labels, "", series.count);
        }
        text.push_str(
            "# HELP controlplane_store_revision Revision that this replica of the store has applied.\n\
             # TYPE controlplane_store_revision gauge\n",
        );
        let _ = writeln!(text, "controlplane_store_revision {store_revision}");
        text
    }
}

fn line(text: &mut String, name: &str, labels: &Labels, more: &str, value: impl std::fmt::Display) {
    let Labels { verb, group, version, resource, subresource } = labels;
    let verb = verb.to_ascii_uppercase();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{name}{{verb=\"{verb}\",group=\"{group}\",version=\"{version}\",resource=\"{resource}\",\
         subresource=\"{subresource}\"{more}}} {value}"
    );
}
