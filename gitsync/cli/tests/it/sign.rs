//! Statements: what `approve`, `release`, `beacon`, `revoke` and `recover` sign, and a pull request from branch to accepted step.

use crate::lab::{Lab, Said};
use std::path::PathBuf;

const BASE: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: web}\n";
const CHANGE: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: web}\n";

/// A team of ada and bob whose folder takes two approvals, a forge's bare repository, and a pull request by bob's branch.
struct Team {
    lab: Lab,
    forge: PathBuf,
}

impl Team {
    fn new() -> Self {
        let lab = Lab::new();
        lab.key("bob");
        let policy = format!(
            "principal \"bob\" {{ key \"{}\" {{ use \"commit\" \"statement\" \"login\"; }}; }}\n\
             role \"web\" {{ member \"ada\" \"bob\"; }}\n\
             rule \"web\" {{\n    owns \"apps/web/**\"\n    approval role=\"web\" threshold=2\n    reach {{ namespace \"web\"; kind \"*\"; }}\n}}\n",
            lab.public_key("bob")
        );
        lab.change("trust/web.kdl", &policy, &[]);
        lab.git(lab.root(), &["clone", "-q", "--bare", "demo", "forge.git"]);
        lab.git(&lab.demo(), &["remote", "add", "origin", "../forge.git"]);
        lab.git(&lab.demo(), &["push", "-q", "-u", "origin", "main"]);
        let team = Team { forge: lab.path("forge.git"), lab };
        team.lab.cairnctl(team.lab.root(), &["clone", "forge.git", "bobs", "--ssh-key", "bob"]).good();
        team.pull_request("feature", "apps/web/a.yaml", CHANGE);
        team
    }

    fn bobs(&self) -> PathBuf {
        self.lab.path("bobs")
    }

    /// Bob pushes a branch with one change.
    fn pull_request(&self, branch: &str, path: &str, text: &str) {
        let bobs = self.bobs();
        self.lab.git(&bobs, &["checkout", "-q", "-b", branch, "origin/main"]);
        self.lab.write(&bobs.join("apps/web/ns.yaml"), BASE);
        self.lab.write(&bobs.join(path), text);
        self.lab.git(&bobs, &["add", "-A"]);
        self.lab.git(&bobs, &["commit", "-q", "-m", "Change the web"]);
        self.lab.git(&bobs, &["push", "-q", "origin", branch]);
    }

    /// Approves the pull request as ada or bob, each in their own checkout.
    fn approve(&self, who: &str, branch: &str, more: &[&str]) -> Said {
        let folder = if who == "ada" { self.lab.demo() } else { self.bobs() };
        self.lab.git(&folder, &["fetch", "-q", "origin"]);
        self.lab.cairnctl(&folder, &[&["approve", &format!("origin/{branch}"), "-o", "json"], more].concat())
    }

    /// What a forge does when somebody presses the button: a merge in the bare repository, by nobody's key.
    fn press_the_button(&self, branch: &str) -> String {
        let forge = &self.forge;
        let tree = self.lab.git(forge, &["merge-tree", "--write-tree", "main", branch]);
        let identity = ["-c", "user.name=Forge", "-c", "user.email=noreply@forge.example"];
        let merge = ["commit-tree", "-p", "main", "-p", branch, "-m", "Merge pull request #1", &tree];
        let merge = self.lab.git(forge, &[&identity[..], &merge].concat());
        self.lab.git(forge, &["update-ref", "refs/heads/main", &merge]);
        merge
    }

    /// The verdict of a machine that fetches from the forge.
    fn verdict(&self) -> Said {
        let file = "demo/.git/cairn-introduction.json";
        self.lab.cairnctl(self.lab.root(), &["verify", "forge.git", "--introduction", file, "-o", "json"])
    }
}

#[test]
fn a_pull_request_with_two_approvals_is_accepted_whoever_presses_the_button() {
    let team = Team::new();
    let first = team.approve("ada", "feature", &[]).json();
    assert_eq!(
        (&first["verdict"], &first["refusal"]["reason"]),
        (&"refused".into(), &"UnderThreshold".into()),
        "{first}"
    );
    assert_eq!(first["refusal"]["rule"], "web");
    let second = team.approve("bob", "feature", &[]).json();
    assert_eq!((&second["verdict"], &second["step"]), (&"accepted".into(), &first["step"]), "{second}");
    let merge = team.press_the_button("feature");
    let report = team.verdict();
    assert_eq!(report.code, 0, "{report:?}");
    let step = report.json()["steps"].as_array().and_then(|steps| steps.last()).cloned().expect("because one passed");
    assert_eq!((&step["commit"], &step["step"]), (&merge.as_str().into(), &first["step"]));
    assert_eq!(step["approvals"], serde_json::json!(["ada", "bob"]));
}

