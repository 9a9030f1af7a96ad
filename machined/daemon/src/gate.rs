//! Who may call the machine API: every call passes here, and leaves an audit record.
//!
//! The TLS handshake proves a key; the login in the request says for whom it acts; the access table of the accepted step says what
//! that principal may do. All three are looked at again on every call, so removing somebody takes effect at once; what lasts longer
//! than a call is let in with a [`Pass`], and ends with it.

use crate::audit_log::AuditLog;
use crate::disks;
use crate::model::Model;
use crate::pass::Pass;
use jiff::Timestamp;
use machined_access::{Access, AuditApi, AuditOutcome, AuditRecord, Principal, Proven, Standing};
use machined_controllers::block::Encryption;
use machined_controllers::ledger::{DesiredMachine, LedgerRead};
use machined_ids::Fingerprint;
use machined_runtime::Reader;
use std::net::SocketAddr;
use std::sync::Arc;
use tonic::{Request, Status};

/// Bytes of the reason of an override: as of an order.
const OVERRIDE_REASON_BYTES: usize = 200;

/// What the handshake of a connection proved; put on every request of it.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    /// The other end.
    pub(crate) address: Option<SocketAddr>,
    /// What its handshake and its logins proved.
    pub(crate) proven: Arc<Proven>,
}

/// A call of another machine's machined that was let in; its record is written when it ends.
pub(crate) struct Called {
    /// The machine.
    pub(crate) machine: Fingerprint,
    record: AuditRecord,
    audit: AuditLog,
}

impl Called {
    /// Writes down how it ended: with what was asked for, or with this reason why not.
    pub(crate) fn ended(self, refused: Option<&str>) {
        let outcome = if refused.is_some() { AuditOutcome::Refused } else { AuditOutcome::Allowed };
        self.audit.add(self.record.ended(outcome, refused.unwrap_or_default()));
    }
}

/// A call that was not let in; by whom, where that is known.
struct Refused {
    status: Box<Status>,
    by: Option<Principal>,
}

impl Refused {
    fn nobody(status: Status) -> Self {
        Refused { status: status.into(), by: None }
    }
}

/// Lets calls in.
#[derive(Clone)]
pub(crate) struct Gate {
    desired: Reader<DesiredMachine>,
    ledger: Reader<LedgerRead>,
    encryption: Reader<Encryption>,
    audit: AuditLog,
}

impl Gate {
    /// Reads the access table from the desired machine.
    pub(crate) fn new(model: &Model) -> Self {
        Gate {
            desired: model.desired.clone(),
            ledger: model.ledger.clone(),
            encryption: model.encryption.clone(),
            audit: model.audit.clone(),
        }
    }

    /// Says who calls, or why they may not call `name`.
    pub(crate) fn admit<T>(
        &self,
        name: &'static str,
        needs: Access,
        request: &Request<T>,
    ) -> Result<Principal, Status> {
        self.judge(name, needs, request, "").map(|(standing, _)| standing.principal().clone())
    }

    /// As [`Gate::admit`] for an admin who goes past a rule, and says why: the reason stands in the audit log.
    pub(crate) fn overrule<T>(
        &self,
        name: &'static str,
        request: &Request<T>,
        reason: &str,
    ) -> Result<Principal, Status> {
        if reason.len() > OVERRIDE_REASON_BYTES || reason.chars().any(char::is_control) {
            let limit = OVERRIDE_REASON_BYTES;
            return Err(Status::invalid_argument(format!(
                "the reason of an override is one line of at most {limit} bytes"
            )));
        }
        self.judge(name, Access::Admin, request, reason).map(|(standing, _)| standing.principal().clone())
    }

    /// As [`Gate::admit`], for calls that stream: what the pass is laid over ends when the caller may not stay.
    pub(crate) fn pass<T>(&self, name: &'static str, needs: Access, request: &Request<T>) -> Result<Pass, Status> {
        let (standing, record) = self.judge(name, needs, request, "")?;
        Ok(Pass::new(standing, self.desired.clone(), record, self.audit.clone()))
    }

