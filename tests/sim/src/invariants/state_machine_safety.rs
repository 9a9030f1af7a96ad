//! No two members apply different entries at one place (raft paper, figure 3: State Machine Safety): all publish the same changes at a
//! revision.

use crate::history::History;
use std::collections::BTreeMap;

pub(super) fn check(history: &History) -> Result<(), String> {
    let mut changes = BTreeMap::new();
    for audit in &history.audits {
        for batch in audit.batches() {
            let (first, who) = *changes.entry(batch.revision).or_insert((batch, audit.member));
            if first != batch {
                let (here, there) = (audit.member, who);
                return Err(format!(
                    "revision {}: member {here} published {:?}, member {there} {:?}",
                    batch.revision, batch.events, first.events
                ));
            }
        }
    }
    Ok(())
}
