//! etcd's transactions on the store's.
//!
//! The store compares a key's last revision and nothing else. A transaction whose compares all ask that is handed on as it is, which is
//! what Kubernetes does. For any other the compared keys are read, the compares are decided here, and the store runs the branch on the
//! condition that none of these keys was written since; otherwise it begins again.

use crate::error::{no_key, not_here, status};
use crate::kv::ATTEMPTS;
use crate::lease::lease_id;
use crate::pb::{
    self,
    compare::{CompareResult, CompareTarget, TargetUnion},
    request_op, response_op,
};
use crate::wire::{header, key_value, keys, number};
use bytes::Bytes;
use controlplane_replica::Replica;
use controlplane_store::{Condition, Consistency, Entry, Op, OpAnswer, RangeRequest, Store, Txn};
use machined_ids::Revision;
use std::vec::IntoIter;
use tonic::Status;

/// How the answers of one operation become etcd's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Range { keys_only: bool, count_only: bool },
    Put { previous: bool },
    Delete { previous: bool },
}

impl Shape {
    /// The entry before a put, where it was asked for; takes the put's answers.
    pub(crate) fn previous(self, ops: &mut IntoIter<OpAnswer>) -> Option<pb::KeyValue> {
        let mut found = None;
        if self == (Shape::Put { previous: true })
            && let Some(OpAnswer::Got(entry)) = ops.next()
        {
            found = entry.map(key_value);
        }
        ops.next();
        found
    }

    fn response(self, ops: &mut IntoIter<OpAnswer>, revision: Revision) -> pb::ResponseOp {
        let header = header(revision);
        let response = match self {
            Shape::Put { .. } => {
                response_op::Response::ResponsePut(pb::PutResponse { header, prev_kv: self.previous(ops) })
            }
            Shape::Range { keys_only, count_only } => {
                let entry = match ops.next() {
                    Some(OpAnswer::Got(entry)) => entry,
                    Some(OpAnswer::Put(_) | OpAnswer::Deleted(_)) | None => None,
                };
                let count = i64::from(entry.is_some());
                let mut kvs: Vec<_> = entry.filter(|_| !count_only).map(key_value).into_iter().collect();
                if keys_only {
                    kvs.iter_mut().for_each(|kv| kv.value.clear());
                }
                response_op::Response::ResponseRange(pb::RangeResponse { header, kvs, more: false, count })
            }
            Shape::Delete { previous } => {
                let entry = match ops.next() {
                    Some(OpAnswer::Deleted(entry)) => entry,
                    Some(OpAnswer::Put(_) | OpAnswer::Got(_)) | None => None,
                };
                let deleted = i64::from(entry.is_some());
                let prev_kvs = entry.filter(|_| previous).map(key_value).into_iter().collect();
                response_op::Response::ResponseDeleteRange(pb::DeleteRangeResponse { header, deleted, prev_kvs })
            }
        };
        pb::ResponseOp { response: Some(response) }
    }
}

/// A put as operations of the store.
pub(crate) fn put(request: pb::PutRequest) -> Result<(Vec<Op>, Shape), Status> {
    let pb::PutRequest { key, value, lease, prev_kv, ignore_value, ignore_lease } = request;
    if key.is_empty() {
        return Err(no_key());
    }
    if ignore_value || ignore_lease {
        return Err(not_here("a put that keeps the value or the lease"));
    }
    let before = prev_kv.then(|| Op::Get(key.clone()));
    let put = match lease {
        0 => Op::Put(key, value),
        lease => Op::PutLeased(key, value, lease_id(lease)),
    };
    Ok((before.into_iter().chain([put]).collect(), Shape::Put { previous: prev_kv }))
}

