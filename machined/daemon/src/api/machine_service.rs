//! The machine API for people: each call passes the gate first.

use crate::api::{attest, orders, resets, upgrades};
use crate::disks;
use crate::facts::{COMMIT, VERSION, uptime};
use crate::gate::Gate;
use crate::leaving::Going;
use crate::log_book::Line;
use crate::log_layer::OWN_LOG;
use crate::model::Model;
use crate::pass::Answers;
use crate::power::End;
use jiff::{SignedDuration, Timestamp};
use machined_access::{Access, Principal};
use machined_api::machine_server::Machine;
use machined_api::{
    AttestReply, AttestRequest, CommitsReply, CommitsRequest, DeliverReply, DeliverRequest, DiskRecoveryKeyReply,
    DiskRecoveryKeyRequest, DmesgRequest, Event, EventsRequest, HoldRequest, LogLine, LogsRequest, MarkReply,
    MarkRequest, OrderReply, PinRequest, Process, ProcessesReply, ProcessesRequest, RebootReply, RebootRequest,
    ResetReply, ResetRequest, RestartServiceReply, RestartServiceRequest, ResumeReply, ResumeRequest, RollbackRequest,
    Service, ServicesReply, ServicesRequest, ShutdownReply, ShutdownRequest, StatusReply, StatusRequest, UpgradeReply,
    UpgradeRequest, UpgradeStatusReply, UpgradeStatusRequest, VersionReply, VersionRequest, VouchReply, VouchRequest,
    upgrade_request,
};
use machined_controllers::trust::OrderAction;
use machined_host::{KernelLine, KernelLog, machine_memory, memory_of, processes};
use tokio::sync::broadcast::error::RecvError;
use tonic::{Request, Response, Status, Streaming};

/// Serves people.
pub(crate) struct MachineService {
    gate: Gate,
    model: Model,
}

impl MachineService {
    pub(crate) fn new(gate: Gate, model: Model) -> Self {
        MachineService { gate, model }
    }

    /// Ends the machine once the cluster permits it, or at once where an admin says why.
    async fn leave<T: Sync>(
        &self,
        name: &'static str,
        overriding: &'static str,
        end: End,
        overrides: &str,
        request: &Request<T>,
    ) -> Result<String, Status> {
        let asked_by = |who: &Principal| format!("asked for by {}", who.named().0);
        let failed = |why: String| Status::internal(why);
        if overrides.is_empty() {
            let who = self.gate.admit(name, Access::Operator, request)?;
            self.model.events.add("Leaving", "machine", asked_by(&who));
            return self.model.leaving.ask(Going::End(end)).await.map_err(failed);
        }
        let who = self.gate.overrule(overriding, request, overrides)?;
        self.model.events.add("LeavingWithoutPermit", "machine", format!("{}: {overrides}", asked_by(&who)));
        self.model.leaving.go(Going::End(end)).await.map(|()| String::new()).map_err(failed)
    }
}

fn log_line(line: &Line) -> LogLine {
    LogLine { line: line.bytes.clone(), at: line.at.to_string() }
}

fn note(text: String) -> LogLine {
    LogLine { line: text.into_bytes(), at: Timestamp::now().to_string() }
}

/// A kernel record as people read it, with the time of day it must have been.
fn kernel_line(line: KernelLine, boot: Timestamp) -> LogLine {
    match line {
        KernelLine::Record(record) => {
            let (seconds, micros) = (record.micros / 1_000_000, record.micros % 1_000_000);
            let since = SignedDuration::from_micros(i64::try_from(record.micros).unwrap_or(i64::MAX));
            let at = boot.checked_add(since).unwrap_or(boot);
            LogLine { line: format!("[{seconds:5}.{micros:06}] {}", record.text).into_bytes(), at: at.to_string() }
        }
        KernelLine::Lost => note("[some records were lost: the reader was too slow]".to_owned()),
    }
}

