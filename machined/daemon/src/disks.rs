//! Encrypted volumes as people see them: a condition, lines of the console, a recovery key made or typed. Must never log a key.

use crate::model::Model;
use jiff::Timestamp;
use machined_access::{AuditApi, AuditOutcome, AuditRecord};
use machined_api::{Condition, DiskRecoveryKeyReply};
use machined_controllers::block::{EPHEMERAL, Encryption, Kept, Opener, STATE, VolumeReply, VolumeRequest};
use machined_luks::RecoveryKey;
use std::collections::BTreeMap;
use tonic::Status;

/// Volumes by mount point.
type Known = BTreeMap<String, Encryption>;

fn name(target: &str) -> &str {
    match target {
        STATE => "STATE",
        EPHEMERAL => "EPHEMERAL",
        other => other,
    }
}

fn how(encryption: &Encryption) -> String {
    match encryption {
        Encryption::Plain => "not encrypted".to_owned(),
        Encryption::Open { by, recovery, kept } => {
            let by = match by {
                Opener::Tpm => "opened by the TPM",
                Opener::RecoveryKey => "opened with the recovery key, because nothing else did",
                Opener::Peer => "opened by a peer, which released its share of the key",
                Opener::OpenKey => "opened by the key that lies beside it",
                Opener::Earlier => "opened before machined was started again",
            };
            let recovery = match recovery {
                Some(true) => ", has a recovery key",
                Some(false) => ", has no recovery key: make one with `cairnctl disk recovery-key`",
                None => "",
            };
            let kept = match kept {
                Kept::Here => String::new(),
                Kept::ByPeers { count, note } => {
                    let peers = if *count == 1 { "peer" } else { "peers" };
                    let note = if note.is_empty() { String::new() } else { format!(" ({note})") };
                    format!(", its key is with {count} {peers}{note}")
                }
                Kept::InTheClear { why } => {
                    format!(", NOT PROTECTED: the key lies on the same disk in the clear, because {why}")
                }
            };
            format!("encrypted, {by}{recovery}{kept}")
        }
        Encryption::Locked { why, .. } => format!("encrypted and locked: {why}"),
        Encryption::Unmade { why } => format!("not made, because the seed insists on encryption: {why}"),
    }
}

