//! Keeps the kernel's table like the API's Services and EndpointSlices.
//!
//! One task, `service proxy`, woken by changes of either, by somebody else's change of our table and by period. It
//! plans everything each time; nothing is sent when the plan is what the kernel has.

use super::plan::plan;
use super::ruleset::{Ruleset, TABLE};
use crate::cidr::Cidr;
use crate::config::NetworkConfig;
use crate::nftables::{ApplyError, NftSocket};
use controlplane_client::{Informer, Informers};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use machined_reconcile::{Restart, Stop, Supervisor, Trigger};
use std::time::Duration;

/// How often the table is written anew though nothing was heard: repairs what events missed.
const PERIOD: Duration = Duration::from_secs(300);
/// Changes that come within this time are applied together: a rollout changes slices many times a second, and
/// nobody notices a connection that goes to the old endpoints for this long.
const GATHER: Duration = Duration::from_millis(20);

/// Starts the service proxy of a node with pod range `pods`; it runs until the supervisor stops it.
pub fn run(config: NetworkConfig, pods: Cidr, informers: &Informers, supervisor: &Supervisor) {
    let services = informers.all::<Service>();
    let slices = informers.all::<EndpointSlice>();
    let trigger = Trigger::new();
    let fire = trigger.clone();
    services.cache().on_change(move |_change| fire.fire());
    let fire = trigger.clone();
    slices.cache().on_change(move |_change| fire.fire());
    supervisor.spawn("service proxy", Restart::Always, move |stop| {
        let proxy = Proxy { config: config.clone(), pods, services: services.clone(), slices: slices.clone() };
        proxy.run(trigger.clone(), stop)
    });
}

/// The proxy cannot go on; the supervisor starts it again.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The kernel refused the rules.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// Changes of the table by others cannot be heard.
    #[error("cannot hear changes of the rules")]
    Listen(#[source] std::io::Error),
}

struct Proxy {
    config: NetworkConfig,
    pods: Cidr,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
}

impl Proxy {
    async fn run(self, trigger: Trigger, mut stop: Stop) -> Result<(), ProxyError> {
        let (mut services, mut slices) = (self.services.synced(), self.slices.synced());
        let ready = async {
            services.wait().await;
            slices.wait().await;
        };
        // Rules from half of the objects would cut connections that should go on.
        tokio::select! {
            () = ready => {}
            () = stop.requested() => return Ok(()),
        }
        let socket = NftSocket::open()?;
        let mut wakeups = trigger.wakeups(PERIOD);
        let mut applied: Option<Ruleset> = None;
        loop {
            tokio::select! {
                () = wakeups.next() => {
                    tokio::time::sleep(GATHER).await;
                    let wanted = self.plan();
                    if applied.as_ref() != Some(&wanted) {
                        socket.apply(&wanted.table())?;
                        tracing::debug!(ports = wanted.ports.len(), "service rules applied");
                        applied = Some(wanted);
                    }
                }
                changed = socket.changed_by_others(TABLE) => {
                    changed.map_err(ProxyError::Listen)?;
                    tracing::warn!(table = TABLE, "service rules were changed by somebody else and are written again");
                    applied = None;
                    trigger.fire();
                }
                () = stop.requested() => return Ok(()),
            }
        }
    }

    fn plan(&self) -> Ruleset {
        let (services, slices) = (self.services.cache().list(), self.slices.cache().list());
        plan(services.iter().map(AsRef::as_ref), slices.iter().map(AsRef::as_ref), &self.config, self.pods)
    }
}
