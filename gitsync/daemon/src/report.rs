//! Tells machined what happened: each fact once, and everything again after machined restarted.

use crate::book::{Book, Judged};
use crate::machine::{Machine, MachineError};
use machined_api::{Condition, WaitingRecovery};
use std::collections::BTreeMap;

/// Conditions that gitsync reports, each with one type for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Topic {
    /// The recorded trust state is one that this machine wrote.
    StateTrusted,
    /// Some repository answers.
    SourceReachable,
    /// The branch's tip was refused.
    CommitRefused,
    /// A document of the accepted step names this machine.
    Enrolled,
    /// The cluster's objects are as the applied step says.
    ClusterSynced,
    /// Something else runs than the newest accepted step.
    Drift,
    /// The newest accepted step did not become healthy.
    Reverted,
    /// The hold or pin that people ordered is followed.
    OrderFollowed,
    /// The last beacon has ended.
    SourceStale,
    /// A beacon names a step that no source delivers.
    SourceWithheld,
    /// Nothing says that what the source offers is the newest.
    FreshnessUnproven,
    /// The cluster was told two stories.
    Equivocation,
    /// A break-glass waits to be ratified.
    BreakGlass,
    /// A recovery waits for its time.
    RecoveryWaits,
    /// Nothing would show that an old copy of the disk was put back.
    RollbackUndetectable,
}

impl Topic {
    const fn as_str(self) -> &'static str {
        match self {
            Topic::StateTrusted => "StateTrusted",
            Topic::SourceReachable => "SourceReachable",
            Topic::CommitRefused => "CommitRefused",
            Topic::Enrolled => "Enrolled",
            Topic::ClusterSynced => "ClusterSynced",
            Topic::Drift => "Drift",
            Topic::Reverted => "Reverted",
            Topic::OrderFollowed => "OrderFollowed",
            Topic::SourceStale => "SourceStale",
            Topic::SourceWithheld => "SourceWithheld",
            Topic::FreshnessUnproven => "FreshnessUnproven",
            Topic::Equivocation => "Equivocation",
            Topic::BreakGlass => "BreakGlass",
            Topic::RecoveryWaits => "RecoveryWaits",
            Topic::RollbackUndetectable => "RollbackUndetectable",
        }
    }
}

/// A condition: whether, why in one word, and for people.
pub(crate) fn condition(topic: Topic, status: bool, reason: &str, message: impl Into<String>) -> Condition {
    Condition { r#type: topic.as_str().to_owned(), status, reason: reason.to_owned(), message: message.into() }
}

/// What machined was told.
#[derive(Debug)]
pub(crate) struct Reporter {
    machine: Machine,
    commits: BTreeMap<String, Judged>,
    conditions: BTreeMap<String, Condition>,
    /// Nothing was told yet: `None`.
    recoveries: Option<Vec<WaitingRecovery>>,
}

impl Reporter {
    pub(crate) fn new(machine: Machine) -> Self {
        Reporter { machine, commits: BTreeMap::new(), conditions: BTreeMap::new(), recoveries: None }
    }

    /// machined forgot everything: the next reports tell all of it again.
    pub(crate) fn forget(&mut self) {
        self.commits.clear();
        self.conditions.clear();
        self.recoveries = None;
    }

    /// Tells which recoveries wait if others do.
    pub(crate) async fn recoveries(&mut self, waiting: Vec<WaitingRecovery>) -> Result<(), MachineError> {
        if self.recoveries.as_ref() != Some(&waiting) {
            self.machine.report_recoveries(waiting.clone()).await?;
            self.recoveries = Some(waiting);
        }
        Ok(())
    }

    /// Tells what is new in the book, oldest first.
    pub(crate) async fn book(&mut self, book: &Book) -> Result<(), MachineError> {
        for judged in book.iter().rev() {
            let key = judged.commit.to_string();
            if self.commits.get(&key) != Some(judged) {
                self.machine.report_commit(judged.record()).await?;
                self.commits.insert(key, judged.clone());
            }
        }
        self.commits.retain(|key, _| book.iter().any(|judged| judged.commit.as_str() == key));
        Ok(())
    }

    /// Tells a condition if it changed.
    pub(crate) async fn condition(&mut self, condition: Condition) -> Result<(), MachineError> {
        if self.conditions.get(&condition.r#type) != Some(&condition) {
            self.machine.report_condition(condition.clone()).await?;
            self.conditions.insert(condition.r#type.clone(), condition);
        }
        Ok(())
    }
}
