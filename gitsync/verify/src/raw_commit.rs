//! A commit's bytes, read strictly: one way to write each header, no header that could carry a second meaning.
//!
//! Git itself is lenient here (unknown headers, several signatures, mergetags); each leniency has been an attack on somebody.

use crate::objects::{ObjectFormat, ObjectId};
use crate::refusal::{Reason, Refusal};

/// What a commit says, and what of it was signed. Nothing here has been judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawCommit<'a> {
    /// Its root tree.
    pub tree: ObjectId,
    /// Its parents; only the first one counts.
    pub parents: Vec<ObjectId>,
    /// The armoured signature, when there is one.
    pub signature: Option<String>,
    /// The bytes that a signature is over: the commit without the signature header.
    pub signed: Vec<u8>,
    /// The message.
    pub message: &'a str,
}

fn bad(reason: Reason, message: impl Into<String>) -> Refusal {
    Refusal::new(reason, message)
}

/// Takes `name value` off the front, when it has that name. `None` leaves the input alone.
fn take_header<'a>(rest: &mut &'a [u8], name: &str) -> Option<&'a [u8]> {
    let value = rest.strip_prefix(name.as_bytes())?.strip_prefix(b" ")?;
    let end = value.iter().position(|b| *b == b'\n')?;
    *rest = &value[end + 1..];
    Some(&value[..end])
}

fn take_id(value: &[u8], format: ObjectFormat) -> Result<ObjectId, Refusal> {
    ObjectId::from_hex(value).filter(|id| id.format() == format).ok_or_else(|| {
        bad(Reason::NonCanonical, "a tree or parent header does not hold an object id of this repository")
    })
}

/// `Name <mail> seconds +zone`, with nothing that could end or hide a line.
fn check_person(value: Option<&[u8]>, header: &str) -> Result<(), Refusal> {
    let value =
        value.ok_or_else(|| bad(Reason::NonCanonical, format!("the {header} header is missing or out of place")))?;
    let sane = !value.iter().any(|b| matches!(b, 0 | b'\r'))
        && value.contains(&b'<')
        && value.rsplit(|b| *b == b' ').nth(1).is_some_and(|s| !s.is_empty() && s.iter().all(u8::is_ascii_digit));
    if sane { Ok(()) } else { Err(bad(Reason::NonCanonical, format!("the {header} header is malformed"))) }
}

impl<'a> RawCommit<'a> {
    /// Reads a commit.
    ///
    /// # Errors
    /// `BadHeader` for unknown, repeated or dangerous headers, `NonCanonical` for another way to write a known one.
    pub fn parse(bytes: &'a [u8], format: ObjectFormat) -> Result<Self, Refusal> {
        let mut rest = bytes;
        let tree =
            take_header(&mut rest, "tree").ok_or_else(|| bad(Reason::NonCanonical, "the commit names no tree"))?;
        let tree = take_id(tree, format)?;
        let mut parents = Vec::new();
        while let Some(parent) = take_header(&mut rest, "parent") {
            parents.push(take_id(parent, format)?);
        }
        check_person(take_header(&mut rest, "author"), "author")?;
        check_person(take_header(&mut rest, "committer"), "committer")?;
        let mut signed = bytes[..bytes.len() - rest.len()].to_vec();
        let signature = take_signature(&mut rest, format)?;
        let Some(message) = rest.strip_prefix(b"\n") else {
            return Err(refuse_header(rest));
        };
        signed.extend_from_slice(rest);
        let message = std::str::from_utf8(message).ok().filter(|text| !text.contains('\0')).ok_or_else(|| {
            bad(Reason::NonCanonical, "the message is not UTF-8 text; commit with i18n.commitEncoding=utf-8")
        })?;
        Ok(RawCommit { tree, parents, signature, signed, message })
    }

    /// The first line of the message.
    #[must_use]
    pub fn subject(&self) -> &str {
        self.message.lines().next().unwrap_or_default()
    }

