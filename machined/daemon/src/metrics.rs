//! `GET /metrics` on the machine API's port: what this machine knows of itself, as Prometheus reads it.
//!
//! Whoever scrapes passes the same gate as every call: a login or a machine's leaf, with the right to read. Values are read when they are
//! asked for; nothing is kept for them but counters of calls. The text format is small enough to be written here:
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use crate::facts::VERSION;
use crate::gate::Gate;
use crate::model::Model;
use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Response, StatusCode};
use machined_access::Access;
use machined_host::{machine_memory, memory_of};
use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use tonic::metadata::MetadataMap;
use tonic::{Code, Request};

/// Where metrics are.
pub(crate) const PATH: &str = "/metrics";

/// What the text is.
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// Answers one scrape.
pub(crate) async fn serve(gate: Gate, model: Model, request: axum::http::Request<Body>) -> Response<Body> {
    let (parts, _) = request.into_parts();
    let call = Request::from_parts(MetadataMap::from_headers(parts.headers), parts.extensions, ());
    let (status, text) = match gate.admit("Metrics", Access::Reader, &call) {
        Ok(_) => (StatusCode::OK, text(&model)),
        Err(refused) => (status_of(refused.code()), format!("{}\n", refused.message())),
    };
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, TEXT);
    response
}

/// HTTP's word for what the gate says.
const fn status_of(code: Code) -> StatusCode {
    match code {
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// A page of metrics.
#[derive(Default)]
struct Page(String);

impl Page {
    /// Begins a metric.
    fn metric(&mut self, name: &str, kind: &str, help: &str) {
        self.add(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    /// One value of a metric.
    fn value(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<_> = labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escaped(value))).collect();
        match labels.as_slice() {
            [] => self.add(format_args!("{name} {value}\n")),
            labels => self.add(format_args!("{name}{{{}}} {value}\n", labels.join(","))),
        }
    }

    /// A gauge without labels.
    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.metric(name, "gauge", help);
        self.value(name, &[], value);
    }

    fn add(&mut self, text: std::fmt::Arguments<'_>) {
        self.0.write_fmt(text).expect("because a String takes everything");
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn text(model: &Model) -> String {
    let mut page = Page::default();
    page.metric("machined_build_info", "gauge", "The running release; always 1.");
    page.value("machined_build_info", &[("version", VERSION)], 1);
    page.gauge("machined_ready", "Whether every service that should run is healthy.", u64::from(model.ready()));
    services(&mut page, model);
    memory(&mut page);
    calls(&mut page, model);
    trust(&mut page, model);
    sources(&mut page, model);
    page.0
}

fn services(page: &mut Page, model: &Model) {
    let services = model.services.all();
    page.metric("machined_service_up", "gauge", "Whether a service does its work.");
    for (name, status) in services.iter() {
        page.value("machined_service_up", &[("service", name)], u64::from(status.healthy));
    }
    page.metric("machined_service_restarts_total", "counter", "Starts of a service after its first one, since boot.");
    for (name, status) in services.iter() {
        page.value("machined_service_restarts_total", &[("service", name)], u64::from(status.restarts));
    }
    page.metric("machined_service_memory_bytes", "gauge", "Memory of a service's cgroup.");
    for name in services.keys() {
        page.value("machined_service_memory_bytes", &[("service", name)], memory_of(name));
    }
}

fn memory(page: &mut Page) {
    // Where /proc cannot be read there is nothing to say; the other metrics are still true.
    if let Ok(memory) = machine_memory() {
        page.gauge("machined_memory_total_bytes", "Memory of the machine.", memory.total_bytes);
        let help = "Memory that new processes could still get.";
        page.gauge("machined_memory_available_bytes", help, memory.available_bytes);
    }
}

fn calls(page: &mut Page, model: &Model) {
    let counts = model.audit.counts();
    page.metric("machined_api_calls_total", "counter", "Calls on the machine API since machined started.");
    for ((api, method, outcome), count) in &counts {
        if *api == "machine" {
            page.value("machined_api_calls_total", &[("method", method), ("outcome", outcome)], *count);
        }
    }
    let mut records = BTreeMap::<_, u64>::new();
    for ((api, _, outcome), count) in &counts {
        *records.entry((*api, *outcome)).or_default() += count;
    }
    page.metric("machined_audit_records_total", "counter", "Calls that the audit log heard of since machined started.");
    for ((api, outcome), count) in records {
        page.value("machined_audit_records_total", &[("api", api), ("outcome", outcome)], count);
    }
}

fn trust(page: &mut Page, model: &Model) {
    let status = model.status();
    let accepted = status.accepted.unwrap_or_default();
    page.gauge("gitsync_accepted_epoch", "Epoch of the newest accepted step.", accepted.epoch);
    page.gauge("gitsync_accepted_seq", "Newest accepted step.", accepted.seq);
    page.gauge("gitsync_applied_seq", "Step that runs.", status.seq);
    page.gauge("gitsync_applied_generation", "Activations on this machine.", status.generation);
    page.metric("gitsync_applied_info", "gauge", "Commit that runs, and who signed it; always 1.");
    if status.generation > 0 {
        page.value("gitsync_applied_info", &[("commit", &status.commit), ("signer", &status.signer)], 1);
    }
    page.metric("gitsync_commits", "gauge", "Commits that this machine judged and remembers, by what became of them.");
    let mut commits = BTreeMap::<_, u64>::new();
    for record in model.reports.commits(0) {
        *commits.entry((record.state, record.reason)).or_default() += 1;
    }
    for ((state, reason), count) in &commits {
        page.value("gitsync_commits", &[("state", state), ("reason", reason)], *count);
    }
    page.metric("machined_condition_status", "gauge", "Conditions of the machine, as cairnctl status shows them.");
    for condition in &status.conditions {
        let labels = [("type", condition.r#type.as_str()), ("reason", condition.reason.as_str())];
        page.value("machined_condition_status", &labels, u64::from(condition.status));
    }
}

/// How fetching goes, as gitsync told it last.
fn sources(page: &mut Page, model: &Model) {
    page.metric("gitsync_refusals_total", "counter", "Refused commits that machined heard of since it started.");
    for (reason, count) in &model.reports.refusals() {
        page.value("gitsync_refusals_total", &[("reason", reason)], *count);
    }
    let told = model.reports.sources();
    page.metric("gitsync_fetches_total", "counter", "Fetches since gitsync started, by what they came to.");
    for source in &told.sources {
        let outcomes = [("unchanged", source.unchanged), ("changed", source.changed), ("failed", source.failed)];
        for (outcome, count) in outcomes {
            page.value("gitsync_fetches_total", &[("repository", &source.repository), ("outcome", outcome)], count);
        }
    }
    page.metric("gitsync_fetch_duration_seconds", "summary", "How long fetches take, their child's start included.");
    for source in &told.sources {
        let (labels, count) =
            ([("repository", source.repository.as_str())], source.unchanged + source.changed + source.failed);
        page.value("gitsync_fetch_duration_seconds_sum", &labels, source.seconds);
        page.value("gitsync_fetch_duration_seconds_count", &labels, count);
    }
    let name = "gitsync_fetch_last_success_timestamp_seconds";
    page.metric(name, "gauge", "When a repository answered last.");
    for source in told.sources.iter().filter(|source| source.answered > 0.0) {
        page.value(name, &[("repository", &source.repository)], source.answered);
    }
    let beacon = [
        ("gitsync_beacon_issued_timestamp_seconds", "When the newest beacon was issued.", told.beacon_issued),
        ("gitsync_beacon_expires_timestamp_seconds", "When the newest beacon ends.", told.beacon_expires),
    ];
    for (name, help, at) in beacon.into_iter().filter(|(.., at)| *at > 0.0) {
        page.metric(name, "gauge", help);
        page.value(name, &[], at);
    }
    let name = "gitsync_commit_healthy_seconds";
    page.metric(
        name,
        "summary",
        "From the fetch that showed a commit until all of it ran, where this machine applied it.",
    );
    page.value(&format!("{name}_sum"), &[], told.healthy_seconds);
    page.value(&format!("{name}_count"), &[], told.healthy);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_reads_as_prometheus_wants_it() {
        let mut page = Page::default();
        page.gauge("machined_ready", "Whether.", 1);
        page.metric("gitsync_applied_info", "gauge", "Commit.");
        page.value("gitsync_applied_info", &[("commit", "abc"), ("signer", "a\"b\\c\nd")], 1);
        let expected = "# HELP machined_ready Whether.\n# TYPE machined_ready gauge\nmachined_ready 1\n\
                        # HELP gitsync_applied_info Commit.\n# TYPE gitsync_applied_info gauge\n\
                        gitsync_applied_info{commit=\"abc\",signer=\"a\\\"b\\\\c\\nd\"} 1\n";
        assert_eq!(page.0, expected);
    }
}
