//! A git bundle as a source: a header that names refs and what must be there already, then a pack.
//!
//! ```text
//! # v2 git bundle            or v3, whose capability lines begin with @
//! -<id> comment              prerequisites
//! <id> <ref>                 tips
//!                            an empty line, then the pack
//! ```
//! <https://git-scm.com/docs/gitformat-bundle>. Called by the child only. Nothing in a bundle is believed: the parent hashes every object
//! again, and the verifier judges the tip like one that a server gave.

use crate::frame::{Failure, FailureKind};
use crate::transport::failure;
use gix::odb::pack;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// Bytes of a header: thousands of refs.
const MAX_HEADER: u64 = 1 << 20;

/// Largest single allocation while the pack is indexed; the child's address space bounds all of them together.
const MAX_ALLOCATION: usize = 64 << 20;

/// What a bundle says about itself.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) format: gix::hash::Kind,
    pub(crate) needs: Vec<gix::ObjectId>,
    pub(crate) refs: Vec<(String, gix::ObjectId)>,
}

fn wrong(what: &str) -> Failure {
    let message = format!("the bundle cannot be read: {what}; make one with `git bundle create FILE main`");
    Failure { kind: FailureKind::Transfer, message }
}

impl Header {
    /// Reads up to the pack.
    pub(crate) fn read(input: &mut impl BufRead) -> Result<Self, Failure> {
        let mut input = input.take(MAX_HEADER);
        let mut lines = || -> Result<String, Failure> {
            let mut line = Vec::new();
            input.read_until(b'\n', &mut line).map_err(|error| failure(FailureKind::Local, "the bundle", &error))?;
            let ended = line.pop() == Some(b'\n');
            String::from_utf8(line).ok().filter(|_| ended).ok_or_else(|| wrong("its header has no end or is no text"))
        };
        let third = match lines()?.as_str() {
            "# v2 git bundle" => false,
            "# v3 git bundle" => true,
            _ => return Err(wrong("it does not begin with \"# v2 git bundle\" or \"# v3 git bundle\"")),
        };
        let mut header = Header { format: gix::hash::Kind::Sha1, needs: Vec::new(), refs: Vec::new() };
        loop {
            let line = lines()?;
            if line.is_empty() {
                return Ok(header);
            }
            if let Some(capability) = line.strip_prefix('@') {
                header.format = match capability {
                    "object-format=sha1" if third => gix::hash::Kind::Sha1,
                    "object-format=sha256" if third => gix::hash::Kind::Sha256,
                    // A filtered bundle lacks objects that nobody would ever bring.
                    _ => return Err(wrong("it wants something that Cairn does not do (a filter, perhaps)")),
                };
                continue;
            }
            let (needed, rest) = line.strip_prefix('-').map_or((false, line.as_str()), |rest| (true, rest));
            let (id, name) = rest.split_once(' ').unwrap_or((rest, ""));
            let id = gix::ObjectId::from_hex(id.as_bytes()).map_err(|_| wrong("a line of its header has no id"))?;
            if id.kind() != header.format {
                return Err(wrong("its ids are of two formats"));
            }
            if needed { header.needs.push(id) } else { header.refs.push((name.to_owned(), id)) }
        }
    }
}

/// Opens a bundle for its header; the pack is what is left of the reader.
pub(crate) fn open(path: &Path) -> Result<(Header, BufReader<File>), Failure> {
    let file = File::open(path).map_err(|error| failure(FailureKind::Local, "the bundle cannot be opened", &error))?;
    let mut input = BufReader::new(file);
    Ok((Header::read(&mut input)?, input))
}

/// Puts a bundle's objects into the repository.
pub(crate) fn unpack(repository: &gix::Repository, header: &Header, mut input: impl BufRead) -> Result<(), Failure> {
    if let Some(missing) = header.needs.iter().find(|id| !repository.has_object(**id)) {
        let message = format!(
            "the bundle builds on commit {missing}, which this machine never fetched; bundle from a commit that it accepted, or \
             all of the branch: `git bundle create FILE main`"
        );
        return Err(Failure { kind: FailureKind::Transfer, message });
    }
    let options = pack::bundle::write::Options {
        thread_limit: Some(1),
        alloc_limit_bytes: Some(MAX_ALLOCATION),
        ..pack::bundle::write::Options::default()
    };
    let folder = repository.objects.store_ref().path().join("pack");
    std::fs::create_dir_all(&folder).map_err(|error| failure(FailureKind::Local, "the fetch folder", &error))?;
    let written = pack::Bundle::write_to_directory(
        &mut input,
        Some(&folder),
        &mut gix::progress::Discard,
        &AtomicBool::new(false),
        Some(repository.objects.clone()),
        header.format,
        options,
    );
    let written = written.map_err(|error| failure(FailureKind::Transfer, "the bundle's pack is damaged", &error))?;
    // The file that keeps git from collecting the pack; nobody collects here.
    written.keep_path.map(std::fs::remove_file).transpose().map(drop).or(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Header, Failure> {
        Header::read(&mut text.as_bytes())
    }

    #[test]
    fn a_header_ends_at_the_empty_line_and_holds_refs_and_needs() {
        let (a, b) = ("a".repeat(40), "b".repeat(40));
        let mut input = format!("# v2 git bundle\n-{a} a comment\n{b} refs/heads/main\n\nPACK").into_bytes();
        let mut rest = input.as_mut_slice() as &[u8];
        let header = Header::read(&mut rest).expect("because it is well formed");
        assert_eq!((header.needs.len(), header.refs[0].0.as_str(), rest), (1, "refs/heads/main", &b"PACK"[..]));
        let long = "c".repeat(64);
        let header = read(&format!("# v3 git bundle\n@object-format=sha256\n{long} refs/heads/main\n\n"));
        assert_eq!(header.expect("because it is well formed").format, gix::hash::Kind::Sha256);
    }

    #[test]
    fn what_is_no_bundle_is_refused_with_a_command() {
        let a = "a".repeat(40);
        for text in [
            "".to_owned(),
            "PACK".to_owned(),
            "# v4 git bundle\n\n".to_owned(),
            format!("# v2 git bundle\n{a} refs/heads/main\n"),
            format!("# v2 git bundle\n@object-format=sha256\n{a} refs/heads/main\n\n"),
            format!("# v3 git bundle\n@filter=blob:none\n{a} refs/heads/main\n\n"),
            format!("# v3 git bundle\n@object-format=sha256\n{a} refs/heads/main\n\n"),
            "# v2 git bundle\nxyz refs/heads/main\n\n".to_owned(),
            format!("# v2 git bundle\n{}", "x".repeat(2 << 20)),
        ] {
            let refused = read(&text).expect_err("because it is no bundle");
            assert!(refused.message.contains("git bundle create"), "{}", refused.message);
        }
    }
}
