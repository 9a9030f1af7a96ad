//! gix, and the only file that knows it talks to servers: a bare repository, one branch, http(s), no redirects.

use crate::dialect::{self, Dialect};
use crate::frame::{Failure, FailureKind};
use crate::request::Request;
use crate::statements::{self, FOLDERS};
use crate::url::RepositoryUrl;
use gitsync_verify::limits::MAX_CHAIN_COMMITS;
use gitsync_verify::limits::MAX_STATEMENTS;
use gix::bstr::ByteSlice;
use gix::remote::Direction;
use gix::remote::fetch::{Shallow, Tags};
use machined_ids::CommitId;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// Packs in the child's repository before it starts afresh. gix never repacks; each fetch of something new leaves one.
const MAX_PACKS: usize = 48;

/// Where the tip of the branch is kept between fetches, for negotiation.
const TIP_REF: &str = "refs/cairn/tip";

/// Commits that a first fetch asks for, one after the other, until they lead back to where verification starts: an introduction with
/// an anchor is seldom older than a few steps.
const JOIN_DEPTHS: [NonZeroU32; 2] = [NonZeroU32::new(16).unwrap(), NonZeroU32::new(1024).unwrap()];

/// What a server must not be able to switch on, and what we do not want.
const SETTINGS: [&str; 11] = [
    "core.useReplaceRefs=false",
    "core.deltaBaseCacheLimit=16777216",
    "gitoxide.objects.cacheLimit=16777216",
    "pack.threads=1",
    "protocol.version=2",
    "protocol.allow=never",
    "protocol.http.allow=always",
    "protocol.https.allow=always",
    "http.followRedirects=false",
    "clone.rejectShallow=true",
    "credential.helper=",
];

pub(crate) fn failure(kind: FailureKind, what: &str, error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure { kind, message: format!("{what}: {}", words(error)) }
}

/// Characters of a cause that a message repeats; a server's own words are among them.
const MAX_CAUSE: usize = 300;

/// What an error and its causes say, outermost first, each once, on one line.
fn words(error: &(dyn std::error::Error + 'static)) -> String {
    let mut said: Vec<String> = Vec::new();
    let mut cause = Some(error);
    while let Some(error) = cause {
        let text = error.to_string();
        let text = text.lines().next().unwrap_or_default().chars().take(MAX_CAUSE).collect::<String>();
        // gix says where in its source an error arose; nobody here can use that.
        let text = text.split(", at ").next().unwrap_or_default().trim_end_matches([':', ' ']).to_owned();
        if !text.is_empty() && !said.iter().any(|known| known.contains(&text)) {
            said.push(text);
        }
        cause = error.source();
    }
    said.join(": ")
}

fn options() -> gix::open::Options {
    gix::open::Options::isolated().config_overrides(SETTINGS).open_path_as_is(true)
}

/// Opens the child's repository, or makes one; one with too many packs is replaced.
pub(crate) fn open(folder: &Path, format: gix::hash::Kind) -> Result<gix::Repository, Failure> {
    let local = |error: &(dyn std::error::Error + 'static)| {
        failure(FailureKind::Local, "the fetch folder cannot be used", error)
    };
    let packs = std::fs::read_dir(folder.join("objects/pack"));
    let packs = packs.map_or(0, |entries| {
        entries.flatten().filter(|e| e.file_name().as_encoded_bytes().ends_with(b".pack")).count()
    });
    if folder.join("HEAD").exists() && packs <= MAX_PACKS {
        match gix::open_opts(folder, options()) {
            Ok(repository) if repository.object_hash() == format && refs_are_whole(&repository) => {
                return Ok(repository);
            }
            // Damaged by a power cut, or of the other format: everything in it can be fetched again.
            Ok(_) | Err(_) => {}
        }
    }
    empty(folder).map_err(|error| local(&error))?;
    let create = gix::create::Options { object_hash: Some(format), ..gix::create::Options::default() };
    gix::ThreadSafeRepository::init_opts(folder, gix::create::Kind::Bare, create, options())
        .map(Into::into)
        .map_err(|error| local(&error))
}

/// Whether every ref can be read, and what it names too: a power cut leaves empty files where refs were written just before, or refs whose
/// pack did not get to the disk. No fetch gets past either.
fn refs_are_whole(repository: &gix::Repository) -> bool {
    let Ok(refs) = repository.references() else { return false };
    let Ok(mut all) = refs.all() else { return false };
    all.all(|one| one.is_ok_and(|one| one.try_id().is_none_or(|id| repository.find_object(id).is_ok())))
}

/// Removes what is inside the folder, not the folder: its parent does not belong to the child.
fn empty(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { std::fs::remove_dir_all(&path)? } else { std::fs::remove_file(&path)? }
    }
    Ok(())
}

