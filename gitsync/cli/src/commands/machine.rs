//! Commands that ask one machine.

use super::Surroundings;
use crate::arguments::{Form, Leave, Logs, Reset, ServiceCommand};
use crate::machine::{LoggedIn, connect};
use crate::output;
use anyhow::{Result, anyhow};
use machined_api as api;
use machined_ids::MachineName;
use serde_json::{Value, json};
use tonic::Status;

pub(super) async fn ask(around: &Surroundings) -> Result<(MachineName, LoggedIn)> {
    let (_, context) = around.chosen()?;
    connect(&around.folder, &context, around.machine.as_ref()).await
}

/// The machine's own words are what helps; tonic's wrapping is not.
pub(super) fn told(status: Status) -> anyhow::Error {
    anyhow!("{} ({:?})", status.message(), status.code())
}

pub(super) async fn version(around: &Surroundings) -> Result<()> {
    let own = env!("CARGO_PKG_VERSION");
    // The tool's version is worth showing when there is no machine to ask.
    let machine = match ask(around).await {
        Ok((_, mut client)) => Some(client.version(api::VersionRequest {}).await.map_err(told)?.into_inner()),
        Err(error) => {
            eprintln!("cairnctl: no machine was asked: {error:#}");
            None
        }
    };
    if around.form == Form::Json {
        let machine =
            machine.map(|m| json!({ "version": m.version, "commit": m.commit, "kernel": m.kernel, "image": m.image }));
        return output::json(&json!({ "cairnctl": own, "machine": machine }));
    }
    let mut fields = vec![("cairnctl", own.to_owned())];
    if let Some(machine) = machine {
        fields.extend([("machine", machine.version), ("kernel", machine.kernel), ("image", machine.image)]);
    }
    output::fields(&fields)
}

