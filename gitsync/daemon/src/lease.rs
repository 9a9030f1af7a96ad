//! Which gitsync applies the cluster's objects: a Lease, renewed while we can, taken over when its holder went silent.
//!
//! Silence is measured by our own clock from when we first saw a renewal, so that no two clocks have to agree.

use crate::cluster::{MANAGER, NAMESPACE, kind};
use controlplane_client::{Client, ClientError, DynamicObject, Object, Optional, ResourceKind};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const NAME: &str = "gitsync";

/// A holder that was silent this long is gone; a killed gitsync delays others by it.
const TERM: Duration = Duration::from_secs(30);

/// How often the Lease is renewed: two renewals may fail.
const RENEWAL: Duration = Duration::from_secs(10);

/// Whose the Lease is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    /// Ours.
    Ours,
    /// Somebody else's.
    Others,
}

/// What we know about the Lease.
#[derive(Debug, Default)]
pub(crate) struct LeaseHolder {
    /// When we renewed it last.
    renewed: Option<Instant>,
    /// The version that we saw last, and when first.
    seen: Option<(String, Instant)>,
}

fn leases() -> ResourceKind {
    kind("coordination.k8s.io", "v1", "leases", "Lease", true)
}

impl LeaseHolder {
    /// Takes, keeps or leaves the Lease.
    ///
    /// # Errors
    /// When the API server cannot be asked; we hold nothing then.
    pub(crate) async fn hold(&mut self, client: &Client, me: &str, now: Instant) -> Result<Held, ClientError> {
        if self.renewed.is_some_and(|renewed| now.duration_since(renewed) < RENEWAL) {
            return Ok(Held::Ours);
        }
        self.renewed = None;
        let api = client.dynamic(leases(), Some(NAMESPACE));
        let found = api.get(NAME).await.optional()?;
        let written = match found {
            None => api.create(&lease(me, None)).await.map(Some),
            Some(found) if self.may_take(&found, me, now) => api.update(&lease(me, Some(&found))).await.map(Some),
            Some(_) => Ok(None),
        };
        match written {
            Ok(Some(_)) => {
                self.renewed = Some(now);
                Ok(Held::Ours)
            }
            Ok(None) => Ok(Held::Others),
            // Somebody was faster.
            Err(error) if error.is_conflict() || error.is_already_exists() => Ok(Held::Others),
            Err(error) => Err(error),
        }
    }

    fn may_take(&mut self, found: &DynamicObject, me: &str, now: Instant) -> bool {
        let holder = found.rest.get("spec").and_then(|spec| spec.get("holderIdentity")).and_then(Value::as_str);
        if holder == Some(me) || holder.is_none_or(str::is_empty) {
            return true;
        }
        let version = found.meta().resource_version.clone().unwrap_or_default();
        match &self.seen {
            Some((seen, since)) if *seen == version => now.duration_since(*since) >= TERM,
            Some(_) | None => {
                self.seen = Some((version, now));
                false
            }
        }
    }
}

fn lease(me: &str, found: Option<&DynamicObject>) -> DynamicObject {
    let now = jiff::Timestamp::now();
    let mut lease = found.cloned().unwrap_or_else(|| {
        let object = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": {"app.kubernetes.io/managed-by": MANAGER}},
        });
        serde_json::from_value(object).expect("because it has the shape of an object")
    });
    let spec = json!({
        "holderIdentity": me,
        "leaseDurationSeconds": TERM.as_secs(),
        "renewTime": format!("{now:.6}"),
    });
    lease.rest.insert("spec".to_owned(), spec);
    lease
}