/// What a look at the server came to.
pub(crate) struct Look {
    /// How the server speaks, for the next look.
    pub(crate) dialect: Option<Dialect>,
    pub(crate) found: Found,
}

/// What is there.
pub(crate) enum Found {
    /// The branch is where it was, and nothing new lies under `refs/cairn/`.
    Unchanged(String),
    /// The branch is there, with everything it needs in the repository; and statements that are not known.
    New(gix::ObjectId, Vec<gix::ObjectId>),
}

/// Asks the server for the branch and for statements, and fetches what is new. When nothing is, and the request says how the server
/// speaks, that was one HTTP request.
pub(crate) fn look(repository: &gix::Repository, url: &RepositoryUrl, request: &Request) -> Result<Look, Failure> {
    let branch = request.deploy_ref.as_str();
    let mut specs = vec![format!("+{branch}:{TIP_REF}")];
    let folders = FOLDERS.iter().map(|folder| format!("+{folder}*:{folder}*"));
    let all: Vec<String> = specs.iter().cloned().chain(folders).collect();
    let Listed { refs, tip, dialect } = match request.dialect {
        Some(dialect) => match list(repository, url, &all, branch, Some(dialect)) {
            Ok(listed) => listed,
            // Nobody answers, or the server is ill. It would be asked the same again, after another wait; the next look begins anew.
            Err(error) if error.ill => return Err(error.failure),
            // It speaks otherwise by now, or has no such branch: asked as if nothing were known of it.
            Err(_) => list(repository, url, &all, branch, None).map_err(|error| error.failure)?,
        },
        None => list(repository, url, &all, branch, None).map_err(|error| error.failure)?,
    };
    let shown = refs.iter().map(|(name, id)| (name.as_str(), *id));
    let chosen = statements::choose(shown, &request.statements, MAX_STATEMENTS);
    if chosen.is_empty() && request.tip.as_ref().is_some_and(|known| tip == *known.as_str()) {
        return Ok(Look { dialect, found: Found::Unchanged(tip.to_string()) });
    }
    // Only what was chosen is fetched, by its full name: what a server shows beyond costs it a line.
    specs.extend(chosen.iter().filter(|(_, id)| !repository.has_object(*id)).map(|(name, _)| name.clone()));
    let tip = if repository.find_reference(TIP_REF).is_ok() || request.stop_at.is_empty() {
        receive(repository, url, &specs, branch, Shallow::NoChange)?
    } else {
        join(repository, url, &specs, request, tip)?
    };
    Ok(Look { dialect, found: Found::New(tip, chosen.into_iter().map(|(_, id)| id).collect()) })
}

/// What a server listed.
struct Listed {
    refs: Vec<(String, gix::ObjectId)>,
    tip: gix::ObjectId,
    dialect: Option<Dialect>,
}

/// A server listed nothing of use.
struct NotListed {
    failure: Failure,
    /// Nobody answered, or with an error of the server's own.
    ill: bool,
}

/// Lists the refs that `specs` name: after a handshake, or as the server is known to speak.
fn list(
    repository: &gix::Repository,
    url: &RepositoryUrl,
    specs: &[String],
    branch: &str,
    known: Option<Dialect>,
) -> Result<Listed, NotListed> {
    let unreachable = |error: gix::Error| NotListed {
        ill: error.is_retryable(),
        failure: failure(FailureKind::Unreachable, url.as_str(), &error),
    };
    let remote = remote(repository, url, specs).map_err(unreachable)?;
    let connection = match known {
        None => remote.connect(Direction::Fetch).map_err(unreachable)?,
        Some(dialect) => {
            let (url, _) = remote.sanitized_url_and_version(Direction::Fetch).map_err(unreachable)?;
            remote.to_connection_with_transport(dialect::remembering(url, dialect))
        }
    };
    let (map, handshake) = connection
        .with_credentials(nobody)
        .ref_map(gix::progress::Discard, gix::remote::ref_map::Options::default())
        .map_err(unreachable)?;
    let refs = refs_of(&map);
    let tip = branch_of(&refs, url, branch).map_err(|failure| NotListed { failure, ill: false })?;
    let dialect = Dialect::of(handshake.server_protocol_version, &handshake.capabilities);
    Ok(Listed { refs, tip, dialect })
}

/// The first fetch of a repository: no more history than leads back to where verification starts.
///
/// A server that lies about where its history ends gains nothing: what is missing then is missed by the verifier.
fn join(
    repository: &gix::Repository,
    url: &RepositoryUrl,
    specs: &[String],
    request: &Request,
    shown: gix::ObjectId,
) -> Result<gix::ObjectId, Failure> {
    let branch = request.deploy_ref.as_str();
    let at_start = request.stop_at.iter().any(|stop| shown == *stop.as_str());
    let depths = if at_start { &[NonZeroU32::MIN][..] } else { &JOIN_DEPTHS[..] };
    for &depth in depths {
        let tip = receive(repository, url, specs, branch, Shallow::DepthAtRemote(depth))?;
        if !repository.is_shallow().unwrap_or(true) || leads_to(repository, tip, &request.stop_at) {
            return Ok(tip);
        }
    }
    receive(repository, url, specs, branch, Shallow::undo())
}

