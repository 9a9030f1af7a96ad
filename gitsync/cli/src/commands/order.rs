//! Commands for when people must act fast: hold, pin, resume, and carrying commits past a dead git host.

use super::Surroundings;
use super::machine::{ask, told};
use crate::arguments::{Form, Hold, Overriding, Pin, Push, Vouch};
use crate::judge::Repository;
use crate::output;
use crate::repository::Checkout;
use anyhow::{Context as _, Result, bail, ensure};
use jiff::{SignedDuration, Timestamp};
use machined_api as api;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Bytes of one message of a delivery; gRPC's own limit is 4 MiB.
const CHUNK_BYTES: usize = 1 << 20;

/// Bytes of a bundle that a machine takes.
const BUNDLE_BYTES_MAX: u64 = 64 << 20;

/// Messages that may wait for the connection.
const CHUNKS_WAITING: usize = 4;

fn until(hours: u8) -> String {
    let at = Timestamp::now() + SignedDuration::from_hours(hours.into());
    Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}

pub(super) async fn hold(around: &Surroundings, hold: &Hold) -> Result<()> {
    let (machine, mut client) = ask(around).await?;
    let Overriding { hours, reason } = &hold.overriding;
    let request = api::HoldRequest { until: until(*hours), reason: reason.clone() };
    let order = client.hold(request).await.map_err(told)?.into_inner().order;
    say(around, machine.as_str(), order, "keeps what runs")
}

pub(super) async fn pin(around: &Surroundings, pin: &Pin) -> Result<()> {
    let (machine, mut client) = ask(around).await?;
    let target = match (&pin.commit, pin.step) {
        (Some(commit), None) => api::pin_request::Target::Commit(whole(commit)?),
        (None, Some(step)) => api::pin_request::Target::Seq(step),
        (Some(_), Some(_)) | (None, None) => {
            bail!("say what to run: a commit, or --step N; `cairnctl commits` lists both")
        }
    };
    let Overriding { hours, reason } = &pin.overriding;
    let request = api::PinRequest { target: Some(target), until: until(*hours), reason: reason.clone() };
    let order = client.pin(request).await.map_err(told)?.into_inner().order;
    say(around, machine.as_str(), order, "goes back to an accepted step")
}

/// A whole commit id: a checkout makes one of whatever git understands.
pub(super) fn whole(revision: &str) -> Result<String> {
    if [40, 64].contains(&revision.len()) && revision.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(revision.to_owned());
    }
    let checkout = Checkout::open(Path::new("."));
    let checkout = checkout.context("give the whole commit id, or run this in a checkout of the repository")?;
    Ok(checkout.commit_of(revision)?.to_string())
}

pub(super) async fn resume(around: &Surroundings) -> Result<()> {
    let (machine, mut client) = ask(around).await?;
    match client.resume(api::ResumeRequest {}).await.map_err(told)?.into_inner().ended {
        Some(order) if around.form == Form::Json => output::json(&order_json(&order)),
        Some(order) => {
            println!("{machine} follows the branch again; the {} of {} is over", order.kind, order.by);
            Ok(())
        }
        None => bail!("{machine} follows the branch already; there was no hold and no pin"),
    }
}

pub(super) async fn vouch(around: &Surroundings, vouch: &Vouch) -> Result<()> {
    let repository = Repository::open(Path::new("."), None)?;
    let judgement = repository.judge(vouch.commit.as_deref(), false)?;
    if let Some(refusal) = judgement.refusal {
        bail!("a machine would not accept this commit: {refusal}; look at it: cairnctl verify");
    }
    let state = judgement.state.context("nothing here was accepted; look at it: cairnctl verify")?;
    let accepted = state.accepted();
    let newest = api::TrustPosition {
        epoch: state.epoch().0,
        seq: accepted.seq.0,
        step: accepted.step.to_string(),
        commit: accepted.commit.to_string(),
    };
    let (machine, mut client) = ask(around).await?;
    client.vouch(api::VouchRequest { newest: Some(newest) }).await.map_err(told)?;
    println!(
        "{machine} moves on from step {}, commit {}, as soon as a source leads there",
        accepted.seq,
        accepted.commit.short()
    );
    println!("to bring it by hand: cairnctl push --bundle");
    Ok(())
}

