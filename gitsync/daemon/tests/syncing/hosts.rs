//! What a git host does: a merge button that nobody signs for, and an answer with a hole in it.

use super::{Lab, bob, deployment};
use std::path::PathBuf;
use tests_support::git::git;
use tests_support::hostile::pack::{Kind, Pack, objects};
use tests_support::hostile::{Attack, HostileServer};

const BRANCH: &str = "refs/heads/main";

impl Lab {
    fn served(&self) -> PathBuf {
        self.repository.path().join("served/demo.git")
    }

    fn host(&self, arguments: &[&str]) -> String {
        git(&self.served(), arguments).expect("because the served repository is a good one")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_request_with_two_approvals_is_applied_whoever_presses_the_button() {
    let lab = Lab::new().await;
    let root = lab.repository.path().join("work/trust/root.kdl");
    let root = std::fs::read_to_string(root).expect("because the repository began with it");
    lab.repository.write("trust/root.kdl", &root.replace("\"commit\" \"login\"", "\"commit\" \"login\" \"statement\""));
    let pair = "role \"pair\" { member \"ada\" \"bob\"; }\nrule \"two\" {\n    owns \"apps/**\"\n    approval role=\"pair\" threshold=2\n\
                \x20   reach { namespace \"*\"; kind \"*\"; }\n}\n";
    let policy = format!("{}{pair}", bob(&lab).replace("use \"login\"", "use \"statement\""));
    lab.repository.write("trust/pair.kdl", &policy);
    let base = lab.repository.commit(Some("ada"), "apps need two");
    lab.until_commit(&base, "applied").await;

    lab.repository.write("apps/web/deployment.yaml", &deployment(3));
    let feature = lab.repository.commit(None, "three of them");
    lab.host(&["update-ref", "refs/heads/feature", feature.as_str()]);
    lab.host(&["update-ref", BRANCH, base.as_str()]);
    for person in ["ada", "mallory"] {
        lab.repository.approve("HEAD", person);
    }
    let tree = lab.host(&["merge-tree", "--write-tree", base.as_str(), feature.as_str()]);
    let parents = ["-p", base.as_str(), "-p", feature.as_str()];
    let merge = lab.host(&[&["commit-tree", "-m", "Merge pull request #1"], &parents[..], &[&tree]].concat());
    lab.host(&["update-ref", BRANCH, &merge]);

    let merge = machined_ids::CommitId::parse(&merge).expect("because git prints ids");
    lab.until_commit(&merge, "applied").await;
    lab.until_replicas(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t32_an_answer_with_a_hole_costs_nothing_once_the_host_is_honest() {
    let lab = Lab::new().await;
    lab.until_replicas(2).await;
    let before = lab.repository.head();
    let stale = Attack::RefAt { name: BRANCH.to_owned(), id: before.to_string() };
    let host = HostileServer::start(&lab.served(), stale).await.expect("because loopback has free ports");
    lab.machined.introduce(&lab.repository.introduction(), &[host.url()]);
    // A look at the honest host may be under way; it must not see what follows.
    let asked = async || host.requests().iter().any(|request| request == "ls-refs").then_some(());
    lab.until("this host to be asked", asked).await;
    lab.repository.write("apps/web/deployment.yaml", &deployment(3));
    let next = lab.repository.commit(Some("ada"), "three of them");
    let all = objects(&lab.served(), next.as_str()).expect("because git lists them");
    let hole = deployment(3).into_bytes();
    let rest: Vec<_> = all.into_iter().filter(|object| object.kind != Kind::Blob || object.content != hole).collect();
    host.attack(Attack::Pack(Pack::of(&rest).finish().into()));
    let refused = async || lab.machined.condition("CommitRefused").filter(|c| c.status && c.reason == "MissingObject");
    lab.until("the hole to be noticed", refused).await;
    assert_eq!(lab.until_replicas(2).await["spec"]["replicas"], 2, "what runs is not touched");
    host.attack(Attack::None);
    lab.until_commit(&next, "applied").await;
    lab.until_replicas(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn once_all_is_judged_each_poll_is_one_request() {
    let lab = Lab::new().await;
    lab.until_commit(&lab.repository.head(), "applied").await;
    let polls = async || {
        let asked = lab.repository.requests();
        let polls = asked.iter().rev().take_while(|request| request.starts_with("POST ")).count();
        (polls >= 4).then_some(())
    };
    // A handshake begins with a GET; a poll of two requests would put one before each POST.
    lab.until("four polls without a handshake between", polls).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machined_is_told_how_fetching_goes_and_how_long_a_push_takes_to_be_healthy() {
    let lab = Lab::new().await;
    lab.until_commit(&lab.repository.head(), "applied").await;
    let url = lab.repository.url();
    let fetched = async || {
        let told = lab.machined.told().sources.clone()?;
        let source = told.sources.into_iter().find(|source| source.repository == url)?;
        (source.changed > 0 && source.unchanged > 0).then_some(source)
    };
    let source = lab.until("fetches with and without news to be counted", fetched).await;
    assert!(source.seconds > 0.0 && source.answered > 1.7e9, "{source:?}");
    assert_eq!(source.failed, 0);
    // Nobody runs pods here, so that only a step without them becomes healthy.
    lab.repository.remove("apps/web/deployment.yaml");
    let begun = std::time::Instant::now();
    let next = lab.repository.commit(Some("ada"), "none of them");
    lab.until_commit(&next, "healthy").await;
    let healthy = async || lab.machined.told().sources.clone().filter(|told| told.healthy > 0);
    let told = lab.until("the time to healthy", healthy).await;
    assert!(told.healthy_seconds > 0.0 && told.healthy_seconds < begun.elapsed().as_secs_f64(), "{told:?}");
}
