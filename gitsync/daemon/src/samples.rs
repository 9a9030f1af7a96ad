//! Signed statements for the unit tests of this crate.

use gitsync_verify::statement::{Beacon, Intent, Recovery, Release, Revoke};
use gitsync_verify::{DeployRef, SignedStatement, Statement};
use jiff::Timestamp;
use machined_ids::{ClusterId, CommitId, Digest, Epoch, Fingerprint, Seq, StepId, TreeHash};
use tests_support::authenticator::PlainKey;

/// The cluster of the tests; any other number is another cluster.
pub(crate) const OURS: u8 = 1;

pub(crate) fn cluster(number: u8) -> ClusterId {
    ClusterId::from_bytes([number; 16])
}

fn deploy_ref() -> DeployRef {
    DeployRef::parse("refs/heads/main").expect("because it is a branch")
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).expect("because it is in range")
}

/// Signs with the key that grows from `seed`.
pub(crate) fn signed(seed: u8, statement: &Statement) -> SignedStatement {
    let armour = PlainKey::from_seed([seed; 32]).sign(statement.namespace(), statement.body().as_bytes());
    SignedStatement::join(&statement.body(), &armour).expect("because it was just signed")
}

/// An approval of one of the steps that a number may have.
pub(crate) fn release(seed: u8, of: u8, seq: u64, step: u64) -> SignedStatement {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&step.to_be_bytes());
    let release = Release {
        cluster: cluster(of),
        deploy_ref: deploy_ref(),
        epoch: Epoch(0),
        seq: Seq(seq),
        parent: StepId::from_bytes([2; 32]),
        step: StepId::from_bytes(id),
        policy: TreeHash::from_bytes([3; 32]),
        not_after: None,
        intent: Intent::Release,
    };
    signed(seed, &Statement::Release(release))
}

/// A revocation of some key, made at a second.
pub(crate) fn revoke(seed: u8, key: u8, second: i64) -> SignedStatement {
    let key = Fingerprint::from_sha256(&[key; 32]);
    let revoke = Revoke { cluster: cluster(OURS), epoch: Epoch(0), key, last_good: Seq(0), issued: at(second) };
    signed(seed, &Statement::Revoke(revoke))
}

/// A beacon for a step, made at a second.
pub(crate) fn beacon(seed: u8, seq: u64, second: i64) -> SignedStatement {
    let beacon = Beacon {
        cluster: cluster(OURS),
        deploy_ref: deploy_ref(),
        epoch: Epoch(0),
        seq: Seq(seq),
        step: StepId::from_bytes([4; 32]),
        issued: at(second),
        expires: at(second + 60),
    };
    signed(seed, &Statement::Beacon(beacon))
}

/// A recovery that begins an epoch.
pub(crate) fn recovery(seed: u8, epoch: u64) -> SignedStatement {
    let recovery = Recovery {
        cluster: cluster(OURS),
        old_epoch: Epoch(0),
        new_epoch: Epoch(epoch),
        commit: CommitId::parse(&"a".repeat(40)).expect("because it is hex"),
        commit_sha256: Digest::from_bytes([5; 32]),
        deploy_ref: deploy_ref(),
        policy: TreeHash::from_bytes([6; 32]),
    };
    signed(seed, &Statement::Recovery(recovery))
}
