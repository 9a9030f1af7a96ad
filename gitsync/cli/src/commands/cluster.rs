//! Making a cluster: its repository, and its machines one by one.

use super::Surroundings;
use crate::arguments::{Enroll, Form, Init};
use crate::contexts::{Context, Machine};
use crate::machine::{maintenance, with_port};
use crate::repository::{Checkout, DEPLOY_REF};
use crate::{output, signing};
use anyhow::{Context as _, Result, anyhow, bail};
use machined_config::{ClusterConfig, MachineConfig};
use machined_ids::{ClusterId, Fingerprint, MachineName};
use serde_json::json;
use std::collections::BTreeMap;

/// Port of the Kubernetes API on control-plane machines.
const KUBERNETES_PORT: u16 = 6443;

pub(super) fn init(around: &Surroundings, init: &Init) -> Result<()> {
    let public_key = signing::public_key(&init.ssh_key)?;
    let cluster = ClusterId::from_bytes(random_bytes()?);
    let name = match &init.cluster {
        Some(name) => name.clone(),
        None => folder_name(&init.folder)?,
    };
    let document = cluster_document(&cluster, &name, init);
    ClusterConfig::parse("cluster.kdl", &document)?;
    let checkout = Checkout::create(&init.folder, &init.ssh_key, &cluster, &init.name)?;
    checkout.write("cluster.kdl", &document)?;
    checkout.write("trust/root.kdl", &root_document(init, &public_key.to_openssh()?))?;
    checkout.write("trust/policy.kdl", &policy_document(init))?;
    checkout.write("README.md", &readme(&name, &cluster))?;
    checkout.write("apps/example/namespace.yaml", EXAMPLE)?;
    checkout.commit(&["cluster.kdl", "trust", "README.md", "apps"], &format!("Begin cluster {name}"))?;
    let introduction = checkout.introduce(cluster)?;

    let mut contexts = around.contexts()?;
    let ssh_key = Some(std::path::absolute(&init.ssh_key)?);
    let context = Context { cluster, ssh_key, kubernetes: None, machines: BTreeMap::new() };
    contexts.contexts.insert(name.to_string(), context);
    contexts.current = Some(name.to_string());
    contexts.save(&around.folder)?;
    if around.form == Form::Json {
        return output::json(&serde_json::to_value(&introduction)?);
    }
    println!("made {} for cluster {name} ({cluster})", init.folder.display());
    println!("next: push it somewhere that your machines can fetch from, boot {}, and run", init.bootstrap);
    println!("  cairnctl enroll {} --address ADDRESS --fingerprint SHA256:... --repository URL", init.bootstrap);
    Ok(())
}

fn folder_name(folder: &std::path::Path) -> Result<MachineName> {
    let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    MachineName::parse(name).with_context(|| format!("{name:?} cannot be the cluster's name; give one with --cluster"))
}

fn random_bytes() -> Result<[u8; 16]> {
    use std::io::Read;
    let mut bytes = [0; 16];
    let mut source = std::fs::File::open("/dev/urandom").context("opening /dev/urandom")?;
    source.read_exact(&mut bytes).context("reading /dev/urandom")?;
    Ok(bytes)
}

fn cluster_document(cluster: &ClusterId, name: &MachineName, init: &Init) -> String {
    let endpoints: String = init.endpoint.iter().map(|endpoint| format!("    endpoint {endpoint:?}\n")).collect();
    let bootstrap = &init.bootstrap;
    format!(
        "// What all machines of this cluster share.\ncluster {{\n    id \"{cluster}\"\n    name \"{name}\"\n    level 1\n\
         \x20   bootstrap \"{bootstrap}\"\n{endpoints}}}\n"
    )
}

fn root_document(init: &Init, public_key: &str) -> String {
    let name = &init.name;
    let key = public_key.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    format!(
        "// Who may change trust/. Two people and a threshold of 2 are better as soon as there are two of you.\n\
         version 1\nbinding \"trailer\"\nroot threshold=1 {{ member \"{name}\"; }}\n\n\
         principal \"{name}\" {{\n    key \"{key}\" {{ use \"commit\" \"statement\" \"login\"; }}\n}}\n"
    )
}

