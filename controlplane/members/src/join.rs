//! How a machine whose data directory is new finds the others and is given a number.

use crate::Trust;
use crate::client::connect_lazily;
use crate::records::Birth;
use crate::wire::JoinRequest;
use crate::wire::failure;
use controlplane_replica::MemberId;
use machined_ids::ClusterLevel;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// How long one address may take to answer: it may have to wait for an election.
const ASK_LIMIT: Duration = Duration::from_secs(10);

/// What a machine needs to open its member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// Its number.
    pub id: MemberId,
    /// The keys that the cluster serves with, as [`Keyring::reveal`](crate::Keyring::reveal) gives them. Secret.
    pub welcome: Vec<u8>,
}

/// Nobody took the machine in.
#[derive(Debug, thiserror::Error)]
#[error("no member of the cluster answers at {}", asked.join(", "))]
pub struct JoinError {
    /// The addresses that were asked.
    asked: Vec<String>,
    /// What the last of them said.
    #[source]
    source: Option<io::Error>,
}

/// Asks at each of `addresses` until a member answers. Asked again with the same birth, the number is the same.
///
/// # Errors
/// [`JoinError`] when none answers; try again later.
pub async fn ask_to_join(
    trust: &Arc<dyn Trust>,
    addresses: &[String],
    birth: Birth,
    own: &str,
    speaks: ClusterLevel,
) -> Result<Joined, JoinError> {
    let mut last = None;
    for address in addresses {
        match ask(trust, address, birth, own, speaks).await {
            Ok(joined) => return Ok(joined),
            Err(error) => {
                tracing::debug!(address, %error, "no member took this machine in");
                last = Some(error);
            }
        }
    }
    Err(JoinError { asked: addresses.to_vec(), source: last })
}

async fn ask(
    trust: &Arc<dyn Trust>,
    address: &str,
    birth: Birth,
    own: &str,
    speaks: ClusterLevel,
) -> io::Result<Joined> {
    // Any machine of the control plane will do: whichever a name leads to.
    let anybody = |roster: &crate::Roster, identity: &_| roster.machines.values().any(|known| known == identity);
    let mut client = connect_lazily(Arc::clone(trust), address.to_owned(), anybody);
    let request = JoinRequest { birth: birth.0.to_vec(), address: own.to_owned(), speaks: speaks.0 };
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("{address} did not answer in time"));
    let reply = tokio::time::timeout(ASK_LIMIT, client.join(request)).await.map_err(late)?.map_err(failure)?;
    let reply = reply.into_inner();
    Ok(Joined { id: reply.id, welcome: reply.welcome })
}
