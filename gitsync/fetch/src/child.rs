//! `gitsync fetch-child`: fetches and streams. Started by [`crate::Fetcher`] only, which cages it before its first instruction.

use crate::frame::{self, Failure, FailureKind};
use crate::local::walk;
use crate::request::Request;
use crate::transport::{self, Look, failure};
use std::io::{self, BufWriter, Read, Write};

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
    let mut format = gix::hash::Kind::Sha1;
    let named = request.stop_at.iter().chain(&request.tip).next();
    if named.is_some_and(|id| id.as_str().len() == 64) {
        format = gix::hash::Kind::Sha256;
    }
    let repository = transport::open(&request.folder, format)?;
    let tip = match &request.url {
        Some(url) => match transport::look(&repository, url, &request)? {
            Look::Unchanged(tip) => return Ok(frame::write_unchanged(output, &tip)?),
            Look::Tip(tip) => tip,
        },
        None => {
            let tip = request.tip.as_ref().map(ToString::to_string).unwrap_or_default();
            gix::ObjectId::from_hex(tip.as_bytes()).map_err(|error| local("no commit to read", &error))?
        }
    };
    frame::write_tip(output, &tip.to_string())?;
    walk(&repository, tip, &request.stop_at, &mut |id, kind, bytes| frame::write_object(output, &id, kind, bytes))?;
    Ok(())
}
