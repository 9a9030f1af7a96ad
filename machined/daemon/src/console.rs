//! The console: who the machine is, where it is reached, what it runs. Painted again only when it changed; what is typed there is
//! [`crate::keyboard`]'s.

use crate::model::Model;
use crate::recoveries::Waiting;
use machined_api::{Condition, StatusReply};
use machined_controllers::trust::Presence;
use machined_ids::Digest;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::io::Write as _;

/// The kernel's console: the last one that its command line names.
pub(crate) const CONSOLE: &str = "/dev/console";
/// Something that changes many times at once is painted once.
const SETTLE: std::time::Duration = std::time::Duration::from_millis(150);

/// What is shown of recoveries: those that wait, and which of them somebody vouched for.
#[derive(Debug, Default)]
struct Shown {
    waiting: Vec<Waiting>,
    confirmed: Option<Digest>,
    disks: Vec<String>,
}

impl Shown {
    fn of(model: &Model) -> Self {
        let presence = model.presence.get(Presence::ID).unwrap_or_default();
        let disks = crate::disks::lines(&model.encryption.all());
        Shown { waiting: model.recoveries.all(), confirmed: presence.confirmed, disks }
    }

    fn lines(&self) -> Vec<String> {
        let lines = self.waiting.iter().map(|recovery| {
            let Waiting { body, commit, epoch, takes_effect } = recovery;
            let when = takes_effect.map_or_else(|| "once the time is known".to_owned(), |at| format!("at {at:.0}"));
            let what = format!("epoch {epoch} begins at commit {}", commit.short());
            let code = recovery.code();
            if self.confirmed == Some(*body) {
                return format!("{what}: confirmed here ({code}), as soon as the commit is fetched");
            }
            format!("{what} {when}; to have it begin now, compare the code with who signed it, and type {code}")
        });
        lines.collect()
    }
}

fn picture(status: &StatusReply, shown: &Shown, hostname: &str, port: u16, secure_boot: Option<bool>) -> String {
    let mut text = String::from("\n--- Cairn ");
    let or = |value: &str, none: &str| if value.is_empty() { none.to_owned() } else { value.to_owned() };
    let mut line = |name: &str, value: String| {
        writeln!(text, "  {name:<10} {value}").expect("because a String takes all that is written to it");
    };
    let name = or(&status.name, hostname);
    let addresses = status.addresses.iter().filter_map(|cidr| cidr.split('/').next());
    let addresses: Vec<String> = addresses.map(|address| format!("{address}:{port}")).collect();
    let commit = match status.commit.get(..12) {
        Some(commit) => format!("{commit} (generation {}, signed by {})", status.generation, status.signer),
        None => "none yet".to_owned(),
    };
    let next = match status.phase.as_str() {
        "stopping" => "stopping",
        _ if status.identity.is_empty() => "without identity: the machine API does not answer, see the problem below",
        "maintenance" => "maintenance: waits for `cairnctl enroll` with the identity above",
        "enrolling" => "enrolling: waits for a signed commit that names the identity above",
        "starting" => "starting: reads its state",
        _ if status.ready => "healthy",
        _ => "starting",
    };
    line("machine", name);
    line("address", or(&addresses.join("  "), "none yet"));
    line(
        "identity",
        match status.identity_place.as_str() {
            "tpm" => format!("{} (in the TPM)", status.identity),
            _ => or(&status.identity, "none"),
        },
    );
    line(
        "boot",
        match secure_boot {
            Some(true) => "Secure Boot is on",
            Some(false) => "Secure Boot is off",
            None => "without UEFI",
        }
        .to_owned(),
    );
    line("cluster", or(&status.cluster, "none"));
    line("commit", commit);
    line("state", next.to_owned());
    for disk in &shown.disks {
        line("disk", disk.clone());
    }
    for recovery in shown.lines() {
        line("recovery", recovery);
    }
    for problem in status.conditions.iter().filter(|condition| condition.r#type == "ControllerFailing") {
        line("problem", problem.message.clone());
    }
    let width = 60_usize.saturating_sub("--- Cairn ".len());
    let head = format!("\n--- Cairn {}\n", "-".repeat(width));
    text.replacen("\n--- Cairn ", &head, 1) + &"-".repeat(60) + "\n"
}

/// Whether it says that the identity key cannot be used.
fn is_identity(condition: &Condition) -> bool {
    condition.r#type == "ControllerFailing" && condition.reason == "Identity"
}

