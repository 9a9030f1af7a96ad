//! The files of a new configuration repository: a policy that one person can live with and a team can grow into.
//!
//! Called by `cairnctl init`. The comments are read by whoever opens the files first, so they teach; nothing here is a secret.

use machined_ids::{ClusterId, MachineName, PrincipalName};

/// `cluster.kdl`.
pub(crate) fn cluster(id: &ClusterId, name: &MachineName, bootstrap: &MachineName, endpoints: &[String]) -> String {
    let endpoints: String = endpoints.iter().map(|endpoint| format!("    endpoint {endpoint:?}\n")).collect();
    format!(
        "// What all machines of this cluster share. The id is part of every signature; a fork gets its own: cairnctl init --fork\n\
         cluster {{\n    id \"{id}\"\n    name \"{name}\"\n    bootstrap \"{bootstrap}\" // the one machine that may begin it\n\
         {endpoints}}}\n"
    )
}

/// `trust/root.kdl`, with one person who decides alone.
pub(crate) fn root(person: &PrincipalName, public_key: &str) -> String {
    format!(
        r#"// Who may change trust/ itself, and who gets the cluster back when they no longer can.
//
// One person is enough to begin with. As soon as there are two of you, give the second a block like the one below, name both
// in `root` and say threshold=2: then no single stolen key rewrites the policy.
version 1
binding "trailer" // a signed commit counts only for the cluster and branch that its Cairn-Target line names
root threshold=1 {{ member "{person}"; }}

// Keys that lie in a safe and are used once, when root's are lost. Without them a lost root means reinstalling the machines.
// recovery threshold=1 {{ member "vault"; }}
// principal "vault" {{ key "ssh-ed25519 AAAA..." {{ use "recovery"; }}; }}

principal "{person}" {{
    // commit: signs commits; statement: approves with cairnctl approve; login: reaches the APIs
    key "{key}" {{ use "commit" "statement" "login"; }}
}}
"#,
        key = public_key.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
    )
}

/// `trust/policy.kdl`: roles and rules.
pub(crate) fn policy(person: &PrincipalName) -> String {
    format!(
        r#"// What whose approval is good for. A changed file needs the approval of every rule that owns or reads it; a file that no rule
// owns cannot be changed by anybody. Try a change before it is pushed: cairnctl verify --commit HEAD

// access= is what its members may do on the APIs: reader, operator or admin. A role without it only approves.
role "admins" access="admin" {{ member "{person}"; }}

// The machines and what they share. Only a rule that names these files owns them; wildcards never match them.
rule "machines" {{
    owns "cluster.kdl" "machines/**"
    approval role="admins" threshold=1
}}

// Workloads: what its objects may be (reach), and how much one push may take away (budget).
rule "apps" {{
    owns "apps/**"
    approval role="admins" threshold=1
    reach {{
        namespace "*"
        kind "*"
        cluster-scoped #true // objects without a namespace: ClusterRole, PriorityClass
        privileged #true     // objects that can take over a machine or act as somebody else: hostPath, hostNetwork, RBAC
    }}
    budget deletions=20 {{ protect "PersistentVolumeClaim"; }}
}}

// Notes for people: files at the top, and these folders.
rule "notes" {{
    owns "*" "docs/**" ".github/**"
    approval role="admins" threshold=1
}}

// A team that looks after its own folder: a person, a role, a rule. Take its folder out of "apps" (owns "apps/infra/**"),
// or the admins approve there as well.
//
// principal "bob" {{ key "ssh-ed25519 AAAA..." {{ use "commit" "statement" "login"; }}; }}
// role "web" access="operator" {{ member "{person}" "bob"; }}
// rule "web" {{
//     owns "apps/web/**"
//     reads "apps/shared/**"               // what its manifests use of others; changing it needs this rule as well
//     approval role="web" threshold=2      // two different people
//     reach {{ namespace "web"; kind "*"; }}
//     budget deletions=5 {{ protect "Secret"; }}
// }}
"#
    )
}

/// `README.md`.
pub(crate) fn readme(name: &MachineName, cluster: &ClusterId, branch: &str) -> String {
    format!(
        "# Cluster {name}\n\nThis repository says what the machines and workloads of cluster `{cluster}` are. Machines follow\n\
         `{branch}` and take only commits that `trust/` allows.\n\n\
         - `cluster.kdl`: what all machines share\n- `machines/`: one document for each machine\n\
         - `trust/`: people, keys, roles and rules\n- `apps/`: Kubernetes manifests\n\n\
         Another person, or another computer: `cairnctl clone URL --ssh-key ~/.ssh/id_ed25519`. What a machine would say of a\n\
         change: `cairnctl verify --commit HEAD`.\n"
    )
}

/// `apps/example/example.yaml`: something to change first.
pub(crate) const EXAMPLE: &str = r"# Manifests below apps/ are applied by server-side apply, and pruned when they leave.
apiVersion: v1
kind: Namespace
metadata:
  name: example
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  namespace: example
spec:
  replicas: 0 # set it to 1, commit and push: git commit -am 'Run the example' && git push
  selector:
    matchLabels: {app: web}
  template:
    metadata:
      labels: {app: web}
    spec:
      containers:
        - name: web
          image: docker.io/library/nginx:1.29
          ports:
            - containerPort: 80
---
apiVersion: v1
kind: Service
metadata:
  name: web
  namespace: example
spec:
  selector: {app: web}
  ports:
    - port: 80
";
