//! Events do not stay: they are told for an hour and then go, so that a busy cluster's store does not grow with them.
//!
//! Called by the daemon now and then. Reads and deletes through the registry, like everybody else.

use crate::caller::Caller;
use crate::failure::Failure;
use crate::registry::{self, Call};
use crate::request::ResourcePath;
use crate::server::Inner;
use crate::storage;
use controlplane_store::Consistency;
use controlplane_types::Reason;
use controlplane_types::delete::DeleteOptions;
use controlplane_types::object::{Object, time_at};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

/// How long an event is told after it was last seen, as upstream's default.
const EVENT_LIFETIME: SignedDuration = SignedDuration::from_hours(1);

/// Deletes the events that were last seen too long before `now`, and says how many.
pub(crate) async fn expire_events(server: &Inner, now: Timestamp) -> Result<usize, Failure> {
    let kind = server.kind("", "v1", "events")?;
    let events = storage::list(&*server.store, &kind, "", Consistency::Local).await?;
    let caller = Caller::controllers();
    let mut gone = 0;
    for event in events.iter().map(|stored| &stored.object).filter(|event| is_over(event, now)) {
        let path = ResourcePath {
            version: "v1".into(),
            resource: "events".into(),
            namespace: event.namespace().to_owned(),
            name: event.name().to_owned(),
            ..ResourcePath::default()
        };
        let call = Call::new(server, kind.clone(), path, &caller, "apiserver");
        // An event that was seen again meanwhile is another version and stays.
        let version = Some(event.resource_version().to_owned());
        let options = DeleteOptions { resource_version: version, ..DeleteOptions::default() };
        match registry::delete(&call, &options, false).await {
            Ok(_) => gone += 1,
            Err(Failure::Api(error)) if matches!(error.reason, Reason::NotFound | Reason::Conflict) => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(gone)
}

/// Whether an event was last seen too long ago, by whichever of its times is latest.
fn is_over(event: &Value, now: Timestamp) -> bool {
    let paths: [&[&str]; 5] = [
        &["series", "lastObservedTime"],
        &["lastTimestamp"],
        &["eventTime"],
        &["firstTimestamp"],
        &["metadata", "creationTimestamp"],
    ];
    let seen = paths.iter().filter_map(|path| time_at(event, path)).max();
    seen.is_some_and(|seen| now.duration_since(seen) > EVENT_LIFETIME)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_lives_an_hour_after_it_was_last_seen() {
        let now: Timestamp = "2026-01-01T12:00:00Z".parse().expect("because it is a time");
        let cases = [
            (json!({"metadata": {"creationTimestamp": "2026-01-01T10:59:59Z"}}), true),
            (json!({"metadata": {"creationTimestamp": "2026-01-01T11:00:00Z"}}), false),
            (
                json!({"metadata": {"creationTimestamp": "2026-01-01T01:00:00Z"}, "lastTimestamp": "2026-01-01T11:30:00Z"}),
                false,
            ),
            (json!({"metadata": {}}), false),
        ];
        for (event, expected) in cases {
            assert_eq!(is_over(&event, now), expected, "{event}");
        }
    }
}