#[test]
fn t24_a_pull_request_with_one_persons_approvals_is_refused_however_many() {
    let team = Team::new();
    team.approve("bob", "feature", &[]).good();
    team.approve("bob", "feature", &["--not-after", "2099-01-01T00:00:00Z"]).good();
    let merge = team.press_the_button("feature");
    let report = team.verdict();
    let refusal = &report.json()["refusal"];
    assert_eq!(
        (report.code, &refusal["reason"], &refusal["commit"]),
        (1, &"UnderThreshold".into(), &merge.as_str().into())
    );
    // Approvals may come after the button as well: the branch is judged again.
    let bad = team.lab.cairnctl(&team.lab.demo(), &["approve", "origin/feature"]);
    assert!(bad.err.contains("cairnctl repair"), "what is on the branch is repaired first: {bad:?}");
}

#[test]
fn t25_an_approval_for_another_base_is_not_one_for_this_merge() {
    let team = Team::new();
    team.approve("bob", "feature", &[]).good();
    team.approve("ada", "feature", &[]).good();
    // Somebody else's change lands in between: the merge is another step, with files that nobody approved together.
    team.lab.change("docs/a.md", "a\n", &[]);
    team.lab.git(&team.lab.demo(), &["push", "-q", "origin", "main"]);
    let before = team.lab.git(&team.forge, &["rev-parse", "main"]);
    team.press_the_button("feature");
    let report = team.verdict();
    assert_eq!(report.code, 1, "{report:?}");
    assert_eq!(report.json()["refusal"]["reason"], "UnderThreshold", "{report:?}");
    team.lab.git(&team.forge, &["update-ref", "refs/heads/main", &before]);
    team.approve("bob", "feature", &[]).good();
    assert_eq!(team.approve("ada", "feature", &[]).json()["verdict"], "accepted");
    team.press_the_button("feature");
    assert_eq!(team.verdict().code, 0);
}

#[test]
fn a_release_carries_its_approvals_with_it() {
    let team = Team::new();
    team.approve("bob", "feature", &[]).good();
    let early = team.lab.cairnctl(&team.bobs(), &["release", "feature"]);
    assert_eq!(early.code, 1, "{early:?}");
    assert!(early.err.contains("the branch was not moved"), "{}", early.err);
    team.lab.git(&team.lab.demo(), &["fetch", "-q", "origin"]);
    let said = team.lab.cairnctl(&team.lab.demo(), &["release", "origin/feature"]).good();
    assert!(said.contains("A apps/web/a.yaml") && said.contains("cairnctl commits"), "{said}");
    // A mirror that leaves refs/cairn out still has them: they are trailers of the merge.
    for name in team.lab.git(&team.forge, &["for-each-ref", "--format=%(refname)", "refs/cairn/"]).lines() {
        team.lab.git(&team.forge, &["update-ref", "-d", name]);
    }
    let report = team.verdict();
    assert_eq!(report.code, 0, "{report:?}");
    assert_eq!(
        team.lab.git(&team.forge, &["log", "-1", "--format=%s", "main"]).split(':').next_back(),
        Some(" Change the web")
    );
}

#[test]
fn a_stranger_and_a_conflict_are_told_before_anything_is_signed() {
    let team = Team::new();
    team.lab.key("mallory");
    let key = team.lab.path("mallory");
    let key = key.to_str().expect("because the path is text");
    let said = team.approve("ada", "feature", &["--ssh-key", key]);
    assert!(said.code == 1 && said.err.contains("nobody's in trust/"), "{said:?}");
    team.lab.change("apps/web/a.yaml", "# mine\n", &["--no-verify", "--no-gpg-sign"]);
    team.lab.git(&team.lab.demo(), &["reset", "-q", "--hard", "HEAD~1"]);
    let nothing = team.lab.cairnctl(&team.lab.demo(), &["approve", "main"]);
    assert!(nothing.err.contains("nothing to approve"), "{nothing:?}");
    assert_eq!(team.lab.git(&team.forge, &["for-each-ref", "refs/cairn/"]), "", "nothing was pushed");
}

#[test]
fn break_glass_must_say_when_it_ends() {
    let team = Team::new();
    let said = team.approve("ada", "feature", &["--intent", "breakglass"]);
    assert!(said.code == 1 && said.err.contains("--not-after"), "{said:?}");
    let end = "2099-01-01T00:00:00Z";
    let said = team.approve("ada", "feature", &["--intent", "breakglass", "--not-after", end]).json();
    let blob = team.lab.git(&team.forge, &["cat-file", "blob", said["ref"].as_str().expect("because it was pushed")]);
    assert!(blob.contains(&format!("not-after {end}\nintent breakglass\n-----BEGIN SSH SIGNATURE-----")), "{blob}");
}