    /// The values of a trailer: lines `<name>: <value>` of the message's last paragraph, in order.
    pub fn trailers<'b>(&'b self, name: &'b str) -> impl Iterator<Item = &'b str> {
        let body = self.message.trim_end_matches('\n');
        // A message of one paragraph has a subject and no trailers, as git interprets it.
        let paragraph = body.rfind("\n\n").map_or("", |at| &body[at + 2..]);
        paragraph.lines().filter_map(move |line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// The one signature header that a repository of this format has, with its continuation lines joined.
fn take_signature(rest: &mut &[u8], format: ObjectFormat) -> Result<Option<String>, Refusal> {
    let name = match format {
        ObjectFormat::Sha1 => "gpgsig",
        ObjectFormat::Sha256 => "gpgsig-sha256",
    };
    let Some(first) = take_header(rest, name) else { return Ok(None) };
    let mut armour = first.to_vec();
    armour.push(b'\n');
    while let Some(line) = rest.strip_prefix(b" ") {
        let end = line
            .iter()
            .position(|b| *b == b'\n')
            .ok_or_else(|| bad(Reason::NonCanonical, "the signature header does not end"))?;
        armour.extend_from_slice(&line[..=end]);
        *rest = &line[end + 1..];
    }
    String::from_utf8(armour)
        .ok()
        .filter(|text| text.is_ascii())
        .map(Some)
        .ok_or_else(|| bad(Reason::BadSignature, "the signature is not ASCII armour"))
}

fn refuse_header(rest: &[u8]) -> Refusal {
    let word: String =
        rest.iter().take(40).take_while(|b| b.is_ascii_alphanumeric() || **b == b'-').map(|b| char::from(*b)).collect();
    let why = match word.as_str() {
        "gpgsig" | "gpgsig-sha256" => "more than one signature, or one that this repository's format does not have",
        "mergetag" => "a merged tag's own signature would travel along; merge the tag's commit instead",
        "tree" | "parent" | "author" | "committer" => "a header is repeated or out of place",
        "encoding" => "the message must be UTF-8",
        _ => "a header that Cairn does not know",
    };
    bad(Reason::BadHeader, format!("header {word:?}: {why}; make the commit again with plain git"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "tree aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n\
                        parent bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\n\
                        author A <a@b> 1 +0000\ncommitter A <a@b> 1 +0000\n";

    fn parse(text: &str) -> Result<RawCommit<'_>, Reason> {
        RawCommit::parse(text.as_bytes(), ObjectFormat::Sha1).map_err(|refusal| refusal.reason)
    }

    #[test]
    fn the_signature_is_over_everything_else() {
        let text = format!("{HEAD}gpgsig one\n two\n\nsubject\n\nCairn-Target: x y\nOther: z\n");
        let commit = parse(&text).expect("because it is well formed");
        assert_eq!(commit.signature.as_deref(), Some("one\ntwo\n"));
        assert_eq!(commit.signed, format!("{HEAD}\nsubject\n\nCairn-Target: x y\nOther: z\n").as_bytes());
        assert_eq!(commit.trailers("Cairn-Target").collect::<Vec<_>>(), ["x y"]);
        assert_eq!(commit.subject(), "subject");
    }

    #[test]
    fn only_the_last_paragraph_holds_trailers() {
        let text = format!("{HEAD}\nsubject\n\nCairn-Target: quoted text\n\nreal body\n");
        assert_eq!(parse(&text).expect("because it is well formed").trailers("Cairn-Target").count(), 0);
        let text = format!("{HEAD}\nCairn-Target: in the subject\n");
        assert_eq!(parse(&text).expect("because it is well formed").trailers("Cairn-Target").count(), 0);
    }

    #[test]
    fn headers_that_could_hide_something_are_refused() {
        for header in
            ["gpgsig a\ngpgsig b\n", "gpgsig-sha256 a\n", "mergetag object\n", "HG:extra x\n", "encoding latin1\n"]
        {
            assert_eq!(parse(&format!("{HEAD}{header}\nm\n")), Err(Reason::BadHeader), "{header}");
        }
        let early = HEAD.replace("author", "gpgsig junk\nauthor");
        assert_eq!(parse(&format!("{early}gpgsig real\n\nm\n")), Err(Reason::NonCanonical));
    }

    #[test]
    fn cut_and_crooked_commits_are_refused() {
        let whole = format!("{HEAD}gpgsig one\n two\n\nm\n");
        for end in 0..whole.len() - 3 {
            assert!(parse(&whole[..end]).is_err(), "{end} bytes were taken");
        }
        assert_eq!(parse(&whole.replace("A <a@b> 1", "A <a@b>\r 1")), Err(Reason::NonCanonical));
        assert_eq!(parse(&whole.replace(&"a".repeat(40), &"A".repeat(40))), Err(Reason::NonCanonical));
    }
}
