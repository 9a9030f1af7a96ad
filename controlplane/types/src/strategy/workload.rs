//! Deployments and ReplicaSets.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::rules::{immutable, not_negative, one_of, percent, share};
use super::{PLAIN, pod_rules, pod_spec};
use crate::field_error::FieldError;
use crate::kind::{Generation, Strategy};
use crate::object::{self, Object, list, number, set_default, text};
use crate::selector::from_label_selector;
use crate::table::{AGE, Column, NAME, Printer, age, column};
use crate::validate;

/// Revisions that a Deployment keeps, and seconds after which it counts as stuck.
const REVISION_HISTORY: i64 = 10;
const PROGRESS_SECONDS: i64 = 600;

/// Deployments.
pub static DEPLOYMENT: Strategy = Strategy {
    default: |deployment| {
        default_replicas(deployment);
        set_default(deployment, &["spec", "strategy"], "type", "RollingUpdate");
        if text(deployment, &["spec", "strategy", "type"]) == "RollingUpdate" {
            for key in ["maxUnavailable", "maxSurge"] {
                set_default(deployment, &["spec", "strategy", "rollingUpdate"], key, "25%");
            }
        }
        set_default(deployment, &["spec"], "revisionHistoryLimit", REVISION_HISTORY);
        set_default(deployment, &["spec"], "progressDeadlineSeconds", PROGRESS_SECONDS);
        pod_spec::default_template(deployment);
    },
    prepare_create: |deployment| object::set(deployment, &[], "status", json!({})),
    validate: |deployment| {
        let mut errors = workload(deployment);
        errors.extend(rollout(deployment));
        errors
    },
    validate_update: |new, old| immutable(new, old, &["spec", "selector"]),
    generation: Generation::SpecAndAnnotations,
    printer: Printer { columns: DEPLOYMENT_COLUMNS, row: deployment_row },
    ..PLAIN
};

/// ReplicaSets.
pub static REPLICA_SET: Strategy = Strategy {
    default: |set| {
        default_replicas(set);
        pod_spec::default_template(set);
    },
    prepare_create: |set| object::set(set, &[], "status", json!({"replicas": 0})),
    validate: workload,
    validate_update: |new, old| immutable(new, old, &["spec", "selector"]),
    generation: Generation::Spec,
    selectable: |set| vec![("status.replicas", number(set, &["status", "replicas"]).unwrap_or(0).to_string())],
    printer: Printer { columns: REPLICA_SET_COLUMNS, row: replica_set_row },
    ..PLAIN
};

fn default_replicas(workload: &mut Value) {
    set_default(workload, &["spec"], "replicas", 1);
}

fn workload(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for key in ["replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"] {
        errors.extend(not_negative(object, &["spec", key], &format!("spec.{key}")));
    }
    let selector = object::at(object, &["spec", "selector"]);
    let labels = object::map(object, &["spec", "template", "metadata", "labels"]);
    match selector {
        None => errors.push(FieldError::required("spec.selector", "")),
        Some(selector) => {
            errors.extend(validate::label_selector(selector, "spec.selector"));
            let parsed = from_label_selector(selector).unwrap_or_default();
            if parsed.is_empty() {
                let why = format!("empty selector is invalid for {}", object.kind().to_lowercase());
                errors.push(FieldError::invalid("spec.selector", selector, why));
            } else if !parsed.matches(labels) {
                let value = object::at(object, &["spec", "template", "metadata", "labels"]).unwrap_or(&Value::Null);
                let why = "`selector` does not match template `labels`";
                errors.push(FieldError::invalid("spec.template.metadata.labels", value, why));
            }
        }
    }
    let template = &object["spec"]["template"];
    errors.extend(validate::labels(template, &["metadata", "labels"], "spec.template.labels"));
    errors.extend(validate::annotations(template, &["metadata", "annotations"], "spec.template.annotations"));
    errors.extend(pod_rules::spec(&template["spec"], "spec.template.spec"));
    let policy = text(template, &["spec", "restartPolicy"]);
    if matches!(policy, "OnFailure" | "Never") {
        let at = "spec.template.spec.restartPolicy";
        errors.push(FieldError::not_supported(at, &json!(policy), &["Always"]));
    }
    if object::at(template, &["spec", "activeDeadlineSeconds"]).is_some() {
        let why = "activeDeadlineSeconds in workload is not Supported";
        errors.push(FieldError::forbidden("spec.template.spec.activeDeadlineSeconds", why));
    }
    errors
}

