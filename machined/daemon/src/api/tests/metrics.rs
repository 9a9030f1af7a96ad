//! Metrics over the machine API's port, with a plain HTTP/2 request.

use super::{Ada, Machine, machine};
use machined_access::Access;
use machined_api::{CommitRecord, ReportSourcesRequest, SourceReport};
use machined_controllers::services::{ServiceState, ServiceStatus};
use tower::ServiceExt;

async fn scrape(machine: &Machine, ada: &Ada, token: Option<&str>) -> (u16, String) {
    let channel = machine.channel(Some(ada.leaf())).await.expect("because the API listens");
    let request = axum::http::Request::get(crate::metrics::PATH);
    let request =
        token.into_iter().fold(request, |request, token| request.header("authorization", format!("Bearer {token}")));
    let request = request.body(tonic::body::Body::empty()).expect("because the parts are good");
    let response = channel.oneshot(request).await.expect("because it answers");
    let status = response.status().as_u16();
    let body = axum::body::to_bytes(axum::body::Body::new(response.into_body()), 1 << 20).await;
    (status, String::from_utf8(body.expect("because it is whole").into()).expect("because it is text"))
}

fn figures() -> ReportSourcesRequest {
    let source = SourceReport {
        repository: "https://git.example/a".into(),
        unchanged: 7,
        changed: 1,
        failed: 2,
        seconds: 1.25,
        answered: 1_800_000_000.5,
    };
    ReportSourcesRequest {
        sources: vec![source],
        beacon_issued: 1_799_999_000.0,
        beacon_expires: 1_800_009_000.0,
        healthy: 1,
        healthy_seconds: 12.5,
    }
}

#[tokio::test]
async fn metrics_are_for_those_who_may_read_and_say_what_status_says() {
    let (machine, ada, eve) = (machine().await, Ada::new(1), Ada::new(2));
    machine.accept(&ada, Access::Reader);
    let (state, message) = (ServiceState::Running, String::new());
    machine.services.put("gitsync", ServiceStatus { state, healthy: true, pid: Some(7), restarts: 2, message });
    let refused = CommitRecord { state: "refused".into(), reason: "NoRule".into(), ..CommitRecord::default() };
    machine.model.reports.commit(refused);
    machine.model.reports.set_sources(figures());
    assert_eq!(scrape(&machine, &ada, None).await.0, 401);
    assert_eq!(scrape(&machine, &eve, Some(&eve.own_login())).await.0, 401);
    let (status, text) = scrape(&machine, &ada, Some(&ada.own_login())).await;
    assert_eq!(status, 200, "{text}");
    let applied = format!("gitsync_applied_info{{commit=\"{}\",signer=\"ada\"}} 1", "c".repeat(40));
    let expected = [
        "machined_service_up{service=\"gitsync\"} 1",
        "machined_service_restarts_total{service=\"gitsync\"} 2",
        "machined_api_calls_total{method=\"Metrics\",outcome=\"refused\"} 2",
        "machined_api_calls_total{method=\"Metrics\",outcome=\"allowed\"} 1",
        "machined_audit_records_total{api=\"machine\",outcome=\"refused\"} 2",
        "machined_condition_status{type=\"TimeSynchronised\",reason=\"NoServer\"} 0",
        "gitsync_applied_generation 1",
        "gitsync_applied_seq 1",
        applied.as_str(),
        "gitsync_refusals_total{reason=\"NoRule\"} 1",
        "gitsync_fetches_total{repository=\"https://git.example/a\",outcome=\"unchanged\"} 7",
        "gitsync_fetches_total{repository=\"https://git.example/a\",outcome=\"failed\"} 2",
        "gitsync_fetch_duration_seconds_sum{repository=\"https://git.example/a\"} 1.25",
        "gitsync_fetch_duration_seconds_count{repository=\"https://git.example/a\"} 10",
        "gitsync_fetch_last_success_timestamp_seconds{repository=\"https://git.example/a\"} 1800000000.5",
        "gitsync_beacon_issued_timestamp_seconds 1799999000",
        "gitsync_beacon_expires_timestamp_seconds 1800009000",
        "gitsync_commit_healthy_seconds_sum 12.5",
        "gitsync_commit_healthy_seconds_count 1",
    ];
    for line in expected {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    machine.end().await;
}
