//! Marks: this machine's signed report of what it accepted, given to machined and to the other machines, and theirs read.

use crate::cluster::{ClusterError, HOW, Target};
use crate::machine::{Context, Machine, MachineError};
use crate::objects;
use controlplane_client::{Client, ClientError, Optional, Selection};
use gitsync_verify::limits::MAX_MARKS;
use gitsync_verify::{Mark, SignedMark, TrustState, recovery_step, root_step};
use machined_api::TrustPosition;
use machined_ids::{Epoch, Seq, StepId};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How often the marks of other machines are read: two stories are noticed within this time.
const PERIOD: Duration = Duration::from_secs(10);

/// What this machine says. Nothing where it began at an anchor: nobody knows the step before.
pub(crate) fn of(state: &TrustState, context: &Context) -> Option<Mark> {
    let (history, introduction) = (state.history(), state.introduction());
    let accepted = state.accepted();
    let parent = match history.len().checked_sub(2) {
        Some(before) => history[before].step,
        None if accepted.seq == Seq(0) && state.epoch() == Epoch(0) => root_step(introduction),
        None if accepted.seq == Seq(0) => recovery_step(introduction, state.epoch()),
        None => return None,
    };
    Some(Mark {
        cluster: introduction.cluster,
        deploy_ref: introduction.deploy_ref.clone(),
        epoch: state.epoch(),
        seq: accepted.seq,
        parent,
        step: accepted.step,
        commit: accepted.commit.clone(),
        machine: context.identity.clone(),
    })
}

/// Keeps machined's record at what is accepted.
#[derive(Debug, Default)]
pub(crate) struct Marker {
    /// What machined was told.
    told: Option<(Epoch, StepId)>,
    signed: Option<SignedMark>,
}

impl Marker {
    /// machined forgot the mark; its record of the position stays on disk.
    pub(crate) fn forget(&mut self) {
        self.told = None;
    }

    /// The mark that machined was told last.
    pub(crate) fn signed(&self) -> Option<&SignedMark> {
        self.signed.as_ref()
    }

    /// Tells machined, once for each step. When this returns, the position lies in machined's record on the disk.
    ///
    /// # Errors
    /// When machined does not answer, or remembers a later position.
    pub(crate) async fn tell(
        &mut self,
        machine: &Machine,
        state: &TrustState,
        context: &Context,
    ) -> Result<(), MachineError> {
        let accepted = state.accepted();
        if self.told == Some((state.epoch(), accepted.step)) {
            return Ok(());
        }
        let mut signed = None;
        if let Some(mark) = of(state, context) {
            let (signature, key) = machine.sign_mark(mark.body().into_bytes()).await?;
            let joined = SignedMark::join(&mark, &key, &signature);
            signed = joined.inspect_err(|refusal| tracing::error!(%refusal, "machined's mark is none")).ok();
        }
        let position = TrustPosition {
            epoch: state.epoch().0,
            seq: accepted.seq.0,
            step: accepted.step.to_string(),
            commit: accepted.commit.to_string(),
        };
        let text = signed.as_ref().map(|signed| signed.text().to_owned()).unwrap_or_default();
        machine.report_accepted(position, text).await?;
        (self.signed, self.told) = (signed, Some((state.epoch(), accepted.step)));
        Ok(())
    }
}

/// The marks of all machines, in the status of their objects.
#[derive(Debug, Default)]
pub(crate) struct Exchange {
    read: Option<Instant>,
    written: Option<SignedMark>,
}

impl Exchange {
    /// Puts this machine's mark where the others see it, and reads theirs; `None` when it is not time yet.
    ///
    /// # Errors
    /// [`ClusterError`]; the next round tries again.
    pub(crate) async fn round(
        &mut self,
        client: &Client,
        target: &Target,
        now: Instant,
    ) -> Result<Option<Vec<SignedMark>>, ClusterError> {
        if self.written != target.mark && self.write(client, target).await? {
            self.written.clone_from(&target.mark);
        }
        if self.read.is_some_and(|read| now.duration_since(read) < PERIOD) {
            return Ok(None);
        }
        let listed = client.dynamic(objects::machines(), None).list(&Selection::default()).await?;
        self.read = Some(now);
        let text = |status: &Value| status.get("mark").and_then(Value::as_str).map(str::to_owned);
        let texts = listed.items.iter().filter_map(|object| object.rest.get("status").and_then(text));
        let mut marks: Vec<_> = texts.filter_map(|text| SignedMark::parse(text.as_bytes()).ok()).collect();
        marks.sort();
        marks.truncate(MAX_MARKS);
        Ok(Some(marks))
    }

    /// Writes the own mark under a field manager of its own, so that whoever holds the Lease does not take it away. `false` while this
    /// machine's object is not there.
    async fn write(&self, client: &Client, target: &Target) -> Result<bool, ClientError> {
        let Some(mark) = &target.mark else { return Ok(true) };
        let name = target.machine.as_str();
        let api = client.dynamic(objects::machines(), None);
        if api.get(name).await.optional()?.is_none() {
            return Ok(false);
        }
        let kind = objects::machines();
        let object = json!({
            "apiVersion": kind.api_version(), "kind": kind.kind, "metadata": {"name": name},
            "status": {"mark": mark.text()},
        });
        let manager = format!("cairn-mark-{name}");
        let how = controlplane_client::Apply { manager: &manager, ..HOW };
        api.apply_status(name, &object, how).await.map(|_| true)
    }
}
