//! The files that every pod finds in /etc, as text. Pure.

use crate::config::PodDns;
use k8s_openapi::api::core::v1::Pod;

/// Search paths in resolv.conf; the API's limit.
const SEARCH_LIMIT: usize = 32;
/// Name servers in resolv.conf; what libc reads.
const SERVER_LIMIT: usize = 3;
/// Dots from which on a name is tried as it is first; lower ones make every outside name slow.
const DOTS: &str = "ndots:5";

/// The pod's own name: what it says, or its object's name cut to what the kernel takes.
#[must_use]
pub(crate) fn hostname(pod: &Pod) -> String {
    let wanted = pod.spec.as_ref().and_then(|spec| spec.hostname.as_deref()).filter(|name| !name.is_empty());
    let name = wanted.or(pod.metadata.name.as_deref()).unwrap_or("pod");
    name.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_owned()
}

/// /etc/hosts.
#[must_use]
pub(crate) fn hosts(pod: &Pod, addresses: &[String], domain: Option<&str>) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    let spec = pod.spec.as_ref();
    let name = hostname(pod);
    let subdomain = spec.and_then(|spec| spec.subdomain.as_deref()).filter(|name| !name.is_empty());
    for address in addresses {
        match (subdomain, pod.metadata.namespace.as_deref()) {
            (Some(subdomain), Some(namespace)) => {
                let domain = domain.unwrap_or("cluster.local");
                text.push_str(&format!("{address}\t{name}.{subdomain}.{namespace}.svc.{domain}\t{name}\n"));
            }
            (Some(_) | None, _) => text.push_str(&format!("{address}\t{name}\n")),
        }
    }
    for alias in spec.iter().flat_map(|spec| spec.host_aliases.iter().flatten()) {
        text.push_str(&format!(
            "{}\t{}\n",
            alias.ip,
            alias.hostnames.iter().flatten().cloned().collect::<Vec<_>>().join("\t")
        ));
    }
    text
}

/// /etc/resolv.conf by the pod's DNS policy; `host` is the machine's own file.
#[must_use]
pub(crate) fn resolv_conf(pod: &Pod, dns: &PodDns, host: &str) -> String {
    let spec = pod.spec.as_ref();
    let policy = spec.and_then(|spec| spec.dns_policy.as_deref()).unwrap_or("ClusterFirst");
    let on_host_network = spec.and_then(|spec| spec.host_network) == Some(true);
    let cluster = policy == "ClusterFirstWithHostNet" || policy == "ClusterFirst" && !on_host_network;
    let (mut servers, mut searches, mut options) = match (policy, cluster, dns.server) {
        ("None", _, _) => Default::default(),
        (_, true, Some(server)) => {
            let domain = dns.domain.as_deref().unwrap_or("cluster.local");
            let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
            let own = [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
            let searches = own.into_iter().chain(words(host, "search")).collect();
            (vec![server.to_string()], searches, vec![DOTS.to_owned()])
        }
        (_, _, _) => (words(host, "nameserver"), words(host, "search"), words(host, "options")),
    };
    if let Some(more) = spec.and_then(|spec| spec.dns_config.as_ref()) {
        servers.extend(more.nameservers.iter().flatten().cloned());
        searches.extend(more.searches.iter().flatten().cloned());
        options.extend(more.options.iter().flatten().filter_map(|option| {
            let name = option.name.clone()?;
            Some(option.value.as_ref().map_or(name.clone(), |value| format!("{name}:{value}")))
        }));
    }
    let mut text: String = servers.iter().take(SERVER_LIMIT).map(|server| format!("nameserver {server}\n")).collect();
    if !searches.is_empty() {
        text.push_str(&format!("search {}\n", searches[..searches.len().min(SEARCH_LIMIT)].join(" ")));
    }
    if !options.is_empty() {
        text.push_str(&format!("options {}\n", options.join(" ")));
    }
    text
}

/// All words of the file's lines that begin with `keyword`.
fn words(file: &str, keyword: &str) -> Vec<String> {
    let lines =
        file.lines().filter_map(|line| line.trim().strip_prefix(keyword)).filter(|rest| rest.starts_with([' ', '\t']));
    lines.flat_map(str::split_whitespace).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: &str) -> Pod {
        let text = format!(r#"{{"metadata":{{"name":"web-1","namespace":"shop"}},"spec":{{"containers":[]{spec}}}}}"#);
        serde_json::from_str(&text).expect("because the test's pod is well formed")
    }

    const HOST: &str = "# comment\nnameserver 10.0.2.3\nsearch example.org\noptions edns0\n";

    fn dns() -> PodDns {
        PodDns { server: "10.96.0.10".parse().ok(), domain: None }
    }

    #[test]
    fn a_pod_asks_the_cluster_first() {
        let expected = "nameserver 10.96.0.10\n\
                        search shop.svc.cluster.local svc.cluster.local cluster.local example.org\noptions ndots:5\n";
        assert_eq!(resolv_conf(&pod(""), &dns(), HOST), expected);
    }

    #[test]
    fn without_a_name_service_or_by_policy_the_machines_resolver_is_used() {
        let own = "nameserver 10.0.2.3\nsearch example.org\noptions edns0\n";
        assert_eq!(resolv_conf(&pod(""), &PodDns::default(), HOST), own);
        assert_eq!(resolv_conf(&pod(r#","dnsPolicy":"Default""#), &dns(), HOST), own);
        assert_eq!(resolv_conf(&pod(r#","hostNetwork":true"#), &dns(), HOST), own);
    }

    #[test]
    fn a_pod_may_bring_everything_itself() {
        let none =
            r#","dnsPolicy":"None","dnsConfig":{"nameservers":["1.1.1.1"],"options":[{"name":"ndots","value":"2"}]}"#;
        assert_eq!(resolv_conf(&pod(none), &dns(), HOST), "nameserver 1.1.1.1\noptions ndots:2\n");
    }

    #[test]
    fn hosts_name_the_pod_and_its_aliases() {
        let pod = pod(r#","subdomain":"db","hostAliases":[{"ip":"10.1.1.1","hostnames":["a","b"]}]"#);
        let text = hosts(&pod, &["10.244.0.2".into()], None);
        assert!(text.ends_with("10.244.0.2\tweb-1.db.shop.svc.cluster.local\tweb-1\n10.1.1.1\ta\tb\n"), "{text}");
    }
}
