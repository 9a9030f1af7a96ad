//! One module for each group of commands; [`run`] chooses.

mod access;
mod attest;
mod checkout;
mod cluster;
mod dev;
mod machine;
mod order;
mod sign;
mod upgrade;
mod verify;

pub(crate) use attest::pinned;

use crate::arguments::{Arguments, Command, ContextCommand, DiskCommand, Form};
use crate::contexts::{self, Context, Contexts};
use crate::output;
use anyhow::{Context as _, Result};
use clap::CommandFactory;
use machined_ids::MachineName;
use serde_json::json;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

/// What every command may need: where things are kept, which context and machine are meant, how to answer.
pub(crate) struct Surroundings {
    folder: PathBuf,
    context: Option<String>,
    machine: Option<MachineName>,
    form: Form,
}

impl Surroundings {
    fn contexts(&self) -> Result<Contexts> {
        Contexts::load(&self.folder)
    }

    /// The chosen context with its name.
    fn chosen(&self) -> Result<(String, Context)> {
        let contexts = self.contexts()?;
        let (name, context) = contexts.find(self.context.as_deref())?;
        Ok((name.to_owned(), context.clone()))
    }
}

/// Runs one command.
pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode> {
    let Arguments { config, context, machine, output: form, command } = arguments;
    let around = Surroundings { folder: contexts::folder(config)?, context, machine, form };
    let done = match command {
        Command::Verify(arguments) => {
            return Ok(ExitCode::from(verify::verify(&around, &arguments)? as u8));
        }
        Command::Clone(arguments) => checkout::clone(&around, &arguments),
        Command::Approve(arguments) => sign::approve(&around, &arguments),
        Command::Release(arguments) => sign::release(&around, &arguments),
        Command::Beacon(arguments) => sign::beacon(&around, &arguments),
        Command::Revoke(arguments) => sign::revoke(&around, &arguments),
        Command::Recover(arguments) => sign::recover(&around, &arguments),
        Command::Hold(arguments) => order::hold(&around, &arguments).await,
        Command::Pin(arguments) => order::pin(&around, &arguments).await,
        Command::Resume => order::resume(&around).await,
        Command::Vouch(arguments) => order::vouch(&around, &arguments).await,
        Command::Push(arguments) => order::push(&around, &arguments).await,
        Command::Introduction { checkout } => checkout::introduction(&checkout),
        Command::Repair(arguments) => checkout::repair(&around, &arguments),
        Command::Init(init) => cluster::init(&around, &init),
        Command::Enroll(enroll) => cluster::enroll(&around, &enroll).await,
        Command::Seed(seed) => cluster::seed(&seed),
        Command::Login(login) => access::login(&around, &login).await,
        Command::Logout => access::logout(&around),
        Command::Kubeconfig(kubeconfig) => access::kubeconfig(&around, &kubeconfig).await,
        Command::Dev(arguments) => dev::dev(&around, &arguments),
        Command::Credential => access::credential(&around),
        Command::Status => machine::status(&around).await,
        Command::Version => machine::version(&around).await,
        Command::Logs(logs) => machine::logs(&around, logs).await,
        Command::Dmesg { follow } => machine::dmesg(&around, follow).await,
        Command::Events { follow, tail } => machine::events(&around, follow, tail).await,
        Command::Service { command } => machine::service(&around, command).await,
        Command::Processes => machine::processes(&around).await,
        Command::Commits { limit } => machine::commits(&around, limit).await,
        Command::Attest(arguments) => attest::attest(&around, &arguments).await,
        Command::Disk { command: DiskCommand::RecoveryKey } => machine::recovery_key(&around).await,
        Command::Upgrade(wish) => upgrade::upgrade(&around, &wish).await,
        Command::Rollback(wish) => upgrade::rollback(&around, &wish).await,
        Command::Reboot(leave) => machine::reboot(&around, leave).await,
        Command::Reset(reset) => machine::reset(&around, reset).await,
        Command::Shutdown(leave) => machine::shutdown(&around, leave).await,
        Command::Context { command } => context_command(&around, command),
        Command::Completion { shell } => {
            // Into memory first: clap panics when it cannot write.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "cairnctl", &mut script);
            Ok(std::io::stdout().write_all(&script)?)
        }
    };
    done.map(|()| ExitCode::SUCCESS)
}

fn context_command(around: &Surroundings, command: Option<ContextCommand>) -> Result<()> {
    let mut contexts = around.contexts()?;
    match command {
        None => {
            let (name, context) = contexts.find(around.context.as_deref())?;
            if around.form == Form::Json {
                return output::json(&json!({ "name": name, "context": context }));
            }
            let machines: Vec<String> =
                context.machines.iter().map(|(name, machine)| format!("{name} at {}", machine.address)).collect();
            output::fields(&[
                ("context", name.to_owned()),
                ("cluster", context.cluster.to_string()),
                ("machines", machines.join(", ")),
                ("kubernetes", context.kubernetes.clone().unwrap_or_default()),
            ])
        }
        Some(ContextCommand::List) => {
            if around.form == Form::Json {
                return output::json(&serde_json::to_value(&contexts)?);
            }
            let mark = |name: &String| if contexts.current.as_ref() == Some(name) { "*" } else { "" };
            let row = |(name, context): (&String, &Context)| {
                vec![
                    mark(name).to_owned(),
                    name.clone(),
                    context.cluster.to_string(),
                    context.machines.len().to_string(),
                ]
            };
            output::table(&["", "NAME", "CLUSTER", "MACHINES"], &contexts.contexts.iter().map(row).collect::<Vec<_>>())
        }
        Some(ContextCommand::Use { name }) => {
            contexts.find(Some(&name)).context("no context was changed")?;
            contexts.current = Some(name);
            contexts.save(&around.folder)
        }
    }
}
