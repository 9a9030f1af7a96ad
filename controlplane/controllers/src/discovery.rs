//! Which kinds the API server has, with what can be done to them: asked anew each time, for kinds come and go.

use controlplane_client::{Client, ClientError, ResourceKind};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{APIGroupList, APIResourceList};

/// A kind with its verbs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Discovered {
    pub(crate) kind: ResourceKind,
    verbs: Vec<String>,
}

impl Discovered {
    /// Whether it can be emptied and followed: the verbs that deletion and garbage collection need.
    pub(crate) fn is_collectable(&self) -> bool {
        ["list", "watch", "delete"].iter().all(|verb| self.verbs.iter().any(|has| has == verb))
    }
}

/// Lists all kinds, each in its group's preferred version.
///
/// A group that does not answer fails the whole: to take it for empty would let its objects be forgotten.
pub(crate) async fn discover(client: &Client) -> Result<Vec<Discovered>, ClientError> {
    let mut found = resources(client, "", "v1").await?;
    let groups: APIGroupList = client.get_json("/apis").await?;
    for group in groups.groups {
        let preferred = group.preferred_version.or_else(|| group.versions.first().cloned());
        if let Some(version) = preferred {
            found.extend(resources(client, &group.name, &version.version).await?);
        }
    }
    Ok(found)
}

async fn resources(client: &Client, group: &str, version: &str) -> Result<Vec<Discovered>, ClientError> {
    let path = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    let list: APIResourceList = client.get_json(&path).await?;
    let kinds = list.resources.into_iter().filter(|resource| !resource.name.contains('/'));
    Ok(kinds
        .map(|resource| Discovered {
            kind: ResourceKind {
                group: group.to_owned().into(),
                version: version.to_owned().into(),
                plural: resource.name.into(),
                kind: resource.kind.into(),
                namespaced: resource.namespaced,
            },
            verbs: resource.verbs,
        })
        .collect())
}