fn say(around: &Surroundings, machine: &str, order: Option<api::Order>, what: &str) -> Result<()> {
    let order = order.context("the machine said nothing about the order; ask it: cairnctl status")?;
    if around.form == Form::Json {
        return output::json(&order_json(&order));
    }
    println!("{machine} {what} until {}: {}", order.until, order.reason);
    println!("it shows as an override until then; to end it earlier: cairnctl resume");
    Ok(())
}

pub(super) fn order_json(order: &api::Order) -> serde_json::Value {
    json!({
        "kind": order.kind, "commit": order.commit, "seq": order.seq, "until": order.until, "reason": order.reason,
        "by": order.by, "key": order.key, "given": order.given,
    })
}

/// Pushes the branch and all statements, or carries them to a machine as a bundle.
pub(super) async fn push(around: &Surroundings, push: &Push) -> Result<()> {
    let Some(bundle) = &push.bundle else {
        let checkout = Checkout::open(&push.checkout)?;
        checkout.push()?;
        checkout.git(&["push", "--quiet", "origin", "refs/cairn/*:refs/cairn/*"])?;
        println!("pushed the branch and every statement; next: cairnctl commits");
        return Ok(());
    };
    let made = match bundle {
        Some(file) => Bundle { file: file.clone(), ours: false },
        None => Bundle::of(&Checkout::open(&push.checkout)?)?,
    };
    let size = std::fs::metadata(&made.file).with_context(|| format!("reading {}", made.file.display()))?.len();
    ensure!(
        size <= BUNDLE_BYTES_MAX,
        "the bundle has {size} bytes, and machines take {BUNDLE_BYTES_MAX}; leave out old history"
    );
    let (machine, mut client) = ask(around).await?;
    let (out, chunks) = tokio::sync::mpsc::channel(CHUNKS_WAITING);
    let bytes = std::fs::read(&made.file)?;
    let send = async move {
        for chunk in bytes.chunks(CHUNK_BYTES) {
            // A machine that stops listening says why in its answer.
            if out.send(api::DeliverRequest { chunk: chunk.to_vec() }).await.is_err() {
                break;
            }
        }
    };
    let (answer, ()) = tokio::join!(client.deliver(tokio_stream::wrappers::ReceiverStream::new(chunks)), send);
    let reply = answer.map_err(told)?.into_inner();
    if around.form == Form::Json {
        return output::json(&json!({ "machine": machine.as_str(), "sha256": reply.sha256, "bytes": reply.bytes }));
    }
    println!(
        "{machine} has the bundle ({} bytes) and judges it like what a mirror serves; next: cairnctl commits",
        reply.bytes
    );
    Ok(())
}

/// A bundle on disk; ours goes when it was delivered.
struct Bundle {
    file: PathBuf,
    ours: bool,
}

impl Bundle {
    /// The branch with its whole history and every statement.
    fn of(checkout: &Checkout) -> Result<Self> {
        let branch = checkout.introduction()?.deploy_ref;
        let file = checkout.folder().join(checkout.git(&["rev-parse", "--git-path", "cairn.bundle"])?);
        let name = file.to_str().context("the checkout's path is text")?;
        checkout.git(&["bundle", "create", "--quiet", name, branch.as_str(), "--glob=refs/cairn/*"])?;
        Ok(Bundle { file, ours: true })
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        if self.ours {
            // It lies in the checkout's git folder; one that stays is overwritten by the next.
            let _gone = std::fs::remove_file(&self.file);
        }
    }
}
