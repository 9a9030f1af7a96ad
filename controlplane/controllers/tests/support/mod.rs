//! A cluster in one process: the real API server over a store in memory, all controllers, and nodes that only play.

use controlplane_apiserver::{ApiServer, Caller, MASTERS, Options};
use controlplane_client::{
    Body, Client, Informers, Kind, Object, ObjectKey, Optional, Patch, ResourceKind, Transport, TransportError,
    spawn_workers,
};
use controlplane_controllers::{Settings, StoreGroup, Voters};
use controlplane_store::LocalStore;
use http::{Request, Response};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions;
use machined_reconcile::{Backoff, Outcome, Queue, Supervisor};
use serde_json::{Value, json};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// Longest wait for something that a test expects; reached only when it fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// The way to a server in this process, as one caller.
struct InProcess {
    server: ApiServer,
    caller: Caller,
}

impl Transport for InProcess {
    fn call(
        &self,
        mut request: Request<Body>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Body>, TransportError>> + Send + '_>> {
        request.extensions_mut().insert(self.caller.clone());
        Box::pin(async move { Ok(self.server.handle(request).await) })
    }
}

/// A store that is nobody's machine: all nodes are workers.
#[derive(Debug)]
struct Workers;

impl StoreGroup for Workers {
    fn voters(&self) -> Option<Voters> {
        Some(Voters::default())
    }

    fn hand_over(&self) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>> {
        Box::pin(async { Err("nobody leads".to_owned()) })
    }

    fn leaving(&self) -> watch::Receiver<Option<String>> {
        watch::Sender::new(None).subscribe()
    }

    fn let_leave(&self, machine: &str) {
        panic!("{machine} has no member")
    }
}

/// A running cluster.
pub(crate) struct Cluster {
    server: ApiServer,
    /// As an admin.
    pub(crate) client: Client,
    /// What the admin sees.
    pub(crate) informers: Informers,
    pub(crate) supervisor: Supervisor,
}

impl Cluster {
    /// Starts a cluster without nodes.
    pub(crate) async fn start() -> Self {
        let server = ApiServer::new(Arc::new(LocalStore::new()), Options::default());
        server.bootstrap().await.expect("because an empty store takes the first objects");
        let supervisor = Supervisor::new();
        let pods = (std::net::Ipv4Addr::new(10, 244, 0, 0), 16);
        let settings =
            Settings { instance: "test".to_owned(), root_ca: "PEM".to_owned(), pods, group: Arc::new(Workers) };
        let controllers = Arc::new(InProcess { server: server.clone(), caller: Caller::controllers() });
        controlplane_controllers::run(controllers, &supervisor, settings);
        let admin = Caller::authenticated("ada", [MASTERS.to_owned()], "SHA256:test");
        let client = Client::new(Arc::new(InProcess { server: server.clone(), caller: admin }));
        let informers = Informers::new(client.clone(), supervisor.clone());
        Cluster { server, client, informers, supervisor }
    }

