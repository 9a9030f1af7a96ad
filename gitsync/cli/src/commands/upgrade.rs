//! Commands that change a machine's operating system image, and show how that stands.

use super::Surroundings;
use super::machine::{ask, told};
use crate::arguments::{Form, Rollback, Upgrade, UpgradeCommand};
use crate::output;
use anyhow::{Context as _, Result};
use machined_api as api;
use machined_api::upgrade_request::Part;
use serde_json::{Value, json};
use std::io::Read as _;

/// Bytes of one message; gRPC's own limit is 4 MiB.
const CHUNK_BYTES: usize = 1 << 20;
/// Messages that may wait for the connection.
const CHUNKS_WAITING: usize = 4;

pub(super) async fn upgrade(around: &Surroundings, upgrade: &Upgrade) -> Result<()> {
    if let Some(UpgradeCommand::Status) = upgrade.command {
        return status(around).await;
    }
    let image = upgrade.image.clone().unwrap_or_default();
    let remote = image.starts_with("http://") || image.starts_with("https://");
    let file = match upgrade.retry || remote {
        true => None,
        false => Some(std::fs::File::open(&image).with_context(|| format!("opening {image}"))?),
    };
    let wish = api::UpgradeWish {
        url: if remote { image } else { String::new() },
        retry: upgrade.retry,
        deadline_seconds: upgrade.trying.deadline,
        without_permit: upgrade.trying.without_permit,
    };
    let (machine, mut client) = ask(around).await?;
    let (out, parts) = tokio::sync::mpsc::channel(CHUNKS_WAITING);
    let send = async move {
        // A machine that stops listening says why in its answer.
        let first = api::UpgradeRequest { part: Some(Part::Wish(wish)) };
        if out.send(first).await.is_err() {
            return Ok(());
        }
        let Some(mut file) = file else { return Ok(()) };
        loop {
            let mut chunk = Vec::with_capacity(CHUNK_BYTES);
            if (&mut file).take(CHUNK_BYTES as u64).read_to_end(&mut chunk)? == 0 {
                return anyhow::Ok(());
            }
            if out.send(api::UpgradeRequest { part: Some(Part::Chunk(chunk)) }).await.is_err() {
                return Ok(());
            }
        }
    };
    let (answer, sent) = tokio::join!(client.upgrade(tokio_stream::wrappers::ReceiverStream::new(parts)), send);
    sent.context("reading the artefact")?;
    answer.map_err(told)?;
    said(around, machine.as_str(), "takes the image and goes on by itself")
}

pub(super) async fn rollback(around: &Surroundings, rollback: &Rollback) -> Result<()> {
    let (machine, mut client) = ask(around).await?;
    let request = api::RollbackRequest {
        deadline_seconds: rollback.trying.deadline,
        without_permit: rollback.trying.without_permit,
    };
    client.rollback(request).await.map_err(told)?;
    said(around, machine.as_str(), "restarts into the image of its other slot")
}

fn said(around: &Surroundings, machine: &str, what: &str) -> Result<()> {
    if around.form == Form::Json {
        return output::json(&json!({ "machine": machine, "taken": true }));
    }
    println!("{machine} {what}; next: cairnctl upgrade status");
    Ok(())
}

async fn status(around: &Surroundings) -> Result<()> {
    let (_, mut client) = ask(around).await?;
    let status = client.upgrade_status(api::UpgradeStatusRequest {}).await.map_err(told)?.into_inner();
    if around.form == Form::Json {
        return output::json(&status_json(&status));
    }
    let now =
        if status.message.is_empty() { status.phase.clone() } else { format!("{}: {}", status.phase, status.message) };
    output::fields(&[
        ("running", image_text(status.running.as_ref())),
        ("slot", status.slot.clone()),
        ("other slot", image_text(status.other.as_ref())),
        ("upgrade", output::one_line(&now)),
        ("image", image_text(status.target.as_ref())),
    ])?;
    if let Some(last) = &status.last {
        println!("last: {}, wanted by {}: {}", last.outcome, last.by, output::one_line(&last.reason));
        println!("      {}", image_text(last.image.as_ref()));
    }
    Ok(())
}

fn image_text(image: Option<&api::Image>) -> String {
    let Some(image) = image else { return "none".to_owned() };
    let digest = if image.digest.is_empty() { "digest not known" } else { &image.digest };
    format!("{} (number {}) {digest}", image.version, image.number)
}

fn status_json(status: &api::UpgradeStatusReply) -> Value {
    let image = |image: Option<&api::Image>| {
        image.map(|i| json!({ "digest": i.digest, "version": i.version, "number": i.number, "root": i.root }))
    };
    json!({
        "phase": status.phase, "message": status.message, "slot": status.slot,
        "target": image(status.target.as_ref()), "running": image(status.running.as_ref()),
        "other": image(status.other.as_ref()),
        "last": status.last.as_ref().map(|last| {
            json!({ "outcome": last.outcome, "by": last.by, "reason": last.reason, "image": image(last.image.as_ref()) })
        }),
    })
}
