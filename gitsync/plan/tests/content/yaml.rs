//! YAML that does not say what a reviewer reads, and files of tools that read more than the commit.

use crate::{refused, refused_for, taken};
use gitsync_verify::Reason;

fn config_map(data: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a, namespace: web}}\n{data}")
}

#[test]
fn t51_a_repeated_key_is_refused_at_its_second_place() {
    let message =
        refused_for(Reason::Parse, "apps/web/a.yaml", &config_map("data:\n  a: shown\n  b: c\n  a: hidden\n"));
    assert!(message.contains("apps/web/a.yaml:7:3"), "{message}");
    // JSON is read by the same reader: the last one does not win there either.
    let json = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","namespace":"web","namespace":"shop"}}"#;
    refused_for(Reason::Parse, "apps/web/a.json", json);
}

#[test]
fn t51_an_alias_bomb_is_refused_within_a_second() {
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for level in 1..12 {
        bomb.push_str(&format!("a{level}: &a{level} [{}]\n", vec![format!("*a{}", level - 1); 10].join(",")));
    }
    let start = std::time::Instant::now();
    refused_for(Reason::Parse, "apps/web/a.yaml", &bomb);
    assert!(start.elapsed().as_secs() < 1, "10^12 nodes were begun");
}

#[test]
fn t51_a_country_called_no_is_refused_where_text_is_asked_for_and_not_turned_into_a_word() {
    for (word, line) in [("no", 5), ("off", 5), ("0777", 5), ("1.10", 5)] {
        let text = config_map(&format!("data:\n  country: {word}\n"));
        let message = refused_for(Reason::Parse, "apps/web/a.yaml", &text);
        assert!(message.contains(&format!("apps/web/a.yaml:{line}:")), "{word}: {message}");
        taken(&[("apps/web/a.yaml", &config_map(&format!("data:\n  country: \"{word}\"\n")))]);
    }
}

#[test]
fn t53_a_kustomization_with_a_remote_base_or_a_way_out_is_refused_with_each_place() {
    let text = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n  - deployment.yaml\n  \
                - https://example.org/base.yaml\n  - github.com/org/repo//base?ref=main\n  - git@example.org:a/b\n  \
                - ../../trust\n  - /etc\ncomponents:\n  - v1.2/mine\n";
    for path in ["apps/web/kustomization.yaml", "apps/web/Kustomization", "apps/web/other.yaml"] {
        let message = refused_for(Reason::Parse, path, text);
        for words in [
            "does not run kustomize",
            "kustomize build",
            ":5:5: \"https://example.org/base.yaml\" is a remote base",
            ":6:5: \"github.com/org/repo//base?ref=main\" is a remote base",
            ":7:5: \"git@example.org:a/b\" is a remote base",
            ":8:5: \"../../trust\" leads out",
            ":9:5: \"/etc\" leads out",
        ] {
            assert!(message.contains(words), "{words} is not in {message}");
        }
        assert!(!message.contains("deployment.yaml\"") && !message.contains("v1.2"), "{message}");
    }
}

#[test]
fn t53_charts_and_other_tools_objects_are_refused_and_not_half_understood() {
    let message = refused_for(Reason::Parse, "apps/web/Chart.yaml", "name: web\nversion: 1.0.0\n");
    assert!(message.contains("helm template"), "{message}");
    let release = "apiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease\nmetadata: {name: a}\n";
    assert!(refused_for(Reason::Parse, "apps/web/a.yaml", release).contains("helm template"));
    let lookup = "apiVersion: v1\nkind: Secret\nmetadata: {name: a, namespace: web}\ndata: {{ (lookup \"v1\" \"Secret\" \"kube-system\" \"x\").data }}\n";
    refused_for(Reason::Parse, "apps/web/templates/a.yaml", lookup);
}

#[test]
fn one_mistake_refuses_the_whole_commit() {
    let good = config_map("data: {a: b}\n");
    let refusal = refused(&[("apps/web/a.yaml", &good), ("apps/shop/b.yaml", "a: [1\n")]);
    assert_eq!((refusal.reason, refusal.path.as_deref()), (Reason::Parse, Some("apps/shop/b.yaml")));
}
