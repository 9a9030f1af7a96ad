//! `cairnctl verify`: what a machine would say of a repository, with an exit code for CI.

use super::Surroundings;
use crate::arguments::{Form, Verify};
use crate::judge::{Judgement, Repository, Verdict};
use crate::output;
use anyhow::{Result, bail};
use gitsync_plan::{Inventory, diff};
use gitsync_verify::{ChangeKind, Commit, Freshness, Introduction, Reason, Refusal, TrustState};
use jiff::Timestamp;
use serde_json::{Value, json};

/// Judges and prints; the verdict is the exit code.
pub(super) fn verify(around: &Surroundings, verify: &Verify) -> Result<Verdict> {
    let repository = Repository::open(&verify.repository, verify.introduction.as_deref())?;
    let revision = verify.commit.as_deref().or(verify.branch.as_deref());
    let at = verify.at.unwrap_or_else(Timestamp::now);
    let mut judgement = repository.judge_at(revision, verify.present, at)?;
    let deleted = match &verify.applied {
        Some(applied) => deletions(&mut judgement, repository.judge_at(Some(applied), verify.present, at)?)?,
        None => Vec::new(),
    };
    match around.form {
        Form::Json => output::json(&report(&repository.introduction, &judgement, &deleted))?,
        Form::Text => print(&repository.introduction, &judgement, &deleted)?,
    }
    // A commit that was named is no source's news: whether it is fresh is no question yet.
    Ok(if verify.commit.is_some() { judgement.verdict() } else { judgement.verdict_of_source() })
}

/// What going from one commit to the other deletes; more than a rule's budget is a refusal.
fn deletions(judgement: &mut Judgement, applied: Judgement) -> Result<Vec<String>> {
    let Some(before) = applied.desired else {
        let why = applied.refusal.map(|refusal| refusal.to_string()).unwrap_or_default();
        bail!("what --applied names cannot run, so nothing can be compared with it: {why}");
    };
    let Some(after) = &judgement.desired else { return Ok(Vec::new()) };
    match diff(&after.objects, &Inventory::of(&before.objects), &after.policy) {
        Ok(plan) => Ok(plan.prune.iter().map(|(key, entry)| format!("{key} ({})", entry.path)).collect()),
        Err(refusal) => {
            let refusal = judgement.tip.as_ref().map(|tip| refusal.clone().of_commit(tip)).unwrap_or(refusal);
            (judgement.desired, judgement.refusal) = (None, Some(refusal));
            Ok(Vec::new())
        }
    }
}

fn print(introduction: &Introduction, judgement: &Judgement, deleted: &[String]) -> Result<()> {
    output::fields(&[
        ("cluster", introduction.cluster.to_string()),
        ("branch", introduction.deploy_ref.to_string()),
        ("from", format!("commit {}, the introduction", introduction.commit.short())),
        (
            "to",
            judgement
                .tip
                .as_ref()
                .map_or("nothing that could be read".to_owned(), |tip| format!("commit {}", tip.short())),
        ),
    ])?;
    println!();
    let row = |step: &Commit| {
        let position = step.position();
        vec![
            position.seq.to_string(),
            position.commit.short().to_owned(),
            position.signer.as_ref().map_or("-".to_owned(), ToString::to_string),
            names(step),
            step.changes().len().to_string(),
            output::one_line(&position.subject),
        ]
    };
    let rows: Vec<_> = judgement.steps.iter().map(|step| row(step)).collect();
    if rows.is_empty() {
        let more = if judgement.refusal.is_some() { " passed" } else { "" };
        println!("no step after the introduction{more}");
    } else {
        output::table(&["STEP", "COMMIT", "SIGNER", "APPROVED BY", "FILES", "SUBJECT"], &rows)?;
    }
    println!();
    if let Some(desired) = &judgement.desired {
        let (objects, machines) = (desired.objects.len(), desired.documents.machines.len());
        println!("{}: a machine would run this: {objects} objects, {machines} machines", judgement.verdict().as_str());
    }
    deleted.iter().for_each(|object| println!("deleted: {}", output::one_line(object)));
    if let Some(glass) = judgement.state.as_ref().and_then(TrustState::break_glass) {
        println!(
            "break-glass: step {} ends at {}; next: approve an ordinary step on top of it",
            glass.seq, glass.until
        );
    }
    print_freshness(judgement)?;
    match &judgement.refusal {
        Some(refusal) => print_refusal(judgement.verdict(), refusal),
        None => Ok(()),
    }
}

