//! Commands about a person's checkout: getting one, handing on its introduction, and repairing its branch.

use super::Surroundings;
use crate::arguments::{Clone, Form, Repair};
use crate::contexts::{Context, Machine};
use crate::judge::{Judgement, Repository, Verdict};
use crate::machine::with_port;
use crate::repository::{Checkout, deploy_ref, target_line};
use crate::{output, signing};
use anyhow::{Context as _, Result, bail, ensure};
use gitsync_verify::{Introduction, Policy, Reason};
use machined_access::ssh_fingerprint;
use machined_config::{Addressing, ClusterConfig, MachineConfig, Machines, Role};
use machined_ids::PrincipalName;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Clones, sets up signing and the hook, keeps an introduction, makes a context.
pub(super) fn clone(around: &Surroundings, clone: &Clone) -> Result<()> {
    let public_key = signing::public_key(&clone.ssh_key)?;
    let given = match &clone.introduction {
        Some(file) => {
            let bytes = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
            Some(Introduction::from_json(&bytes)?)
        }
        None => None,
    };
    let folder = match &clone.folder {
        Some(folder) => folder.clone(),
        None => folder_of(&clone.url)?,
    };
    let checkout = Checkout::clone(&clone.url, &folder)?;
    let cluster = ClusterConfig::parse("cluster.kdl", &checkout.text("cluster.kdl")?)?;
    let believed = given.is_none();
    let introduction = match given {
        Some(introduction) => introduction,
        None => first_commit(&checkout, &cluster)?,
    };
    checkout.keep(&introduction)?;
    // Approvals and other statements come with every `git fetch` and `git pull`.
    checkout.git(&["config", "--add", "remote.origin.fetch", "+refs/cairn/*:refs/cairn/*"])?;
    checkout.git(&["fetch", "--quiet", "origin"])?;
    let policy = Policy::parse(&checkout.files("trust")?)?;
    let owner = policy.key(&ssh_fingerprint(public_key.key_data())).map(|(name, _)| name.clone());
    let person = match owner.clone().or_else(|| clone.name.clone()) {
        Some(person) => person,
        None => PrincipalName::parse("me")?,
    };
    checkout.set_up(&clone.ssh_key, &person, &introduction.cluster, &introduction.deploy_ref)?;
    let context = context(&checkout, &cluster, &introduction, &clone.ssh_key)?;
    let mut contexts = around.contexts()?;
    contexts.contexts.insert(cluster.name.to_string(), context);
    contexts.current = Some(cluster.name.to_string());
    contexts.save(&around.folder)?;

    let judgement = Repository::open(checkout.folder(), None)?.judge(Some("HEAD"), false)?;
    if around.form == Form::Json {
        return output::json(&json!({
            "folder": folder, "cluster": cluster.id, "principal": owner, "introduction": introduction,
            "verdict": judgement.verdict().as_str(), "refusal": judgement.refusal,
        }));
    }
    println!("cloned cluster {} ({}) into {}", cluster.name, cluster.id, folder.display());
    if believed {
        println!("it is judged from commit {}, whose SHA-256 is", introduction.commit.short());
        println!("  {}", introduction.commit_sha256);
        println!(
            "nobody vouched for that one: compare it with a colleague's `cairnctl introduction`, or give --introduction"
        );
    }
    match &owner {
        Some(name) => println!("your key is {name}'s; commits here are signed with it"),
        None => {
            println!("your key is nobody's in trust/ yet; ask a root principal to add and push this:");
            let key = public_key.to_openssh()?.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
            println!("  principal \"NAME\" {{ key \"{key}\" {{ use \"commit\" \"statement\" \"login\"; }}; }}");
        }
    }
    report(&judgement);
    Ok(())
}

fn report(judgement: &Judgement) {
    match &judgement.refusal {
        None => println!("a machine would run its tip"),
        Some(refusal) => println!("a machine would not run its tip: {refusal}\nnext: cairnctl verify"),
    }
}

/// `https://host/a/demo.git` goes to `demo`, as with git.
fn folder_of(url: &str) -> Result<PathBuf> {
    let name = url.trim_end_matches('/').rsplit(['/', ':']).next().unwrap_or_default();
    let name = name.strip_suffix(".git").unwrap_or(name);
    ensure!(!name.is_empty() && !name.starts_with(['.', '-']), "say into which folder to clone {url}");
    Ok(name.into())
}

/// The commit that brought the cluster's id: the one that `cairnctl init` made, or `init --fork`.
fn first_commit(checkout: &Checkout, cluster: &ClusterConfig) -> Result<Introduction> {
    let search = format!("-S{}", cluster.id);
    let found = checkout.git(&["log", "--first-parent", "--format=%H", &search, "--", "cluster.kdl"])?;
    let first = found.lines().last().context("no commit brought the cluster's id; give --introduction")?;
    checkout.introduce(&checkout.commit_of(first)?, cluster.id, deploy_ref())
}

