//! Events come in the order of revisions, and none comes twice (etcd's watch: Ordered, Unique).

use crate::history::History;

pub(super) fn check(history: &History) -> Result<(), String> {
    for watched in history.watches.iter().chain(&history.audits) {
        let mut last = watched.after;
        for batch in watched.batches() {
            if batch.revision <= last {
                let member = watched.member;
                return Err(format!(
                    "member {member} sent revision {} to a watcher that was at {last}",
                    batch.revision
                ));
            }
            last = batch.revision;
        }
    }
    Ok(())
}
