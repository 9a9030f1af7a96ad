//! Commands that sign statements: approvals and releases, beacons, revocations, recovery.

use super::Surroundings;
use crate::approval::{Desk, Proposal, Published};
use crate::arguments::{Approve, Beacon, Form, Recover, Revoke, Signing};
use crate::judge::Verdict;
use crate::{output, signing};
use anyhow::{Context as _, Result, bail, ensure};
use gitsync_verify::statement::{self, Intent, Release};
use gitsync_verify::{Refusal, Statement, body_digest};
use jiff::{SignedDuration, Timestamp};
use machined_access::ssh_fingerprint;
use machined_ids::{Epoch, Fingerprint, RecoveryCode, Seq};
use serde_json::json;

/// Signs that a commit may become the next step, whoever merges it.
pub(super) fn approve(around: &Surroundings, approve: &Approve) -> Result<()> {
    let desk = Desk::open(&approve.signing.checkout)?;
    let proposal = desk.propose(&approve.commit)?;
    let published = sign_release(around, &desk, &proposal, approve)?;
    let after = desk.repository.judge(Some(proposal.merge.as_str()), true)?;
    if around.form == Form::Json {
        return output::json(&json!({
            "step": proposal.step, "seq": desk.state.accepted().seq.next(), "principal": published.principal,
            "ref": published.name, "pushed": published.pushed, "verdict": after.verdict().as_str(), "refusal": after.refusal,
        }));
    }
    told(&published);
    match &after.refusal {
        None => println!("it has every approval that it needs; next: merge it, or cairnctl release {}", approve.commit),
        Some(refusal) => say_missing(refusal),
    }
    Ok(())
}

fn say_missing(refusal: &Refusal) {
    println!("a machine would not take it yet: {refusal}");
    println!("next: have another member run `cairnctl approve` on the same commit");
}

/// Approves, merges with every approval in the message, and moves the branch.
pub(super) fn release(around: &Surroundings, release: &Approve) -> Result<()> {
    let desk = Desk::open(&release.signing.checkout)?;
    let proposal = desk.propose(&release.commit)?;
    let published = sign_release(around, &desk, &proposal, release)?;
    let (commit, judgement) = desk.merge(&proposal, &desk.key(release.signing.ssh_key.as_deref())?)?;
    if judgement.verdict() != Verdict::Accepted {
        let refusal = judgement.refusal.context("what is not accepted is refused")?;
        told(&published);
        bail!(
            "the branch was not moved: {refusal}\nnext: have another member run `cairnctl approve {}`",
            proposal.commit
        );
    }
    if release.signing.no_push {
        println!("made {}; next: git push origin {commit}:{}", commit.short(), desk.repository.introduction.deploy_ref);
        return Ok(());
    }
    desk.push_branch(&commit)?;
    if around.form == Form::Json {
        return output::json(&json!({ "commit": commit, "step": proposal.step, "ref": published.name }));
    }
    println!(
        "released {} as step {}: commit {}",
        proposal.commit.short(),
        desk.state.accepted().seq.next(),
        commit.short()
    );
    println!("next: cairnctl commits");
    Ok(())
}

fn sign_release(around: &Surroundings, desk: &Desk, proposal: &Proposal, approve: &Approve) -> Result<Published> {
    let accepted = desk.state.accepted();
    if approve.intent == Intent::Breakglass && approve.not_after.is_none() {
        bail!("break-glass ends by itself; say when: --not-after {}", in_hours(4));
    }
    let release = Release {
        cluster: desk.repository.introduction.cluster,
        deploy_ref: desk.repository.introduction.deploy_ref.clone(),
        epoch: desk.state.epoch(),
        seq: accepted.seq.next(),
        parent: accepted.step,
        step: proposal.step,
        policy: accepted.policy,
        not_after: approve.not_after.map(statement::whole_seconds),
        intent: approve.intent,
    };
    if around.form == Form::Text {
        println!("step {} on top of {}:", release.seq, accepted.commit.short());
        proposal.changes.iter().for_each(|change| println!("  {}", output::one_line(change)));
        if let Some(glass) = desk.state.break_glass().filter(|_| approve.intent == Intent::Release) {
            println!("it ratifies step {}, which came by break-glass and changed:", glass.seq);
            glass.before.keys().for_each(|path| println!("  {}", output::one_line(path)));
        }
    }
    let key = desk.key(approve.signing.ssh_key.as_deref())?;
    let step = proposal.step.to_string();
    desk.publish(&key, &Statement::Release(release), &step, !approve.signing.no_push)
}

fn in_hours(hours: i64) -> Timestamp {
    statement::whole_seconds(Timestamp::now() + SignedDuration::from_hours(hours))
}

