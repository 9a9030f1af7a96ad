//! At most one leader in a term (raft paper, figure 3: Election Safety).

use crate::history::History;
use std::collections::BTreeMap;

pub(super) fn check(history: &History) -> Result<(), String> {
    let mut leaders = BTreeMap::new();
    for sight in history.sights.iter().filter(|sight| sight.leads) {
        let leader = *leaders.entry(sight.term).or_insert(sight.member);
        if leader != sight.member {
            return Err(format!("members {leader} and {} both led in term {}", sight.member, sight.term));
        }
    }
    Ok(())
}
