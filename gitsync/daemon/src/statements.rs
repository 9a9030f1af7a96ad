//! Statements that came beside the commits, from any source, until they count or are of no use any more. In memory: sources keep them.

use gitsync_verify::limits::MAX_STATEMENTS;
use gitsync_verify::{SignedStatement, Statement, TrustState};
use std::collections::VecDeque;

/// Statements that are kept; beyond it the oldest goes. A source that floods others out could as well serve none.
const MAX_KEPT: usize = 1024;

/// Of the statements that one judgement looks at: recoveries, revocations and beacons. Approvals have the rest.
const SHARES: [usize; 3] = [16, 64, 32];

/// What came, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Pool(VecDeque<SignedStatement>);

impl Pool {
    /// Takes a blob; gives the statement when it is one and is new.
    pub(crate) fn add(&mut self, bytes: &[u8]) -> Option<&SignedStatement> {
        let statement = match SignedStatement::parse(bytes) {
            Ok(statement) => statement,
            Err(refusal) => {
                tracing::debug!(reason = %refusal.reason, "a blob under refs/cairn/ is no statement");
                return None;
            }
        };
        if self.0.contains(&statement) {
            return None;
        }
        if self.0.len() >= MAX_KEPT {
            self.0.pop_front();
        }
        self.0.push_back(statement);
        self.0.back()
    }

    /// Lets go of approvals for steps that are accepted.
    pub(crate) fn forget_accepted(&mut self, state: &TrustState) {
        let here = (state.epoch(), state.accepted().seq);
        self.0.retain(|signed| match signed.statement() {
            Statement::Release(release) => (release.epoch, release.seq) > here,
            Statement::Beacon(beacon) => beacon.epoch >= here.0,
            Statement::Revoke(_) | Statement::Recovery(_) => true,
        });
    }

    /// The statements for one judgement: what stops something first, newest beacons, then approvals of the next steps.
    pub(crate) fn offer(&self) -> Vec<SignedStatement> {
        let kind = |signed: &&SignedStatement| match signed.statement() {
            Statement::Recovery(_) => 0,
            Statement::Revoke(_) => 1,
            Statement::Beacon(_) => 2,
            Statement::Release(_) => 3,
        };
        let mut offered = Vec::new();
        for (number, share) in SHARES.into_iter().enumerate() {
            offered.extend(self.0.iter().rev().filter(|signed| kind(signed) == number).take(share).cloned());
        }
        let mut releases: Vec<_> = self.0.iter().filter(|signed| kind(signed) == 3).collect();
        releases.sort_by_key(|signed| match signed.statement() {
            Statement::Release(release) => Some((release.epoch, release.seq)),
            Statement::Beacon(_) | Statement::Revoke(_) | Statement::Recovery(_) => None,
        });
        offered.extend(releases.into_iter().take(MAX_STATEMENTS - offered.len()).cloned());
        offered
    }

    /// Commits that recoveries name: their objects are needed although no accepted commit leads there.
    pub(crate) fn recoveries(&self) -> impl Iterator<Item = &machined_ids::CommitId> {
        self.0.iter().filter_map(|signed| match signed.statement() {
            Statement::Recovery(recovery) => Some(&recovery.commit),
            Statement::Release(_) | Statement::Beacon(_) | Statement::Revoke(_) => None,
        })
    }
}
