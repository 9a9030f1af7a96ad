//! Entries with one index and one term are one entry (raft paper, figure 3: Log Matching), looked at where it counts: what members
//! have applied at an index has one term and one leader.

use crate::history::History;
use std::collections::BTreeMap;

pub(super) fn check(history: &History) -> Result<(), String> {
    let mut entries = BTreeMap::new();
    for sight in &history.sights {
        let Some((term, leader, index)) = sight.applied else { continue };
        let (first, who) = *entries.entry(index).or_insert(((term, leader), sight.member));
        if first != (term, leader) {
            let (here, there) = (sight.member, who);
            return Err(format!("entry {index}: member {here} applied {term}/{leader}, member {there} {first:?}"));
        }
    }
    Ok(())
}