/// A branch as operations of the store.
fn branch(requests: Vec<pb::RequestOp>) -> Result<(Vec<Op>, Vec<Shape>), Status> {
    let (mut ops, mut shapes) = (Vec::new(), Vec::new());
    for request in requests {
        let (more, shape) = match request.request {
            Some(request_op::Request::RequestPut(request)) => put(request)?,
            Some(request_op::Request::RequestRange(request)) => {
                if !request.range_end.is_empty() || request.revision != 0 {
                    return Err(not_here("a range or an older revision inside a transaction"));
                }
                keys(request.key.clone(), Bytes::new())?;
                let shape = Shape::Range { keys_only: request.keys_only, count_only: request.count_only };
                (vec![Op::Get(request.key)], shape)
            }
            Some(request_op::Request::RequestDeleteRange(request)) => {
                if !request.range_end.is_empty() {
                    return Err(not_here("deleting a range inside a transaction"));
                }
                keys(request.key.clone(), Bytes::new())?;
                (vec![Op::Delete(request.key)], Shape::Delete { previous: request.prev_kv })
            }
            Some(request_op::Request::RequestTxn(_)) => return Err(not_here("a transaction inside a transaction")),
            None => return Err(Status::invalid_argument("etcdserver: an operation is empty")),
        };
        ops.extend(more);
        shapes.push(shape);
    }
    Ok((ops, shapes))
}

/// A compare that the store does itself: the key's last revision, or that it does not exist.
fn direct(compare: &pb::Compare) -> Option<Condition> {
    let equal = compare.result() == CompareResult::Equal;
    let revision = match (compare.target(), &compare.target_union) {
        (CompareTarget::Mod, Some(TargetUnion::ModRevision(revision))) => *revision,
        // A key that was never created has no version.
        (CompareTarget::Create, Some(TargetUnion::CreateRevision(0)))
        | (CompareTarget::Version, Some(TargetUnion::Version(0))) => 0,
        _ => return None,
    };
    let revision = Revision(u64::try_from(revision).ok()?);
    equal.then(|| Condition::Modified(compare.key.clone(), revision))
}

/// Whether a compare holds for what is under its key; a key that is not there has zeros, and no value that compares.
fn holds(compare: &pb::Compare, entry: Option<&Entry>) -> Result<bool, Status> {
    let field = |of: fn(&Entry) -> u64| number(entry.map_or(0, of));
    let ordering = match (compare.target(), &compare.target_union) {
        (CompareTarget::Version, Some(TargetUnion::Version(wanted))) => field(|e| e.version).cmp(wanted),
        (CompareTarget::Create, Some(TargetUnion::CreateRevision(wanted))) => field(|e| e.created.0).cmp(wanted),
        (CompareTarget::Mod, Some(TargetUnion::ModRevision(wanted))) => field(|e| e.modified.0).cmp(wanted),
        (CompareTarget::Lease, Some(TargetUnion::Lease(_))) => return Err(not_here("a compare of leases")),
        (CompareTarget::Value, Some(TargetUnion::Value(wanted))) => match entry {
            Some(entry) => entry.value.cmp(wanted),
            None => return Ok(false),
        },
        // As protobuf leaves a zero out.
        (CompareTarget::Version, None) => field(|e| e.version).cmp(&0),
        (CompareTarget::Create, None) => field(|e| e.created.0).cmp(&0),
        (CompareTarget::Mod, None) => field(|e| e.modified.0).cmp(&0),
        _ => return Err(Status::invalid_argument("etcdserver: a compare's target and value do not fit")),
    };
    Ok(match compare.result() {
        CompareResult::Equal => ordering.is_eq(),
        CompareResult::Greater => ordering.is_gt(),
        CompareResult::Less => ordering.is_lt(),
        CompareResult::NotEqual => ordering.is_ne(),
    })
}