/// Whether one of `stops` is among the first parents that are here.
fn leads_to(repository: &gix::Repository, tip: gix::ObjectId, stops: &[CommitId]) -> bool {
    let mut at = Some(tip);
    for _ in 0..=MAX_CHAIN_COMMITS {
        let Some(id) = at.take() else { break };
        let hex = id.to_string();
        if stops.iter().any(|stop| stop.as_str() == hex) {
            // It counts when it is here, not when its child names it.
            return repository.has_object(id);
        }
        let commit = repository.find_commit(id).ok();
        at = commit.and_then(|commit| commit.parent_ids().next().map(gix::Id::detach));
    }
    false
}

/// Fetches what `specs` name; gives where the branch is.
fn receive(
    repository: &gix::Repository,
    url: &RepositoryUrl,
    specs: &[String],
    branch: &str,
    shallow: Shallow,
) -> Result<gix::ObjectId, Failure> {
    let unreachable = |error: gix::Error| failure(FailureKind::Unreachable, url.as_str(), &error);
    let remote = remote(repository, url, specs).map_err(unreachable)?;
    let connection = remote.connect(Direction::Fetch).map_err(unreachable)?;
    let prepared = connection
        .with_credentials(nobody)
        .prepare_fetch(gix::progress::Discard, gix::remote::ref_map::Options::default())
        .map_err(unreachable)?;
    if prepared.ref_map().object_hash != repository.object_hash() {
        let message = format!("{url} changed its object format");
        return Err(Failure { kind: FailureKind::Transfer, message });
    }
    let tip = branch_of(&refs_of(prepared.ref_map()), url, branch)?;
    prepared
        .with_shallow(shallow)
        .receive(gix::progress::Discard, &AtomicBool::new(false))
        .map_err(|error| failure(FailureKind::Transfer, url.as_str(), &error))?;
    Ok(tip)
}

/// The server at `url`, of which `specs` are wanted.
fn remote<'r>(repository: &'r gix::Repository, url: &RepositoryUrl, specs: &[String]) -> gix::Result<gix::Remote<'r>> {
    repository
        .remote_at_without_url_rewrite(url.as_str())?
        .with_fetch_tags(Tags::None)
        .with_refspecs(specs.iter().map(String::as_str), Direction::Fetch)
}

/// Whom to ask for a password: a server that wants one is unreachable.
fn nobody(_: gix::credentials::helper::Action) -> gix::Result<Option<gix::credentials::protocol::Outcome>> {
    Ok(None)
}

/// Names and ids of the refs that the server has.
fn refs_of(map: &gix::remote::fetch::RefMap) -> Vec<(String, gix::ObjectId)> {
    let named = |mapping: &gix::remote::fetch::refmap::Mapping| {
        let name = mapping.remote.as_name()?.to_str().ok()?.to_owned();
        Some((name, mapping.remote.as_id()?.to_owned()))
    };
    map.mappings.iter().filter_map(named).collect()
}

fn branch_of(refs: &[(String, gix::ObjectId)], url: &RepositoryUrl, branch: &str) -> Result<gix::ObjectId, Failure> {
    refs.iter().find(|(name, _)| name == branch).map(|(_, id)| *id).ok_or_else(|| Failure {
        kind: FailureKind::RefMissing,
        message: format!("{url} has no {branch}; push the branch, or correct the introduction"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_whose_refs_a_power_cut_left_empty_or_without_what_they_name_is_begun_again() {
        let folder = tempfile::tempdir().expect("because /tmp can be written");
        let opened = || open(folder.path(), gix::hash::Kind::Sha1).map_err(|failure| failure.message);
        let tip = folder.path().join(TIP_REF);
        let point = |to: &str| {
            std::fs::create_dir_all(tip.parent().expect("because a ref lies in a folder")).expect("because it is ours");
            std::fs::write(&tip, to).expect("because it is ours");
        };
        let repository = opened().expect("because it is new");
        let there = repository.write_blob(b"kept").expect("because the folder is ours").detach();
        point(&format!("{there}\n"));
        opened().expect("because its refs and what they name can be read");
        assert!(tip.exists(), "what is whole is kept");
        for damaged in ["", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n"] {
            point(damaged);
            opened().expect("because a damaged one is replaced");
            assert!(!tip.exists(), "{damaged:?}");
        }
    }
}
