//! Informers and workers against a scripted server.

use crate::{
    Body, BoxError, Client, Informers, Object, ObjectKey, Transport, TransportError, full_body, spawn_workers,
};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use k8s_openapi::api::core::v1::ConfigMap;
use machined_reconcile::{Backoff, Outcome, Queue, Supervisor};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;

/// Answers requests in order; each must ask for what its line says.
struct Script(Mutex<VecDeque<(&'static str, Answer)>>);

enum Answer {
    Json(String),
    /// Lines until the watch ends.
    Lines(Vec<String>),
    Status(u16, &'static str),
    /// A watch that never ends and never says anything.
    Silence,
}

impl Transport for Script {
    fn call(
        &self,
        request: Request<Body>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Body>, TransportError>> + Send + '_>> {
        let asked = request.uri().query().unwrap_or_default().to_owned();
        let next = self.0.lock().expect("because no holder panics").pop_front();
        let (expected, answer) = next.unwrap_or_else(|| panic!("an unexpected request: {asked}"));
        assert!(asked.contains(expected), "asked {asked}, expected {expected}");
        let response = match answer {
            Answer::Json(text) => Response::new(full_body(text)),
            Answer::Lines(lines) => Response::new(full_body(lines.join("\n") + "\n")),
            Answer::Status(code, text) => {
                let mut response = Response::new(full_body(text));
                *response.status_mut() = code.try_into().expect("because it is a status");
                response
            }
            Answer::Silence => {
                let never = futures_util::stream::pending::<Result<Frame<Bytes>, BoxError>>();
                Response::new(StreamBody::new(never).boxed_unsync())
            }
        };
        Box::pin(async { Ok(response) })
    }
}

fn object(name: &str, version: u32) -> String {
    format!(r#"{{"metadata":{{"name":"{name}","namespace":"a","uid":"{name}","resourceVersion":"{version}"}}}}"#)
}

fn list(version: u32, items: &[String]) -> Answer {
    Answer::Json(format!(r#"{{"metadata":{{"resourceVersion":"{version}"}},"items":[{}]}}"#, items.join(",")))
}

fn event(kind: &str, object: &str) -> String {
    format!(r#"{{"type":"{kind}","object":{object}}}"#)
}

fn informers(script: Vec<(&'static str, Answer)>) -> (Informers, Supervisor) {
    let supervisor = Supervisor::new();
    let client = Client::new(Arc::new(Script(Mutex::new(script.into()))));
    (Informers::new(client, supervisor.clone()), supervisor)
}

#[tokio::test(start_paused = true)]
async fn a_watch_goes_on_where_it_ended_and_lists_again_when_history_is_gone() {
    let bookmark = event("BOOKMARK", r#"{"metadata":{"resourceVersion":"20"}}"#);
    let expired = event("ERROR", r#"{"kind":"Status","code":410,"reason":"Expired","message":"too old"}"#);
    let (informers, supervisor) = informers(vec![
        ("limit=", list(10, &[object("x", 5)])),
        ("resourceVersion=10", Answer::Lines(vec![event("ADDED", &object("y", 11)), bookmark])),
        ("resourceVersion=20", Answer::Status(503, "busy")),
        ("resourceVersion=20", Answer::Lines(vec![event("DELETED", &object("x", 21)), expired])),
        ("limit=", list(30, &[object("z", 25)])),
        ("resourceVersion=30", Answer::Silence),
    ]);
    let informer = informers.all::<ConfigMap>();
    let (tell, mut told) = mpsc::channel(16);
    informer.cache().on_change(move |change| {
        tell.try_send(format!("{} {}", change.newest().name(), change.versions().count()))
            .expect("because there is room");
    });
    let mut seen = Vec::new();
    while seen.last().map(String::as_str) != Some("z 1") {
        seen.push(told.recv().await.expect("because the handler lives"));
    }
    assert_eq!(seen, ["x 1", "y 1", "x 1", "y 1", "z 1"]);
    assert!(informer.synced().is_synced());
    let names: Vec<String> = informer.cache().list().iter().map(|object| object.name().to_owned()).collect();
    assert_eq!(names, ["z"]);
    supervisor.stop(Duration::from_secs(1)).await;
}

#[derive(Debug, thiserror::Error)]
#[error("not yet")]
struct NotYet;

#[tokio::test(start_paused = true)]
async fn a_key_that_fails_comes_back_and_so_does_one_whose_work_panicked() {
    let (informers, supervisor) = informers(vec![("limit=", list(1, &[])), ("resourceVersion=1", Answer::Silence)]);
    let synced = informers.all::<ConfigMap>().synced();
    let queue = Queue::new(Backoff::ITEM);
    queue.add(ObjectKey::cluster("x"));
    let (tell, mut told) = mpsc::channel(16);
    let attempts = Arc::new(Mutex::new(0));
    spawn_workers(&supervisor, "test", 1, &queue, &[synced], move |key| {
        let mut attempts = attempts.lock().expect("because no holder panics");
        *attempts += 1;
        let (attempt, tell) = (*attempts, tell.clone());
        async move {
            tell.send((attempt, key.name)).await.expect("because the test listens");
            match attempt {
                1 => Err(NotYet),
                2 => panic!("the second attempt panics"),
                _ => Ok(Outcome::Done),
            }
        }
    });
    for attempt in 1..=3 {
        assert_eq!(told.recv().await, Some((attempt, "x".to_owned())));
    }
    supervisor.stop(Duration::from_secs(1)).await;
}