#[tonic::async_trait]
impl Machine for MachineService {
    async fn version(&self, request: Request<VersionRequest>) -> Result<Response<VersionReply>, Status> {
        self.gate.admit("Version", Access::Reader, &request)?;
        Ok(Response::new(VersionReply {
            version: VERSION.to_owned(),
            commit: COMMIT.unwrap_or_default().to_owned(),
            kernel: self.model.facts.kernel.clone(),
            image: self.model.facts.image.clone(),
        }))
    }

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        self.gate.admit("Status", Access::Reader, &request)?;
        Ok(Response::new(self.model.status()))
    }

    async fn services(&self, request: Request<ServicesRequest>) -> Result<Response<ServicesReply>, Status> {
        self.gate.admit("Services", Access::Reader, &request)?;
        let services = self.model.services.all();
        let service = |(name, status): (&String, &machined_controllers::services::ServiceStatus)| Service {
            name: name.clone(),
            state: status.state.as_str().to_owned(),
            healthy: status.healthy,
            pid: status.pid.unwrap_or_default(),
            restarts: status.restarts,
            message: status.message.clone(),
            memory_bytes: memory_of(name),
        };
        Ok(Response::new(ServicesReply { services: services.iter().map(service).collect() }))
    }

    async fn processes(&self, request: Request<ProcessesRequest>) -> Result<Response<ProcessesReply>, Status> {
        self.gate.admit("Processes", Access::Reader, &request)?;
        let failed = |error: std::io::Error| Status::internal(format!("/proc cannot be read: {error}"));
        let memory = machine_memory().map_err(failed)?;
        let process = |process: machined_host::ProcessMemory| Process {
            pid: process.pid,
            name: process.name,
            cgroup: process.cgroup,
            resident_bytes: process.resident_bytes,
        };
        Ok(Response::new(ProcessesReply {
            memory_total_bytes: memory.total_bytes,
            memory_available_bytes: memory.available_bytes,
            processes: processes().map_err(failed)?.into_iter().map(process).collect(),
        }))
    }

    async fn restart_service(
        &self,
        request: Request<RestartServiceRequest>,
    ) -> Result<Response<RestartServiceReply>, Status> {
        self.gate.admit("RestartService", Access::Operator, &request)?;
        let name = request.into_inner().name;
        if name == OWN_LOG {
            self.model.events.add("Restarting", format!("service/{OWN_LOG}"), "asked for over the machine API");
            self.model.power.ask(End::Again);
            return Ok(Response::new(RestartServiceReply {}));
        }
        let services = self.model.services.all();
        if !services.contains_key(&name) {
            let names: Vec<&str> = services.keys().map(String::as_str).chain([OWN_LOG]).collect();
            return Err(Status::not_found(format!("there is no service {name:?}; there are {}", names.join(", "))));
        }
        self.model.restarts.ask(&name);
        Ok(Response::new(RestartServiceReply {}))
    }

    type LogsStream = Answers<LogLine>;

    async fn logs(&self, request: Request<LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let pass = self.gate.pass("Logs", Access::Reader, &request)?;
        let LogsRequest { service, follow, tail } = request.into_inner();
        let Some(log) = self.model.logs.tail(&service) else {
            let names = self.model.logs.names().join(", ");
            return Err(Status::not_found(format!("there is no log of {service:?}; there are {names}")));
        };
        let skip = if tail == 0 { 0 } else { log.past.len().saturating_sub(tail as usize) };
        let (past, mut future) = (log.past, log.future);
        let lines = async_stream::stream! {
            for line in past.into_iter().skip(skip) {
                yield Ok(log_line(&line));
            }
            if !follow {
                return;
            }
            loop {
                match future.recv().await {
                    Ok(line) => yield Ok(log_line(&line)),
                    Err(RecvError::Lagged(lost)) => yield Ok(note(format!("[{lost} lines were lost: the reader was too slow]"))),
                    Err(RecvError::Closed) => break,
                }
            }
        };
        Ok(Response::new(pass.over(lines)))
    }

    type DmesgStream = Answers<LogLine>;

    async fn dmesg(&self, request: Request<DmesgRequest>) -> Result<Response<Self::DmesgStream>, Status> {
        let pass = self.gate.pass("Dmesg", Access::Reader, &request)?;
        let follow = request.into_inner().follow;
        let failed = |error: std::io::Error| Status::internal(format!("the kernel's log cannot be read: {error}"));
        let mut log = KernelLog::open().map_err(failed)?;
        let boot = Timestamp::now() - SignedDuration::try_from(uptime()).unwrap_or_default();
        let lines = async_stream::try_stream! {
            while let Some(line) = log.ready().map_err(failed)? {
                yield kernel_line(line, boot);
            }
            if !follow {
                return;
            }
            loop {
                yield kernel_line(log.next().await.map_err(failed)?, boot);
            }
        };
        Ok(Response::new(pass.over(lines)))
    }

    type EventsStream = Answers<Event>;

    async fn events(&self, request: Request<EventsRequest>) -> Result<Response<Self::EventsStream>, Status> {
        let pass = self.gate.pass("Events", Access::Reader, &request)?;
        let EventsRequest { tail, follow } = request.into_inner();
        let (past, mut future) = self.model.events.tail(tail as usize);
        let events = async_stream::stream! {
            for event in past {
                yield Ok(event);
            }
            if !follow {
                return;
            }
            loop {
                match future.recv().await {
                    Ok(event) => yield Ok(event),
                    // The next event's number shows the gap.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => break,
                }
            }
        };
        Ok(Response::new(pass.over(events)))
    }

    async fn commits(&self, request: Request<CommitsRequest>) -> Result<Response<CommitsReply>, Status> {
        self.gate.admit("Commits", Access::Reader, &request)?;
        let limit = request.into_inner().limit;
        Ok(Response::new(CommitsReply { commits: self.model.reports.commits(limit as usize) }))
    }

    async fn reboot(&self, request: Request<RebootRequest>) -> Result<Response<RebootReply>, Status> {
        let overrides = request.get_ref().r#override.clone();
        let waiting = self.leave("Reboot", "RebootOverride", End::Reboot, &overrides, &request).await?;
        Ok(Response::new(RebootReply { waiting }))
    }

    async fn shutdown(&self, request: Request<ShutdownRequest>) -> Result<Response<ShutdownReply>, Status> {
        let overrides = request.get_ref().r#override.clone();
        let waiting = self.leave("Shutdown", "ShutdownOverride", End::Shutdown, &overrides, &request).await?;
        Ok(Response::new(ShutdownReply { waiting }))
    }

    async fn reset(&self, request: Request<ResetRequest>) -> Result<Response<ResetReply>, Status> {
        let overrides = request.get_ref().r#override.clone();
        let who = match overrides.as_str() {
            "" => self.gate.admit("Reset", Access::Admin, &request)?,
            reason => self.gate.overrule("ResetOverride", &request, reason)?,
        };
        resets::reset(&self.model, &who, request.into_inner()).await.map(Response::new)
    }

    async fn hold(&self, request: Request<HoldRequest>) -> Result<Response<OrderReply>, Status> {
        let who = self.gate.admit("Hold", Access::Operator, &request)?;
        let HoldRequest { until, reason } = request.into_inner();
        orders::give(&self.model, who, OrderAction::Hold {}, &until, reason).await.map(Response::new)
    }

    async fn pin(&self, request: Request<PinRequest>) -> Result<Response<OrderReply>, Status> {
        let who = self.gate.admit("Pin", Access::Operator, &request)?;
        let request = request.into_inner();
        let action = orders::target(&self.model, &request)?;
        orders::give(&self.model, who, action, &request.until, request.reason).await.map(Response::new)
    }

    async fn resume(&self, request: Request<ResumeRequest>) -> Result<Response<ResumeReply>, Status> {
        self.gate.admit("Resume", Access::Operator, &request)?;
        orders::resume(&self.model).await.map(Response::new)
    }

    async fn deliver(&self, request: Request<Streaming<DeliverRequest>>) -> Result<Response<DeliverReply>, Status> {
        let pass = self.gate.pass("Deliver", Access::Operator, &request)?;
        pass.during(orders::deliver(&self.model, request.into_inner())).await.map(Response::new)
    }

    async fn mark(&self, request: Request<MarkRequest>) -> Result<Response<MarkReply>, Status> {
        self.gate.admit("Mark", Access::Reader, &request)?;
        Ok(Response::new(MarkReply { mark: self.model.reports.mark() }))
    }

    async fn attest(&self, request: Request<AttestRequest>) -> Result<Response<AttestReply>, Status> {
        self.gate.admit("Attest", Access::Reader, &request)?;
        attest::attest(&self.model, request.into_inner()).await.map(Response::new)
    }

    async fn disk_recovery_key(
        &self,
        request: Request<DiskRecoveryKeyRequest>,
    ) -> Result<Response<DiskRecoveryKeyReply>, Status> {
        self.gate.admit("DiskRecoveryKey", Access::Admin, &request)?;
        disks::recovery_key(&self.model).await.map(Response::new)
    }

    async fn vouch(&self, request: Request<VouchRequest>) -> Result<Response<VouchReply>, Status> {
        self.gate.admit("Vouch", Access::Admin, &request)?;
        orders::vouch(&self.model, request.into_inner()).await.map(Response::new)
    }

    async fn upgrade(&self, request: Request<Streaming<UpgradeRequest>>) -> Result<Response<UpgradeReply>, Status> {
        let who = self.gate.admit("Upgrade", Access::Operator, &request)?;
        let (meta, extensions) = (request.metadata().clone(), request.extensions().clone());
        let mut parts = request.into_inner();
        let wish = match parts.message().await?.and_then(|first| first.part) {
            Some(upgrade_request::Part::Wish(wish)) => wish,
            Some(upgrade_request::Part::Chunk(_)) | None => {
                return Err(Status::invalid_argument("an upgrade begins with the wish"));
            }
        };
        if wish.without_permit {
            self.gate.admit("UpgradeWithoutPermit", Access::Admin, &Request::from_parts(meta, extensions, ()))?;
        }
        upgrades::upgrade(&self.model, &who, wish, parts).await.map(Response::new)
    }

    async fn upgrade_status(
        &self,
        request: Request<UpgradeStatusRequest>,
    ) -> Result<Response<UpgradeStatusReply>, Status> {
        self.gate.admit("UpgradeStatus", Access::Reader, &request)?;
        Ok(Response::new(upgrades::status(&self.model)))
    }

    async fn rollback(&self, request: Request<RollbackRequest>) -> Result<Response<UpgradeReply>, Status> {
        let needs = if request.get_ref().without_permit { Access::Admin } else { Access::Operator };
        let who = self.gate.admit("Rollback", needs, &request)?;
        upgrades::rollback(&self.model, &who, request.into_inner()).await.map(Response::new)
    }
}