#[test]
fn an_agent_signs_when_only_the_public_key_lies_on_the_disk() {
    let team = Team::new();
    let socket = team.lab.path("agent");
    let _agent = team.lab.agent(&socket, "bob");
    std::fs::remove_file(team.lab.path("bob")).expect("because ssh-keygen wrote it");
    let public = team.lab.path("bob.pub");
    let public = public.to_str().expect("because the path is text");
    let words = ["approve", "feature", "--ssh-key", public, "-o", "json"];
    let said = team.lab.cairnctl_with(&team.bobs(), &words, &[("SSH_AUTH_SOCK", &socket)]);
    assert_eq!(said.json()["principal"], "bob", "{said:?}");
}

#[test]
fn beacons_revocations_and_recoveries_are_signed_as_the_verifier_reads_them() {
    let team = Team::new();
    let demo = team.lab.demo();
    // A robot's key for beacons and one that lies in a safe.
    let principal = |name: &str, word: &str| {
        team.lab.key(name);
        format!("principal \"{name}\" {{ key \"{}\" {{ use \"{word}\"; }}; }}\n", team.lab.public_key(name))
    };
    let root = std::fs::read_to_string(demo.join("trust/root.kdl")).expect("because init wrote it");
    let more = format!(
        "recovery threshold=1 {{ member \"vault\"; }}\nfreshness life=\"24h\"\n{}",
        principal("vault", "recovery")
    );
    team.lab.write(&demo.join("trust/robots.kdl"), &principal("robot", "fresh"));
    team.lab.change("trust/root.kdl", &format!("{root}{more}"), &[]);
    team.lab.git(&demo, &["push", "-q"]);
    team.lab.git(&demo, &["fetch", "-q", "origin"]);
    let key_of = |name: &str| team.lab.path(name).to_str().expect("because the path is text").to_owned();
    let sign = |words: &[&str], name: &str| {
        team.lab.cairnctl(&demo, &[words, &["--ssh-key", &key_of(name), "-o", "json"]].concat())
    };
    let steps = team.verdict().json()["steps"].clone();
    let step = steps.as_array().and_then(|steps| steps.last()).and_then(|step| step["step"].as_str());
    let step = step.expect("because one passed").to_owned();
    let beacon = sign(&["beacon", "--step", &step[..8]], "robot").json();
    let told_another = sign(&["beacon", "--step", "00000000"], "robot");
    assert!(told_another.err.contains("may be keeping something back"), "{told_another:?}");
    for wrong in
        [sign(&["beacon"], "ada"), sign(&["recover", "HEAD~1"], "ada"), sign(&["approve", "origin/feature"], "vault")]
    {
        assert!(wrong.code == 1 && wrong.err.contains("and not for"), "{wrong:?}");
    }
    let key = team.lab.path("bob.pub");
    let revoke = ["revoke", key.to_str().expect("because the path is text"), "--last-good", "0", "-o", "json"];
    let revoke = team.lab.cairnctl(&demo, &revoke).json();
    let recover = sign(&["recover", "HEAD~1"], "vault").json();
    for (said, who, folder, words) in [
        (&beacon, "robot", "refs/cairn/fresh/", format!("step {step}\nissued ")),
        (&revoke, "ada", "refs/cairn/revoke/", "last-good 0\nissued ".to_owned()),
        (&recover, "vault", "refs/cairn/recovery/", "old-epoch 0\nnew-epoch 1\ncommit ".to_owned()),
    ] {
        let name = said["ref"].as_str().expect("because it was signed");
        assert!(name.starts_with(folder) && said["principal"] == who, "{said}");
        let text = team.lab.git(&team.forge, &["cat-file", "blob", name]);
        assert!(text.contains(&words), "{text}");
    }
    let too_far = ["revoke", key.to_str().expect("because the path is text"), "--last-good", "99"];
    assert!(team.lab.cairnctl(&demo, &too_far).err.contains("not accepted yet"));
    // A revoked key's next commit counts for nothing.
    team.pull_request("more", "docs/b.md", "b\n");
    team.lab.git(&team.forge, &["update-ref", "refs/heads/main", "refs/heads/more"]);
    assert_eq!(team.verdict().json()["refusal"]["reason"], "Revoked");
}

