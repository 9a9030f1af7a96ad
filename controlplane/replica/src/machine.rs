//! Applies the ordered log to the state file and tells the watchers. Called by openraft only, one call at a time.

use crate::disk::{Applied, StateBatch, StateDisk};
use crate::image::Image;
use crate::level;
use crate::types::{Command, Entry, LogId, Member, MemberId, Membership, Reply, SnapshotMeta, Types};
use controlplane_store::{DiskError, EventBatch, Hub, LeaseId, LeaseProblem, View, machine};
use futures_util::{Stream, StreamExt};
use machined_ids::ClusterLevel;
use openraft::entry::RaftEntry;
use openraft::impls::TokioRuntime;
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine, Snapshot};
use openraft::{AsyncRuntime, EntryPayload, OptionalSend, RaftSnapshotBuilder};
use redb::Durability;
use std::io;
use std::marker::PhantomData;
use std::sync::Arc;

/// Log entries applied in one commit; bounds how long the first of them waits.
const GROUP_LIMIT: usize = 256;

/// Keys of a revoked lease that are deleted at one revision; writes have their turn before the next.
const REVOKE_LIMIT: usize = 256;

/// The state machine as openraft drives it. Clones share the file.
pub struct Machine<R = TokioRuntime> {
    disk: Arc<StateDisk>,
    hub: Arc<Hub>,
    speaks: ClusterLevel,
    runtime: PhantomData<fn() -> R>,
}

type SnapshotOf = Snapshot<openraft::type_config::alias::CommittedLeaderIdOf<Types>, MemberId, Member, Image>;

impl<R> Clone for Machine<R> {
    fn clone(&self) -> Self {
        Machine::new(Arc::clone(&self.disk), Arc::clone(&self.hub), self.speaks)
    }
}

impl<R> Machine<R> {
    pub(crate) fn new(disk: Arc<StateDisk>, hub: Arc<Hub>, speaks: ClusterLevel) -> Self {
        Machine { disk, hub, speaks, runtime: PhantomData }
    }
}

impl<R: AsyncRuntime> Machine<R> {
    /// Runs something that blocks on the disk beside the async tasks.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&StateDisk) -> Result<T, DiskError> + Send + 'static,
    ) -> io::Result<T> {
        let disk = Arc::clone(&self.disk);
        R::spawn_blocking(move || work(&disk)).await?.map_err(io::Error::other)
    }

    async fn snapshot(&self) -> io::Result<SnapshotOf> {
        self.blocking(|disk| {
            disk.sync()?;
            let view = disk.snapshot()?;
            let (last_log_id, last_membership) = view.applied()?;
            Ok(Snapshot { meta: SnapshotMeta { last_log_id, last_membership }, snapshot: Image::of(view) })
        })
        .await
    }
}

/// What a group of entries came to.
struct Outcome<R: AsyncRuntime> {
    replies: Vec<(ApplyResponder<Types<R>>, Reply)>,
    events: Vec<EventBatch>,
}

fn apply_command(
    batch: &mut StateBatch<'_>,
    command: Command,
    events: &mut Vec<EventBatch>,
) -> Result<Reply, DiskError> {
    let of = |lease: LeaseId| move |problem: LeaseProblem| Reply::Refused(lease, problem);
    Ok(match command {
        Command::Txn(txn) => match machine::apply(batch, &txn)? {
            machine::Applied::NoLease(lease) => Reply::Refused(lease, LeaseProblem::Missing),
            machine::Applied::Ran { answer, events: changed } => {
                events.extend(changed);
                Reply::Answer(answer)
            }
        },
        Command::Compact(oldest) => {
            machine::compact(batch, oldest)?;
            Reply::Applied
        }
        Command::Grant { lease, seconds } => {
            machine::grant(batch, lease, seconds)?.map_or_else(of(lease), |()| Reply::Applied)
        }
        Command::Renew(lease) => machine::renew(batch, lease)?.map_or_else(of(lease), |()| Reply::Applied),
        Command::Revoke { lease, stamp } if renewed_since(batch, lease, stamp)? => {
            Reply::Refused(lease, LeaseProblem::Renewed)
        }
        Command::Revoke { lease, .. } => match machine::revoke(batch, lease, REVOKE_LIMIT)? {
            Ok(revoked) => {
                events.extend(revoked.events);
                if revoked.more { Reply::More } else { Reply::Applied }
            }
            Err(problem) => Reply::Refused(lease, problem),
        },
    })
}

fn renewed_since(view: &dyn View, lease: LeaseId, stamp: Option<u64>) -> Result<bool, DiskError> {
    let Some(newest) = stamp else { return Ok(false) };
    Ok(machine::lease(view, lease)?.is_some_and(|lease| lease.stamp > newest))
}

fn apply_group<R: AsyncRuntime>(
    disk: &StateDisk,
    group: Vec<EntryResponder<Types<R>>>,
    speaks: ClusterLevel,
) -> Result<Outcome<R>, DiskError> {
    let (mut last, mut membership) = disk.snapshot()?.applied()?;
    let mut outcome = Outcome { replies: Vec::new(), events: Vec::new() };
    disk.commit_applied(group.len(), |batch| {
        for (entry, responder) in group {
            let log_id = entry.log_id();
            let reply = match entry.payload {
                EntryPayload::Blank => Reply::Applied,
                EntryPayload::Membership(members) => {
                    membership = Membership::new(Some(log_id), members);
                    Reply::Applied
                }
                EntryPayload::Normal(command) => {
                    let raised = level::changes(&command);
                    let reply = apply_command(batch, command, &mut outcome.events)?;
                    if raised {
                        // Nothing of this group is applied then: what follows is not for this release.
                        level::check(batch, speaks)?;
                    }
                    reply
                }
            };
            last = Some(log_id);
            outcome.replies.extend(responder.map(|responder| (responder, reply)));
        }
        batch.set_applied(&(last, membership))
    })?;
    Ok(outcome)
}

impl<R: AsyncRuntime> RaftStateMachine<Types<R>> for Machine<R> {
    type SnapshotData = Image;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), io::Error> {
        self.blocking(|disk| -> Result<Applied, DiskError> { disk.snapshot()?.applied() }).await
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types<R>>, io::Error>> + Unpin + OptionalSend,
    {
        let mut groups = entries.ready_chunks(GROUP_LIMIT);
        while let Some(group) = groups.next().await {
            let group = group.into_iter().collect::<Result<Vec<(Entry, _)>, _>>()?;
            let speaks = self.speaks;
            let outcome = self.blocking(move |disk| apply_group(disk, group, speaks)).await?;
            // Watchers first: whoever learns of the write and then watches must not see it again.
            for batch in &outcome.events {
                self.hub.publish(batch);
            }
            for (responder, reply) in outcome.replies {
                responder.send(reply);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Image) -> Result<(), io::Error> {
        let (applied, speaks) = ((meta.last_log_id, meta.last_membership.clone()), self.speaks);
        let position = self
            .blocking(move |disk| {
                disk.commit(Durability::Immediate, |batch| {
                    level::check(snapshot.view(), speaks)?;
                    batch.replace_with(snapshot.view())?;
                    batch.set_applied(&applied)?;
                    machine::position(batch)
                })
            })
            .await?;
        self.hub.reset(position.revision);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf>, io::Error> {
        let snapshot = self.snapshot().await?;
        Ok(snapshot.meta.last_log_id.is_some().then_some(snapshot))
    }
}

impl<R: AsyncRuntime> RaftSnapshotBuilder<Types<R>> for Machine<R> {
    type SnapshotData = Image;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf, io::Error> {
        Machine::snapshot(self).await
    }
}
