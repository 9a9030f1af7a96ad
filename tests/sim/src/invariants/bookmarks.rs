//! After a promise that everything up to a revision has come, nothing of it comes any more, and promises do not go back (etcd's watch:
//! Bookmarkable).

use crate::history::{History, Note};

pub(super) fn check(history: &History) -> Result<(), String> {
    for watched in history.watches.iter().chain(&history.audits) {
        let mut promised = watched.after;
        for note in &watched.notes {
            match note {
                Note::Progress(revision) if *revision < promised => {
                    let member = watched.member;
                    return Err(format!("member {member} promised {promised}, then {revision}"));
                }
                Note::Progress(revision) => promised = *revision,
                Note::Batch(batch) if batch.revision <= promised => {
                    let (member, revision) = (watched.member, batch.revision);
                    return Err(format!("member {member} promised {promised}, then sent revision {revision}"));
                }
                Note::Batch(_) => {}
            }
        }
    }
    Ok(())
}
