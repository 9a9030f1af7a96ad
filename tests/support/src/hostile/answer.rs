//! The answers of the hostile server: honest ones, with the attack put in where it belongs.

use super::pack::{self, Object};
use super::{Attack, Response, Stage, State};
use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Limited, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::{Request, StatusCode};
use std::convert::Infallible;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Parts of an answer that may lie ready; a slow reader then stops the writer.
const PARTS: usize = 4;

/// Largest request in bytes; a fetch names a few commits.
const REQUEST_BYTES_MAX: usize = 1 << 20;

/// Payload of one packet line; the protocol allows 65516.
const PACKET_BYTES: usize = 60_000;

/// Hex digits of an id in a SHA-256 repository.
const SHA256_DIGITS: usize = 64;

/// Packets that close a section, and that separate two.
const FLUSH: &[u8] = b"0000";
const DELIMITER: &[u8] = b"0001";

/// A body that is sent while it is made.
pub(super) type Body = BoxBody<Bytes, Infallible>;

/// Where the parts of a body go; an error is a client that has gone away.
type Out = mpsc::Sender<Result<Frame<Bytes>, Infallible>>;

pub(super) async fn answer(state: &State, request: Request<Incoming>) -> Result<Response, Infallible> {
    Ok(respond(state, request).await.unwrap_or_else(|error| {
        let mut response = Response::new(whole(format!("{error:#}\n").into_bytes()));
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    }))
}

async fn respond(state: &State, request: Request<Incoming>) -> Result<Response> {
    let attack = state.attack();
    let path = request.uri().path().to_owned();
    let body = Limited::new(request.into_body(), REQUEST_BYTES_MAX).collect().await;
    let body = body.map_err(anyhow::Error::from_boxed)?.to_bytes();
    let command = lines(&body).find_map(|line| line.strip_prefix("command=").map(str::to_owned));
    let stage = match command.as_deref() {
        _ if path.ends_with("/info/refs") => Stage::Capabilities,
        Some("ls-refs") => Stage::Refs,
        Some("fetch") => Stage::Pack,
        Some(_) | None => {
            state.note(path);
            let mut response = Response::new(whole(Vec::new()));
            *response.status_mut() = StatusCode::NOT_FOUND;
            return Ok(response);
        }
    };
    state.note(command.unwrap_or_else(|| "capabilities".to_owned()));
    if let Attack::Redirect(location) = &attack {
        let found = http::Response::builder().status(StatusCode::FOUND).header("location", location);
        return Ok(found.body(whole(Vec::new()))?);
    }
    let kind = if stage == Stage::Capabilities { "advertisement" } else { "result" };
    let bytes = match (stage, &attack) {
        (_, Attack::Answer(at, bytes)) if *at == stage => bytes.to_vec(),
        (Stage::Capabilities, _) => capabilities(state, &attack),
        (Stage::Refs, _) => refs(state, &attack)?,
        (Stage::Pack, _) => fetch(state, &attack, &body)?,
    };
    let response = http::Response::builder().header("content-type", format!("application/x-git-upload-pack-{kind}"));
    Ok(response.body(paced(&attack, stage, bytes))?)
}

fn whole(bytes: Vec<u8>) -> Body {
    http_body_util::Full::new(Bytes::from(bytes)).boxed()
}

/// The bytes at the pace of the attack.
fn paced(attack: &Attack, stage: Stage, bytes: Vec<u8>) -> Body {
    let (out, parts) = mpsc::channel(PARTS);
    let attack = attack.clone();
    tokio::spawn(async move { send(&out, &attack, stage, bytes).await });
    BodyExt::boxed(StreamBody::new(ReceiverStream::new(parts)))
}

/// Sends until all is said or the client has gone; `None` is the client's going.
async fn send(out: &Out, attack: &Attack, stage: Stage, bytes: Vec<u8>) -> Option<()> {
    match attack {
        Attack::Trickle(from, every) if *from == stage => {
            for byte in bytes {
                part(out, vec![byte]).await?;
                tokio::time::sleep(Duration::from_millis(*every)).await;
            }
        }
        Attack::Hang(at) if *at == stage => {
            // Half of it, so that the client has begun to believe.
            part(out, bytes[..bytes.len() / 2].to_vec()).await?;
            out.closed().await;
        }
        Attack::ManyRefs(count) if stage == Stage::Refs => {
            part(out, bytes[..bytes.len() - FLUSH.len()].to_vec()).await?;
            for block in 0..count.div_ceil(1000) {
                let name = |n: u64| packet(format!("{n:040x} refs/heads/{:0>60}\n", block * 1000 + n).as_bytes());
                part(out, (0..1000).flat_map(name).collect()).await?;
            }
            part(out, FLUSH.to_vec()).await?;
        }
        Attack::EndlessProgress if stage == Stage::Pack => {
            part(out, packet(b"packfile\n")).await?;
            loop {
                part(out, packet(&[b"\x02", &[b'.'; 1000][..]].concat())).await?;
            }
        }
        _ => part(out, bytes).await?,
    }
    Some(())
}

