//! What admission fills into new pods: service account, tolerations, priority. Pure.

use controlplane_types::object::{list, map_mut, set_default};
use serde_json::{Value, json};

/// Seconds that a pod stays on a node which is not ready or not reachable, as upstream's DefaultTolerationSeconds.
const TOLERATION_SECONDS: u64 = 300;

/// Fills in what the author left out.
pub(super) fn fill_in(pod: &mut Value) {
    set_default(pod, &["spec"], "serviceAccountName", "default");
    // The old name of the field, still set for old clients.
    let account = pod["spec"]["serviceAccountName"].clone();
    set_default(pod, &["spec"], "serviceAccount", account);
    set_default(pod, &["spec"], "priority", 0);
    set_default(pod, &["spec"], "preemptionPolicy", "PreemptLowerPriority");
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        tolerate(pod, key);
    }
}

fn tolerate(pod: &mut Value, key: &str) {
    let covers = |toleration: &Value| {
        let effect = toleration["effect"].as_str().unwrap_or("");
        let named = toleration["key"].as_str().unwrap_or("");
        (named == key || named.is_empty()) && (effect == "NoExecute" || effect.is_empty())
    };
    if list(pod, &["spec", "tolerations"]).iter().any(covers) {
        return;
    }
    let toleration =
        json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATION_SECONDS});
    let tolerations = map_mut(pod, &["spec"]).entry("tolerations").or_insert(Value::Null);
    match tolerations.as_array_mut() {
        Some(list) => list.push(toleration),
        None => *tolerations = json!([toleration]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_pod_gets_account_priority_and_two_tolerations() {
        let mut pod = json!({"spec": {}});
        fill_in(&mut pod);
        assert_eq!(pod["spec"]["serviceAccountName"], "default");
        assert_eq!(pod["spec"]["priority"], 0);
        assert_eq!(list(&pod, &["spec", "tolerations"]).len(), 2);
        let once = pod.clone();
        fill_in(&mut pod);
        assert_eq!(pod, once, "filling in twice changes nothing");
    }

    #[test]
    fn the_authors_own_toleration_is_kept_alone() {
        let mut pod = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
        fill_in(&mut pod);
        assert_eq!(list(&pod, &["spec", "tolerations"]).len(), 1);
    }
}
