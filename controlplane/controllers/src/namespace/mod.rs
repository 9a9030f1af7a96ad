//! Namespaces: what each has from the beginning, and how one is emptied when it is deleted.
//!
//! Woken by: the Namespace; its `default` ServiceAccount; its `kube-root-ca.crt` ConfigMap.

mod contents;

use crate::context::{Context, Doing, StepError};
use controlplane_client::{Cache, Client, Object, ObjectKey, Selection, spawn_workers};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use machined_reconcile::{Backoff, Outcome, Queue};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Keys worked on at a time.
const WORKERS: usize = 2;

/// Waits between looks at what is left in a namespace; short, for people wait for `kubectl delete namespace`.
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(100), limit: Duration::from_secs(15) };

/// The ServiceAccount of pods that name none.
const ACCOUNT: &str = "default";

/// The ConfigMap that pods find the cluster's certificate authority in.
const ROOT_CA: &str = "kube-root-ca.crt";

struct Controller {
    client: Client,
    root_ca: String,
    namespaces: Cache<Namespace>,
    accounts: Cache<ServiceAccount>,
    authorities: Cache<ConfigMap>,
}

pub(crate) fn start(context: &Context) {
    let namespaces = context.informers.all::<Namespace>();
    let accounts = context.informers.selected::<ServiceAccount>(Selection::fields(format!("metadata.name={ACCOUNT}")));
    let authorities = context.informers.selected::<ConfigMap>(Selection::fields(format!("metadata.name={ROOT_CA}")));
    let queue = Queue::new(BACKOFF);
    let controller = Arc::new(Controller {
        client: context.client.clone(),
        root_ca: context.settings.root_ca.clone(),
        namespaces: namespaces.cache().clone(),
        accounts: accounts.cache().clone(),
        authorities: authorities.cache().clone(),
    });
    let keys = queue.clone();
    namespaces.cache().on_change(move |change| keys.add(change.newest().key()));
    let keys = queue.clone();
    accounts.cache().on_change(move |change| keys.add(namespace_of(&**change.newest())));
    let keys = queue.clone();
    authorities.cache().on_change(move |change| keys.add(namespace_of(&**change.newest())));
    let synced = [namespaces.synced(), accounts.synced(), authorities.synced()];
    spawn_workers(&context.supervisor, "namespace", WORKERS, &queue, &synced, move |key| {
        let controller = Arc::clone(&controller);
        async move { controller.reconcile(key).await }
    });
}

fn namespace_of<K: Object>(object: &K) -> ObjectKey {
    ObjectKey::cluster(object.namespace().unwrap_or_default())
}

impl Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Outcome, StepError> {
        let Some(namespace) = self.namespaces.get(&key) else { return Ok(Outcome::Done) };
        if namespace.is_terminating() {
            return contents::remove(&self.client, &namespace).await;
        }
        self.provide_account(&key.name).await?;
        self.provide_authority(&key.name).await?;
        Ok(Outcome::Done)
    }

    async fn provide_account(&self, namespace: &str) -> Result<(), StepError> {
        if self.accounts.get(&ObjectKey::in_namespace(namespace, ACCOUNT)).is_some() {
            return Ok(());
        }
        let account = ServiceAccount { metadata: named(namespace, ACCOUNT), ..ServiceAccount::default() };
        match self.client.namespaced(namespace).create(&account).await {
            Err(error) if !error.is_already_exists() => {
                Err(error).doing(|| format!("create ServiceAccount {namespace}/{ACCOUNT}"))
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }

    async fn provide_authority(&self, namespace: &str) -> Result<(), StepError> {
        let data = BTreeMap::from([("ca.crt".to_owned(), self.root_ca.clone())]);
        let present = self.authorities.get(&ObjectKey::in_namespace(namespace, ROOT_CA));
        let api = self.client.namespaced::<ConfigMap>(namespace);
        let doing = || format!("write ConfigMap {namespace}/{ROOT_CA}");
        match present {
            Some(present) if present.data.as_ref() == Some(&data) => Ok(()),
            Some(present) => {
                let healed = ConfigMap { data: Some(data), ..(*present).clone() };
                api.update(&healed).await.doing(doing).map(drop)
            }
            None => {
                let map = ConfigMap { metadata: named(namespace, ROOT_CA), data: Some(data), ..ConfigMap::default() };
                match api.create(&map).await {
                    Err(error) if !error.is_already_exists() => Err(error).doing(doing),
                    Ok(_) | Err(_) => Ok(()),
                }
            }
        }
    }
}

fn named(namespace: &str, name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), namespace: Some(namespace.to_owned()), ..ObjectMeta::default() }
}
