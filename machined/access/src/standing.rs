//! Whether somebody who was let in still may: for what lasts longer than one request.
//!
//! A stream of either API selects on [`Standing::lost`], which ends as soon as the accepted step's table, or the time, takes away what
//! the stream was begun with. Pure like the rest of the crate: the caller brings the newest table and the time, as [`Watched`].

use crate::authenticate::{Denied, Peer, Principal, authenticate};
use crate::login::ProvenLogin;
use crate::table::AccessTable;
use jiff::Timestamp;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// How often the time is looked at although no login is about to end: a clock that jumps forward ends logins within this.
const CLOCK_PERIOD: Duration = Duration::from_secs(30);

/// The shortest wait for a login's end, so that a clock that is slower than the timer is not asked without a pause.
const WAIT_MIN: Duration = Duration::from_millis(5);

/// Where the newest table and the time come from.
pub trait Watched: Send {
    /// The accepted step's table as it is now; `None` when there is none any more.
    fn table(&self) -> Option<Arc<AccessTable>>;
    /// The machine's clock.
    fn now(&self) -> Timestamp;
    /// Waits for another table, and at most `longest`.
    fn changed(&mut self, longest: Duration) -> impl Future<Output = ()> + Send;
}

/// Why somebody who was let in may not stay.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// They would not be let in now.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// They would be let in, with less than they had.
    #[error("the accepted step leaves {who} less than this stream was begun with; begin it again")]
    Less {
        /// Name of the principal.
        who: String,
    },
    /// The machine knows nobody any more.
    #[error("the machine has no accepted step any more")]
    NoTable,
}

/// Somebody who was let in, with what proved it.
#[derive(Debug, Clone)]
pub struct Standing {
    peer: Peer,
    login: Option<ProvenLogin>,
    principal: Principal,
}

impl Standing {
    pub(crate) const fn new(peer: Peer, login: Option<ProvenLogin>, principal: Principal) -> Self {
        Standing { peer, login, principal }
    }

    /// Who it is.
    #[must_use]
    pub const fn principal(&self) -> &Principal {
        &self.principal
    }

    /// Whether `table` at `now` leaves them what they were let in with.
    ///
    /// # Errors
    /// [`Lost`], whose text tells the person what to do.
    pub fn check(&self, table: &AccessTable, now: Timestamp) -> Result<(), Lost> {
        let principal = authenticate(table, &self.peer, self.login.as_ref(), now)?;
        if keeps(&self.principal, &principal) { Ok(()) } else { Err(Lost::Less { who: self.principal.named().0 }) }
    }

    /// Ends when they may not stay; never when they always may. Cancel-safe.
    pub async fn lost(&self, mut watched: impl Watched) -> Lost {
        loop {
            let now = watched.now();
            let Some(table) = watched.table() else { return Lost::NoTable };
            if let Err(lost) = self.check(&table, now) {
                return lost;
            }
            drop(table);
            let ends = self.login.as_ref().map(|login| login.statement.expires.duration_since(now));
            let left = ends.map_or(CLOCK_PERIOD, |left| Duration::try_from(left).unwrap_or(Duration::ZERO));
            watched.changed(left.clamp(WAIT_MIN, CLOCK_PERIOD)).await;
        }
    }
}

/// Whether `now` has everything that `before` had. More is no reason to end a stream.
fn keeps(before: &Principal, now: &Principal) -> bool {
    match (before, now) {
        (
            Principal::Person { name, roles, access, .. },
            Principal::Person { name: who, roles: has, access: may, .. },
        ) => name == who && has.is_superset(roles) && may >= access,
        (Principal::Machine { .. }, Principal::Machine { .. }) => before == now,
        (Principal::Person { .. }, Principal::Machine { .. })
        | (Principal::Machine { .. }, Principal::Person { .. }) => false,
    }
}
