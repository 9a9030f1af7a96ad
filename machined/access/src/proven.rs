//! What one connection has proven, so that its requests do not prove it again.
//!
//! A signature over the same bytes is right for ever, so it is checked once for each connection. Everything that can change is looked
//! at on every request: the clock, the accepted step's people, keys, roles and machines.

use crate::authenticate::{Denied, Peer, Principal, authenticate};
use crate::login::{ProvenLogin, SignedLogin};
use crate::standing::Standing;
use crate::table::AccessTable;
use jiff::Timestamp;
use std::sync::{Mutex, PoisonError};

/// A connection's peer and the login that came over it last.
#[derive(Debug)]
pub struct Proven {
    peer: Peer,
    /// One is enough: a client key acts for one person at a time.
    login: Mutex<Option<(String, ProvenLogin)>>,
}

impl Proven {
    /// A connection whose handshake proved `peer`; see [`crate::tls::peer`].
    #[must_use]
    pub const fn new(peer: Peer) -> Self {
        Proven { peer, login: Mutex::new(None) }
    }

    /// What the handshake proved.
    #[must_use]
    pub const fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Says who sends a request with this bearer token, by the accepted step's `table`, at `now`.
    ///
    /// # Errors
    /// [`Denied`], whose text tells the person what to do.
    pub fn authenticate(&self, table: &AccessTable, token: Option<&str>, now: Timestamp) -> Result<Principal, Denied> {
        // A machine's leaf says it all; what else it sends is not looked at.
        let (Peer::Key(_), Some(token)) = (&self.peer, token) else {
            return authenticate(table, &self.peer, None, now);
        };
        let mut known = self.login.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref().is_none_or(|(text, _)| text != token) {
            *known = Some((token.to_owned(), SignedLogin::from_token(token)?.verify()?));
        }
        let principal = authenticate(table, &self.peer, known.as_ref().map(|(_, login)| login), now)?;
        if let (Some((_, login)), Principal::Person { name, .. }) = (known.as_mut(), &principal)
            && login.likely.as_ref() != Some(name)
        {
            login.likely = Some(name.clone());
        }
        Ok(principal)
    }

    /// As [`Proven::authenticate`], for what lasts longer than a request: [`Standing::lost`] says when it is over.
    ///
    /// # Errors
    /// [`Denied`], whose text tells the person what to do.
    pub fn standing(&self, table: &AccessTable, token: Option<&str>, now: Timestamp) -> Result<Standing, Denied> {
        let principal = self.authenticate(table, token, now)?;
        let known = self.login.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let login = match (&self.peer, token, known) {
            (Peer::Machine { .. } | Peer::Anonymous, ..) | (Peer::Key(_), None, _) => None,
            (Peer::Key(_), Some(token), Some((text, login))) if text == token => Some(login),
            // Another request of the connection brought another login in between.
            (Peer::Key(_), Some(token), _) => Some(SignedLogin::from_token(token)?.verify()?),
        };
        Ok(Standing::new(self.peer.clone(), login, principal))
    }
}
