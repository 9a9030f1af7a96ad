//! Raises the cluster's level once every member speaks more, on the leader.
//!
//! ```text
//! who is on record + what each said + who answers + what the repository allows -> next -> Replica::raise
//! ```

use crate::Trust;
use crate::records::{self, Birth, Record};
use controlplane_replica::{MemberId, Members, Replica};
use controlplane_store::StoreError;
use machined_ids::ClusterLevel;
use std::collections::BTreeMap;

/// Raises the level if it is time.
pub(crate) async fn look(
    replica: &Replica,
    trust: &dyn Trust,
    members: &Members,
    records: &[(Birth, Record)],
) -> Result<(), StoreError> {
    let (level, own) = (replica.level()?, *replica.raft().node_id());
    let most = replica.speaks().min(trust.allowed_level());
    if level >= most {
        return Ok(());
    }
    let (spoken, conditions) = records::spoken(replica, records).await?;
    match next(own, members, records, &spoken, most) {
        Some(next) if next > level => replica.raise(next, &conditions).await,
        Some(_) | None => Ok(()),
    }
}

/// What all members speak, if all of them are here to say so.
fn next(
    own: MemberId,
    members: &Members,
    records: &[(Birth, Record)],
    spoken: &BTreeMap<Birth, ClusterLevel>,
    most: ClusterLevel,
) -> Option<ClusterLevel> {
    let here = |id: &MemberId| *id == own || members.alive.contains(id);
    let known = |id: &MemberId| records.iter().any(|(_, record)| record.id == *id);
    let mut all = members.voters.keys().chain(members.learners.keys());
    // One that is away may come back with another release than the one that it spoke of.
    if members.changing || !all.all(|id| here(id) && known(id)) {
        return None;
    }
    let said = records.iter().map(|(birth, _)| spoken.get(birth).copied().unwrap_or(ClusterLevel::FIRST));
    said.min().map(|level| level.min(most))
}

#[cfg(test)]
mod tests {
    use super::*;
    use controlplane_replica::Member;
    use machined_ids::{MachineName, Seq};

    fn birth(id: MemberId) -> Birth {
        Birth([u8::try_from(id).expect("because the tests have few members"); 16])
    }

    fn record(id: MemberId) -> (Birth, Record) {
        let machine = MachineName::parse(&format!("cp{id}")).expect("because it is a label");
        (birth(id), Record { id, machine, address: format!("10.0.0.{id}:2380"), seq: Seq(1) })
    }

    fn members(alive: &[MemberId]) -> Members {
        let voters = [1, 2, 3].map(|id| (id, Member::default()));
        Members { voters: voters.into(), leader: Some(1), alive: alive.iter().copied().collect(), ..Members::default() }
    }

    fn spoken(levels: [u32; 3]) -> BTreeMap<Birth, ClusterLevel> {
        [1, 2, 3].map(birth).into_iter().zip(levels.map(ClusterLevel)).collect()
    }

    const MOST: ClusterLevel = ClusterLevel(7);

    #[test]
    fn the_level_is_what_the_oldest_release_speaks() {
        let (records, all) = ([1, 2, 3].map(record), members(&[2, 3]));
        let next = |levels, most| next(1, &all, &records, &spoken(levels), most);
        assert_eq!(next([2, 1, 2], MOST), Some(ClusterLevel(1)));
        assert_eq!(next([2, 2, 2], MOST), Some(ClusterLevel(2)));
        assert_eq!(next([3, 2, 4], MOST), Some(ClusterLevel(2)));
        assert_eq!(next([3, 3, 3], ClusterLevel(2)), Some(ClusterLevel(2)), "the repository allows no more");
    }

    #[test]
    fn a_member_that_is_away_or_has_said_nothing_holds_the_level() {
        let records = [1, 2, 3].map(record);
        assert_eq!(next(1, &members(&[2]), &records, &spoken([2, 2, 2]), MOST), None, "the third is away");
        assert_eq!(next(1, &members(&[2, 3]), &records[..2], &spoken([2, 2, 2]), MOST), None, "the third is nobody");
        let silent: BTreeMap<_, _> = spoken([2, 2, 2]).into_iter().take(2).collect();
        assert_eq!(next(1, &members(&[2, 3]), &records, &silent, MOST), Some(ClusterLevel::FIRST));
        let changing = Members { changing: true, ..members(&[2, 3]) };
        assert_eq!(next(1, &changing, &records, &spoken([2, 2, 2]), MOST), None);
    }

    #[test]
    fn a_machine_that_was_just_given_a_number_counts() {
        let records = [1, 2, 3, 4].map(record);
        let mut said = spoken([2, 2, 2]);
        assert_eq!(next(1, &members(&[2, 3]), &records, &said, MOST), Some(ClusterLevel::FIRST));
        said.insert(birth(4), ClusterLevel(2));
        assert_eq!(next(1, &members(&[2, 3]), &records, &said, MOST), Some(ClusterLevel(2)));
    }
}
