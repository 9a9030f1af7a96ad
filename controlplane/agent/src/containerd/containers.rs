//! Containers and their tasks: made, started, watched, removed. Implements the agent's runtime trait.

use super::streams::Pipes;
use super::{Containerd, labels, unless_gone};
use crate::runtime::{
    Container, ContainerId, ExecResult, Exit, Kind, NewContainer, PodKey, Root, Runtime, RuntimeError, Started, State,
};
use containerd_client::services::v1::container::Runtime as RuntimeName;
use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::{
    Container as Record, CreateContainerRequest, CreateTaskRequest, DeleteContainerRequest, DeleteTaskRequest,
    GetContainerRequest, GetRequest, KillRequest, ListContainersRequest, StartRequest, UpdateContainerRequest,
    WaitRequest,
};
use containerd_client::tonic::transport::Channel;
use containerd_client::tonic::{Code, Status};
use containerd_client::types::Mount;
use containerd_client::types::v1::Status as TaskStatus;
use jiff::Timestamp;
use prost::Message;
use std::time::Duration;

const RUNC: &str = "io.containerd.runc.v2";
/// Containers with the same value of this annotation share one shim, which costs some 12 MiB of its own.
const SHIM_GROUP: &str = "io.containerd.runc.v2.group";
const OPTIONS_TYPE: &str = "containerd.runc.v1.Options";
/// containerd finds Go types by this address; it is JSON inside.
const SPEC_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
/// Exit code of a container that could not be started, as other Kubernetes runtimes report it.
const CANNOT_START: i32 = 128;
/// Exit code of a container whose end nobody saw: the machine or the shim died.
const UNSEEN: i32 = 255;
const SIGKILL: u32 = 9;

/// The only one of runc's options that we set; field numbers are containerd's.
#[derive(Clone, PartialEq, Message)]
struct RuncOptions {
    #[prost(string, tag = "3")]
    shim_cgroup: String,
}

impl Containerd {
    pub(super) fn tasks(&self) -> TasksClient<Channel> {
        TasksClient::new(self.channel.clone())
    }

    fn records(&self) -> ContainersClient<Channel> {
        ContainersClient::new(self.channel.clone())
    }

    pub(super) fn pipes(&self, id: &str) -> Pipes {
        Pipes::new(self.config.pipes.join(id))
    }

    async fn list(&self, filters: Vec<String>) -> Result<Vec<Record>, RuntimeError> {
        let answer = self.records().list(self.request(ListContainersRequest { filters })).await;
        Ok(answer.map_err(self.failed("list containers"))?.into_inner().containers)
    }

    async fn find(&self, id: &str) -> Result<Option<Record>, RuntimeError> {
        let answer = self.records().get(self.request(GetContainerRequest { id: id.to_owned() })).await;
        let answer = unless_gone(answer).map_err(self.failed(format!("look for container {id}")))?;
        Ok(answer.and_then(|answer| answer.into_inner().container))
    }

    /// Adds labels to a container; what is written here is what a restarted agent knows.
    pub(super) async fn label(&self, id: &str, more: labels::Labels) -> Result<(), RuntimeError> {
        let Some(mut record) = self.find(id).await? else { return Ok(()) };
        record.labels.extend(more);
        let update_mask = Some(prost_types::FieldMask { paths: vec!["labels".to_owned()] });
        let request = UpdateContainerRequest { container: Some(record), update_mask };
        let updated = self.records().update(self.request(request)).await.map(drop);
        updated.map_err(self.failed(format!("label container {id}")))
    }

    /// What a container is doing. An exit that is seen for the first time is recorded before it is told.
    async fn observe(&self, record: &Record) -> Result<Option<Container>, RuntimeError> {
        let Some(mut container) = labels::container(&record.id, &record.labels, State::Created) else {
            return Ok(None);
        };
        if let Some(exit) = labels::exit(&record.labels) {
            container.state = State::Exited(exit);
            return Ok(Some(container));
        }
        let started = labels::started(&record.labels);
        let doing = || format!("look at container {}", record.id);
        let request = GetRequest { container_id: record.id.clone(), exec_id: String::new() };
        let task = unless_gone(self.tasks().get(self.request(request)).await).map_err(self.failed(doing()))?;
        let process = task.and_then(|answer| answer.into_inner().process);
        container.state = match process.as_ref().map(|process| process.status()) {
            Some(TaskStatus::Running | TaskStatus::Paused | TaskStatus::Pausing) => {
                self.adopt(record)?;
                let created = record.created_at.as_ref().map_or(Timestamp::UNIX_EPOCH, timestamp);
                State::Running { started: started.unwrap_or(created), pid: process.map_or(0, |process| process.pid) }
            }
            Some(TaskStatus::Created | TaskStatus::Unknown) => State::Created,
            None if started.is_none() => State::Created,
            Some(TaskStatus::Stopped) | None => State::Exited(self.settle(&record.id).await?),
        };
        Ok(Some(container))
    }

