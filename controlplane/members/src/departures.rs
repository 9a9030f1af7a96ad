//! Members that answer leave one at a time, and not while another machine is away: what the membership task and the disruption gate
//! (`controlplane/controllers`, `permits`) say to each other, in the leader's process.
//!
//! ```text
//! membership: this one is to leave -> gate: takes the turn of control-plane machines -> it may -> membership: takes it out
//! ```
//!
//! Nothing of it is kept: the turn is a Lease in the store, so the next leader's gate goes on where this one was.

use tokio::sync::watch;

/// The member that is to leave, and whether it may.
#[derive(Debug)]
pub struct Departures {
    wanted: watch::Sender<Option<String>>,
    permitted: watch::Sender<Option<String>>,
}

impl Default for Departures {
    fn default() -> Self {
        Departures { wanted: watch::Sender::new(None), permitted: watch::Sender::new(None) }
    }
}

impl Departures {
    /// The machine whose member is to leave; `None` most of the time, and always where this process does not lead.
    #[must_use]
    pub fn wanted(&self) -> watch::Receiver<Option<String>> {
        self.wanted.subscribe()
    }

    /// Says that this machine's member may leave now. It counts as long as that one is wanted.
    pub fn permit(&self, machine: &str) {
        if self.wanted.borrow().as_deref() == Some(machine) {
            self.permitted.send_replace(Some(machine.to_owned()));
        }
    }

    /// Asks for a machine's member to leave; whether it may.
    pub(crate) fn ask(&self, machine: &str) -> bool {
        let news = self.wanted.send_if_modified(|wanted| {
            let news = wanted.as_deref() != Some(machine);
            *wanted = Some(machine.to_owned());
            news
        });
        if news {
            // What another was permitted is none for this one.
            self.permitted.send_replace(None);
            tracing::info!(machine, "its member of the store leaves as soon as the disruption gate gives it the turn");
        }
        self.permitted.borrow().as_deref() == Some(machine)
    }

    /// Nobody is to leave any more, or somebody else decides it now.
    pub(crate) fn none(&self) {
        self.wanted.send_if_modified(|wanted| wanted.take().is_some());
        self.permitted.send_if_modified(|permitted| permitted.take().is_some());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_is_for_the_one_that_is_to_leave_and_for_as_long_as_it_is() {
        let departures = Departures::default();
        departures.permit("cp2");
        assert!(!departures.ask("cp2"), "a permit from before it was asked for");
        assert_eq!(departures.wanted().borrow().as_deref(), Some("cp2"));
        departures.permit("cp3");
        assert!(!departures.ask("cp2"), "another's permit");
        departures.permit("cp2");
        assert!(departures.ask("cp2") && departures.ask("cp2"));
        assert!(!departures.ask("cp3"), "the permit of the one before");
        departures.permit("cp3");
        departures.none();
        assert_eq!(*departures.wanted().borrow(), None);
        assert!(!departures.ask("cp3"), "it was over in between");
    }
}