fn names(step: &Commit) -> String {
    let names: Vec<_> = step.approvals().iter().map(|name| name.as_str()).collect();
    if names.is_empty() { "-".to_owned() } else { names.join(", ") }
}

/// What beacons say, where the policy asks or somebody says that news is kept back.
fn print_freshness(judgement: &Judgement) -> Result<()> {
    match &judgement.freshness {
        None | Some(Freshness::NotAsked) => {}
        Some(Freshness::Fresh { until }) => {
            println!("fresh: a beacon says that nothing newer existed; it ends at {until}")
        }
        Some(old @ (Freshness::Stale { .. } | Freshness::Withheld { .. } | Freshness::Unproven)) => {
            if let Some(refusal) = old.refusal() {
                output::fields(&[("not fresh", refusal.reason.to_string())])?;
                println!("  {}", output::one_line(&refusal.message));
            }
            println!("next: git fetch origin '+refs/cairn/*:refs/cairn/*'; then cairnctl verify again");
        }
    }
    Ok(())
}

fn freshness(judgement: &Judgement) -> Value {
    match &judgement.freshness {
        None | Some(Freshness::NotAsked) => Value::Null,
        Some(Freshness::Fresh { until }) => json!({ "fresh": true, "until": until }),
        Some(old @ (Freshness::Stale { .. } | Freshness::Withheld { .. } | Freshness::Unproven)) => {
            json!({ "fresh": false, "refusal": old.refusal() })
        }
    }
}

fn print_refusal(verdict: Verdict, refusal: &Refusal) -> Result<()> {
    let mut fields = vec![(verdict.as_str(), refusal.reason.to_string())];
    if let Some(commit) = &refusal.commit {
        fields.push(("commit", commit.to_string()));
    }
    if let Some(path) = &refusal.path {
        fields.push(("path", path.clone()));
    }
    if let Some(rule) = &refusal.rule {
        fields.push(("rule", rule.clone()));
    }
    output::fields(&fields)?;
    for line in refusal.message.lines() {
        println!("  {}", output::one_line(line));
    }
    if refusal.reason == Reason::MissingObject {
        println!("next: git fetch --unshallow, or git fetch origin; then cairnctl verify again");
    }
    Ok(())
}

fn report(introduction: &Introduction, judgement: &Judgement, deleted: &[String]) -> Value {
    let step = |step: &Commit| {
        let position = step.position();
        let change = |kind| match kind {
            ChangeKind::Added => "added",
            ChangeKind::Deleted => "deleted",
            ChangeKind::Modified => "modified",
        };
        json!({
            "seq": position.seq, "step": position.step, "commit": position.commit, "signer": position.signer,
            "key": position.key, "approvals": step.approvals(), "subject": position.subject,
            "changes": step.changes().iter()
                .map(|c| json!({ "path": c.path, "kind": change(c.kind) })).collect::<Vec<_>>(),
        })
    };
    let content = judgement.desired.as_ref().map(|desired| {
        json!({
            "objects": desired.objects.iter()
                .map(|o| json!({ "object": o.key.to_string(), "path": o.origin.path, "line": o.origin.line }))
                .collect::<Vec<_>>(),
            "machines": desired.documents.machines.keys().collect::<Vec<_>>(),
        })
    });
    let glass = judgement.state.as_ref().and_then(TrustState::break_glass);
    json!({
        "epoch": judgement.state.as_ref().map(TrustState::epoch),
        "breakGlass": glass.map(|glass| json!({ "seq": glass.seq, "until": glass.until })),
        "verdict": judgement.verdict().as_str(), "cluster": introduction.cluster, "ref": introduction.deploy_ref,
        "introduction": introduction.commit, "tip": judgement.tip,
        "steps": judgement.steps.iter().map(|one| step(one)).collect::<Vec<_>>(),
        "refusal": judgement.refusal, "content": content, "freshness": freshness(judgement),
        "deleted": deleted,
    })
}
