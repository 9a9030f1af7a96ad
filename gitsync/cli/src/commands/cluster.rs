//! Making a cluster: its repository, and its machines one by one.

use super::Surroundings;
use crate::arguments::{Enroll, Form, Init, Seed};
use crate::contexts::{Context, Machine};
use crate::machine::{maintenance, with_port};
use crate::repository::{Checkout, DEPLOY_REF, deploy_ref};
use crate::{output, signing, template};
use anyhow::{Context as _, Result, anyhow, bail};
use kdl::KdlValue;
use machined_api::maintenance_client::MaintenanceClient;
use machined_config::{ClusterConfig, Insistence, MachineDocument};
use machined_ids::{ClusterId, Fingerprint, MachineName};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use tonic::transport::Channel;

/// Port of the Kubernetes API on control-plane machines.
const KUBERNETES_PORT: u16 = 6443;

pub(super) fn init(around: &Surroundings, init: &Init) -> Result<()> {
    if init.fork {
        return fork(around, init);
    }
    let public_key = signing::public_key(&init.ssh_key)?;
    let cluster = ClusterId::from_bytes(random_bytes()?);
    let name = match &init.cluster {
        Some(name) => name.clone(),
        None => folder_name(&init.folder)?,
    };
    if init.endpoint.is_empty() {
        bail!("say where the cluster's APIs will be found: --endpoint HOST");
    }
    let document = template::cluster(&cluster, &name, &init.bootstrap, &init.endpoint);
    ClusterConfig::parse("cluster.kdl", &document)?;
    let checkout = Checkout::create(&init.folder)?;
    checkout.set_up(&init.ssh_key, &init.name, &cluster, &deploy_ref())?;
    checkout.write("cluster.kdl", &document)?;
    checkout.write("trust/root.kdl", &template::root(&init.name, &public_key.to_openssh()?))?;
    checkout.write("trust/policy.kdl", &template::policy(&init.name))?;
    checkout.write("README.md", &template::readme(&name, &cluster, DEPLOY_REF))?;
    checkout.write("apps/example/example.yaml", template::EXAMPLE)?;
    let commit = checkout.commit(&["cluster.kdl", "trust", "README.md", "apps"], &format!("Begin cluster {name}"))?;
    let introduction = checkout.introduce(&commit, cluster, deploy_ref())?;
    checkout.keep(&introduction)?;
    begin_context(around, &name, cluster, &init.ssh_key)?;
    if around.form == Form::Json {
        return output::json(&serde_json::to_value(&introduction)?);
    }
    println!("made {} for cluster {name} ({cluster})", init.folder.display());
    println!("next: push it somewhere that your machines can fetch from, boot {}, and run", init.bootstrap);
    println!("  cairnctl enroll {} --address ADDRESS --fingerprint SHA256:... --repository URL", init.bootstrap);
    Ok(())
}

/// Makes a checkout of one cluster's repository the beginning of another cluster: a new id, and none of the old one's machines.
fn fork(around: &Surroundings, init: &Init) -> Result<()> {
    let checkout = Checkout::open(&init.folder)?;
    let document = checkout.text("cluster.kdl")?;
    let old = ClusterConfig::parse("cluster.kdl", &document)?;
    let Some(name) = init.cluster.clone().filter(|name| *name != old.name) else {
        bail!("give the new cluster a name of its own: --cluster NAME");
    };
    let changes = checkout.git(&["status", "--porcelain", "--untracked-files=no"])?;
    if !changes.is_empty() {
        bail!("{} has changes that are not committed; commit or stash them first", checkout.folder().display());
    }
    let cluster = ClusterId::from_bytes(random_bytes()?);
    let document = document
        .replace(&old.id.to_string(), &cluster.to_string())
        .replace(&format!("name \"{}\"", old.name), &format!("name \"{name}\""));
    let new = ClusterConfig::parse("cluster.kdl", &document)?;
    if (new.id, &new.name) != (cluster, &name) {
        bail!(
            "cannot put the new id and name into cluster.kdl; write them in there by hand: id {cluster}, name {name}"
        );
    }
    checkout.set_up(&init.ssh_key, &init.name, &cluster, &deploy_ref())?;
    checkout.write("cluster.kdl", &document)?;
    // Their identities belong to machines of the other cluster.
    checkout.git(&["rm", "--quiet", "-r", "--ignore-unmatch", "--", "machines"])?;
    checkout.git(&["add", "--", "cluster.kdl"])?;
    checkout.git(&["commit", "--quiet", "--message", &format!("Begin cluster {name}, a fork of {}", old.name)])?;
    let introduction = checkout.introduce(&checkout.head()?, cluster, deploy_ref())?;
    checkout.keep(&introduction)?;
    begin_context(around, &name, cluster, &init.ssh_key)?;
    if around.form == Form::Json {
        return output::json(&serde_json::to_value(&introduction)?);
    }
    println!(
        "{} begins cluster {name} ({cluster}); trust/ still names the people of {}",
        init.folder.display(),
        old.name
    );
    println!(
        "next: give it a remote of its own (git remote set-url origin URL), look through trust/, push, and enrol machines"
    );
    Ok(())
}

