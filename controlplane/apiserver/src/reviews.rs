//! Questions about oneself: `kubectl auth whoami` and `kubectl auth can-i`. Nothing here is stored.

use crate::authz::{self, Attributes};
use crate::caller::Caller;
use crate::failure::Failure;
use crate::node_scope;
use crate::query::Query;
use crate::request::ResourcePath;
use crate::server::Inner;
use controlplane_types::object::{self, text};
use controlplane_types::{ApiError, KindInfo, Registry, Scope, schema, strategy};
use serde_json::{Value, json};

/// A question that is answered in place: a kind that discovery lists and that has no objects.
pub(crate) struct Review {
    pub(crate) group: &'static str,
    pub(crate) resource: &'static str,
    pub(crate) kind: &'static str,
}

/// All questions.
pub(crate) const REVIEWS: &[Review] = &[
    Review { group: "authentication.k8s.io", resource: "selfsubjectreviews", kind: "SelfSubjectReview" },
    Review { group: "authorization.k8s.io", resource: "selfsubjectaccessreviews", kind: "SelfSubjectAccessReview" },
    Review { group: "authorization.k8s.io", resource: "selfsubjectrulesreviews", kind: "SelfSubjectRulesReview" },
];

/// Adds the questions to what is served, so that discovery shows them.
pub(crate) fn register(kinds: &mut Registry) {
    for review in REVIEWS {
        kinds.add(KindInfo {
            group: review.group.into(),
            version: "v1".into(),
            kind: review.kind.into(),
            plural: review.resource.into(),
            singular: review.kind.to_lowercase(),
            short_names: vec![],
            categories: vec![],
            scope: Scope::Cluster,
            subresources: vec![],
            verbs: vec!["create"],
            storage_group: review.group.into(),
            storage_version: "v1".into(),
            writer: None,
            renames: &[],
            strategy: &strategy::PLAIN,
            schema: schema::schema(&format!("io.k8s.api.{}.v1.{}", review.group, review.kind)),
        });
    }
}

/// The question that a path asks.
pub(crate) fn find(path: &ResourcePath) -> Option<&'static Review> {
    let matches = |r: &&Review| r.group == path.group && r.resource == path.resource && path.version == "v1";
    REVIEWS.iter().find(matches).filter(|_| path.name.is_empty() && path.subresource.is_empty())
}

/// Answers a question.
pub(crate) async fn answer(
    server: &Inner,
    review: &Review,
    caller: &Caller,
    mut body: Value,
) -> Result<Value, Failure> {
    if !body.is_object() {
        return Err(ApiError::bad_request(format!("the body is not an object of kind {}", review.kind)).into());
    }
    let status = match review.kind {
        "SelfSubjectReview" => json!({"userInfo": {"username": caller.user, "groups": caller.groups}}),
        "SelfSubjectRulesReview" => authz::rules_of(caller),
        _ => access(server, caller, &body).await?,
    };
    object::set(&mut body, &[], "apiVersion", format!("{}/v1", review.group));
    object::set(&mut body, &[], "kind", review.kind);
    object::set(&mut body, &["metadata"], "creationTimestamp", Value::Null);
    object::set(&mut body, &[], "status", status);
    Ok(body)
}

async fn access(server: &Inner, caller: &Caller, body: &Value) -> Result<Value, Failure> {
    let asked = attributes(body)?;
    let allowed =
        authz::allows(caller, &asked) && node_scope::allows(server, caller, &asked, &Query::default()).await?;
    Ok(json!({"allowed": allowed}))
}

fn attributes(body: &Value) -> Result<Attributes, ApiError> {
    let of = |field: &str| text(body, &["spec", "resourceAttributes", field]).to_owned();
    if object::at(body, &["spec", "resourceAttributes"]).is_some() {
        let path = ResourcePath {
            group: of("group"),
            version: of("version"),
            resource: of("resource"),
            subresource: of("subresource"),
            namespace: of("namespace"),
            name: of("name"),
            rest: String::new(),
        };
        return Ok(Attributes { verb: of("verb"), resource: Some(path), path: String::new() });
    }
    let path = text(body, &["spec", "nonResourceAttributes", "path"]);
    if path.is_empty() {
        return Err(ApiError::bad_request(
            "spec: exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ));
    }
    let verb = text(body, &["spec", "nonResourceAttributes", "verb"]).to_owned();
    Ok(Attributes { verb, resource: None, path: path.to_owned() })
}
