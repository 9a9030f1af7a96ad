//! Service-account tokens: ES256 JWTs bound to an account and, mostly, to a pod. Signed and checked here only.
//!
//! A token is worth something while its account (and pod) exist with the same uid; nothing is stored per token. What that means for streams
//! that go on is said in [`crate::token_tenure`].

use crate::caller::{Caller, SERVICE_ACCOUNTS};
use crate::failure::Failure;
use crate::random;
use crate::registry::{self, Call};
use crate::request::ResourcePath;
use crate::server::Inner;
use crate::storage;
use crate::tenure::Tenure;
use crate::token_tenure::Bound;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use controlplane_store::Consistency;
use controlplane_types::object::{self, Object, list, number, text};
use controlplane_types::{ApiError, FieldError};
use jiff::SignedDuration;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

/// Issuer and default audience of all tokens: one canonical name, the API server's own in the cluster.
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Shortest life of a token in seconds, as upstream: shorter ones would expire while a pod starts.
const LIFETIME_MIN: i64 = 600;
/// Longest life of a token in seconds: a day; agents renew in time.
const LIFETIME_MAX: i64 = 24 * 3600;
/// Life of a token whose request names none.
const LIFETIME_DEFAULT: i64 = 3600;

/// The keys that sign and check tokens: one that signs, and all whose tokens are believed. They can be replaced while the server runs.
pub struct ServiceAccountKeys(RwLock<Arc<Keys>>);

struct Keys {
    signing: EncodingKey,
    id: String,
    /// By their id, which each token names.
    checking: BTreeMap<String, DecodingKey>,
    jwks: Value,
}

/// A key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It is no P-256 key in PKCS#8 PEM.
    #[error("the service-account key is no P-256 key in PKCS#8 PEM")]
    Pem(#[source] rcgen::Error),
    /// The token library refuses it.
    #[error("the service-account key cannot sign tokens")]
    Unusable(#[source] jsonwebtoken::errors::Error),
}

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Vec<String>,
    exp: i64,
    iat: i64,
    nbf: i64,
    jti: String,
    #[serde(rename = "kubernetes.io")]
    private: Private,
}

#[derive(Debug, Serialize, Deserialize)]
struct Private {
    namespace: String,
    serviceaccount: Named,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<Named>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Named {
    name: String,
    uid: String,
}

impl ServiceAccountKeys {
    /// Makes a new key, as PKCS#8 PEM.
    ///
    /// # Errors
    /// [`KeyError`] when the system has no randomness.
    pub fn generate_pem() -> Result<String, KeyError> {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map(|key| key.serialize_pem()).map_err(KeyError::Pem)
    }

    /// Reads a P-256 key from PKCS#8 PEM. It signs, and it alone is believed.
    ///
    /// # Errors
    /// [`KeyError`] when it is none.
    pub fn from_pem(pem: &str) -> Result<ServiceAccountKeys, KeyError> {
        Ok(ServiceAccountKeys(RwLock::new(Arc::new(Keys::read(pem, &[])?))))
    }

    /// From now on `pem` signs; what it or one of `others` signed is believed, and nothing else.
    ///
    /// # Errors
    /// [`KeyError`] when one of them is no P-256 key in PKCS#8 PEM; then nothing changes.
    pub fn replace(&self, pem: &str, others: &[&str]) -> Result<(), KeyError> {
        let next = Arc::new(Keys::read(pem, others)?);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }

    fn current(&self) -> Arc<Keys> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The public keys, for `/openid/v1/jwks`: of every key whose tokens are believed.
    pub(crate) fn jwks(&self) -> Value {
        self.current().jwks.clone()
    }

    fn sign(&self, claims: &Claims) -> Result<String, Failure> {
        let keys = self.current();
        let header = Header { kid: Some(keys.id.clone()), ..Header::new(Algorithm::ES256) };
        jsonwebtoken::encode(&header, claims, &keys.signing)
            .map_err(|error| ApiError::internal(&format!("a token cannot be signed: {error}")).into())
    }

