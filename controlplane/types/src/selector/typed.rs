//! Selectors of `k8s-openapi`'s types against plain labels: for controllers and the scheduler, which hold no JSON.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use std::collections::BTreeMap;

/// Labels as objects carry them.
pub type Labels = BTreeMap<String, String>;

/// Whether the labels satisfy every condition; without any, everything does. No selector at all selects nothing.
pub fn selects(selector: Option<&LabelSelector>, labels: Option<&Labels>) -> bool {
    let Some(selector) = selector else { return false };
    let value = |key: &str| labels.and_then(|labels| labels.get(key)).map(String::as_str);
    let by_label = selector.match_labels.iter().flatten().all(|(key, wanted)| value(key) == Some(wanted));
    let by_expression = selector.match_expressions.iter().flatten().all(|requirement| {
        let values = requirement.values.as_deref().unwrap_or_default();
        compare(&requirement.operator, values, value(&requirement.key))
    });
    by_label && by_expression
}

/// Whether the labels have every one of the wanted pairs.
pub fn has_all(wanted: &Labels, labels: Option<&Labels>) -> bool {
    wanted.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}

/// One requirement on one value: `In`, `NotIn`, `Exists`, `DoesNotExist`, and `Gt`, `Lt` of node selectors. Any other operator
/// holds for nothing; validation lets none through.
pub fn compare(operator: &str, values: &[String], actual: Option<&str>) -> bool {
    let is_among = |actual: &str| values.iter().any(|value| value == actual);
    let numbers = || Some((actual?.parse::<i64>().ok()?, values.first()?.parse::<i64>().ok()?));
    match operator {
        "In" => actual.is_some_and(is_among),
        "NotIn" => !actual.is_some_and(is_among),
        "Exists" => actual.is_some(),
        "DoesNotExist" => actual.is_none(),
        "Gt" => numbers().is_some_and(|(actual, bound)| actual > bound),
        "Lt" => numbers().is_some_and(|(actual, bound)| actual < bound),
        _unknown => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn an_empty_selector_selects_all_and_a_missing_one_nothing() {
        assert!(selects(Some(&LabelSelector::default()), None));
        assert!(!selects(None, Some(&labels(&[("a", "b")]))));
    }

    #[test]
    fn labels_and_expressions_must_both_hold() {
        let selector = LabelSelector {
            match_labels: Some(labels(&[("app", "web")])),
            match_expressions: Some(vec![LabelSelectorRequirement {
                key: "tier".to_owned(),
                operator: "NotIn".to_owned(),
                values: Some(vec!["test".to_owned()]),
            }]),
        };
        assert!(selects(Some(&selector), Some(&labels(&[("app", "web")]))));
        assert!(!selects(Some(&selector), Some(&labels(&[("app", "web"), ("tier", "test")]))));
        assert!(!selects(Some(&selector), Some(&labels(&[("tier", "prod")]))));
    }

    #[test]
    fn numbers_are_compared_as_numbers() {
        let bound = ["9".to_owned()];
        assert!(compare("Gt", &bound, Some("10")));
        assert!(!compare("Lt", &bound, Some("10")));
        assert!(!compare("Gt", &bound, Some("many")));
    }
}