    /// Records how a container that has ended did so. One at a time: who comes second finds the record of the first.
    async fn settle(&self, id: &str) -> Result<Exit, RuntimeError> {
        let _turn = self.settling.lock().await;
        let gone =
            || RuntimeError::Refused { doing: format!("look at container {id}"), message: "it is gone".to_owned() };
        let record = self.find(id).await?.ok_or_else(gone)?;
        if let Some(exit) = labels::exit(&record.labels) {
            return Ok(exit);
        }
        let request = GetRequest { container_id: id.to_owned(), exec_id: String::new() };
        let task = unless_gone(self.tasks().get(self.request(request)).await);
        let exit = match task.map_err(self.failed(format!("look at container {id}")))? {
            Some(_stopped) => self.collect(&record).await?,
            None => {
                let reason = "ContainerStatusUnknown".to_owned();
                let message = Some("the container was gone when the agent looked for it".to_owned());
                let started = labels::started(&record.labels);
                let exit = Exit { code: UNSEEN, started, finished: Timestamp::now(), reason, message };
                self.label(id, labels::of_exit(&exit)).await?;
                exit
            }
        };
        tracing::debug!(container = id, code = exit.code, reason = exit.reason, "container ended");
        Ok(exit)
    }

    /// Goes on reading the output of a container that a former agent started.
    fn adopt(&self, record: &Record) -> Result<(), RuntimeError> {
        match record.labels.get(labels::LOG) {
            Some(log) => {
                let terminal = record.labels.contains_key(labels::TERMINAL);
                self.pumps.start(&record.id, &self.pipes(&record.id), log.as_ref(), terminal)
            }
            None => Ok(()),
        }
    }

    /// Takes the exit of a stopped task, with the last of its output, and records it.
    async fn collect(&self, record: &Record) -> Result<Exit, RuntimeError> {
        let doing = || format!("collect container {}", record.id);
        let request = DeleteTaskRequest { container_id: record.id.clone() };
        let answer = self.tasks().delete(self.request(request)).await.map_err(self.failed(doing()))?.into_inner();
        self.pumps.finish(&record.id).await;
        let code = i32::try_from(answer.exit_status).unwrap_or(UNSEEN);
        let out_of_memory = record.labels.contains_key(labels::OUT_OF_MEMORY);
        let reason = match code {
            0 => "Completed",
            _ if out_of_memory => "OOMKilled",
            _ => "Error",
        };
        let finished = answer.exited_at.as_ref().map_or_else(Timestamp::now, timestamp);
        let started = labels::started(&record.labels);
        let exit = Exit { code, started, finished, reason: reason.to_owned(), message: None };
        self.label(&record.id, labels::of_exit(&exit)).await?;
        Ok(exit)
    }

    async fn make_record(&self, id: &str, new: &NewContainer) -> Result<Vec<Mount>, RuntimeError> {
        let (mounts, image_id, snapshotter, snapshot_key) = match &new.root {
            Root::Folder => (Vec::new(), String::new(), String::new(), String::new()),
            Root::Image(image) => {
                let mounts = self.prepare_snapshot(id, &image.chain).await?;
                (mounts, image.id.clone(), self.config.snapshotter.clone(), id.to_owned())
            }
        };
        let shim_cgroup = self.config.shim_cgroup.clone().unwrap_or_default();
        let options =
            prost_types::Any { type_url: OPTIONS_TYPE.to_owned(), value: RuncOptions { shim_cgroup }.encode_to_vec() };
        let mut spec = new.spec.clone();
        spec["annotations"][SHIM_GROUP] = new.pod.uid.as_str().into();
        let record = Record {
            id: id.to_owned(),
            labels: labels::of_new(new, &image_id),
            image: new.image.clone(),
            runtime: Some(RuntimeName { name: RUNC.to_owned(), options: Some(options) }),
            spec: Some(prost_types::Any { type_url: SPEC_TYPE.to_owned(), value: spec.to_string().into_bytes() }),
            snapshotter,
            snapshot_key,
            ..Record::default()
        };
        let made = self.records().create(self.request(CreateContainerRequest { container: Some(record) })).await;
        made.map_err(self.failed(format!("make container {}", new.name)))?;
        Ok(mounts)
    }