async fn part(out: &Out, bytes: Vec<u8>) -> Option<()> {
    out.send(Ok(Frame::data(Bytes::from(bytes)))).await.ok()
}

/// One packet line: four hex digits of its whole length, then the bytes.
fn packet(bytes: &[u8]) -> Vec<u8> {
    [format!("{:04x}", bytes.len() + 4).as_bytes(), bytes].concat()
}

/// The text lines of a request.
fn lines(body: &[u8]) -> impl Iterator<Item = &str> {
    let mut rest = body;
    std::iter::from_fn(move || {
        loop {
            let head = rest.get(..4).and_then(|head| std::str::from_utf8(head).ok())?;
            let length = usize::from_str_radix(head, 16).ok()?;
            if length < 4 {
                rest = &rest[4..];
                continue;
            }
            let line = rest.get(4..length)?;
            rest = &rest[length..];
            return std::str::from_utf8(line).ok().map(str::trim_end);
        }
    })
}

fn capabilities(state: &State, attack: &Attack) -> Vec<u8> {
    let format = match attack {
        Attack::Format(format) => (*format).to_owned(),
        _ => git(state, &["rev-parse", "--show-object-format"]).unwrap_or_else(|_| "sha1".to_owned()),
    };
    let lines = ["version 2\n", "agent=git/2.0\n", "ls-refs=unborn\n", "fetch=shallow filter\n"];
    let mut bytes = [packet(b"# service=git-upload-pack\n"), FLUSH.to_vec()].concat();
    lines.iter().for_each(|line| bytes.extend(packet(line.as_bytes())));
    bytes.extend(packet(format!("object-format={format}\n").as_bytes()));
    bytes.extend_from_slice(FLUSH);
    bytes
}

fn refs(state: &State, attack: &Attack) -> Result<Vec<u8>> {
    let listed = git(state, &["for-each-ref", "--format=%(objectname) %(refname)"])?;
    let at = |name: &str| listed.lines().find_map(|line| line.strip_suffix(name)?.strip_suffix(' ')).map(str::to_owned);
    let mut shown: Vec<String> = listed.lines().map(str::to_owned).collect();
    match attack {
        Attack::RefAt { name, id } => {
            shown.retain(|line| !line.ends_with(&format!(" {name}")));
            shown.push(format!("{id} {name}"));
        }
        Attack::Symbolic { name, target } => {
            shown.retain(|line| !line.ends_with(&format!(" {name}")));
            let id = at(target).context("the target of a symbolic ref exists")?;
            shown.push(format!("{id} {name} symref-target:{target}"));
        }
        Attack::MoreRefs(refs) => shown.extend(refs.iter().map(|(name, id)| format!("{id} {name}"))),
        _ => {}
    }
    let mut bytes: Vec<u8> = shown.iter().flat_map(|line| packet(format!("{line}\n").as_bytes())).collect();
    bytes.extend_from_slice(FLUSH);
    Ok(bytes)
}

fn fetch(state: &State, attack: &Attack, body: &[u8]) -> Result<Vec<u8>> {
    let wants: Vec<&str> = lines(body).filter_map(|line| line.strip_prefix("want ")).collect();
    let mut bytes = Vec::new();
    if !lines(body).any(|line| line == "done") {
        bytes.extend(packet(b"acknowledgments\n"));
        for have in lines(body).filter_map(|line| line.strip_prefix("have ")) {
            bytes.extend(packet(format!("ACK {have}\n").as_bytes()));
        }
        bytes.extend(packet(b"ready\n"));
        bytes.extend_from_slice(DELIMITER);
    }
    if matches!(attack, Attack::Shallow) {
        bytes.extend(packet(b"shallow-info\n"));
        wants.iter().for_each(|want| bytes.extend(packet(format!("shallow {want}\n").as_bytes())));
        bytes.extend_from_slice(DELIMITER);
    }
    let pack = match attack {
        Attack::Pack(pack) => pack.to_vec(),
        _ => {
            let objects = wants.iter().map(|want| pack::objects(&state.repository, want));
            let objects: Vec<Object> = objects.collect::<Result<Vec<_>>>()?.concat();
            let pack = pack::Pack::of(&objects);
            if wants.iter().any(|want| want.len() == SHA256_DIGITS) { pack.finish_sha256() } else { pack.finish() }
        }
    };
    bytes.extend(packet(b"packfile\n"));
    for part in pack.chunks(PACKET_BYTES) {
        bytes.extend(packet(&[b"\x01", part].concat()));
    }
    bytes.extend_from_slice(FLUSH);
    Ok(bytes)
}

fn git(state: &State, arguments: &[&str]) -> Result<String> {
    crate::git::git(&state.repository, arguments)
}
