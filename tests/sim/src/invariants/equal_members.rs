//! Once nothing fails any more, all members hold the same, and it is what the history of changes leads to.

use super::model::Model;
use crate::history::History;

pub(super) fn check(history: &History) -> Result<(), String> {
    let model = Model::replay(history)?;
    for (member, held) in &history.ends {
        let expected = model.entries_at(held.revision);
        if held.entries != expected {
            return Err(format!(
                "member {member} holds {} objects at revision {}, the history leads to {}: {}",
                held.entries.len(),
                held.revision,
                expected.len(),
                first_difference(&held.entries, &expected)
            ));
        }
    }
    Ok(())
}

fn first_difference(held: &[controlplane_store::Entry], expected: &[controlplane_store::Entry]) -> String {
    let different = held.iter().zip(expected).find(|(held, expected)| held != expected);
    different.map_or("one ends before the other".to_owned(), |(held, expected)| format!("{held:?} is not {expected:?}"))
}
