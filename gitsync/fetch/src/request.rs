//! What the parent asks of the child.

use crate::dialect::Dialect;
use crate::url::RepositoryUrl;
use gitsync_verify::DeployRef;
use machined_ids::CommitId;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// One look at a repository, as JSON on the child's standard input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Request {
    /// The child's own bare repository; made when it is not there.
    pub folder: PathBuf,
    /// Where to look; without it and `bundle`, `tip` is read from the folder without any network.
    pub url: Option<RepositoryUrl>,
    /// A git bundle to take objects from, instead of a server.
    #[serde(default)]
    pub bundle: Option<PathBuf>,
    /// The branch.
    #[serde(rename = "ref")]
    pub deploy_ref: DeployRef,
    /// A tip that was judged already: when the branch still is there, nothing more is done. Without `url`: what to read.
    pub tip: Option<CommitId>,
    /// Commits at which the chain may stop; the newest of them met is included with its tree.
    pub stop_at: Vec<CommitId>,
    /// Ids of statements that came before; others under `refs/cairn/` are news even when the branch is where it was.
    #[serde(default)]
    pub statements: Vec<String>,
    /// How the server at `url` spoke last, as the last answer said it; a poll with nothing new is then one request.
    #[serde(default)]
    pub dialect: Option<Dialect>,
}