/// The team after ada has given bob break-glass for the web's folder, and put a recovery key into a safe.
fn with_emergencies() -> Team {
    let team = Team::new();
    team.lab.key("vault");
    let root = std::fs::read_to_string(team.lab.demo().join("trust/root.kdl")).expect("because init wrote it");
    let more = format!(
        "recovery threshold=1 delay=\"24h\" {{ member \"vault\"; }}\n\
         principal \"vault\" {{ key \"{}\" {{ use \"recovery\"; }}; }}\n\
         break-glass role=\"oncall\" threshold=1 life=\"4h\" {{ owns \"apps/web/**\"; }}\n\
         role \"oncall\" {{ member \"bob\"; }}\n",
        team.lab.public_key("vault")
    );
    team.lab.change("trust/root.kdl", &format!("{root}{more}"), &[]);
    team.lab.git(&team.lab.demo(), &["push", "-q"]);
    team.lab.git(&team.bobs(), &["fetch", "-q", "origin"]);
    team.pull_request("night", "apps/web/fix.yaml", &CHANGE.replace("name: a", "name: fix"));
    team
}

#[test]
fn t74_break_glass_is_ratified_by_its_thresholds_and_by_no_touch_of_a_readme() {
    let team = with_emergencies();
    let end = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(3);
    let end = end.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    team.lab.cairnctl(&team.bobs(), &["release", "night", "--intent", "breakglass", "--not-after", &end]).good();
    let report = team.verdict();
    assert_eq!((report.code, &report.json()["breakGlass"]["until"]), (0, &end.as_str().into()), "{report:?}");
    let demo = team.lab.demo();
    team.lab.git(&demo, &["pull", "-q"]);
    team.lab.change("README.md", "another\n", &[]);
    let said = team.lab.cairnctl(&demo, &["verify", "-o", "json"]).json();
    assert_eq!(
        (&said["refusal"]["reason"], &said["refusal"]["rule"]),
        (&"UnderThreshold".into(), &"web".into()),
        "{said}"
    );
    assert!(said["refusal"]["path"].as_str().is_some_and(|path| path.starts_with("apps/web/")), "{said}");
    team.lab.git(&demo, &["reset", "-q", "--hard", "HEAD~1"]);
    // An ordinary step that both approve is the ratification, also when it changes nothing itself.
    team.lab.git(&demo, &["checkout", "-q", "-b", "ratify"]);
    team.lab.git(&demo, &["commit", "-q", "--allow-empty", "-m", "Ratify the night"]);
    team.lab.git(&demo, &["push", "-q", "origin", "ratify"]);
    let shown = team.lab.cairnctl(&demo, &["approve", "ratify"]).good();
    assert!(shown.contains("ratifies step") && shown.contains("apps/web/fix.yaml"), "{shown}");
    team.lab.git(&team.bobs(), &["fetch", "-q", "origin"]);
    team.lab.cairnctl(&team.bobs(), &["release", "origin/ratify"]).good();
    let report = team.verdict();
    assert_eq!((report.code, &report.json()["breakGlass"]), (0, &serde_json::Value::Null), "{report:?}");
}

#[test]
fn a_recovery_waits_and_begins_an_epoch_for_whoever_stands_at_the_machine() {
    let team = with_emergencies();
    let demo = team.lab.demo();
    // ada has lost her key: the new policy has another one, which only the safe's key can vouch for.
    team.lab.key("ada2");
    let root = std::fs::read_to_string(demo.join("trust/root.kdl")).expect("because init wrote it");
    let root = root.replace(&team.lab.public_key("ada"), &team.lab.public_key("ada2"));
    let key = team.lab.path("ada2");
    team.lab.git(&demo, &["config", "user.signingKey", key.to_str().expect("because the path is text")]);
    let begin = team.lab.change("trust/root.kdl", &root, &[]);
    let vault = team.lab.path("vault");
    let words = ["recover", "HEAD", "--ssh-key", vault.to_str().expect("because the path is text"), "-o", "json"];
    assert_eq!(team.lab.cairnctl(&demo, &words).json()["principal"], "vault");
    team.lab.git(&demo, &["push", "-q"]);
    let waiting = team.verdict();
    assert_eq!((waiting.code, &waiting.json()["refusal"]["commit"]), (1, &begin.as_str().into()), "{waiting:?}");
    let file = "demo/.git/cairn-introduction.json";
    let words = ["verify", "forge.git", "--introduction", file, "--present", "-o", "json"];
    let report = team.lab.cairnctl(team.lab.root(), &words);
    assert_eq!((report.code, &report.json()["epoch"]), (0, &1.into()), "{report:?}");
    // The new key approves from there on.
    team.lab.change("docs/after.md", "after\n", &[]);
    team.lab.git(&demo, &["push", "-q"]);
    assert_eq!(team.lab.cairnctl(team.lab.root(), &words).code, 0);
}