    /// The caller behind a token, and until when streams are served to it.
    pub(crate) async fn authenticate(&self, server: &Inner, token: &str) -> Result<(Caller, Tenure), Failure> {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(&[ISSUER]);
        validation.validate_nbf = true;
        let keys = self.current();
        let id = jsonwebtoken::decode_header(token).ok().and_then(|header| header.kid);
        let key = id.and_then(|id| keys.checking.get(&id)).ok_or_else(ApiError::unauthorized)?;
        let claims =
            jsonwebtoken::decode::<Claims>(token, key, &validation).map_err(|_| ApiError::unauthorized())?.claims;
        let Private { namespace, serviceaccount, pod } = &claims.private;
        let leeway = i64::try_from(validation.leeway).expect("because it is a minute");
        let mut bound = Bound::new(server.store.revision(), claims.exp.saturating_add(leeway));
        let objects = [("serviceaccounts", Some(serviceaccount)), ("pods", pod.as_ref())];
        for (resource, named) in objects.into_iter().filter_map(|(resource, named)| Some((resource, named?))) {
            let path =
                ResourcePath { namespace: namespace.clone(), name: named.name.clone(), ..ResourcePath::default() };
            if !lives(server, resource, &path, &named.uid).await? {
                return Err(ApiError::unauthorized().into());
            }
            bound.to(server, resource, &path)?;
        }
        let groups = [SERVICE_ACCOUNTS.to_owned(), format!("{SERVICE_ACCOUNTS}:{namespace}")];
        let user = format!("system:serviceaccount:{namespace}:{}", serviceaccount.name);
        Ok((Caller::authenticated(user, groups, claims.jti), bound.tenure(Arc::clone(&server.store))))
    }
}

impl Keys {
    fn read(pem: &str, others: &[&str]) -> Result<Keys, KeyError> {
        let mut keys = Keys {
            signing: EncodingKey::from_ec_pem(pem.as_bytes()).map_err(KeyError::Unusable)?,
            id: String::new(),
            checking: BTreeMap::new(),
            jwks: Value::Null,
        };
        let mut shown = Vec::new();
        for pem in [&pem].into_iter().chain(others) {
            let key = KeyPair::from_pem(pem).map_err(KeyError::Pem)?;
            let checking = DecodingKey::from_ec_pem(key.public_key_pem().as_bytes()).map_err(KeyError::Unusable)?;
            let id = URL_SAFE_NO_PAD.encode(Sha256::digest(key.subject_public_key_info()));
            if keys.checking.insert(id.clone(), checking).is_none() {
                shown.push(shown_as(&key, &id));
            }
            if keys.id.is_empty() {
                keys.id = id;
            }
        }
        keys.jwks = json!({"keys": shown});
        Ok(keys)
    }
}

/// A public key as `/openid/v1/jwks` shows it.
fn shown_as(key: &KeyPair, id: &str) -> Value {
    // A P-256 point is 0x04, then x and y of 32 bytes each (SEC 1, 2.3.3).
    let point = key.public_key_raw();
    let coordinate = |range| point.get(range).map(|bytes| URL_SAFE_NO_PAD.encode(bytes)).unwrap_or_default();
    json!({
        "use": "sig", "kty": "EC", "kid": id, "crv": "P-256", "alg": "ES256",
        "x": coordinate(1..33), "y": coordinate(33..65),
    })
}

/// Whether the object a token is bound to still exists.
async fn lives(server: &Inner, resource: &str, path: &ResourcePath, uid: &str) -> Result<bool, Failure> {
    let kind = server.kind("", "v1", resource)?;
    let found = storage::get(&*server.store, &kind, path, Consistency::Local).await?;
    Ok(found.is_some_and(|stored| stored.object.uid() == uid))
}

/// serviceaccounts/token: answers a TokenRequest.
pub(crate) async fn request(call: &Call<'_>, mut body: Value) -> Result<Value, Failure> {
    let Some(keys) = &call.server.options.tokens else {
        let reason = controlplane_types::Reason::ServiceUnavailable;
        return Err(ApiError::new(reason, "this server has no keys for service-account tokens").into());
    };
    let account = registry::get(call, None).await?;
    let asked = number(&body, &["spec", "expirationSeconds"]).unwrap_or(LIFETIME_DEFAULT);
    if asked < LIFETIME_MIN {
        let detail = "may not specify a duration less than 10 minutes";
        let error = FieldError::invalid("spec.expirationSeconds", &json!(asked), detail);
        return Err(ApiError::invalid(&call.kind, &call.path.name, vec![error]).into());
    }
    let lifetime = asked.min(LIFETIME_MAX);
    let mut audiences: Vec<String> =
        list(&body, &["spec", "audiences"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
    if audiences.is_empty() {
        audiences.push(ISSUER.to_owned());
    }
    let pod = bound_pod(call, &body).await?;
    let now = call.now.as_second();
    let claims = Claims {
        iss: ISSUER.into(),
        sub: format!("system:serviceaccount:{}:{}", call.path.namespace, call.path.name),
        aud: audiences.clone(),
        exp: now + lifetime,
        iat: now,
        nbf: now,
        jti: random::uid(),
        private: Private {
            namespace: call.path.namespace.clone(),
            serviceaccount: Named { name: call.path.name.clone(), uid: account.uid().to_owned() },
            pod,
        },
    };
    let token = keys.sign(&claims)?;
    let expires = call.now.saturating_add(SignedDuration::from_secs(lifetime)).unwrap_or(call.now);
    object::set(&mut body, &[], "apiVersion", "authentication.k8s.io/v1");
    object::set(&mut body, &[], "kind", "TokenRequest");
    object::set(&mut body, &["metadata"], "name", call.path.name.clone());
    object::set(&mut body, &["metadata"], "namespace", call.path.namespace.clone());
    object::set(&mut body, &["metadata"], "creationTimestamp", object::time(call.now));
    object::set(&mut body, &["spec"], "audiences", json!(audiences));
    object::set(&mut body, &["spec"], "expirationSeconds", lifetime);
    object::set(&mut body, &[], "status", json!({"token": token, "expirationTimestamp": object::time(expires)}));
    Ok(body)
}

/// The pod that a request binds its token to, which must exist and run as the account.
async fn bound_pod(call: &Call<'_>, body: &Value) -> Result<Option<Named>, Failure> {
    let name = text(body, &["spec", "boundObjectRef", "name"]);
    if name.is_empty() {
        return Ok(None);
    }
    if text(body, &["spec", "boundObjectRef", "kind"]) != "Pod" {
        let message = "spec.boundObjectRef.kind: only Pod is supported";
        return Err(ApiError::bad_request(message).into());
    }
    let kind = call.server.kind("", "v1", "pods")?;
    let path = ResourcePath { name: name.to_owned(), ..call.path.clone() };
    let pod = storage::get(&*call.server.store, &kind, &path, Consistency::Linearizable).await?;
    let pod = pod.ok_or_else(|| ApiError::not_found(&kind, name))?.object;
    let uid = text(body, &["spec", "boundObjectRef", "uid"]);
    if !uid.is_empty() && uid != pod.uid() {
        let why =
            format!("the UID in the bound object reference ({uid}) does not match the UID in record ({})", pod.uid());
        return Err(ApiError::conflict(&kind, name, &why).into());
    }
    if text(&pod, &["spec", "serviceAccountName"]) != call.path.name {
        let message = format!(
            "cannot bind token for serviceaccount \"{}\" to pod running with different serviceaccount",
            call.path.name
        );
        return Err(ApiError::bad_request(message).into());
    }
    Ok(Some(Named { name: name.to_owned(), uid: pod.uid().to_owned() }))
}