/// Paints until dropped. `port` is the machine API's.
pub(crate) async fn paint(mut model: Model, port: u16) -> Result<Infallible, std::io::Error> {
    let mut shown = String::new();
    let mut said_ready = false;
    let secure_boot = crate::facts::secure_boot();
    loop {
        let status = model.status();
        let names = model.names.all();
        let hostname = names.values().next().map_or("cairn", |names| names.hostname.as_str());
        // Before the identity can be read and the API answers there is nothing to compare and nowhere to go, but why that is so.
        let no_identity = status.identity.is_empty() && status.conditions.iter().any(is_identity);
        let answers = !status.identity.is_empty() && status.boot_api_ms > 0;
        if answers || no_identity {
            let mut picture = picture(&status, &Shown::of(&model), hostname, port, secure_boot);
            if picture != shown {
                shown.clone_from(&picture);
                if answers && !said_ready && !status.addresses.is_empty() {
                    said_ready = true;
                    let millis = status.boot_api_ms;
                    picture.push_str(&format!("cairn: READY phase={} api_ms={millis}\n", status.phase));
                }
                // One write, so that kernel messages do not come between the lines; a console wants carriage returns.
                let bytes = picture.replace('\n', "\r\n");
                std::fs::File::options().write(true).open(CONSOLE)?.write_all(bytes.as_bytes())?;
            }
        }
        model.changed().await;
        tokio::time::sleep(SETTLE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_console_shows_what_enrolment_needs() {
        let status = StatusReply {
            identity: "SHA256:abc".to_owned(),
            conditions: vec![Condition {
                r#type: "ControllerFailing".to_owned(),
                message: "the disk is on fire".to_owned(),
                ..Condition::default()
            }],
            addresses: vec!["10.0.2.15/24".to_owned()],
            phase: "maintenance".to_owned(),
            ..StatusReply::default()
        };
        let shown = picture(&status, &Shown::default(), "cairn-123456", 50_000, Some(true));
        for part in ["cairn-123456", "10.0.2.15:50000", "SHA256:abc", "cairnctl enroll", "none yet", "on fire"] {
            assert!(shown.contains(part), "{part} is missing in {shown}");
        }
        assert!(shown.contains("Secure Boot is on"), "{shown}");
        assert!(
            picture(&status, &Shown::default(), "cairn-123456", 50_000, Some(false)).contains("Secure Boot is off")
        );
    }

    #[test]
    fn a_machine_without_identity_says_why_and_where_the_key_of_another_lies() {
        let mut status = StatusReply {
            phase: "running".to_owned(),
            ready: true,
            conditions: vec![Condition {
                r#type: "ControllerFailing".to_owned(),
                reason: "Identity".to_owned(),
                message: "the identity key lies in another TPM".to_owned(),
                ..Condition::default()
            }],
            ..StatusReply::default()
        };
        assert!(status.conditions.iter().all(is_identity));
        let shown = picture(&status, &Shown::default(), "cairn", 50_000, None);
        assert!(shown.contains("without identity") && shown.contains("lies in another TPM"), "{shown}");
        assert!(!shown.contains("healthy"), "{shown}");
        (status.identity, status.identity_place) = ("SHA256:abc".to_owned(), "tpm".to_owned());
        assert!(picture(&status, &Shown::default(), "cairn", 50_000, None).contains("SHA256:abc (in the TPM)"));
    }

    #[test]
    fn a_recovery_that_waits_is_shown_with_the_code_that_vouches_for_it() {
        let waiting = Waiting {
            body: Digest::from_bytes([1; 32]),
            commit: "a".repeat(40).parse().expect("because it is an id"),
            epoch: machined_ids::Epoch(1),
            takes_effect: Some("2026-11-23T12:00:00Z".parse().expect("because it is a time")),
        };
        let (body, code) = (waiting.body, waiting.code().to_string());
        let mut shown = Shown { waiting: vec![waiting], ..Shown::default() };
        let text = picture(&StatusReply::default(), &shown, "cairn", 50_000, None);
        for part in ["aaaaaaaaaaaa", "2026-11-23T12:00:00Z", &format!("type {code}")] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        shown.confirmed = Some(Digest::from_bytes([2; 32]));
        assert!(!picture(&StatusReply::default(), &shown, "cairn", 50_000, None).contains("confirmed"));
        shown.confirmed = Some(body);
        let text = picture(&StatusReply::default(), &shown, "cairn", 50_000, None);
        assert!(text.contains("confirmed here") && !text.contains("type"), "{text}");
    }
}
