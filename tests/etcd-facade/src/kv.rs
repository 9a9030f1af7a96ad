//! The KV service: reads, single writes, and what needs a read before.

use crate::error::{not_here, status};
use crate::wire::{header, key_value, keys, number, revision};
use crate::{DELETE_LIMIT, Facade, pb, txn};
use controlplane_store::{Condition, Consistency, Entry, Op, OpAnswer, RangeAnswer, RangeRequest, Store, Txn};
use pb::range_request::{SortOrder, SortTarget};
use std::cmp::Ordering;
use tonic::{Request, Response, Status};

/// Times that a write which depends on a read begins again because somebody wrote in between.
pub(crate) const ATTEMPTS: usize = 64;

#[tonic::async_trait]
impl pb::kv_server::Kv for Facade {
    async fn range(&self, request: Request<pb::RangeRequest>) -> Result<Response<pb::RangeResponse>, Status> {
        self.read(request.into_inner()).await.map(Response::new)
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        let request = request.into_inner();
        let (then, shape) = txn::put(request)?;
        let answer = self.store.txn(Txn { then, ..Txn::default() }).await.map_err(status)?;
        let mut ops = answer.ops.into_iter();
        Ok(Response::new(pb::PutResponse { prev_kv: shape.previous(&mut ops), header: header(answer.revision) }))
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        let pb::DeleteRangeRequest { key, range_end, prev_kv } = request.into_inner();
        let one = range_end.is_empty();
        let (start, end) = keys(key, range_end)?;
        for _ in 0..ATTEMPTS {
            let txn = if one {
                Txn { then: vec![Op::Delete(start.clone())], ..Txn::default() }
            } else {
                self.deletion(RangeRequest::new(start.clone(), end.clone())).await?
            };
            let answer = self.store.txn(txn).await.map_err(status)?;
            if !answer.succeeded {
                continue;
            }
            let deleted = answer.ops.into_iter().filter_map(|op| match op {
                OpAnswer::Deleted(entry) => entry,
                OpAnswer::Got(_) | OpAnswer::Put(_) => None,
            });
            let deleted: Vec<Entry> = deleted.collect();
            let count = number(deleted.len() as u64);
            let prev_kvs = if prev_kv { deleted.into_iter().map(key_value).collect() } else { Vec::new() };
            let header = header(answer.revision);
            return Ok(Response::new(pb::DeleteRangeResponse { header, deleted: count, prev_kvs }));
        }
        Err(Status::aborted("etcd-facade: others kept writing to the keys"))
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        txn::run(&self.store, request.into_inner()).await.map(Response::new)
    }

    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        let pb::CompactionRequest { revision: asked, physical } = request.into_inner();
        let asked = revision(asked).unwrap_or_default();
        let (oldest, current) = (self.store.oldest().map_err(status)?, self.store.revision());
        // An empty store's first revision was never compacted.
        if asked <= oldest {
            return Err(status(controlplane_store::StoreError::Compacted { asked, oldest }));
        }
        if asked > current {
            return Err(status(controlplane_store::StoreError::Future { asked, current }));
        }
        self.store.compact(asked).await.map_err(status)?;
        if physical {
            self.store.sweep().await.map_err(status)?;
        }
        Ok(Response::new(pb::CompactionResponse { header: header(current) }))
    }
}

impl Facade {
    /// Deletes all keys of a range that are there now, and nothing if one of them changes meanwhile.
    async fn deletion(&self, range: RangeRequest) -> Result<Txn, Status> {
        let found = self.store.range(range, Consistency::Linearizable).await.map_err(status)?.entries;
        if found.len() > DELETE_LIMIT {
            return Err(not_here(&format!("deleting {} keys at once (at most {DELETE_LIMIT})", found.len())));
        }
        let condition = |entry: &Entry| Condition::Modified(entry.key.clone(), entry.modified);
        Ok(Txn {
            conditions: found.iter().map(condition).collect(),
            then: found.into_iter().map(|entry| Op::Delete(entry.key)).collect(),
            otherwise: Vec::new(),
        })
    }

    async fn read(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse, Status> {
        let (start, end) = keys(request.key.clone(), request.range_end.clone())?;
        let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0);
        let picky = picks(&request) || sorts(&request);
        let asked = match (request.count_only, picky) {
            (true, _) => Some(0),
            // What is sorted or picked out is limited afterwards.
            (false, true) => None,
            (false, false) => limit,
        };
        let consistency = if request.serializable { Consistency::Local } else { Consistency::Linearizable };
        let range = RangeRequest { start, end, limit: asked, at: revision(request.revision) };
        let RangeAnswer { mut entries, count, revision } =
            self.store.range(range, consistency).await.map_err(status)?;
        if picky {
            entries.retain(|entry| picked(&request, entry));
            sort(&request, &mut entries);
        }
        let all = if picky { entries.len() } else { usize::try_from(count).unwrap_or(usize::MAX) };
        entries.truncate(limit.unwrap_or(usize::MAX));
        let more = !request.count_only && entries.len() < all;
        let mut kvs: Vec<_> = entries.into_iter().map(key_value).collect();
        if request.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value.clear());
        }
        Ok(pb::RangeResponse { header: header(revision), kvs, more, count: number(count) })
    }
}

fn picks(request: &pb::RangeRequest) -> bool {
    let pb::RangeRequest {
        min_mod_revision: a,
        max_mod_revision: b,
        min_create_revision: c,
        max_create_revision: d,
        ..
    } = *request;
    [a, b, c, d].into_iter().any(|bound| bound != 0)
}

fn picked(request: &pb::RangeRequest, entry: &Entry) -> bool {
    let within = |value: u64, min: i64, max: i64| {
        let value = number(value);
        (min == 0 || value >= min) && (max == 0 || value <= max)
    };
    within(entry.modified.0, request.min_mod_revision, request.max_mod_revision)
        && within(entry.created.0, request.min_create_revision, request.max_create_revision)
}

/// Whether the order is another than that of keys.
fn sorts(request: &pb::RangeRequest) -> bool {
    request.sort_order() == SortOrder::Descend || request.sort_target() != SortTarget::Key
}

fn sort(request: &pb::RangeRequest, entries: &mut [Entry]) {
    let order = |a: &Entry, b: &Entry| match request.sort_target() {
        SortTarget::Key => a.key.cmp(&b.key),
        SortTarget::Version => a.version.cmp(&b.version),
        SortTarget::Create => a.created.cmp(&b.created),
        SortTarget::Mod => a.modified.cmp(&b.modified),
        SortTarget::Value => a.value.cmp(&b.value),
    };
    let descending = |ordering: Ordering| match request.sort_order() {
        SortOrder::Descend => ordering.reverse(),
        SortOrder::None | SortOrder::Ascend => ordering,
    };
    entries.sort_by(|a, b| descending(order(a, b)));
}