fn rollout(deployment: &Value) -> Vec<FieldError> {
    let strategy = &deployment["spec"]["strategy"];
    let mut errors = one_of(strategy, &["type"], "spec.strategy.type", &["Recreate", "RollingUpdate"]);
    let rolling = object::at(strategy, &["rollingUpdate"]);
    if text(strategy, &["type"]) == "Recreate" {
        if rolling.is_some() {
            let why = "may not be specified when strategy `type` is 'Recreate'";
            errors.push(FieldError::forbidden("spec.strategy.rollingUpdate", why));
        }
        return errors;
    }
    let Some(rolling) = rolling else { return errors };
    for key in ["maxUnavailable", "maxSurge"] {
        errors.extend(share(&rolling[key], &format!("spec.strategy.rollingUpdate.{key}"), key == "maxUnavailable"));
    }
    if is_zero(&rolling["maxUnavailable"]) && is_zero(&rolling["maxSurge"]) {
        let why = "may not be 0 when `maxSurge` is 0";
        let at = "spec.strategy.rollingUpdate.maxUnavailable";
        errors.push(FieldError::invalid(at, &rolling["maxUnavailable"], why));
    }
    let (progress, ready) =
        (number(deployment, &["spec", "progressDeadlineSeconds"]), number(deployment, &["spec", "minReadySeconds"]));
    if let Some(progress) = progress.filter(|progress| *progress <= ready.unwrap_or(0)) {
        let why = "must be greater than minReadySeconds";
        errors.push(FieldError::invalid("spec.progressDeadlineSeconds", &json!(progress), why));
    }
    errors
}

fn is_zero(value: &Value) -> bool {
    value.as_i64() == Some(0) || percent(value) == Some(0)
}

const CONTAINERS: Column = column("Containers", "Names of the containers.").wide();
const IMAGES: Column = column("Images", "Images of the containers.").wide();
const SELECTOR: Column = column("Selector", "Labels of the pods that belong here.").wide();

const DEPLOYMENT_COLUMNS: &[Column] = &[
    NAME,
    column("Ready", "Number of the pod with ready state"),
    column("Up-to-date", "Pods of the newest template.").number(),
    column("Available", "Pods that have been ready for long enough.").number(),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

fn deployment_row(deployment: &Value, now: Timestamp) -> Vec<Value> {
    let status = |key: &str| number(deployment, &["status", key]).unwrap_or(0);
    let wanted = number(deployment, &["spec", "replicas"]).unwrap_or(0);
    let mut cells = vec![
        json!(deployment.name()),
        json!(format!("{}/{wanted}", status("readyReplicas"))),
        json!(status("updatedReplicas")),
        json!(status("availableReplicas")),
        age(deployment, now),
    ];
    cells.extend(template_cells(deployment));
    cells
}

const REPLICA_SET_COLUMNS: &[Column] = &[
    NAME,
    column("Desired", "Pods that there should be.").number(),
    column("Current", "Pods that there are.").number(),
    column("Ready", "Pods that are ready.").number(),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

fn replica_set_row(set: &Value, now: Timestamp) -> Vec<Value> {
    let status = |key: &str| number(set, &["status", key]).unwrap_or(0);
    let mut cells = vec![
        json!(set.name()),
        json!(number(set, &["spec", "replicas"]).unwrap_or(0)),
        json!(status("replicas")),
        json!(status("readyReplicas")),
        age(set, now),
    ];
    cells.extend(template_cells(set));
    cells
}

fn template_cells(workload: &Value) -> [Value; 3] {
    let containers = list(workload, &["spec", "template", "spec", "containers"]);
    let join = |key: &str| containers.iter().map(|one| text(one, &[key])).collect::<Vec<_>>().join(",");
    let selector = from_label_selector(&workload["spec"]["selector"]).unwrap_or_default();
    [json!(join("name")), json!(join("image")), json!(selector.to_string())]
}
