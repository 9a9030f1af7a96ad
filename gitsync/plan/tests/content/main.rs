//! Content of a commit that somebody with authority approved and that still must not run: attacks T51 to T57, T65, T66, T91.
//!
//! Each file of a test is a whole small repository, judged as `gitsync` and `cairnctl verify` judge it.

mod kdl;
mod reach;
mod yaml;

use gitsync_plan::lint;
use gitsync_verify::{Files, Reason, Refusal};

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

/// `cluster.kdl` as it should be.
const CLUSTER: &str = "cluster {\n    id \"00112233445566778899aabbccddeeff\"\n    name \"demo\"\n    bootstrap \"cp1\"\n    endpoint \"10.0.0.1\"\n}\n";

/// A repository whose tenants `web` and `shop` have a folder and a namespace each, and whose admins have `apps/infra/`.
fn files(more: &[(&str, &str)]) -> Files {
    let rule = |name: &str, body: &str| {
        format!(
            "rule \"{name}\" {{\n    owns \"apps/{name}/**\"\n    approval role=\"dev\" threshold=1\n    {body}\n}}\n"
        )
    };
    let tenant = |name: &str, reads: &str| {
        rule(
            name,
            &format!("{reads}\n    reach {{ namespace \"{name}\" \"common\"; kind \"*\"; cluster-scoped #true; }}"),
        )
    };
    let policy = [
        format!(
            "version 1\nroot threshold=1 {{ member \"ada\"; }}\nprincipal \"ada\" {{ key \"{KEY}\" {{ use \"commit\"; }}; }}\n"
        ),
        "role \"dev\" { member \"ada\"; }\n".to_owned(),
        tenant("web", ""),
        tenant("shop", "reads \"apps/common/**\""),
        tenant("common", ""),
        rule("infra", "reach { namespace \"*\"; kind \"*\"; cluster-scoped #true; privileged #true; }"),
    ];
    let base =
        [("trust/root.kdl".to_owned(), policy.concat().into_bytes()), ("cluster.kdl".to_owned(), CLUSTER.into())];
    let more = more.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec()));
    Files(base.into_iter().chain(more).collect())
}

/// Why the repository with these files is refused.
fn refused(more: &[(&str, &str)]) -> Refusal {
    lint(&files(more)).expect_err("because the content is not to run")
}

/// Asserts that one file is refused for a reason; gives the message.
fn refused_for(reason: Reason, path: &str, text: &str) -> String {
    let refusal = refused(&[(path, text)]);
    assert_eq!((refusal.reason, refusal.path.as_deref()), (reason, Some(path)), "{refusal}");
    refusal.message
}

/// Asserts that the repository with these files would run.
fn taken(more: &[(&str, &str)]) {
    assert_eq!(lint(&files(more)), Ok(()));
}

/// Judges one file of a rule that owns all of `apps/` and has this reach.
fn lint_of(reach: &str, text: &str) -> Result<(), Refusal> {
    let policy = format!(
        "version 1\nroot threshold=1 {{ member \"ada\"; }}\nprincipal \"ada\" {{ key \"{KEY}\" {{ use \"commit\"; }}; }}\n\
         role \"dev\" {{ member \"ada\"; }}\nrule \"all\" {{\n    owns \"apps/**\"\n    approval role=\"dev\" threshold=1\n    reach {{ {reach}; }}\n}}\n"
    );
    let mut files = files(&[("apps/a.yaml", text)]);
    files.0.insert("trust/root.kdl".to_owned(), policy.into_bytes());
    lint(&files)
}