fn told(published: &Published) {
    let Published { signed, principal, name, pushed } = published;
    println!("signed by {principal} with {}", signed.key());
    if *pushed {
        println!("pushed as {name}");
    } else {
        println!("stored as {name}; next: git push origin {name}");
    }
}

fn finish(around: &Surroundings, published: &Published) -> Result<()> {
    if around.form == Form::Json {
        let Published { principal, name, pushed, signed } = published;
        return output::json(&json!({ "principal": principal, "key": signed.key(), "ref": name, "pushed": pushed }));
    }
    told(published);
    Ok(())
}

/// Says which step is the newest, so that a host cannot keep it back for long.
pub(super) fn beacon(around: &Surroundings, beacon: &Beacon) -> Result<()> {
    let desk = Desk::open(&beacon.signing.checkout)?;
    desk.require_accepted()?;
    let accepted = desk.state.accepted();
    if let Some(step) = &beacon.step {
        let known = accepted.step.to_string();
        ensure!(
            known.starts_with(step) && step.len() >= 8,
            "the host's newest step is {known} (commit {}), and not {step}: it may be keeping something back",
            accepted.commit.short()
        );
    }
    let issued = statement::whole_seconds(Timestamp::now());
    let statement = statement::Beacon {
        cluster: desk.repository.introduction.cluster,
        deploy_ref: desk.repository.introduction.deploy_ref.clone(),
        epoch: desk.state.epoch(),
        seq: accepted.seq,
        step: accepted.step,
        issued,
        expires: issued + SignedDuration::from_mins(beacon.minutes.into()),
    };
    publish(around, &desk, &beacon.signing, &Statement::Beacon(statement), &accepted.step.to_string())
}

/// Stops a key at every step that is not accepted yet.
pub(super) fn revoke(around: &Surroundings, revoke: &Revoke) -> Result<()> {
    let desk = Desk::open(&revoke.signing.checkout)?;
    let key = match Fingerprint::parse(&revoke.key) {
        Ok(key) => key,
        Err(_) => ssh_fingerprint(signing::public_key(revoke.key.as_ref())?.key_data()),
    };
    let owner = desk.principal(&key).context("only a key that trust/ has can be revoked")?;
    let accepted = desk.state.accepted();
    let last_good = revoke.last_good.map_or(accepted.seq, Seq);
    ensure!(last_good <= accepted.seq, "step {last_good} is not accepted yet; the newest is {}", accepted.seq);
    let statement = statement::Revoke {
        cluster: desk.repository.introduction.cluster,
        epoch: desk.state.epoch(),
        key: key.clone(),
        last_good,
        issued: statement::whole_seconds(Timestamp::now()),
    };
    let about: String = key.as_str().chars().filter(char::is_ascii_alphanumeric).skip("SHA256".len()).collect();
    publish(around, &desk, &revoke.signing, &Statement::Revoke(statement), &about)?;
    if around.form == Form::Text {
        println!(
            "{owner}'s key counts for nothing after step {last_good}, once root's threshold or the key itself has said so"
        );
        println!("next: take it out of trust/, with a new key in its place: git commit -S, git push");
    }
    Ok(())
}

/// Starts the history again at a commit, when no ordinary step can.
pub(super) fn recover(around: &Surroundings, recover: &Recover) -> Result<()> {
    let desk = Desk::open(&recover.signing.checkout)?;
    let introduction = &desk.repository.introduction;
    let commit = desk.checkout.commit_of(&recover.commit)?;
    let begin = desk.checkout.introduce(&commit, introduction.cluster, introduction.deploy_ref.clone())?;
    let old_epoch = desk.state.epoch();
    let statement = statement::Recovery {
        cluster: introduction.cluster,
        old_epoch,
        new_epoch: recover.epoch.map_or(Epoch(old_epoch.0 + 1), Epoch),
        commit: commit.clone(),
        commit_sha256: begin.commit_sha256,
        deploy_ref: introduction.deploy_ref.clone(),
        policy: begin.policy,
    };
    let epoch = statement.new_epoch;
    let statement = Statement::Recovery(statement);
    if around.form == Form::Text {
        let code = RecoveryCode::of(&body_digest(&statement.body()));
        println!("epoch {epoch} begins at commit {commit}; what is above it on the branch is judged from there");
        println!("code {code}: consoles of machines show it while they wait; typed there, this recovery does not wait");
    }
    let about = begin.commit_sha256.to_string();
    publish(around, &desk, &recover.signing, &statement, &about)
}

fn publish(around: &Surroundings, desk: &Desk, how: &Signing, statement: &Statement, about: &str) -> Result<()> {
    let key = desk.key(how.ssh_key.as_deref())?;
    let published = desk.publish(&key, statement, about, !how.no_push)?;
    finish(around, &published)
}