fn begin_context(around: &Surroundings, name: &MachineName, cluster: ClusterId, ssh_key: &Path) -> Result<()> {
    let mut contexts = around.contexts()?;
    let ssh_key = Some(std::path::absolute(ssh_key)?);
    let context = Context { cluster, ssh_key, kubernetes: None, machines: BTreeMap::new() };
    contexts.contexts.insert(name.to_string(), context);
    contexts.current = Some(name.to_string());
    contexts.save(&around.folder)
}

fn folder_name(folder: &Path) -> Result<MachineName> {
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

pub(super) async fn enroll(around: &Surroundings, enroll: &Enroll) -> Result<()> {
    let checkout = Checkout::open(&enroll.checkout)?;
    let introduction = checkout.introduction()?;
    let address = with_port(&enroll.address, machined_api::MACHINE_API_PORT);
    let mut waiting = match enroll.seeded {
        true => None,
        false => Some(waiting(&address, &enroll.fingerprint).await?),
    };
    // The document first: an introduced machine looks for itself in the repository.
    let path = format!("machines/{}.kdl", enroll.name);
    let document = machine_document(&enroll.name, &enroll.fingerprint, enroll);
    MachineDocument::parse(&path, &document)?;
    checkout.write(&path, &document)?;
    let commit = checkout.commit(&[&path], &format!("Enrol machine {}", enroll.name))?;
    if !enroll.no_push {
        checkout.push()?;
    }
    if let Some(client) = &mut waiting {
        let request = machined_api::IntroduceRequest {
            introduction: serde_json::to_vec(&introduction)?,
            repositories: enroll.repository.clone(),
        };
        client.introduce(request).await.map_err(|status| anyhow!("{}", status.message()))?;
    }
    remember(around, enroll, &introduction.cluster, &address)?;
    if around.form == Form::Json {
        return output::json(&json!({ "machine": enroll.name, "commit": commit }));
    }
    println!("commit {} names the identity of {}", commit.short(), enroll.name);
    if enroll.no_push {
        println!("next: push that commit; the machine waits for it");
    }
    Ok(())
}

/// A machine that waits in maintenance mode.
async fn waiting(address: &str, fingerprint: &Fingerprint) -> Result<MaintenanceClient<Channel>> {
    let mut client = maintenance(address, fingerprint).await.with_context(|| {
        format!(
            "what answers at {address} was not shown to be the machine with fingerprint {fingerprint}; nothing was told to it. Read the \
             fingerprint on the machine's console again; if it is this one, somebody sits between you and the machine"
        )
    })?;
    if let Err(status) = client.identify(machined_api::IdentifyRequest {}).await {
        bail!(
            "the machine at {address} is not in maintenance mode: {}; if its image carries a seed, give --seeded",
            status.message()
        );
    }
    Ok(client)
}

/// Prints a seed to standard output. Nothing in it is secret.
pub(super) fn seed(seed: &Seed) -> Result<()> {
    let introduction = Checkout::open(&seed.checkout)?.introduction()?;
    print!("{}", seed_document(&introduction.to_json(), &seed.repository, seed.encryption));
    Ok(())
}

/// What machined reads from META at first boot.
fn seed_document(introduction: &str, repositories: &[String], encryption: Option<Insistence>) -> String {
    let lines: String =
        repositories.iter().map(|url| format!("    repository {}\n", KdlValue::from(url.as_str()))).collect();
    let encryption: String =
        encryption.map(|how| format!("    encryption {}\n", KdlValue::from(how.as_str()))).unwrap_or_default();
    format!("seed {{\n    introduction {}\n{lines}{encryption}}}\n", KdlValue::from(introduction.trim()))
}

fn machine_document(name: &MachineName, identity: &Fingerprint, enroll: &Enroll) -> String {
    let role = enroll.role;
    let class = enroll.class.iter().map(|class| format!("    class \"{class}\"\n")).collect::<String>();
    format!("machine \"{name}\" {{\n    identity \"{identity}\"\n    role \"{role}\"\n{class}}}\n")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_reads_the_seed_as_it_was_meant() {
        let (introduction, url) = ("{\n  \"cluster\": \"a \\\\ b\"\n}\n", "http://10.0.2.2:8080/demo.git");
        let urls = [url.to_owned(), "https://b.example/\"odd\".git".to_owned()];
        for encryption in [None, Some(Insistence::Required), Some(Insistence::Tpm)] {
            let text = seed_document(introduction, &urls, encryption);
            let read = machined_controllers::introduction::Seed::parse(&text).expect("because it is a seed");
            assert_eq!(read.encryption, encryption);
        }
        let text = seed_document(introduction, &urls, None);
        let read = machined_controllers::introduction::Seed::parse(&text).expect("because it is a seed");
        assert_eq!(read.introduction.as_deref(), Some(introduction.trim()));
        assert_eq!(read.repositories, [url, "https://b.example/\"odd\".git"]);
        assert_eq!(read.network, machined_config::MachineNetwork::default());
    }
}
