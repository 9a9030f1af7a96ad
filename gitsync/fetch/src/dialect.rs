//! How a server speaks, remembered between fetches: then a poll is `ls-refs` alone, without asking for capabilities before.
//!
//! ```text
//! not known   GET info/refs (capabilities)  ->  POST git-upload-pack (ls-refs)     two requests, and gix says what it learned
//! known       GET answered from here        ->  POST git-upload-pack (ls-refs)     one request
//! ```
//!
//! gix's own HTTP transport and protocol code do all of it; only the first GET is answered by [`Remembering`]. Each fetch is a child of its
//! own, so the parent remembers: what a child says of a server is one of the three values of [`Dialect`] and nothing else, and what it
//! changes is which words the next poll's request has. A server that speaks otherwise now gives no proper answer, and is asked from the start.

use gix::protocol::transport::client::Capabilities;
use gix::protocol::transport::client::blocking_io::http::{
    GetResponse, Http, PostBodyDataKind, PostResponse, Transport, reqwest::Remote,
};
use gix::protocol::transport::packetline::blocking_io::encode;
use gix::protocol::transport::{Protocol, client::blocking_io};
use serde::{Deserialize, Serialize};
use std::io::BufRead;

/// A server that spoke protocol version 2 with `ls-refs`, and the object format that it wants named in each command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Dialect {
    /// It named no object format, and would not know the word.
    Unnamed,
    /// It named SHA-1.
    Sha1,
    /// It named SHA-256.
    Sha256,
}

impl Dialect {
    /// What a handshake told; nothing where the next poll needs a handshake again.
    pub(crate) fn of(version: Protocol, capabilities: &Capabilities) -> Option<Self> {
        if version != Protocol::V2 || !capabilities.contains("ls-refs") {
            return None;
        }
        let Some(format) = capabilities.capability("object-format") else { return Some(Dialect::Unnamed) };
        match format.value().map(|name| name.to_vec()).as_deref() {
            Some(b"sha1") => Some(Dialect::Sha1),
            Some(b"sha256") => Some(Dialect::Sha256),
            Some(_) | None => None,
        }
    }

    /// As a frame says it.
    pub(crate) const fn as_byte(self) -> u8 {
        match self {
            Dialect::Unnamed => b'0',
            Dialect::Sha1 => b'1',
            Dialect::Sha256 => b'2',
        }
    }

    pub(crate) const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            b'0' => Some(Dialect::Unnamed),
            b'1' => Some(Dialect::Sha1),
            b'2' => Some(Dialect::Sha256),
            _ => None,
        }
    }

    /// What such a server answers to the first GET, as far as `ls-refs` needs it.
    fn advertisement(self) -> Vec<u8> {
        let format: Option<&[u8]> = match self {
            Dialect::Unnamed => None,
            Dialect::Sha1 => Some(b"object-format=sha1"),
            Dialect::Sha256 => Some(b"object-format=sha256"),
        };
        let mut bytes = Vec::new();
        for line in [&b"version 2"[..], b"ls-refs"].into_iter().chain(format) {
            encode::text_to_write(line, &mut bytes).expect("because memory takes it");
        }
        encode::flush_to_write(&mut bytes).expect("because memory takes it");
        bytes
    }
}

/// gix's HTTP client, whose first GET is answered without the server.
struct Remembering {
    http: Remote,
    dialect: Dialect,
}

/// A transport to `url` that believes to have had its handshake.
pub(crate) fn remembering(url: gix::Url, dialect: Dialect) -> Box<dyn blocking_io::Transport + Send> {
    Box::new(Transport::new_http(Remembering { http: Remote::default(), dialect }, url, Protocol::V2, false))
}

type Lines = Box<dyn BufRead + Send>;

impl Http for Remembering {
    type Headers = Lines;
    type ResponseBody = Lines;
    type PostBody = <Remote as Http>::PostBody;

    fn get(
        &mut self,
        _: &str,
        _: &str,
        _: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> gix::Result<GetResponse<Lines, Lines>> {
        let headers = Box::new(&b"content-type: application/x-git-upload-pack-advertisement\n"[..]);
        Ok(GetResponse { headers, body: Box::new(std::io::Cursor::new(self.dialect.advertisement())) })
    }

    fn post(
        &mut self,
        url: &str,
        base_url: &str,
        headers: impl IntoIterator<Item = impl AsRef<str>>,
        body: PostBodyDataKind,
    ) -> gix::Result<PostResponse<Lines, Lines, Self::PostBody>> {
        let PostResponse { post_body, headers, body } = self.http.post(url, base_url, headers, body)?;
        Ok(PostResponse { post_body, headers: Box::new(headers), body: Box::new(body) })
    }

    fn configure(&mut self, config: &dyn std::any::Any) -> gix::Result {
        self.http.configure(config)
    }

    fn redirected_base_url(&self) -> Option<String> {
        self.http.redirected_base_url()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(lines: &str) -> Option<Dialect> {
        let capabilities = Capabilities::from_lines(format!("version 2\n{lines}").into());
        Dialect::of(Protocol::V2, &capabilities.expect("because it is well formed"))
    }

    #[test]
    fn what_a_server_told_is_one_of_three_values_or_nothing() {
        assert_eq!(told("ls-refs=unborn\nfetch=shallow"), Some(Dialect::Unnamed));
        assert_eq!(told("ls-refs\nobject-format=sha1"), Some(Dialect::Sha1));
        assert_eq!(told("object-format=sha256\nls-refs"), Some(Dialect::Sha256));
        assert_eq!(told("ls-refs\nobject-format=sha512"), None);
        assert_eq!(told("ls-refs\nobject-format"), None);
        assert_eq!(told("fetch"), None, "without ls-refs there is nothing to ask");
        let good = Capabilities::from_lines("version 2\nls-refs".into()).expect("because it is well formed");
        assert_eq!(Dialect::of(Protocol::V1, &good), None);
    }

    #[test]
    fn a_remembered_advertisement_is_one_that_gix_reads_as_the_same_dialect() {
        for dialect in [Dialect::Unnamed, Dialect::Sha1, Dialect::Sha256] {
            let url = gix::url::parse("http://127.0.0.1:1/x.git").expect("because it is a URL");
            let mut transport = remembering(url, dialect);
            let answer = transport.handshake(gix::protocol::transport::Service::UploadPack, &[]);
            let answer = answer.expect("because no server is asked");
            assert_eq!(Dialect::of(answer.actual_protocol, &answer.capabilities), Some(dialect));
            assert_eq!(Dialect::from_byte(dialect.as_byte()), Some(dialect));
        }
        assert_eq!(Dialect::from_byte(b'3'), None);
    }
}
