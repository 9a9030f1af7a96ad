//! The machine's way into a cluster: one introduction, accepted once, kept on the state volume.
//!
//! It comes through the maintenance service of the machine API or from the seed in META, whichever is first. What it says is
//! judged by gitsync; here only its form is checked, and that there is no second one.

mod introduction_record;
mod seed;

pub use introduction_record::{IntroduceError, IntroduceInbox, IntroduceRequest, IntroductionController, RecordError};
pub use seed::{Seed, SeedController, SeedError};

use machined_ids::{ClusterId, CommitId, Digest, TreeHash};
use machined_runtime::Resource;
use serde::{Deserialize, Serialize};

/// Longest introduction in bytes: ten times one with an anchor.
pub const INTRODUCTION_BYTES_MAX: usize = 16 * 1024;
/// Most repositories of one introduction; mirrors beyond this only slow the machine down.
pub const REPOSITORIES_MAX: usize = 8;
/// Longest repository address in bytes.
pub const REPOSITORY_BYTES_MAX: usize = 1024;

/// Whether the machine has an introduction; the id is [`Introduced::ID`]. Not in the store until the state volume was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Introduced {
    /// It has none: maintenance.
    Not,
    /// It belongs to a cluster.
    As(Introduction),
}

impl Introduced {
    /// The id of the one value.
    pub const ID: &'static str = "introduction";
}

impl Resource for Introduced {
    const KIND: &'static str = "introduction";
}

/// An introduction with its repositories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introduction {
    /// The cluster.
    pub cluster: ClusterId,
    /// The file as it came, for gitsync.
    pub json: String,
    /// Addresses of the repository, tried in order.
    pub repositories: Vec<String>,
}

/// The introduction file's own form. Fields that a later release adds are gitsync's business and pass through.
#[derive(Debug, Deserialize)]
struct RawIntroduction {
    cluster: ClusterId,
    #[serde(rename = "ref")]
    deploy_ref: String,
    #[serde(rename = "commit")]
    _commit: CommitId,
    #[serde(rename = "commitSha256")]
    _commit_sha256: Digest,
    #[serde(rename = "tree")]
    _tree: TreeHash,
    #[serde(rename = "policy")]
    _policy: TreeHash,
}

/// Why an introduction cannot be one.
#[derive(Debug, thiserror::Error)]
pub enum IntroductionForm {
    /// Larger than any introduction.
    #[error("it has {bytes} bytes; at most {INTRODUCTION_BYTES_MAX} are read")]
    Long {
        /// Its size.
        bytes: usize,
    },
    /// Not the JSON of an introduction.
    #[error("it is not an introduction file; give the one that `cairnctl init` wrote")]
    Json(#[source] serde_json::Error),
    /// Not a branch.
    #[error("its ref {deploy_ref:?} is no branch: it must begin with refs/heads/")]
    Ref {
        /// The ref.
        deploy_ref: String,
    },
    /// No repository.
    #[error("it comes without a repository address; give at least one http:// or https:// URL")]
    NoRepository,
    /// Too many repositories.
    #[error("it comes with {count} repository addresses; at most {REPOSITORIES_MAX} are tried")]
    ManyRepositories {
        /// How many.
        count: usize,
    },
    /// An address that cannot be fetched from.
    #[error("the repository address {address:?} is no http:// or https:// URL")]
    Repository {
        /// The address, cut.
        address: String,
    },
}

impl Introduction {
    /// Checks the form of an introduction.
    ///
    /// # Errors
    /// [`IntroductionForm`] says what to repair.
    pub fn parse(json: &[u8], repositories: Vec<String>) -> Result<Self, IntroductionForm> {
        if json.len() > INTRODUCTION_BYTES_MAX {
            return Err(IntroductionForm::Long { bytes: json.len() });
        }
        let raw: RawIntroduction = serde_json::from_slice(json).map_err(IntroductionForm::Json)?;
        if !raw.deploy_ref.starts_with("refs/heads/") {
            return Err(IntroductionForm::Ref { deploy_ref: raw.deploy_ref });
        }
        if repositories.is_empty() {
            return Err(IntroductionForm::NoRepository);
        }
        if repositories.len() > REPOSITORIES_MAX {
            return Err(IntroductionForm::ManyRepositories { count: repositories.len() });
        }
        let is_url = |url: &&String| {
            url.len() <= REPOSITORY_BYTES_MAX && (url.starts_with("http://") || url.starts_with("https://"))
        };
        if let Some(bad) = repositories.iter().find(|url| !is_url(url)) {
            return Err(IntroductionForm::Repository { address: bad.chars().take(80).collect() });
        }
        let json = String::from_utf8_lossy(json).into_owned();
        Ok(Introduction { cluster: raw.cluster, json, repositories })
    }
}

/// How an introduction lies on the state volume.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredIntroduction {
    introduction: String,
    repositories: Vec<String>,
}

#[cfg(test)]
pub(crate) fn example() -> String {
    let (cluster, hash) = ("00112233445566778899aabbccddeeff", "ab".repeat(32));
    format!(
        r#"{{"cluster":"{cluster}","ref":"refs/heads/main","commit":"{}","commitSha256":"{hash}","tree":"{hash}","policy":"{hash}"}}"#,
        "c".repeat(40)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn a_good_introduction_keeps_its_bytes() {
        let parsed = Introduction::parse(example().as_bytes(), urls("http://git.example/demo.git"));
        let parsed = parsed.expect("because the example is good");
        assert_eq!(parsed.json, example());
        assert_eq!(parsed.cluster.to_string(), "00112233445566778899aabbccddeeff");
    }

    #[test]
    fn what_cannot_be_an_introduction_is_refused_with_the_reason() {
        let parse = |json: &str, repositories: &str| Introduction::parse(json.as_bytes(), urls(repositories));
        assert!(matches!(parse("{}", "http://a/b"), Err(IntroductionForm::Json(_))));
        assert!(matches!(parse(&example(), ""), Err(IntroductionForm::NoRepository)));
        assert!(matches!(parse(&example(), "ssh://a/b"), Err(IntroductionForm::Repository { .. })));
        let many = "http://a ".repeat(9);
        assert!(matches!(parse(&example(), &many), Err(IntroductionForm::ManyRepositories { count: 9 })));
        let tag = example().replace("refs/heads/", "refs/tags/");
        assert!(matches!(parse(&tag, "http://a/b"), Err(IntroductionForm::Ref { .. })));
        assert!(matches!(parse(&" ".repeat(20_000), "http://a/b"), Err(IntroductionForm::Long { bytes: 20_000 })));
    }
}
