//! Extensions for people: a line for each, and one condition for all.

use machined_api::{Condition, Extension};
use machined_controllers::extensions::{ExtensionState, ExtensionStatus};
use machined_runtime::Set;

/// Each of them, by name.
pub(crate) fn shown(extensions: &Set<ExtensionStatus>) -> Vec<Extension> {
    let shown = |(name, status): (&String, &ExtensionStatus)| Extension {
        name: name.clone(),
        digest: status.digest.to_string(),
        version: status.version.clone(),
        state: status.state.as_str().to_owned(),
        message: status.message.clone(),
    };
    extensions.iter().map(shown).collect()
}

/// True when what is merged is what the document names. What needs a person comes first in the reason.
pub(crate) fn condition(merged: bool, extensions: &Set<ExtensionStatus>) -> Condition {
    let names = |states: &[ExtensionState]| {
        let such = extensions.iter().filter(|(_, status)| states.contains(&status.state));
        such.map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
    };
    let failed = names(&[ExtensionState::Failed]);
    let restart = names(&[ExtensionState::Waiting, ExtensionState::Leaving]);
    let fetching = names(&[ExtensionState::Fetching]);
    let (status, reason, message) = match (merged, failed.as_str(), restart.as_str(), fetching.as_str()) {
        (false, ..) => (false, "Starting", String::new()),
        (true, "", "", "") => (true, "AsNamed", names(&[ExtensionState::Merged])),
        (true, "", "", fetching) => (false, "Fetching", fetching.to_owned()),
        (true, "", restart, _) => {
            (false, "RestartNeeded", format!("{restart}: restart the machine with cairnctl reboot"))
        }
        (true, failed, ..) => (false, "Failed", format!("{failed}: cairnctl status says why")),
    };
    Condition { r#type: "ExtensionsMerged".to_owned(), status, reason: reason.to_owned(), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extensions(states: &[ExtensionState]) -> Set<ExtensionStatus> {
        let digest = format!("sha256:{}", "a".repeat(64)).parse().expect("because it is a digest");
        let status = |state| ExtensionStatus { digest, version: "1".to_owned(), state, message: String::new() };
        states.iter().map(|state| (state.as_str().to_owned(), status(*state))).collect()
    }

    #[test]
    fn the_condition_is_true_only_when_everything_is_as_named() {
        use ExtensionState::{Failed, Fetching, Leaving, Merged, OtherKernel, Waiting};
        let said = |states: &[ExtensionState]| {
            let condition = condition(true, &extensions(states));
            (condition.status, condition.reason, condition.message)
        };
        assert_eq!(said(&[]), (true, "AsNamed".to_owned(), String::new()));
        assert_eq!(said(&[Merged, OtherKernel]), (true, "AsNamed".to_owned(), "merged".to_owned()));
        assert_eq!(said(&[Merged, Fetching]).1, "Fetching");
        assert_eq!(said(&[Waiting, Fetching]).1, "RestartNeeded");
        assert_eq!(said(&[Merged, Leaving]).1, "RestartNeeded");
        assert_eq!(
            said(&[Failed, Waiting, Fetching]),
            (false, "Failed".to_owned(), "failed: cairnctl status says why".to_owned())
        );
        assert!(!condition(false, &extensions(&[Merged])).status, "nothing is known before the start");
    }
}
