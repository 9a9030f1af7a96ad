//! What a container's process may do: capabilities, privileges, devices. Pure.

use k8s_openapi::api::core::v1::{Capabilities, Container, PodSpec};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// What a container may do when the pod says nothing; the set of Docker and containerd.
const DEFAULT: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// All that a container can have: what the kernel knows (capabilities(7), Linux 5.9) but CAP_SYS_BOOT and CAP_SYS_MODULE. The machine's
/// walls take those from containerd, and runc refuses a container that asks for more than it has itself.
const ALL: [&str; 39] = [
    "CAP_AUDIT_CONTROL",
    "CAP_AUDIT_READ",
    "CAP_AUDIT_WRITE",
    "CAP_BLOCK_SUSPEND",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_KILL",
    "CAP_LEASE",
    "CAP_LINUX_IMMUTABLE",
    "CAP_MAC_ADMIN",
    "CAP_MAC_OVERRIDE",
    "CAP_MKNOD",
    "CAP_NET_ADMIN",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_RAW",
    "CAP_PERFMON",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYSLOG",
    "CAP_SYS_ADMIN",
    "CAP_SYS_CHROOT",
    "CAP_SYS_NICE",
    "CAP_SYS_PACCT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_WAKE_ALARM",
];

/// Whether the container may do everything.
pub(super) fn is_privileged(container: &Container) -> bool {
    container.security_context.as_ref().and_then(|security| security.privileged).unwrap_or(false)
}

/// Capability sets of the first process. A process that is not root gets none beyond its bounding set, which is how
/// the kernel would have it after a change of user.
pub(super) fn capabilities(container: &Container, is_root: bool) -> Value {
    let wanted = container.security_context.as_ref().and_then(|security| security.capabilities.as_ref());
    let set: Vec<String> = if is_privileged(container) {
        ALL.iter().map(ToString::to_string).collect()
    } else {
        adjust(wanted).into_iter().collect()
    };
    let own = if is_root { set.clone() } else { Vec::new() };
    json!({ "bounding": set, "effective": own, "permitted": own })
}

fn adjust(wanted: Option<&Capabilities>) -> BTreeSet<String> {
    let list = |list: Option<&Vec<String>>| -> Vec<String> {
        list.into_iter().flatten().map(|name| full_name(name)).collect()
    };
    let (add, drop) = (list(wanted.and_then(|w| w.add.as_ref())), list(wanted.and_then(|w| w.drop.as_ref())));
    let names = |names: &[&str]| -> BTreeSet<String> { names.iter().map(ToString::to_string).collect() };
    let mut set = names(&DEFAULT);
    if add.iter().any(|name| name == "CAP_ALL") {
        set = names(&ALL);
    }
    if drop.iter().any(|name| name == "CAP_ALL") {
        set.clear();
    }
    set.retain(|name| !drop.contains(name));
    // A name that the kernel does not know would make runc refuse the container.
    set.extend(add.into_iter().filter(|name| ALL.contains(&name.as_str())));
    set
}

fn full_name(name: &str) -> String {
    let name = name.to_ascii_uppercase();
    if name.starts_with("CAP_") { name } else { format!("CAP_{name}") }
}

/// Whether set-uid programs stay without effect.
pub(super) fn no_new_privileges(container: &Container) -> bool {
    let allowed = container.security_context.as_ref().and_then(|security| security.allow_privilege_escalation);
    allowed == Some(false)
}

/// Which devices may be opened: all for a privileged container, else runc's own short list.
pub(super) fn devices(container: &Container) -> Value {
    json!([{ "allow": is_privileged(container), "access": "rwm" }])
}

/// Whether the root file system may be written.
pub(super) fn is_read_only(container: &Container) -> bool {
    container.security_context.as_ref().and_then(|security| security.read_only_root_filesystem).unwrap_or(false)
}

/// Kernel settings of the pod's own namespaces: what the pod asks for, over two that let programs without privileges
/// listen on low ports and send pings.
pub(super) fn sysctls(spec: &PodSpec) -> Value {
    let mut all = json!({ "net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647" });
    if spec.host_network == Some(true) {
        all = json!({});
    }
    let wanted = spec.security_context.as_ref().and_then(|security| security.sysctls.as_ref());
    for sysctl in wanted.into_iter().flatten() {
        all[&sysctl.name] = sysctl.value.clone().into();
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(security: &str) -> Container {
        let text = format!(r#"{{"name":"a","securityContext":{security}}}"#);
        serde_json::from_str(&text).expect("because the test's container is well formed")
    }

    fn bounding(security: &str) -> Vec<String> {
        let value = capabilities(&container(security), true);
        serde_json::from_value(value["bounding"].clone()).expect("because it is a list of names")
    }

    #[test]
    fn capabilities_are_added_and_dropped() {
        let restricted = bounding(r#"{"capabilities":{"drop":["ALL"],"add":["NET_BIND_SERVICE"]}}"#);
        assert_eq!(restricted, ["CAP_NET_BIND_SERVICE"]);
        assert!(!bounding(r#"{"capabilities":{"drop":["NET_RAW"]}}"#).contains(&"CAP_NET_RAW".to_owned()));
        assert_eq!(bounding("{}").len(), DEFAULT.len());
        assert_eq!(bounding(r#"{"privileged":true}"#).len(), ALL.len());
        assert_eq!(bounding(r#"{"capabilities":{"add":["NO_SUCH_THING"]}}"#).len(), DEFAULT.len());
    }

    #[test]
    fn nobody_can_ask_for_what_the_walls_have_taken() {
        for security in [
            r#"{"privileged":true}"#,
            r#"{"capabilities":{"add":["ALL"]}}"#,
            r#"{"capabilities":{"add":["SYS_MODULE","CAP_SYS_BOOT"]}}"#,
        ] {
            let set = bounding(security);
            assert!(!set.iter().any(|name| name == "CAP_SYS_MODULE" || name == "CAP_SYS_BOOT"), "{security}: {set:?}");
        }
    }

    #[test]
    fn a_process_that_is_not_root_has_no_capability_of_its_own() {
        let value = capabilities(&container("{}"), false);
        assert_eq!(value["effective"], json!([]));
        assert_eq!(value["permitted"], json!([]));
    }
}