    /// Makes and starts the first process. An error of the program itself becomes the container's exit.
    async fn run(&self, id: &str, new: &NewContainer, rootfs: Vec<Mount>) -> Result<Option<String>, RuntimeError> {
        let pipes = self.pipes(id);
        let path = |wanted: bool, path: std::path::PathBuf| {
            if wanted { path.to_string_lossy().into_owned() } else { String::new() }
        };
        if let Some(log) = &new.log {
            pipes.make()?;
            self.pumps.start(id, &pipes, log, new.terminal)?;
        }
        let create = CreateTaskRequest {
            container_id: id.to_owned(),
            rootfs,
            stdin: path(new.stdin && new.log.is_some(), pipes.stdin()),
            stdout: path(new.log.is_some(), pipes.stdout()),
            stderr: path(new.log.is_some() && !new.terminal, pipes.stderr()),
            terminal: new.terminal,
            ..CreateTaskRequest::default()
        };
        let started = Timestamp::now();
        if let Err(status) = self.create_and_start(id, create).await {
            // Only a program can be at fault for its own start; a sandbox that does not start is an error of ours.
            if status.code() == Code::Unavailable || new.kind == Kind::Sandbox {
                return Err(self.failed(format!("start container {:?}", new.name))(status));
            }
            let exit = Exit {
                code: CANNOT_START,
                started: Some(started),
                finished: Timestamp::now(),
                reason: "StartError".to_owned(),
                message: Some(status.message().to_owned()),
            };
            tracing::debug!(container = id, problem = status.message(), "container did not start");
            self.end_task(id).await?;
            self.label(id, labels::of_exit(&exit)).await?;
            return Ok(exit.message);
        }
        self.label(id, labels::Labels::from([(labels::STARTED.to_owned(), started.to_string())])).await?;
        Ok(None)
    }

    async fn create_and_start(&self, id: &str, create: CreateTaskRequest) -> Result<(), Status> {
        self.tasks().create(self.request(create)).await?;
        let start = StartRequest { container_id: id.to_owned(), exec_id: String::new() };
        self.tasks().start(self.request(start)).await.map(drop)
    }

    /// Kills and deletes the task, if there is one.
    async fn end_task(&self, id: &str) -> Result<(), RuntimeError> {
        let doing = || format!("end container {id}");
        let kill = KillRequest { container_id: id.to_owned(), exec_id: String::new(), signal: SIGKILL, all: true };
        // Not running is as good as killed; whatever else it was, the deletion below tells.
        let _killed_or_not_running = self.tasks().kill(self.request(kill)).await;
        let wait = WaitRequest { container_id: id.to_owned(), exec_id: String::new() };
        let _ended_or_gone = self.tasks().wait(self.request(wait)).await;
        let delete = DeleteTaskRequest { container_id: id.to_owned() };
        unless_gone(self.tasks().delete(self.request(delete)).await).map_err(self.failed(doing()))?;
        self.pumps.finish(id).await;
        Ok(())
    }
}

impl Runtime for Containerd {
    async fn containers(&self, pod_uid: &str) -> Result<Vec<Container>, RuntimeError> {
        let filter = format!("labels.\"{}\"=={pod_uid}", labels::POD_UID);
        let mut found = Vec::new();
        for record in self.list(vec![filter]).await? {
            found.extend(self.observe(&record).await?);
        }
        found.sort_by(|a, b| (a.kind, &a.name, a.attempt).cmp(&(b.kind, &b.name, b.attempt)));
        Ok(found)
    }

    async fn pods(&self) -> Result<Vec<PodKey>, RuntimeError> {
        let records = self.list(vec![format!("labels.\"{}\"", labels::POD_UID)]).await?;
        let mut pods: Vec<PodKey> = records.iter().filter_map(|record| labels::pod(&record.labels)).collect();
        pods.sort();
        pods.dedup();
        Ok(pods)
    }

    async fn start(&self, new: NewContainer) -> Result<Started, RuntimeError> {
        let id = ContainerId::of(&new.pod.uid, new.kind, &new.name, new.attempt);
        self.remove(&id).await?;
        let rootfs = self.make_record(id.as_str(), &new).await?;
        let problem = self.run(id.as_str(), &new, rootfs).await?;
        Ok(Started { id, problem })
    }

    async fn signal(&self, id: &ContainerId, signal: i32) -> Result<(), RuntimeError> {
        let signal = signal.unsigned_abs();
        let kill = KillRequest { container_id: id.to_string(), exec_id: String::new(), signal, all: false };
        let sent = unless_gone(self.tasks().kill(self.request(kill)).await);
        sent.map(drop).map_err(self.failed(format!("send signal {signal} to container {id}")))
    }

    async fn ended(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let wait = WaitRequest { container_id: id.to_string(), exec_id: String::new() };
        let ended = unless_gone(self.tasks().wait(self.waiting_request(wait)).await);
        ended.map(drop).map_err(self.failed(format!("wait for container {id}")))
    }

    async fn remove(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        if self.find(id.as_str()).await?.is_some() {
            self.end_task(id.as_str()).await?;
            let request = DeleteContainerRequest { id: id.to_string() };
            let deleted = unless_gone(self.records().delete(self.request(request)).await);
            deleted.map_err(self.failed(format!("remove container {id}")))?;
        }
        self.remove_snapshot(id.as_str()).await?;
        self.pipes(id.as_str()).remove()
    }

    async fn exec(&self, id: &ContainerId, command: &[String], limit: Duration) -> Result<ExecResult, RuntimeError> {
        self.exec_to_end(id, command, limit).await
    }
}

pub(super) fn timestamp(time: &prost_types::Timestamp) -> Timestamp {
    Timestamp::new(time.seconds, time.nanos).unwrap_or(Timestamp::UNIX_EPOCH)
}
