//! The first-parent chain of a repository on disk, with its trees and blobs: for the child's stream and for `cairnctl`.

use gitsync_verify::limits::{MAX_CHAIN_COMMITS, MAX_OBJECT_BYTES, MAX_STATEMENT_BYTES, MAX_STATEMENTS};
use gitsync_verify::{ObjectFormat, ObjectId, ObjectKind, ObjectSet, Refusal};
use machined_ids::CommitId;
use std::collections::HashSet;
use std::path::Path;

/// A repository on disk could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// It is not a repository, or a damaged one.
    #[error("cannot read the repository at {path}")]
    Open {
        /// Where it was looked for.
        path: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A revision that does not exist.
    #[error("there is no commit {revision:?} in {path}")]
    Revision {
        /// What was asked for.
        revision: String,
        /// Where.
        path: String,
    },
    /// An object that the verifier does not take.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Reads the chain that ends in `revision` of a checkout or a bare repository, down to a commit in `stop_at` or to the first.
///
/// # Errors
/// [`LocalError`]; objects that are merely missing are left out, and the verifier says which one it needed.
pub fn read(path: &Path, revision: &str, stop_at: &[CommitId]) -> Result<(CommitId, ObjectSet), LocalError> {
    let shown = path.display().to_string();
    let repository = open(path)?;
    let tip = repository
        .rev_parse_single(revision)
        .map_err(|_| LocalError::Revision { revision: revision.to_owned(), path: shown })?
        .detach();
    let mut objects = ObjectSet::new(format_of(&repository));
    walk(&repository, tip, stop_at, &mut |id, kind, bytes| objects.insert(id, kind, bytes.to_vec()))?;
    Ok((own_id(tip).to_commit_id(), objects))
}

/// The blobs under `refs/cairn/` of a checkout or a bare repository, by the name of their ref: what may be statements.
///
/// # Errors
/// [`LocalError`] when the repository cannot be opened; a ref that cannot be read is left out.
pub fn statements(path: &Path) -> Result<Vec<(String, Vec<u8>)>, LocalError> {
    let repository = open(path)?;
    let unreadable = |source: Box<dyn std::error::Error + Send + Sync>| LocalError::Open {
        path: path.display().to_string(),
        source,
    };
    let references = repository.references().map_err(|error| unreadable(Box::new(error)))?;
    let references = references.prefixed("refs/cairn/").map_err(|error| unreadable(Box::new(error)))?;
    let mut found = Vec::new();
    for reference in references.flatten().take(MAX_STATEMENTS) {
        let name = reference.name().as_bstr().to_string();
        let id = reference.target().try_id().map(ToOwned::to_owned);
        if let Some(blob) = id.and_then(|id| find(&repository, id, gix::object::Kind::Blob))
            && blob.data.len() <= MAX_STATEMENT_BYTES
        {
            found.push((name, blob.data.clone()));
        }
    }
    Ok(found)
}

fn open(path: &Path) -> Result<gix::Repository, LocalError> {
    gix::open_opts(path, gix::open::Options::isolated().config_overrides(["core.useReplaceRefs=false"]))
        .map_err(|error| LocalError::Open { path: path.display().to_string(), source: Box::new(error) })
}

pub(crate) fn format_of(repository: &gix::Repository) -> ObjectFormat {
    match repository.object_hash() {
        gix::hash::Kind::Sha256 => ObjectFormat::Sha256,
        // The enum is not exhaustive; what is neither is refused at the first object.
        _ => ObjectFormat::Sha1,
    }
}

pub(crate) fn own_id(id: gix::ObjectId) -> ObjectId {
    ObjectId::from_slice(id.as_slice()).expect("because git's ids have 20 or 32 bytes")
}

/// Hands out the commits from `tip` by first parents, and the whole trees of those down to one in `stop_at`.
///
/// When none of `stop_at` is met (and some were named), only commits are handed out: the verifier then says that the branch
/// does not continue what was accepted, and needs no trees for that.
pub(crate) fn walk<E>(
    repository: &gix::Repository,
    tip: gix::ObjectId,
    stop_at: &[CommitId],
    emit: &mut impl FnMut(ObjectId, ObjectKind, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let stops: HashSet<&str> = stop_at.iter().map(CommitId::as_str).collect();
    let (mut at, mut trees, mut met) = (Some(tip), Vec::new(), stop_at.is_empty());
    // One more than the verifier judges, so that it sees that there are too many.
    for _ in 0..=MAX_CHAIN_COMMITS {
        let Some(id) = at.take() else { break };
        let Some(object) = find(repository, id, gix::object::Kind::Commit) else { break };
        emit(own_id(id), ObjectKind::Commit, &object.data)?;
        let commit = gix::objs::CommitRefIter::from_bytes(&object.data, repository.object_hash());
        trees.extend(commit.clone().tree_id());
        if stops.contains(id.to_string().as_str()) {
            met = true;
            break;
        }
        at = commit.parent_ids().next();
    }
    if !met {
        return Ok(());
    }
    let mut seen = HashSet::new();
    while let Some(tree) = trees.pop() {
        if !seen.insert(tree) {
            continue;
        }
        let Some(object) = find(repository, tree, gix::object::Kind::Tree) else { continue };
        emit(own_id(tree), ObjectKind::Tree, &object.data)?;
        // A crooked tree hands out what can be read of it; the verifier refuses it by its own reading.
        for entry in gix::objs::TreeRefIter::from_bytes(&object.data, repository.object_hash()).flatten() {
            let id = entry.oid.to_owned();
            if entry.mode.is_tree() {
                trees.push(id);
            } else if !entry.mode.is_commit()
                && seen.insert(id)
                && let Some(blob) = find(repository, id, gix::object::Kind::Blob)
            {
                emit(own_id(id), ObjectKind::Blob, &blob.data)?;
            }
        }
    }
    Ok(())
}

/// What a blob under `refs/cairn/` holds; nothing when it is missing, no blob or too large for a statement.
pub(crate) fn statement(repository: &gix::Repository, id: gix::ObjectId) -> Vec<u8> {
    let blob = find(repository, id, gix::object::Kind::Blob);
    blob.map(|blob| blob.data.clone()).filter(|data| data.len() <= MAX_STATEMENT_BYTES).unwrap_or_default()
}

/// An object of a kind and of a size that the verifier takes; `None` is for the verifier to complain about.
fn find(repository: &gix::Repository, id: gix::ObjectId, kind: gix::object::Kind) -> Option<gix::Object<'_>> {
    let header = repository.find_header(id).ok()?;
    if header.kind() != kind || header.size() > MAX_OBJECT_BYTES {
        return None;
    }
    repository.find_object(id).ok()
}
