//! What machines of a cluster tell each other, in the status of their objects: their mark, and the statements that they accepted with.
//!
//! ```text
//! source --Target--> Exchange --status of the own object--> API server --status of every object--> Exchange --Heard--> source
//! ```
//!
//! An object says nothing about who wrote it: a mark is its machine's by its signature, and a statement counts by its own. What a
//! hostile machine writes here costs a bounded number of signature checks.

use crate::cluster::{ClusterError, HOW, Target};
use crate::kept::{Kind, MAX_SERVED_BYTES};
use crate::machine::Context;
use crate::objects;
use crate::source::{Moment, Source, SourceError};
use crate::statements::{Giver, Here};
use controlplane_client::{Client, ClientError, DynamicObject, Object, Optional, Selection};
use gitsync_verify::limits::{MAX_MARKS, MAX_STATEMENT_BYTES, MAX_STATEMENTS};
use gitsync_verify::{Introduction, SignedMark};
use machined_config::Role;
use machined_ids::MachineName;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often what the other machines say is read: two stories are noticed within this time.
const PERIOD: Duration = Duration::from_secs(10);

/// Objects of machines that are read: as many as their marks count.
const MAX_MACHINES: usize = MAX_MARKS;

/// Objects in one answer: at the API's largest, an answer that the client still takes.
const PAGE: usize = 16;

/// What the machines said.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Heard {
    /// Everybody's, this machine's own as well: what it said before an old copy of its disk was put back.
    pub(crate) marks: Vec<SignedMark>,
    /// Statements that control-plane machines serve, by the name of their object. Not read yet.
    pub(crate) statements: BTreeMap<MachineName, Vec<String>>,
}

/// What was written of this machine: its mark, and the statements.
#[derive(Debug, Clone, Default, PartialEq)]
struct Said {
    mark: Option<SignedMark>,
    statements: Vec<String>,
}

/// The objects of all machines.
#[derive(Debug, Default)]
pub(crate) struct Exchange {
    read: Option<Instant>,
    written: Option<Said>,
}

impl Exchange {
    /// Puts what this machine says where the others see it, and reads what they say; `None` when it is not time yet.
    ///
    /// # Errors
    /// [`ClusterError`]; the next round tries again.
    pub(crate) async fn round(
        &mut self,
        client: &Client,
        target: &Target,
        now: Instant,
    ) -> Result<Option<Heard>, ClusterError> {
        let said = Said { mark: target.mark.clone(), statements: target.statements.clone() };
        if self.written.as_ref() != Some(&said) && write(client, target, &said).await? {
            self.written = Some(said);
        }
        if self.read.is_some_and(|read| now.duration_since(read) < PERIOD) {
            return Ok(None);
        }
        let (mut heard, mut seen, mut token) = (Heard::default(), 0, None);
        loop {
            let api = client.dynamic(objects::machines(), None);
            let page = api.list_page(&Selection::default(), PAGE, token.as_deref()).await?;
            seen += page.items.len();
            token = page.next_page().map(str::to_owned);
            page.items.iter().for_each(|object| heard.take(object, target));
            if let Some(own) = page.items.iter().find(|object| object.name() == target.machine.as_str())
                && Some(texts_of(own)) != self.written.as_ref().map(Said::texts)
            {
                // Somebody took it away; the next round says it again.
                self.written = None;
            }
            if token.is_none() || seen >= MAX_MACHINES {
                break;
            }
        }
        self.read = Some(now);
        heard.marks.sort();
        heard.marks.truncate(MAX_MARKS);
        Ok(Some(heard))
    }
}

impl Said {
    /// As an object holds it.
    fn texts(&self) -> (Option<String>, Vec<String>) {
        (self.mark.as_ref().map(|mark| mark.text().to_owned()), self.statements.clone())
    }
}

