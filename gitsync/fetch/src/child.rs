//! `gitsync fetch-child`: fetches and streams. Started by [`crate::Fetcher`] only, which cages it before its first instruction.

use crate::bundle::{self, Header};
use crate::frame::{self, Failure, FailureKind};
use crate::local::{own_id, statement, walk};
use crate::request::Request;
use crate::statements;
use crate::transport::{self, Found, Look, failure};
use gitsync_verify::limits::MAX_STATEMENTS;
use std::io::{self, BufRead, BufWriter, Read, Write};

/// Bytes of a request; the parent is trusted, a limit is a limit.
const MAX_REQUEST: u64 = 1 << 20;

/// Reads a request from `input`, does it, and writes frames to `output`. Everything that goes wrong becomes a frame.
///
/// # Errors
/// When `output` is gone.
pub fn run(input: impl Read, output: impl Write) -> io::Result<()> {
    let mut output = BufWriter::new(output);
    match serve(input, &mut output) {
        Ok(()) => frame::write_end(&mut output)?,
        Err(Stop::Failure(failure)) => frame::write_failure(&mut output, &failure)?,
        Err(Stop::Output(error)) => return Err(error),
    }
    output.flush()
}

enum Stop {
    Failure(Failure),
    Output(io::Error),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Stop::Failure(failure)
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Stop::Output(error)
    }
}

fn serve(input: impl Read, output: &mut impl Write) -> Result<(), Stop> {
    let local = |what: &str, error: &(dyn std::error::Error + 'static)| failure(FailureKind::Local, what, error);
    let request: Request =
        serde_json::from_reader(input.take(MAX_REQUEST)).map_err(|e| local("unreadable request", &e))?;
    let bundle = request.bundle.as_deref().map(bundle::open).transpose()?;
    let mut format = bundle.as_ref().map_or(gix::hash::Kind::Sha1, |(header, _)| header.format);
    let named = request.stop_at.iter().chain(&request.tip).next();
    if named.is_some_and(|id| id.as_str().len() == 64) {
        format = gix::hash::Kind::Sha256;
    }
    let repository = transport::open(&request.folder, format)?;
    let (tip, chosen) = match (&request.url, bundle) {
        (_, Some((header, pack))) => from_bundle(&repository, &request, &header, pack)?,
        (Some(url), None) => {
            let Look { dialect, found } = transport::look(&repository, url, &request)?;
            if let Some(dialect) = dialect {
                frame::write_dialect(output, dialect)?;
            }
            match found {
                Found::Unchanged(tip) => return Ok(frame::write_unchanged(output, &tip)?),
                Found::New(tip, statements) => (tip, statements),
            }
        }
        (None, None) => {
            let tip = request.tip.as_ref().map(ToString::to_string).unwrap_or_default();
            (gix::ObjectId::from_hex(tip.as_bytes()).map_err(|error| local("no commit to read", &error))?, Vec::new())
        }
    };
    frame::write_tip(output, &tip.to_string())?;
    for id in chosen {
        let bytes = statement(&repository, id);
        frame::write_statement(output, &own_id(id), &bytes)?;
    }
    walk(&repository, tip, &request.stop_at, &mut |id, kind, bytes| frame::write_object(output, &id, kind, bytes))?;
    Ok(())
}

/// Takes a bundle's objects; gives where its branch is and the statements that it brings.
fn from_bundle(
    repository: &gix::Repository,
    request: &Request,
    header: &Header,
    pack: impl BufRead,
) -> Result<(gix::ObjectId, Vec<gix::ObjectId>), Stop> {
    let branch = request.deploy_ref.as_str();
    let tip = header.refs.iter().find(|(name, _)| name == branch).map(|(_, id)| *id).ok_or_else(|| Failure {
        kind: FailureKind::RefMissing,
        message: format!("the bundle has no {branch}; make one with `git bundle create FILE {branch}`"),
    })?;
    if header.format != repository.object_hash() {
        let message = "the bundle has another object format than the repository; bundle the repository itself";
        return Err(Failure { kind: FailureKind::Transfer, message: message.to_owned() }.into());
    }
    bundle::unpack(repository, header, pack)?;
    let refs = header.refs.iter().map(|(name, id)| (name.as_str(), *id));
    let chosen = statements::choose(refs, &request.statements, MAX_STATEMENTS);
    Ok((tip, chosen.into_iter().map(|(_, id)| id).collect()))
}
