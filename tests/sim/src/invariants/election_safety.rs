//! At most one leader in a term (raft paper, figure 3: Election Safety), where a term is what openraft's votes are ordered by: its number,
//! and within one number the member, a greater one after a smaller one. So a number may see several leaders, but none whose vote is
//! not above all before it; one that was deposed may not know yet.

use crate::history::History;
use std::collections::BTreeMap;

pub(super) fn check(history: &History) -> Result<(), String> {
    let mut leaders: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for sight in history.sights.iter().filter(|sight| sight.leads) {
        let known = leaders.entry(sight.term).or_default();
        if known.contains(&sight.member) {
            continue;
        }
        if let Some(later) = known.iter().find(|leader| **leader > sight.member) {
            let (member, term) = (sight.member, sight.term);
            return Err(format!(
                "member {member} began to lead in term {term} after member {later}, whose vote is above"
            ));
        }
        known.push(sight.member);
    }
    Ok(())
}