    /// Says which machine's machined calls; nobody else is let in, no admin and no other service.
    pub(crate) fn machined<T>(&self, name: &'static str, request: &Request<T>) -> Result<Called, Status> {
        let (connection, record) = Gate::begin(name, request);
        let decided =
            self.decide(Access::Reader, connection, request).and_then(|standing| match standing.principal() {
                Principal::Machine { service, identity, .. } if service == "machined" => {
                    Ok((identity.clone(), standing.principal().clone()))
                }
                by @ (Principal::Machine { .. } | Principal::Person { .. }) => {
                    let status =
                        Status::permission_denied("only machined of another machine asks this, for that machine");
                    Err(Refused { status: status.into(), by: Some(by.clone()) })
                }
            });
        match decided {
            Ok((machine, by)) => Ok(Called { machine, record: record.by(&by), audit: self.audit.clone() }),
            Err(refused) => Err(self.refuse(record, refused)),
        }
    }

    fn begin<'a, T>(name: &'static str, request: &'a Request<T>) -> (Option<&'a Connection>, AuditRecord) {
        let connection = request.extensions().get::<Connection>();
        let remote = connection.and_then(|connection| connection.address).map(|address| address.to_string());
        (connection, AuditRecord::new(Timestamp::now(), AuditApi::Machine, name).from(remote.unwrap_or_default()))
    }

    fn refuse(&self, record: AuditRecord, Refused { status, by }: Refused) -> Status {
        let record = by.iter().fold(record, AuditRecord::by);
        self.audit.add(record.ended(AuditOutcome::Refused, status.message()));
        *status
    }

    /// Decides, and writes it down.
    fn judge<T>(
        &self,
        name: &'static str,
        needs: Access,
        request: &Request<T>,
        reason: &str,
    ) -> Result<(Standing, AuditRecord), Status> {
        let (connection, record) = Gate::begin(name, request);
        match self.decide(needs, connection, request) {
            Ok(standing) => {
                let record = record.by(standing.principal());
                self.audit.add(record.clone().ended(AuditOutcome::Allowed, reason));
                Ok((standing, record))
            }
            Err(refused) => Err(self.refuse(record, refused)),
        }
    }

    fn decide<T>(
        &self,
        needs: Access,
        connection: Option<&Connection>,
        request: &Request<T>,
    ) -> Result<Standing, Refused> {
        let Some(desired) = self.desired.get(DesiredMachine::ID) else {
            if self.ledger.all().is_empty() {
                return Err(Refused::nobody(Status::unavailable(match disks::are_locked(&self.encryption.all()) {
                    // Nobody is known yet, so it says no more than what everybody may know.
                    true => {
                        "this machine's disks are locked: it waits for a peer to release their key, or for the recovery key at its console, which says what is missing"
                    }
                    false => "this machine is starting and has not read its ledger; try again in a moment",
                })));
            }
            return Err(Refused::nobody(Status::unavailable(
                "this machine has no accepted step yet, so it knows nobody; its console shows what it waits for",
            )));
        };
        let token = token_of(request).map_err(Refused::nobody)?;
        let nobody = || Err(machined_access::Denied::NoLogin);
        let standing = connection
            .map_or_else(nobody, |it| it.proven.standing(&desired.raw.access, token, Timestamp::now()))
            .map_err(|denied| Refused::nobody(Status::unauthenticated(denied.to_string())))?;
        let principal = standing.principal();
        let has = match principal {
            Principal::Person { access, .. } => *access,
            // Machines of the cluster look at each other; what they may change goes over other ways.
            Principal::Machine { .. } => Access::Reader,
        };
        if has < needs {
            let (who, _) = principal.named();
            let status = Status::permission_denied(format!(
                "{who} may not do this: it needs a role with access {needs:?} in trust/, and has {has:?}"
            ));
            return Err(Refused { status: status.into(), by: Some(principal.clone()) });
        }
        Ok(standing)
    }
}

/// The bearer token in the `authorization` header, if there is one.
fn token_of<T>(request: &Request<T>) -> Result<Option<&str>, Status> {
    let Some(header) = request.metadata().get("authorization") else { return Ok(None) };
    let text = header.to_str().map_err(|_| Status::unauthenticated("the authorization header is not ASCII"))?;
    let bearer = text.strip_prefix("Bearer ");
    bearer.map(Some).ok_or_else(|| Status::unauthenticated("the login must be a bearer token"))
}