/// How the volumes are kept: true when all are encrypted and open, and no key lies beside its data.
pub(crate) fn condition(known: &Known) -> Condition {
    let is_open = |encryption: &Encryption| matches!(encryption, Encryption::Open { .. });
    let in_the_clear =
        |encryption: &Encryption| matches!(encryption, Encryption::Open { kept: Kept::InTheClear { .. }, .. });
    let unmade = |encryption: &Encryption| matches!(encryption, Encryption::Unmade { .. });
    let reason = match known {
        known if known.is_empty() => "Unknown",
        known if known.values().any(unmade) => "Unmade",
        known if are_locked(known) => "Locked",
        known if known.values().any(in_the_clear) => "KeyOpen",
        known if known.values().all(is_open) => "Open",
        _ => "Plain",
    };
    let all: Vec<String> =
        known.iter().map(|(target, encryption)| format!("{}: {}", name(target), how(encryption))).collect();
    let (status, message) = (reason == "Open", all.join("; "));
    Condition { r#type: "DisksEncrypted".to_owned(), status, reason: reason.to_owned(), message }
}

/// Whether somebody has to open one.
pub(crate) fn are_locked(known: &Known) -> bool {
    known.values().any(|encryption| matches!(encryption, Encryption::Locked { .. }))
}

/// What the console says of locked volumes, and what can be done there.
pub(crate) fn lines(known: &Known) -> Vec<String> {
    let line = |(target, encryption): (&String, &Encryption)| match encryption {
        Encryption::Locked { why, recovery: true } => {
            Some(format!("{} is locked: {why}; type its recovery key here to open it", name(target)))
        }
        Encryption::Locked { why, recovery: false } => {
            Some(format!("{} is locked, and has no recovery key: {why}", name(target)))
        }
        Encryption::Unmade { why } => {
            Some(format!("{} is not made, because the seed insists on encryption: {why}", name(target)))
        }
        Encryption::Open { by: Opener::RecoveryKey, .. } => {
            Some(format!("{} is open, by its recovery key", name(target)))
        }
        Encryption::Plain | Encryption::Open { .. } => None,
    };
    known.iter().filter_map(line).collect()
}

/// Tries what somebody typed at the console; gives what to answer.
pub(crate) async fn unlock(model: &Model, key: RecoveryKey) -> String {
    let record = AuditRecord::new(Timestamp::now(), AuditApi::Local, "OpenDisks").from("console");
    let (outcome, answer) = match model.volumes.ask(VolumeRequest::Recover(key)).await {
        Ok(VolumeReply::Recovered(0)) => {
            (AuditOutcome::Refused, "this recovery key opens no locked volume; nothing changed".to_owned())
        }
        Ok(VolumeReply::Recovered(count)) => {
            tracing::warn!(count, "somebody at the console opened volumes with the recovery key");
            model.events.add("DisksOpened", "machine", "with the recovery key, at the console".to_owned());
            (AuditOutcome::Allowed, format!("{count} volumes are open until the machine starts again"))
        }
        Ok(VolumeReply::Refused(why)) => (AuditOutcome::Failed, why),
        Ok(VolumeReply::Made(_)) => (AuditOutcome::Failed, "machined answered something else".to_owned()),
        Err(error) => (AuditOutcome::Failed, error.to_string()),
    };
    let said = if outcome == AuditOutcome::Allowed { String::new() } else { answer.clone() };
    model.audit.add(record.ended(outcome, &said));
    answer
}

/// Has a recovery key made; it is in the answer and nowhere else.
pub(crate) async fn recovery_key(model: &Model) -> Result<DiskRecoveryKeyReply, Status> {
    match model.volumes.ask(VolumeRequest::MakeRecoveryKey).await {
        Ok(VolumeReply::Made(key)) => {
            model.events.add("RecoveryKeyMade", "machine", "the one before opens the disks no more".to_owned());
            Ok(DiskRecoveryKeyReply { key: key.reveal().to_string() })
        }
        Ok(VolumeReply::Refused(why)) => Err(Status::failed_precondition(why)),
        Ok(VolumeReply::Recovered(_)) => Err(Status::internal("machined answered something else")),
        Err(error) => Err(Status::unavailable(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(state: Encryption, ephemeral: Encryption) -> Known {
        BTreeMap::from([(STATE.to_owned(), state), (EPHEMERAL.to_owned(), ephemeral)])
    }

    fn open(recovery: bool) -> Encryption {
        Encryption::Open { by: Opener::Tpm, recovery: Some(recovery), kept: Kept::Here }
    }

    fn with(kept: Kept) -> Encryption {
        Encryption::Open { by: Opener::Peer, recovery: Some(false), kept }
    }

    fn locked(recovery: bool) -> Encryption {
        Encryption::Locked { why: "another TPM".to_owned(), recovery }
    }

    #[test]
    fn the_condition_holds_only_when_all_volumes_are_encrypted_and_open() {
        for (known, status, reason) in [
            (Known::new(), false, "Unknown"),
            (known(open(true), open(false)), true, "Open"),
            (known(Encryption::Plain, open(true)), false, "Plain"),
            (known(open(true), locked(true)), false, "Locked"),
            (known(open(true), with(Kept::InTheClear { why: "alone".to_owned() })), false, "KeyOpen"),
            (known(open(true), with(Kept::ByPeers { count: 2, note: String::new() })), true, "Open"),
            (known(Encryption::Unmade { why: "no TPM".to_owned() }, Encryption::Plain), false, "Unmade"),
        ] {
            let condition = condition(&known);
            assert_eq!((condition.status, condition.reason.as_str()), (status, reason));
        }
        let message = condition(&known(Encryption::Plain, open(false))).message;
        for part in ["STATE: not encrypted", "EPHEMERAL: encrypted, opened by the TPM", "cairnctl disk recovery-key"] {
            assert!(message.contains(part), "{part} is missing in {message}");
        }
    }

    #[test]
    fn the_console_asks_for_the_recovery_key_only_where_there_is_one() {
        assert_eq!(lines(&known(open(true), Encryption::Plain)), [""; 0]);
        let told = lines(&known(locked(true), locked(false)));
        assert!(
            told.iter().any(|line| line.contains("STATE") && line.contains("type its recovery key here")),
            "{told:?}"
        );
        assert!(told.iter().any(|line| line.contains("EPHEMERAL") && line.contains("has no recovery key")), "{told:?}");
    }
}