    /// Adds a node of 4 CPUs and an agent that says its pods run as soon as they are bound, and gone as soon as they should go.
    pub(crate) async fn add_node(&self, name: &str) {
        let object = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
            "status": {
                "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"},
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        });
        let node: Node = read(object);
        self.client.all::<Node>().create(&node).await.expect("because the server takes nodes");
        self.play_agent(name);
    }

    /// Writes what the repository says of a machine, as gitsync does.
    pub(crate) async fn write_machine(&self, name: &str, spec: Value) {
        let caller = Caller::gitsync("SHA256:test");
        let client = Client::new(Arc::new(InProcess { server: self.server.clone(), caller }));
        let kind = ResourceKind {
            group: "cairn.dev".into(),
            version: "v1alpha1".into(),
            plural: "machines".into(),
            kind: "Machine".into(),
            namespaced: false,
        };
        let machine =
            json!({"apiVersion": "cairn.dev/v1alpha1", "kind": "Machine", "metadata": {"name": name}, "spec": spec});
        let machine = serde_json::from_value(machine).expect("because it is an object");
        client.dynamic(kind, None).create(&machine).await.expect("because gitsync writes machines");
    }

    /// A client that is a node's own.
    pub(crate) fn as_node(&self, name: &str) -> Client {
        let caller = Caller::node(name, "SHA256:test");
        Client::new(Arc::new(InProcess { server: self.server.clone(), caller }))
    }

    fn play_agent(&self, name: &str) {
        let client = self.as_node(name);
        let informers = Informers::new(client.clone(), self.supervisor.clone());
        let selection = controlplane_client::Selection::fields(format!("spec.nodeName={name}"));
        let pods = informers.selected::<Pod>(selection);
        let queue = Queue::new(Backoff::ITEM);
        let keys = queue.clone();
        pods.cache().on_change(move |change| keys.add(change.newest().key()));
        let cache = pods.cache().clone();
        let addresses = Arc::new(AtomicU8::new(1));
        spawn_workers(&self.supervisor, "agent", 1, &queue, &[pods.synced()], move |key| {
            let (pod, client, addresses) = (cache.get(&key), client.clone(), Arc::clone(&addresses));
            async move { play(&client, pod.as_deref(), &addresses).await }
        });
    }

    /// Creates an object.
    pub(crate) async fn create<K: Kind>(&self, object: Value) -> K {
        let object: K = read(object);
        let api = match object.namespace() {
            Some(namespace) => self.client.namespaced::<K>(namespace),
            None => self.client.all::<K>(),
        };
        api.create(&object).await.expect("because the server takes it")
    }

    /// Patches an object.
    pub(crate) async fn merge<K: Kind>(&self, namespace: &str, name: &str, patch: Value) -> K {
        let patched = self.client.namespaced::<K>(namespace).patch(name, Patch::Merge(&patch)).await;
        patched.expect("because the server takes it")
    }

    /// Waits until the objects of a kind are as the test wants them, and returns them.
    pub(crate) async fn until<K: Kind + std::fmt::Debug>(
        &self,
        what: &str,
        holds: impl Fn(&[Arc<K>]) -> bool,
    ) -> Vec<Arc<K>> {
        let informer = self.informers.all::<K>();
        let (tell, mut told) = watch::channel(());
        informer.cache().on_change(move |_| {
            tell.send_replace(());
        });
        let wait = async {
            informer.synced().wait().await;
            loop {
                let objects = informer.cache().list();
                if holds(&objects) {
                    return objects;
                }
                told.changed().await.expect("because the handler lives as long as the cache");
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(objects) => objects,
            Err(_elapsed) => panic!("waited in vain until {what}; there is {:#?}", informer.cache().list()),
        }
    }

    /// Waits until one object is as the test wants it.
    pub(crate) async fn until_one<K: Kind + std::fmt::Debug>(
        &self,
        key: &str,
        what: &str,
        holds: impl Fn(&K) -> bool,
    ) -> Arc<K> {
        let is_it = |object: &Arc<K>| object.key().to_string() == key && holds(object);
        let objects = self.until::<K>(what, |objects| objects.iter().any(is_it)).await;
        objects.into_iter().find(|object| object.key().to_string() == key).expect("because it was just there")
    }

    /// Ends everything.
    pub(crate) async fn stop(self) {
        self.supervisor.stop(Duration::from_secs(5)).await;
    }
}

async fn play(
    client: &Client,
    pod: Option<&Pod>,
    addresses: &AtomicU8,
) -> Result<Outcome, controlplane_client::ClientError> {
    let Some(pod) = pod else { return Ok(Outcome::Done) };
    let api = client.namespaced::<Pod>(pod.namespace().unwrap_or_default());
    if pod.is_terminating() {
        let now = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
        api.delete_if_there(pod.name(), &now).await?;
    } else if pod.status.as_ref().and_then(|status| status.phase.as_deref()) != Some("Running") {
        let address = format!("10.244.0.{}", addresses.fetch_add(1, Ordering::Relaxed));
        let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": Timestamp::now().to_string()});
        let status = json!({"status": {"phase": "Running", "podIP": address, "conditions": [ready]}});
        api.patch_status(pod.name(), Patch::Strategic(&status)).await.optional()?;
    }
    Ok(Outcome::Done)
}

/// Reads an object that the test wrote.
pub(crate) fn read<K: serde::de::DeserializeOwned>(object: Value) -> K {
    serde_json::from_value(object).expect("because the test wrote a proper object")
}

/// A Deployment in namespace `default`.
pub(crate) fn deployment(name: &str, replicas: i32, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": image}]},
            },
        },
    })
}

/// The key of an object in namespace `default`.
pub(crate) fn key(name: &str) -> String {
    ObjectKey::in_namespace("default", name).to_string()
}
