//! Logging in, and handing the login to kubectl.

use super::Surroundings;
use crate::arguments::{Kubeconfig, Login};
use crate::contexts::{self, Context};
use crate::machine::{connect, dial};
use crate::output;
use crate::session::Session;
use anyhow::{Context as _, Result, bail, ensure};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};
use machined_access::tls;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) async fn login(around: &Surroundings, login: &Login) -> Result<()> {
    let mut contexts = around.contexts()?;
    let (name, mut context) = around.chosen()?;
    if let Some(key) = &login.ssh_key {
        context.ssh_key = Some(std::path::absolute(key)?);
    }
    let Some(key) = context.ssh_key.clone() else {
        bail!("no SSH key is known for context {name}; give one with --ssh-key");
    };
    let now = Timestamp::now();
    let session = Session::create(&context, &key, SignedDuration::from_hours(login.hours.into()), now)?;
    session.save(&around.folder, &context)?;
    contexts.contexts.insert(name.clone(), context.clone());
    contexts.save(&around.folder)?;
    // A login is an offline act; asking says at once whether the machine believes it.
    if let Some(server) = context.development_api() {
        let answer = ask(&context, server, "/apis", Some(&session)).await?;
        ensure!(answer.status().is_success(), "{server} does not take the login: {}", answer.status());
        println!("logged in to {name} until {}", session.expires);
        return Ok(());
    }
    let (machine, mut client) = connect(&around.folder, &context, around.machine.as_ref()).await?;
    if let Err(status) = client.version(machined_api::VersionRequest {}).await {
        bail!("machine {machine} does not take the login: {}", status.message());
    }
    println!("logged in to {name} until {}", session.expires);
    Ok(())
}

pub(super) fn logout(around: &Surroundings) -> Result<()> {
    let (name, context) = around.chosen()?;
    Session::forget(&around.folder, &context)?;
    println!("the login to {name} is gone from this computer");
    Ok(())
}

pub(super) fn credential(around: &Surroundings) -> Result<()> {
    let (_, context) = around.chosen()?;
    let now = Timestamp::now();
    output::json(&Session::load(&around.folder, &context, now)?.exec_credential(now)?)
}

pub(super) async fn kubeconfig(around: &Surroundings, wanted: &Kubeconfig) -> Result<()> {
    let (name, context) = around.chosen()?;
    let Some(server) = context.kubernetes.clone() else {
        bail!("context {name} has no Kubernetes API; `cairnctl enroll` of a control-plane machine sets it");
    };
    let authority = certificate_authority(&context, &server).await?;
    let file = match &wanted.file {
        Some(file) => file.clone(),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set; give --file")?).join(".kube/config"),
    };
    let mut config = read_kubeconfig(&file)?;
    let entry = format!("cairn-{name}");
    set_entry(
        &mut config,
        "clusters",
        &entry,
        "cluster",
        json!({
            "server": server,
            "certificate-authority-data": base64(authority.as_bytes()),
        }),
    )?;
    set_entry(&mut config, "users", &entry, "user", exec_user(around, &name)?)?;
    set_entry(&mut config, "contexts", &entry, "context", json!({ "cluster": entry, "user": entry }))?;
    config["current-context"] = Value::from(entry.as_str());
    // JSON is YAML, so kubectl and every other client read it.
    contexts::write_private(&file, &serde_json::to_vec_pretty(&config)?)?;
    println!("wrote context {entry} to {}", file.display());
    Ok(())
}

fn exec_user(around: &Surroundings, context: &str) -> Result<Value> {
    let program = std::env::current_exe().context("finding this program")?;
    Ok(json!({ "exec": {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": program,
        "args": ["--config", around.folder, "--context", context, "credential"],
        "interactiveMode": "IfAvailable",
        "provideClusterInfo": false,
    }}))
}

fn base64(bytes: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    STANDARD.encode(bytes)
}

/// The file's kubeconfig, or an empty one.
fn read_kubeconfig(file: &Path) -> Result<Value> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) if !text.trim().is_empty() => text,
        Ok(_) => return Ok(json!({ "apiVersion": "v1", "kind": "Config" })),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(json!({ "apiVersion": "v1", "kind": "Config" }));
        }
        Err(error) => return Err(error).with_context(|| format!("reading {}", file.display())),
    };
    let config: Value = serde_saphyr::from_str(&text).with_context(|| format!("reading {}", file.display()))?;
    ensure!(config.is_object(), "{} is no kubeconfig; nothing was changed", file.display());
    Ok(config)
}

/// Puts a named entry into one of a kubeconfig's lists, in place of one of the same name.
fn set_entry(config: &mut Value, list: &str, name: &str, field: &str, value: Value) -> Result<()> {
    if config[list].is_null() {
        config[list] = json!([]);
    }
    let list = config[list].as_array_mut().with_context(|| format!("`{list}` of the kubeconfig is no list"))?;
    list.retain(|entry| entry["name"] != name);
    list.push(json!({ "name": name, field: value }));
    Ok(())
}

/// Largest document that is read, in bytes: the authority is below one KiB, a list of API groups some.
const DOCUMENT_BYTES_MAX: usize = 64 * 1024;

/// Asks the API server for its certificate authority.
async fn certificate_authority(context: &Context, server: &str) -> Result<String> {
    let answer = ask(context, server, "/.well-known/cairn/ca.pem", None).await?;
    ensure!(answer.status().is_success(), "the API server answered {}", answer.status());
    let text = String::from_utf8(answer.into_body()).context("the API server's answer is no text")?;
    ensure!(text.starts_with("-----BEGIN CERTIFICATE-----"), "the API server gave no certificate");
    Ok(text)
}

/// Asks the API server for a small document, over a connection that the machine's identity vouches for; as the person of the
/// session, or as nobody.
async fn ask(context: &Context, server: &str, path: &str, as_who: Option<&Session>) -> Result<http::Response<Vec<u8>>> {
    let address = server.trim_start_matches("https://").trim_end_matches('/');
    let expected = context.machines.values().map(|machine| machine.identity.clone()).collect();
    let own = as_who.map(|session| session.client_leaf(Timestamp::now())).transpose()?;
    let config = Arc::new(tls::pinned_client_config(expected, own, &["http/1.1"])?);
    let stream = dial(config, address).await.with_context(|| format!("cannot reach the Kubernetes API at {server}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let mut request = http::Request::get(path).header("host", tls::MACHINE_NAME);
    if let Some(session) = as_who {
        request = request.header("authorization", format!("Bearer {}", session.token));
    }
    let exchange = async {
        let response = sender.send_request(request.body(Empty::<bytes::Bytes>::new())?).await?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, DOCUMENT_BYTES_MAX).collect().await.map_err(anyhow::Error::from_boxed)?;
        anyhow::Ok(http::Response::from_parts(head, body.to_bytes().to_vec()))
    };
    tokio::select! {
        answer = exchange => answer.with_context(|| format!("asking {server} for {path}")),
        end = connection => bail!("the connection to {server} ended: {end:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_replaces_its_namesake_and_leaves_the_others() {
        let mut config = json!({ "users": [{ "name": "a", "user": 1 }, { "name": "b", "user": 2 }] });
        set_entry(&mut config, "users", "a", "user", json!(3)).expect("because users is a list");
        assert_eq!(config["users"], json!([{ "name": "b", "user": 2 }, { "name": "a", "user": 3 }]));
        set_entry(&mut config, "contexts", "a", "context", json!({})).expect("because contexts is made");
        assert_eq!(config["contexts"][0]["name"], "a");
        assert!(set_entry(&mut json!({ "users": 1 }), "users", "a", "user", json!(3)).is_err());
    }
}