/// How the cluster is reached, as far as the repository says it.
fn context(
    checkout: &Checkout,
    cluster: &ClusterConfig,
    introduction: &Introduction,
    ssh_key: &Path,
) -> Result<Context> {
    let files = checkout.files("machines").unwrap_or_default();
    let text = |bytes| std::str::from_utf8(bytes);
    let texts: Result<Vec<_>> = files
        .0
        .iter()
        .map(|(path, bytes)| Ok((path.as_str(), text(bytes).with_context(|| format!("{path} is not text"))?)))
        .collect();
    let machines = Machines::read(texts?)?.machines.into_values().map(|member| member.config);
    let machines: Vec<MachineConfig> = machines.filter(|config| config.role == Role::ControlPlane).collect();
    let alone = machines.len() == 1;
    let reach = |config: MachineConfig| {
        let fixed = config.network.links.iter().find_map(|link| match &link.addressing {
            Addressing::Static { addresses, .. } => addresses.first().map(|cidr| cidr.address().to_string()),
            Addressing::Dhcp => None,
        });
        let address = fixed.or_else(|| cluster.endpoints.first().filter(|_| alone).cloned())?;
        let address = with_port(&address, machined_api::MACHINE_API_PORT);
        Some((config.name, Machine { address, identity: config.identity }))
    };
    let machines: BTreeMap<_, _> = machines.into_iter().filter_map(reach).collect();
    let kubernetes = (!machines.is_empty())
        .then(|| cluster.endpoints.first().map(|endpoint| format!("https://{}", with_port(endpoint, 6443))))
        .flatten();
    let ssh_key = Some(std::path::absolute(ssh_key)?);
    Ok(Context { cluster: introduction.cluster, ssh_key, kubernetes, machines })
}

/// Writes the checkout's introduction to standard output.
pub(super) fn introduction(checkout: &Path) -> Result<()> {
    let introduction = Checkout::open(checkout)?.introduction()?;
    print!("{}", introduction.to_json());
    Ok(())
}

/// Puts a signed merge on top of a tip that machines refuse: its first parent is accepted, its second is that tip.
pub(super) fn repair(around: &Surroundings, repair: &Repair) -> Result<()> {
    let checkout = Checkout::open(&repair.checkout)?;
    let repository = Repository::open(checkout.folder(), None)?;
    let branch = repository.introduction.deploy_ref.clone();
    let short = branch.as_str().trim_start_matches("refs/heads/").to_owned();
    let remote = checkout.git(&["remote", "get-url", "origin"]).is_ok();
    if remote {
        checkout.git(&["fetch", "--quiet", "origin", &short])?;
    }
    let bad = match &repair.tip {
        Some(tip) => checkout.commit_of(tip)?,
        None if remote => checkout.commit_of("FETCH_HEAD")?,
        None => checkout.commit_of(branch.as_str())?,
    };
    let judgement = repository.judge(Some(bad.as_str()), true)?;
    let Some(refusal) = judgement.refusal else {
        bail!("there is nothing to repair: machines would accept {}", bad.short());
    };
    let accepted = match &judgement.state {
        Some(state) if state.accepted().commit == bad => bail!(
            "{} has the authority that it needs, and only its content is refused; commit a correction and push it: {refusal}",
            bad.short()
        ),
        Some(_) if matches!(refusal.reason, Reason::NotDescendant | Reason::MissingObject) => {
            bail!("a merge would not repair this: {refusal}")
        }
        Some(state) => state.accepted().commit.clone(),
        None => bail!("this repository does not have what the introduction names: {refusal}"),
    };
    let content = if repair.keep_content { &bad } else { &accepted };
    let message = format!(
        "Repair the branch after {}\n\nMachines refused it ({}). First parent: the accepted commit.\n\n{}\n",
        bad.short(),
        refusal.reason,
        target_line(&repository.introduction.cluster, &branch)
    );
    let tree = format!("{content}^{{tree}}");
    let (first, second) = (accepted.to_string(), bad.to_string());
    let made = checkout.git(&["commit-tree", "-S", "-p", &first, "-p", &second, "-m", &message, &tree])?;
    let again = repository.judge(Some(&made), true)?;
    if again.verdict() != Verdict::Accepted {
        let why = again.refusal.map(|refusal| refusal.to_string()).unwrap_or_default();
        bail!("the repair would be refused as well, and was not pushed: {why}");
    }
    if remote && !repair.no_push {
        checkout.git(&["push", "--quiet", "origin", &format!("{made}:{branch}")])?;
    }
    let moved = checkout.git(&["merge", "--quiet", "--ff-only", &made]).is_ok();
    if around.form == Form::Json {
        return output::json(
            &json!({ "commit": made, "accepted": accepted, "refused": bad, "reason": refusal.reason }),
        );
    }
    println!("made {}: the files of {}, on top of the accepted {}", &made[..12], content.short(), accepted.short());
    println!("{} stays in the history as its second parent ({})", bad.short(), refusal.reason);
    if !remote || repair.no_push {
        println!("next: git push origin {made}:{branch}");
    }
    if !moved {
        println!("your branch was left alone, because it has commits of its own; next: git rebase {}", &made[..12]);
    }
    Ok(())
}