fn texts_of(object: &DynamicObject) -> (Option<String>, Vec<String>) {
    let status = object.rest.get("status");
    let mark = status.and_then(|status| status.get("mark")).and_then(Value::as_str).map(str::to_owned);
    let statements = status.and_then(|status| status.get("statements")).and_then(Value::as_array);
    let texts = statements.into_iter().flatten().filter_map(Value::as_str).take(MAX_STATEMENTS);
    let mut left = MAX_SERVED_BYTES;
    let fitting = texts.filter(|text| text.len() <= MAX_STATEMENT_BYTES).map_while(|text| {
        left = left.checked_sub(text.len())?;
        Some(text.to_owned())
    });
    (mark, fitting.collect())
}

impl Heard {
    fn take(&mut self, object: &DynamicObject, target: &Target) {
        let (mark, statements) = texts_of(object);
        self.marks.extend(mark.and_then(|text| SignedMark::parse(text.as_bytes()).ok()));
        let machines = &target.desired.documents.machines;
        let peer = machines.iter().find(|(name, _)| name.as_str() == object.name());
        if let Some((name, _)) = peer.filter(|(_, machine)| machine.config.role == Role::ControlPlane)
            && *name != target.machine
            && !statements.is_empty()
        {
            self.statements.insert(name.clone(), statements);
        }
    }
}

/// Writes what this machine says under a field manager of its own, so that whoever holds the Lease does not take it away. `false` while
/// this machine's object is not there.
async fn write(client: &Client, target: &Target, said: &Said) -> Result<bool, ClientError> {
    let name = target.machine.as_str();
    let api = client.dynamic(objects::machines(), None);
    if api.get(name).await.optional()?.is_none() {
        return Ok(false);
    }
    let kind = objects::machines();
    let mut status = json!({"statements": said.statements});
    if let Some(mark) = &said.mark {
        status["mark"] = json!(mark.text());
    }
    let object = json!({
        "apiVersion": kind.api_version(), "kind": kind.kind, "metadata": {"name": name}, "status": status,
    });
    let manager = format!("cairn-mark-{name}");
    let how = controlplane_client::Apply { manager: &manager, ..HOW };
    api.apply_status(name, &object, how).await.map(|_| true)
}

impl Source {
    /// Takes what the other machines said, when it is something else than before. Gives whether every source's tip must be judged again.
    pub(crate) async fn hear_peers(
        &mut self,
        introduction: &Introduction,
        context: &Context,
        moment: &Moment,
    ) -> Result<bool, SourceError> {
        let heard = Arc::clone(&self.wires.heard.borrow_and_update());
        let before = std::mem::replace(&mut self.taken_in, Arc::clone(&heard));
        if Arc::ptr_eq(&before, &heard) {
            return Ok(false);
        }
        let here = Here::of(introduction, self.state.as_ref());
        let mut news = BTreeSet::new();
        for (name, texts) in &heard.statements {
            if before.statements.get(name) != Some(texts) {
                news.extend(self.pool.serve(&Giver::Peer(name.clone()), texts, &here));
            }
        }
        if news.iter().any(|kind| *kind != Kind::Release) {
            self.judge_accepted(introduction, context, moment).await?;
        }
        Ok(!news.is_empty() || before.marks != heard.marks)
    }

    /// Judges what is accepted already with the statements that came: a key that was revoked is stopped, and a beacon heard, also while no
    /// git host answers.
    async fn judge_accepted(
        &mut self,
        introduction: &Introduction,
        context: &Context,
        moment: &Moment,
    ) -> Result<(), SourceError> {
        let Some(accepted) = self.state.as_ref().map(|state| state.accepted().commit.clone()) else { return Ok(()) };
        match self.sources.again(introduction, context.repositories.len(), &accepted).await {
            Ok(objects) => {
                if let Some(refusal) = self.judge(introduction, context, moment, (&accepted, &objects)).await? {
                    tracing::debug!(%refusal, "what other machines serve stops at the accepted commit");
                }
            }
            Err(error) => tracing::debug!(%error, "the accepted commit is not here; the next look judges what came"),
        }
        Ok(())
    }
}