pub(crate) async fn run(store: &Replica, request: pb::TxnRequest) -> Result<pb::TxnResponse, Status> {
    let pb::TxnRequest { compare, success, failure } = request;
    for compare in &compare {
        if !compare.range_end.is_empty() {
            return Err(not_here("a compare over a range"));
        }
        keys(compare.key.clone(), Bytes::new())?;
    }
    let (success, failure) = (branch(success)?, branch(failure)?);
    if let Some(conditions) = compare.iter().map(direct).collect::<Option<Vec<_>>>() {
        let txn = Txn { conditions, then: success.0, otherwise: failure.0 };
        let answer = store.txn(txn).await.map_err(status)?;
        let shapes = if answer.succeeded { success.1 } else { failure.1 };
        return Ok(respond(answer.succeeded, answer.revision, shapes, answer.ops));
    }
    for _ in 0..ATTEMPTS {
        let (conditions, succeeded) = decide(store, &compare).await?;
        let (ops, shapes) = if succeeded { &success } else { &failure };
        let txn = Txn { conditions, then: ops.clone(), otherwise: Vec::new() };
        let answer = store.txn(txn).await.map_err(status)?;
        if answer.succeeded {
            return Ok(respond(succeeded, answer.revision, shapes.clone(), answer.ops));
        }
    }
    Err(Status::aborted("etcd-facade: others kept writing to the compared keys"))
}

/// Reads what is compared, and gives what must not have changed since, and whether all compares hold.
async fn decide(store: &Replica, compares: &[pb::Compare]) -> Result<(Vec<Condition>, bool), Status> {
    let (mut conditions, mut succeeded) = (Vec::new(), true);
    for compare in compares {
        let range = RangeRequest::key(compare.key.clone());
        let found = store.range(range, Consistency::Linearizable).await.map_err(status)?;
        let entry = found.entries.first();
        succeeded &= holds(compare, entry)?;
        let modified = entry.map_or(Revision(0), |entry| entry.modified);
        conditions.push(Condition::Modified(compare.key.clone(), modified));
    }
    Ok((conditions, succeeded))
}

fn respond(succeeded: bool, revision: Revision, shapes: Vec<Shape>, ops: Vec<OpAnswer>) -> pb::TxnResponse {
    let mut ops = ops.into_iter();
    let responses = shapes.into_iter().map(|shape| shape.response(&mut ops, revision)).collect();
    pb::TxnResponse { header: header(revision), succeeded, responses }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(result: CompareResult, target: CompareTarget, target_union: TargetUnion) -> pb::Compare {
        pb::Compare {
            result: result.into(),
            target: target.into(),
            key: Bytes::from_static(b"k"),
            target_union: Some(target_union),
            range_end: Bytes::new(),
        }
    }

    #[test]
    fn the_store_does_what_kubernetes_asks_by_itself() {
        let equal = |target, union| direct(&compare(CompareResult::Equal, target, union));
        let condition = |revision| Some(Condition::Modified(Bytes::from_static(b"k"), Revision(revision)));
        assert_eq!(equal(CompareTarget::Mod, TargetUnion::ModRevision(7)), condition(7));
        assert_eq!(equal(CompareTarget::Create, TargetUnion::CreateRevision(0)), condition(0));
        assert_eq!(equal(CompareTarget::Create, TargetUnion::CreateRevision(3)), None);
        let greater = compare(CompareResult::Greater, CompareTarget::Mod, TargetUnion::ModRevision(7));
        assert_eq!(direct(&greater), None);
    }

    #[test]
    fn a_key_that_is_not_there_has_zeros_and_no_value() {
        let zero = compare(CompareResult::Equal, CompareTarget::Version, TargetUnion::Version(0));
        assert!(holds(&zero, None).expect("because they fit"));
        for result in [CompareResult::Equal, CompareResult::NotEqual, CompareResult::Less] {
            let value = compare(result, CompareTarget::Value, TargetUnion::Value(Bytes::from_static(b"v")));
            assert!(!holds(&value, None).expect("because they fit"), "{result:?}");
        }
        let crooked = compare(CompareResult::Equal, CompareTarget::Version, TargetUnion::Lease(0));
        assert!(holds(&crooked, None).is_err());
    }
}
