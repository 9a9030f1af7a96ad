//! A member's files stay bounded however long it is written to, as long as history is compacted (etcd: `--quota-backend-bytes` is what
//! it needs instead).

use crate::history::History;

/// Bytes that a member's files may reach in a run: the live objects are a few KiB and the kept history a few hundred; the rest is what
/// redb sets aside for two files and for pages that a commit frees only with the next synced one.
const LIMIT_BYTES: usize = 24 * 1024 * 1024;

pub(super) fn check(history: &History) -> Result<(), String> {
    if history.largest_disk > LIMIT_BYTES {
        return Err(format!("a member's files grew to {} bytes; {LIMIT_BYTES} are allowed", history.largest_disk));
    }
    Ok(())
}