pub(super) async fn status(around: &Surroundings) -> Result<()> {
    let (_, mut client) = ask(around).await?;
    let status = client.status(api::StatusRequest {}).await.map_err(told)?.into_inner();
    if around.form == Form::Json {
        return output::json(&status_json(&status));
    }
    let commit = match status.commit.get(..12) {
        Some(short) => format!("{short} (step {}, signed by {})", status.seq, status.signer),
        None => "none yet".to_owned(),
    };
    let accepted = status.accepted.as_ref().map_or("none yet".to_owned(), |position| {
        let short = position.commit.get(..12).unwrap_or(&position.commit);
        format!("{short} (epoch {}, step {})", position.epoch, position.seq)
    });
    let order = status.order.as_ref().map_or("none".to_owned(), |order| {
        let what = if order.commit.is_empty() { String::new() } else { format!(" at step {}", order.seq) };
        format!("{}{what} until {} by {}: {}", order.kind, order.until, order.by, output::one_line(&order.reason))
    });
    output::fields(&[
        ("name", status.name),
        ("phase", status.phase),
        ("ready", if status.ready { "yes" } else { "no" }.to_owned()),
        ("applied", commit),
        ("accepted", accepted),
        ("override", order),
        ("generation", status.generation.to_string()),
        ("addresses", status.addresses.join(", ")),
        ("identity", status.identity),
        ("identity key", key_place(&status.identity_place).to_owned()),
        ("cluster", status.cluster),
        ("slot", status.slot),
        ("boot", format!("PID 1 after {} ms, API after {} ms", status.boot_kernel_ms, status.boot_api_ms)),
    ])?;
    for extension in &status.extensions {
        let api::Extension { name, digest, version, state, message } = extension;
        let version = if version.is_empty() { String::new() } else { format!(" {version}") };
        println!("extension {name}{version}: {state} ({digest}) {}", output::one_line(message));
    }
    for condition in status.conditions {
        let state = if condition.status { "true" } else { "false" };
        println!("{}: {state} ({}) {}", condition.r#type, condition.reason, condition.message);
    }
    Ok(())
}

/// Where the machine's identity key lies, in words.
fn key_place(place: &str) -> &str {
    match place {
        "tpm" => "in the TPM",
        "disk" => "on the disk, in the clear",
        // A machine of another release.
        other => other,
    }
}

fn status_json(status: &api::StatusReply) -> Value {
    let condition =
        |c: &api::Condition| json!({ "type": c.r#type, "status": c.status, "reason": c.reason, "message": c.message });
    let extension = |e: &api::Extension| json!({ "name": e.name, "digest": e.digest, "version": e.version, "state": e.state, "message": e.message });
    json!({
        "name": status.name, "phase": status.phase, "ready": status.ready, "addresses": status.addresses,
        "identity": status.identity, "identityPlace": status.identity_place,
        "cluster": status.cluster, "generation": status.generation,
        "commit": status.commit, "seq": status.seq, "signer": status.signer, "slot": status.slot,
        "bootKernelMs": status.boot_kernel_ms, "bootApiMs": status.boot_api_ms,
        "accepted": status.accepted.as_ref().map(|p| {
            json!({ "epoch": p.epoch, "seq": p.seq, "step": p.step, "commit": p.commit })
        }),
        "override": status.order.as_ref().map(super::order::order_json),
        "extensions": status.extensions.iter().map(extension).collect::<Vec<_>>(),
        "conditions": status.conditions.iter().map(condition).collect::<Vec<_>>(),
    })
}

pub(super) async fn logs(around: &Surroundings, logs: Logs) -> Result<()> {
    let (_, mut client) = ask(around).await?;
    let request = api::LogsRequest { service: logs.service, follow: logs.follow, tail: logs.tail };
    let stream = client.logs(request).await.map_err(told)?.into_inner();
    print_lines(around.form, stream).await
}

pub(super) async fn dmesg(around: &Surroundings, follow: bool) -> Result<()> {
    let (_, mut client) = ask(around).await?;
    let stream = client.dmesg(api::DmesgRequest { follow }).await.map_err(told)?.into_inner();
    print_lines(around.form, stream).await
}

async fn print_lines(form: Form, mut stream: tonic::Streaming<api::LogLine>) -> Result<()> {
    while let Some(line) = stream.message().await.map_err(told)? {
        let value = json!({ "at": line.at, "line": String::from_utf8_lossy(&line.line) });
        output::line(form, &line.line, &value)?;
    }
    Ok(())
}

pub(super) async fn events(around: &Surroundings, follow: bool, tail: u32) -> Result<()> {
    let (_, mut client) = ask(around).await?;
    let request = api::EventsRequest { tail, follow };
    let mut stream = client.events(request).await.map_err(told)?.into_inner();
    while let Some(event) = stream.message().await.map_err(told)? {
        let text = format!("{}  {:<18} {:<24} {}", event.at, event.r#type, event.subject, event.message);
        let value = json!({
            "sequence": event.sequence, "at": event.at, "type": event.r#type,
            "subject": event.subject, "message": event.message,
        });
        output::line(around.form, text.as_bytes(), &value)?;
    }
    Ok(())
}

pub(super) async fn service(around: &Surroundings, command: Option<ServiceCommand>) -> Result<()> {
    let (machine, mut client) = ask(around).await?;
    match command {
        None | Some(ServiceCommand::List) => {
            let reply = client.services(api::ServicesRequest {}).await.map_err(told)?.into_inner();
            print_services(around.form, &reply.services)
        }
        Some(ServiceCommand::Restart { name }) => {
            client.restart_service(api::RestartServiceRequest { name: name.clone() }).await.map_err(told)?;
            println!("{name} on {machine} is being restarted; `cairnctl events -f` shows it");
            Ok(())
        }
    }
}

fn print_services(form: Form, services: &[api::Service]) -> Result<()> {
    if form == Form::Json {
        let service = |s: &api::Service| {
            json!({
                "name": s.name, "state": s.state, "healthy": s.healthy, "pid": s.pid, "restarts": s.restarts,
                "memoryBytes": s.memory_bytes, "message": s.message,
            })
        };
        return output::json(&services.iter().map(service).collect());
    }
    let row = |s: &api::Service| {
        let healthy = if s.healthy { "yes" } else { "no" };
        let memory = output::mebibytes(s.memory_bytes);
        vec![s.name.clone(), s.state.clone(), healthy.to_owned(), s.restarts.to_string(), memory, s.message.clone()]
    };
    let rows: Vec<_> = services.iter().map(row).collect();
    output::table(&["NAME", "STATE", "HEALTHY", "RESTARTS", "MEMORY", "MESSAGE"], &rows)
}

pub(super) async fn processes(around: &Surroundings) -> Result<()> {
    let (_, mut client) = ask(around).await?;
    let mut reply = client.processes(api::ProcessesRequest {}).await.map_err(told)?.into_inner();
    reply.processes.sort_by_key(|process| std::cmp::Reverse(process.resident_bytes));
    if around.form == Form::Json {
        let process = |p: &api::Process| json!({ "pid": p.pid, "name": p.name, "cgroup": p.cgroup, "residentBytes": p.resident_bytes });
        return output::json(&json!({
            "memoryTotalBytes": reply.memory_total_bytes, "memoryAvailableBytes": reply.memory_available_bytes,
            "processes": reply.processes.iter().map(process).collect::<Vec<_>>(),
        }));
    }
    let (total, available) = (reply.memory_total_bytes, reply.memory_available_bytes);
    let used = output::mebibytes(total.saturating_sub(available));
    println!("{used} of {} in use\n", output::mebibytes(total));
    let row = |p: &api::Process| {
        vec![p.pid.to_string(), output::mebibytes(p.resident_bytes), p.name.clone(), p.cgroup.clone()]
    };
    let rows: Vec<_> = reply.processes.iter().map(row).collect();
    output::table(&["PID", "RESIDENT", "NAME", "CGROUP"], &rows)
}

pub(super) async fn commits(around: &Surroundings, limit: u32) -> Result<()> {
    let (_, mut client) = ask(around).await?;
    let commits = client.commits(api::CommitsRequest { limit }).await.map_err(told)?.into_inner().commits;
    if around.form == Form::Json {
        let commit = |c: &api::CommitRecord| {
            json!({
                "commit": c.commit, "seq": c.seq, "step": c.step, "state": c.state, "signer": c.signer, "key": c.key,
                "reason": c.reason, "path": c.path, "rule": c.rule, "message": c.message, "subject": c.subject,
                "at": c.at,
            })
        };
        return output::json(&commits.iter().map(commit).collect());
    }
    let row = |c: &api::CommitRecord| {
        let short = c.commit.get(..12).unwrap_or(&c.commit).to_owned();
        let step = if c.seq == 0 { "-".to_owned() } else { c.seq.to_string() };
        let signer = if c.signer.is_empty() { "-".to_owned() } else { c.signer.clone() };
        let state = if c.reason.is_empty() { c.state.clone() } else { format!("{} {}", c.state, c.reason) };
        let place = match (c.path.as_str(), c.rule.as_str()) {
            ("", _) => "-".to_owned(),
            (path, "") => output::one_line(path),
            (path, rule) => format!("{} (rule {})", output::one_line(path), output::one_line(rule)),
        };
        vec![short, step, state, signer, place, output::one_line(&c.subject)]
    };
    output::table(
        &["COMMIT", "STEP", "STATE", "SIGNER", "WHERE", "SUBJECT"],
        &commits.iter().map(row).collect::<Vec<_>>(),
    )?;
    if let Some(refused) = commits.first().filter(|commit| commit.state == "refused") {
        println!("\nthe newest commit was refused: {}", refused.message);
        println!("next: correct it and push again; who may do what is judged on your computer too: cairnctl verify");
    }
    Ok(())
}

pub(super) async fn recovery_key(around: &Surroundings) -> Result<()> {
    let (machine, mut client) = ask(around).await?;
    let key = client.disk_recovery_key(api::DiskRecoveryKeyRequest {}).await.map_err(told)?.into_inner().key;
    if around.form == Form::Json {
        return output::json(&json!({ "machine": machine.to_string(), "key": key }));
    }
    println!("{key}");
    eprintln!(
        "This opens the disk of {machine}, and one that was made before does not any more. It is shown this one time: write it down."
    );
    Ok(())
}

pub(super) async fn reboot(around: &Surroundings, leave: Leave) -> Result<()> {
    let (machine, mut client) = ask(around).await?;
    let request = api::RebootRequest { r#override: leave.r#override.unwrap_or_default() };
    let waiting = client.reboot(request).await.map_err(told)?.into_inner().waiting;
    leaves(&machine, "restarts", &waiting);
    Ok(())
}

pub(super) async fn shutdown(around: &Surroundings, leave: Leave) -> Result<()> {
    let (machine, mut client) = ask(around).await?;
    let request = api::ShutdownRequest { r#override: leave.r#override.unwrap_or_default() };
    let waiting = client.shutdown(request).await.map_err(told)?.into_inner().waiting;
    leaves(&machine, "powers off", &waiting);
    Ok(())
}

pub(super) async fn reset(around: &Surroundings, reset: Reset) -> Result<()> {
    let (machine, mut client) = ask(around).await?;
    let request =
        api::ResetRequest { confirm: reset.yes_really, r#override: reset.leave.r#override.unwrap_or_default() };
    let waiting = client.reset(request).await.map_err(told)?.into_inner().waiting;
    leaves(&machine, "restarts as a new machine", &waiting);
    println!("its next identity stands on its console; bring it in with cairnctl enroll");
    Ok(())
}

fn leaves(machine: &impl std::fmt::Display, how: &str, waiting: &str) {
    if waiting.is_empty() {
        println!("{machine} stops its services and {how}");
        return;
    }
    println!("{machine} {how} as soon as it may: {waiting}");
    println!("next: nothing, the machine goes by itself; cairnctl events shows what it waits for");
}