fn policy_document(init: &Init) -> String {
    let name = &init.name;
    format!(
        "// What whose signature is good for. A path that no rule owns cannot be changed by anybody.\n\
         role \"admins\" access=\"admin\" {{ member \"{name}\"; }}\n\n\
         rule \"machines\" {{\n    owns \"cluster.kdl\" \"machines/**\"\n    approval role=\"admins\" threshold=1\n}}\n\n\
         rule \"everything-else\" {{\n    owns \"**\"\n    approval role=\"admins\" threshold=1\n\
         \x20   reach {{ namespace \"*\"; kind \"*\"; cluster-scoped #true; }}\n}}\n"
    )
}

fn readme(name: &MachineName, cluster: &ClusterId) -> String {
    format!(
        "# Cluster {name}\n\nThis repository says what the machines and workloads of cluster `{cluster}` are. Machines follow\n\
         `{DEPLOY_REF}` and take only commits that `trust/` allows.\n\n\
         - `cluster.kdl`: what all machines share\n- `machines/`: one document for each machine\n\
         - `trust/`: people, keys, roles and rules\n- `apps/`: Kubernetes manifests\n"
    )
}

const EXAMPLE: &str = "# Manifests below apps/ are applied by server-side apply, and pruned when they leave.\n\
apiVersion: v1\nkind: Namespace\nmetadata:\n  name: example\n";

pub(super) async fn enroll(around: &Surroundings, enroll: &Enroll) -> Result<()> {
    let checkout = Checkout::open(&enroll.checkout)?;
    let introduction = checkout.introduction()?;
    let address = with_port(&enroll.address, machined_api::MACHINE_API_PORT);
    let mut client = maintenance(&address, &enroll.fingerprint).await?;
    let identified = client.identify(machined_api::IdentifyRequest {}).await;
    if let Err(status) = identified {
        bail!("the machine at {address} is not in maintenance mode: {}", status.message());
    }
    // The document first: an introduced machine looks for itself in the repository.
    let path = format!("machines/{}.kdl", enroll.name);
    let document = machine_document(&enroll.name, &enroll.fingerprint, enroll);
    MachineConfig::parse(&path, &document)?;
    checkout.write(&path, &document)?;
    let commit = checkout.commit(&[&path], &format!("Enrol machine {}", enroll.name))?;
    if !enroll.no_push {
        checkout.push()?;
    }
    let request = machined_api::IntroduceRequest {
        introduction: serde_json::to_vec(&introduction)?,
        repositories: enroll.repository.clone(),
    };
    client.introduce(request).await.map_err(|status| anyhow!("{}", status.message()))?;
    remember(around, enroll, &introduction.cluster, &address)?;
    if around.form == Form::Json {
        return output::json(&json!({ "machine": enroll.name, "commit": commit }));
    }
    println!("{} is introduced; commit {} names its identity", enroll.name, commit.short());
    if enroll.no_push {
        println!("next: push that commit; the machine waits for it");
    }
    Ok(())
}

fn machine_document(name: &MachineName, identity: &Fingerprint, enroll: &Enroll) -> String {
    let role = enroll.role;
    format!("machine \"{name}\" {{\n    identity \"{identity}\"\n    role \"{role}\"\n}}\n")
}

/// Puts the machine into the cluster's context.
fn remember(around: &Surroundings, enroll: &Enroll, cluster: &ClusterId, address: &str) -> Result<()> {
    let mut contexts = around.contexts()?;
    let known = contexts.contexts.iter_mut().find(|(_, context)| context.cluster == *cluster);
    let Some((_, context)) = known else {
        bail!("no context is for cluster {cluster}; run `cairnctl init` or use --config of the one who did");
    };
    let machine = Machine { address: address.to_owned(), identity: enroll.fingerprint.clone() };
    context.machines.insert(enroll.name.clone(), machine);
    if enroll.role == machined_config::Role::ControlPlane
        && (context.kubernetes.is_none() || enroll.kubernetes.is_some())
    {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        context.kubernetes = Some(enroll.kubernetes.clone().unwrap_or(format!("https://{host}:{KUBERNETES_PORT}")));
    }
    contexts.save(&around.folder)
}
