//! A leader's log holds every entry that was committed in an earlier term (raft paper, figure 3: Leader Completeness). What anybody
//! has applied was committed.

use crate::history::History;

pub(super) fn check(history: &History) -> Result<(), String> {
    let mut applied: Vec<(u64, u64)> = Vec::new();
    for sight in &history.sights {
        if sight.leads {
            let earlier = applied.iter().filter(|(term, _)| *term < sight.term);
            let committed = earlier.map(|(_, index)| *index).max().unwrap_or_default();
            if sight.last < committed {
                let (member, term, last) = (sight.member, sight.term, sight.last);
                return Err(format!(
                    "member {member} leads term {term} with a log up to {last}; {committed} was applied"
                ));
            }
        }
        // One place for each term: how far anybody had applied while in it.
        match applied.iter_mut().find(|(term, _)| *term == sight.term) {
            Some((_, index)) => *index = (*index).max(sight.applied.map_or(0, |(_, _, index)| index)),
            None => applied.push((sight.term, sight.applied.map_or(0, |(_, _, index)| index))),
        }
    }
    Ok(())
}
