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
use gitsync_verify::{Introduction, Mark, SignedMark, TrustState};
use machined_config::{Member, Role};
use machined_ids::{Fingerprint, MachineName};
use machined_reconcile::story;
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

/// How long a machine that comes back waits to hear the others before it follows its sources without: about as long as a control plane
/// takes to start. Not for ever, or a cluster whose control plane is broken could not be repaired by a commit.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the machines said.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Heard {
    /// Everybody's, this machine's own as well: what it said before an old copy of its disk was put back.
    pub(crate) marks: Vec<SignedMark>,
    /// Statements that other machines of the applied step serve, by the name of their object. Not read yet.
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
    /// What control-plane machines served when they were read last.
    served: BTreeSet<String>,
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
        let mut said = Said { mark: target.mark.clone(), statements: target.statements.clone() };
        if target.role == Role::Worker {
            // There may be many workers: each says what the control plane does not say already, once it has heard it.
            said.statements.retain(|text| !self.served.contains(text));
        }
        let silent = target.role == Role::Worker && self.read.is_none();
        if !silent && self.written.as_ref() != Some(&said) && write(client, target, &said).await? {
            self.written = Some(said);
        }
        if self.read.is_some_and(|read| now.duration_since(read) < PERIOD) {
            return Ok(None);
        }
        let (mut heard, mut seen, mut token) = (Heard::default(), 0, None);
        let mut served = BTreeSet::new();
        loop {
            let api = client.dynamic(objects::machines(), None);
            let page = api.list_page(&Selection::default(), PAGE, token.as_deref()).await?;
            seen += page.items.len();
            token = page.next_page().map(str::to_owned);
            for object in &page.items {
                if is_control_plane(object, target) {
                    served.extend(texts_of(object).1);
                }
                heard.take(object, target);
            }
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
        self.served = served;
        heard.marks.sort();
        heard.marks.truncate(MAX_MARKS);
        Ok(Some(heard))
    }
}

impl Said {
    /// Whether a mark is this machine's, of this cluster, and further than what it says now.
    fn is_behind(&self, before: &Mark, target: &Target) -> bool {
        let here = self.mark.as_ref().map_or(target.accepted, |mark| mark.mark().place());
        let cluster = target.desired.documents.cluster.id;
        before.machine == target.identity && before.cluster == cluster && before.place() > here
    }

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
    /// What a machine said last of the history that a state is of.
    pub(crate) fn newest_of<'a>(&'a self, machine: &Fingerprint, state: &TrustState) -> Option<&'a Mark> {
        let introduction = state.introduction();
        let marks = self.marks.iter().map(SignedMark::mark).filter(|mark| {
            (&mark.machine, mark.cluster, &mark.deploy_ref) == (machine, introduction.cluster, &introduction.deploy_ref)
        });
        marks.max_by_key(|mark| mark.place())
    }

    fn take(&mut self, object: &DynamicObject, target: &Target) {
        let (mark, statements) = texts_of(object);
        self.marks.extend(mark.and_then(|text| SignedMark::parse(text.as_bytes()).ok()));
        let machines = &target.desired.documents.machines;
        let peer = machines.iter().find(|(name, _)| name.as_str() == object.name());
        if let Some((name, _)) = peer
            && *name != target.machine
            && !statements.is_empty()
        {
            self.statements.insert(name.clone(), statements);
        }
    }
}

/// Whether an object is another control-plane machine's.
fn is_control_plane(object: &DynamicObject, target: &Target) -> bool {
    let machines = &target.desired.documents.machines;
    let named = machines.iter().find(|(name, _)| name.as_str() == object.name() && **name != target.machine);
    named.is_some_and(|(_, machine)| machine.config.role == Role::ControlPlane)
}

/// Writes what this machine says under a field manager of its own, so that whoever holds the Lease does not take it away. `false` while
/// this machine's object is not there, or holds a mark of this machine that is further than the one it has now: only an old copy of its
/// disk explains that, and overwriting the mark would destroy what shows it.
async fn write(client: &Client, target: &Target, said: &Said) -> Result<bool, ClientError> {
    let name = target.machine.as_str();
    let api = client.dynamic(objects::machines(), None);
    let Some(object) = api.get(name).await.optional()? else { return Ok(false) };
    let before = texts_of(&object).0.and_then(|text| SignedMark::parse(text.as_bytes()).ok());
    if before.is_some_and(|before| said.is_behind(before.mark(), target)) {
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
    /// Whether nothing new is followed yet: this process found a recorded state, which may be an old copy, and the other machines, which
    /// would know, were not heard yet. What the state says was applied is handed down again, and its cluster is asked.
    pub(crate) async fn waits_for_peers(&mut self, context: &Context, moment: &Moment) -> Result<bool, SourceError> {
        let Some(since) = self.came_back else { return Ok(false) };
        let waited = moment.instant.saturating_duration_since(since);
        if self.wires.heard.borrow().is_none() && waited < PATIENCE {
            match self.follow(None, context, moment).await {
                Ok(()) if self.has_peers(context) => return Ok(true),
                Ok(()) => {}
                Err(error) => tracing::debug!(error = story(&error), "what was applied is looked for at the sources"),
            }
        }
        self.came_back = None;
        Ok(false)
    }

    /// Whether another machine of what is applied could have said something that this one can read.
    fn has_peers(&self, context: &Context) -> bool {
        let Some(applied) = &self.applied else { return false };
        let machines = &applied.documents.machines;
        let own = |machine: &Member| machine.config.identity == context.identity;
        let is = |machine: &Member| machine.config.role == Role::ControlPlane;
        machines.values().any(own) && machines.values().any(|machine| is(machine) && !own(machine))
    }

    /// Takes what the other machines said, when it is something else than before. Gives whether every source's tip must be judged again.
    pub(crate) async fn hear_peers(
        &mut self,
        introduction: &Introduction,
        context: &Context,
        moment: &Moment,
    ) -> Result<bool, SourceError> {
        let Some(heard) = self.wires.heard.borrow_and_update().clone() else { return Ok(false) };
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
