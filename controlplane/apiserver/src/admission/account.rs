//! ServiceAccount: gives the containers of a new pod their account's token, the cluster's CA and their namespace.
//!
//! A missing account is no reason to refuse: it may be on its way, and the node's agent waits for it with the token.

use crate::failure::Failure;
use crate::random;
use crate::registry::Call;
use crate::request::ResourcePath;
use crate::storage;
use controlplane_store::Consistency;
use controlplane_types::object::{at, list, map_mut, set_default, text};
use serde_json::{Value, json};

/// Where every client library looks.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Names of the volumes begin like this, as upstream.
const VOLUME_PREFIX: &str = "kube-api-access-";

/// Seconds that a token lives, as upstream: an hour, and some seconds by which it is recognised.
const TOKEN_SECONDS: u64 = 3607;

/// Adds volume and mounts, unless the pod or its account says not to.
pub(super) async fn mount(call: &Call<'_>, pod: &mut Value) -> Result<(), Failure> {
    let kind = call.server.kind("", "v1", "serviceaccounts")?;
    let name = text(pod, &["spec", "serviceAccountName"]).to_owned();
    let path = ResourcePath { namespace: call.path.namespace.clone(), name, ..ResourcePath::default() };
    let account = storage::get(&*call.server.store, &kind, &path, Consistency::Local).await?;
    fill_in(pod, account.map(|stored| stored.object).as_ref(), &random::name_suffix());
    Ok(())
}

/// The pure half of [`mount`].
fn fill_in(pod: &mut Value, account: Option<&Value>, suffix: &str) {
    if let Some(account) = account
        && list(pod, &["spec", "imagePullSecrets"]).is_empty()
        && let Some(secrets) = at(account, &["imagePullSecrets"])
    {
        set_default(pod, &["spec"], "imagePullSecrets", secrets.clone());
    }
    let said = at(pod, &["spec", "automountServiceAccountToken"])
        .or_else(|| account.and_then(|account| at(account, &["automountServiceAccountToken"])));
    if said == Some(&json!(false)) {
        return;
    }
    let known = list(pod, &["spec", "volumes"]).iter().map(|volume| text(volume, &["name"]));
    let volume = known.filter(|name| name.starts_with(VOLUME_PREFIX)).map(str::to_owned).next();
    let is_new = volume.is_none();
    let volume = volume.unwrap_or_else(|| format!("{VOLUME_PREFIX}{suffix}"));
    let mut mounted = false;
    for kind in ["initContainers", "containers"] {
        let containers = map_mut(pod, &["spec"]).get_mut(kind).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            if !list(container, &["volumeMounts"]).iter().any(|mount| text(mount, &["mountPath"]) == MOUNT_PATH) {
                push(container, "volumeMounts", json!({"name": volume, "readOnly": true, "mountPath": MOUNT_PATH}));
                mounted = true;
            }
        }
    }
    if mounted && is_new {
        push(&mut pod["spec"], "volumes", projected(&volume));
    }
}

fn push(object: &mut Value, field: &str, value: Value) {
    match map_mut(object, &[]).entry(field).or_insert(Value::Null) {
        Value::Array(list) => list.push(value),
        other => *other = json!([value]),
    }
}

fn projected(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [
            {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
        ]}},
    ]}})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Value {
        json!({"spec": {"initContainers": [{"name": "i"}], "containers": [{"name": "a"}, {"name": "b",
            "volumeMounts": [{"name": "own", "mountPath": MOUNT_PATH}]}]}})
    }

    #[test]
    fn every_container_without_its_own_gets_the_token() {
        let mut filled = pod();
        fill_in(&mut filled, None, "abcde");
        let name = |path: &str| filled.pointer(path).and_then(Value::as_str).unwrap_or_default();
        assert_eq!(name("/spec/volumes/0/name"), "kube-api-access-abcde");
        assert_eq!(name("/spec/initContainers/0/volumeMounts/0/name"), "kube-api-access-abcde");
        assert_eq!(name("/spec/containers/0/volumeMounts/0/name"), "kube-api-access-abcde");
        assert_eq!(name("/spec/containers/1/volumeMounts/0/name"), "own");
        let once = filled.clone();
        fill_in(&mut filled, None, "vwxyz");
        assert_eq!(filled, once, "filling in twice changes nothing");
    }

    #[test]
    fn the_pod_decides_before_its_account_and_both_may_say_no() {
        let account = json!({"automountServiceAccountToken": false, "imagePullSecrets": [{"name": "pull"}]});
        let mut quiet = pod();
        fill_in(&mut quiet, Some(&account), "abcde");
        assert_eq!(quiet["spec"].get("volumes"), None);
        assert_eq!(quiet["spec"]["imagePullSecrets"][0]["name"], "pull");
        let mut asking = pod();
        asking["spec"]["automountServiceAccountToken"] = json!(true);
        fill_in(&mut asking, Some(&account), "abcde");
        assert_eq!(list(&asking, &["spec", "volumes"]).len(), 1);
    }
}
