//! KDL: the trust policy, the cluster's document and a machine's.

use gitsync_verify::{Files, Policy};
use machined_config::{ClusterConfig, MachineConfig};
use std::collections::BTreeMap;
use tests_support::authenticator::PlainKey;

/// A policy in which everything occurs that a policy may hold. The key of seed 1 may do everything.
pub(crate) fn policy() -> String {
    let key = PlainKey::from_seed([1; 32]).public_key();
    format!(
        "version 1\nbinding \"plain\"\nroot threshold=1 {{ member \"ada\"; }}\nrecovery threshold=1 delay=\"24h\" {{ member \"ada\" }}\n\
         freshness life=\"24h\"\nfloor image=4 seq=120\nbreak-glass role=\"dev\" threshold=1 life=\"4h\" {{ owns \"apps/**\" }}\n\
         principal \"ada\" {{ key \"{key}\" {{ use \"commit\" \"statement\" \"recovery\"; }}; }} // ada\n\
         revoked \"SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU\" last-good=117\n\
         role \"dev\" access=\"operator\" {{ member \"ada\"; }}\n\
         rule \"apps\" {{ owns \"apps/**\" #\"raw\"#; reads \"shared/*/x\"; approval role=\"dev\" threshold=1;\n\
         reach {{ namespace \"*\"; kind \"*\"; cluster-scoped #true; }}; budget deletions=10 {{ protect \"Secret\"; }}; }}\n"
    )
}

pub(crate) fn policy_seeds() -> Vec<Vec<u8>> {
    vec![policy().into_bytes()]
}

pub(crate) fn policies(bytes: &[u8]) {
    let files = Files(BTreeMap::from([("trust/root.kdl".to_owned(), bytes.to_vec())]));
    if let Ok(policy) = Policy::parse(&files) {
        assert!(policy.root().threshold as usize <= policy.root().members.len(), "root can be met");
        assert!(policy.rules().iter().all(|rule| rule.threshold > 0 && policy.roles().contains_key(&rule.role)));
    }
}

const CLUSTER: &str = r#"cluster {
    id "00112233445566778899aabbccddeeff"
    name "demo"
    level 1
    bootstrap "cp1"
    endpoint "10.0.2.15"
    endpoint "api.example.org"
    network { pods "10.244.0.0/16"; services "fd00::/108"; domain "cluster.local"; }
}
"#;

const MACHINE: &str = r##"/- gone "x"
machine "cp1" {
    identity "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"
    role "control-plane"
    network {
        link "eth0" { dhcp #true; }
        link "eth1" { address "192.0.2.7/24" #"fd00::1/64"#; gateway "192.0.2.1"; }
        nameserver "10.0.2.3"
    }
    time { server "192.0.2.1"; }
    registry "docker.io" { mirror "http://10.0.2.2:5000"; }
}
"##;

pub(crate) fn document_seeds() -> Vec<Vec<u8>> {
    [CLUSTER, MACHINE].map(|text| text.as_bytes().to_vec()).to_vec()
}

/// What ends a line of KDL: <https://kdl.dev/spec/#section-3.18>.
const NEWLINES: [char; 7] = ['\r', '\n', '\u{b}', '\u{c}', '\u{85}', '\u{2028}', '\u{2029}'];

pub(crate) fn documents(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let lines = text.split(NEWLINES).count();
    let refused =
        [ClusterConfig::parse("cluster.kdl", text).map(drop), MachineConfig::parse("machines/cp1.kdl", text).map(drop)];
    for problems in refused.into_iter().filter_map(Result::err) {
        assert!(!problems.0.is_empty(), "a refusal says why");
        assert!(
            problems.0.iter().all(|problem| problem.line <= lines),
            "a place that people are sent to: {problems:?}"
        );
    }
}
