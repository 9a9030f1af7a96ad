//! Whose turn it is for an image: canaries, control plane, workers, each class in its waves; nobody's once the image failed somewhere. Pure.
//!
//! It holds wishes back and gives nothing: who is not held back still needs one of the gate's turns, which `plan` gives.

use controlplane_types::rollout::{
    CanarySpec, FailedImage, ImageReport, ImageSeen, MachineSpec, WantedImage, WaveSpec,
};
use jiff::{SignedDuration, Timestamp};

/// A machine of the repository, and what its Node says of images.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) spec: MachineSpec,
    pub(super) ready: bool,
    pub(super) report: ImageReport,
    pub(super) seen: Option<ImageSeen>,
}

/// Why a wish has to wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Hold {
    /// Others go first.
    Later(String),
    /// The image failed: nobody goes.
    Stopped {
        /// Where.
        on: String,
        /// For people, with the next step.
        message: String,
    },
}

impl Hold {
    pub(super) fn message(&self) -> &str {
        match self {
            Hold::Later(message) | Hold::Stopped { message, .. } => message,
        }
    }
}

impl Member {
    fn wants(&self, image: &str) -> bool {
        self.spec.image.as_ref().is_some_and(|wanted| wanted.digest == image)
    }

    /// Whether it runs the image, good and Ready now.
    pub(super) fn runs(&self, image: &str) -> bool {
        self.ready && self.report.good.as_deref() == Some(image)
    }

    /// Whether the gate has seen it run the image for so long.
    fn settled(&self, image: &str, pause: u32, now: Timestamp) -> bool {
        let seen = self.seen.as_ref().filter(|seen| seen.digest == image);
        let long = |seen: &ImageSeen| now.duration_since(seen.since) >= SignedDuration::from_secs(pause.into());
        self.runs(image) && seen.is_some_and(long)
    }

    fn is_worker(&self) -> bool {
        self.spec.role != "control-plane"
    }

    /// The failure that stops the image, unless the repository wants something else of this machine by now.
    fn failed(&self, image: &str) -> Option<&FailedImage> {
        let failed = self.report.failed.as_ref().filter(|failed| failed.digest == image)?;
        let still = match (&self.spec.image, failed.attempt) {
            (Some(WantedImage { digest, attempt }), Some(failed)) => digest == image && *attempt == failed,
            (Some(WantedImage { digest, .. }), None) => digest == image,
            // The document's wish that failed is gone; a person's is not the document's to take back.
            (None, of_document) => of_document.is_none(),
        };
        still.then_some(failed)
    }
}

/// What the gate must note on a machine's Node: since when it runs the image that it runs. `None`: nothing is to be changed.
pub(super) fn noted(member: &Member, now: Timestamp) -> Option<Option<ImageSeen>> {
    let runs = member.report.good.as_ref().filter(|good| member.runs(good));
    match (runs, &member.seen) {
        (Some(good), Some(seen)) if seen.digest == *good => None,
        (Some(good), _) => Some(Some(ImageSeen { digest: good.clone(), since: now })),
        // It is away or not Ready: its time begins anew.
        (None, Some(_)) => Some(None),
        (None, None) => None,
    }
}

/// Whether the image failed on another machine.
pub(super) fn stopped(members: &[Member], machine: &str, image: &str) -> Option<Hold> {
    let others = || members.iter().filter(|member| member.name != machine);
    let (on, failed) = others().find_map(|member| Some((member.name.clone(), member.failed(image)?)))?;
    let message = format!(
        "the rollout stopped: image {} failed on {on}: {}; change the image line, or try again there: cairnctl upgrade --retry",
        short(image),
        failed.reason
    );
    Some(Hold::Stopped { on, message })
}

/// Why a machine's wish for an image has to wait; `going`: those that are on their way to it already.
pub(super) fn held_back(
    members: &[Member],
    machine: &str,
    image: &str,
    going: &[&str],
    now: Timestamp,
) -> Option<Hold> {
    if let Some(stopped) = stopped(members, machine, image) {
        return Some(stopped);
    }
    let own = members.iter().find(|member| member.name == machine);
    if own.is_some_and(|own| own.spec.canary.is_some()) {
        return None;
    }
    let others = || members.iter().filter(|member| member.name != machine && member.wants(image));
    for canary in others() {
        let Some(CanarySpec { pause_seconds }) = canary.spec.canary else { continue };
        if !canary.settled(image, pause_seconds, now) {
            let name = &canary.name;
            return Some(Hold::Later(match canary.runs(image) {
                true => format!("canary {name} runs the image; others follow once it did for {pause_seconds} s"),
                false => format!("canary {name} goes first"),
            }));
        }
    }
    if own.is_none_or(Member::is_worker) {
        let before = |member: &&Member| !member.is_worker() && !member.runs(image);
        if let Some(first) = others().find(before) {
            return Some(Hold::Later(format!("control-plane machine {} goes before workers", first.name)));
        }
    }
    own.and_then(|own| in_waves(members, own, image, going, now))
}

fn in_waves(members: &[Member], own: &Member, image: &str, going: &[&str], now: Timestamp) -> Option<Hold> {
    let (class, rollout) = (own.spec.class.as_ref()?, own.spec.rollout.as_ref()?);
    let peers = || members.iter().filter(|member| member.spec.class.as_ref() == Some(class));
    let begun = |member: &&Member| member.runs(image) || going.contains(&member.name.as_str());
    let begun = peers().filter(|member| member.name != own.name).filter(begun).count();
    for (number, WaveSpec { machines, pause_seconds }) in rollout.waves.iter().enumerate() {
        let (target, wave) = (usize::try_from(*machines).unwrap_or(usize::MAX), number + 1);
        if peers().filter(|member| member.settled(image, *pause_seconds, now)).count() >= target {
            continue;
        }
        if begun < target {
            return None;
        }
        let then = format!("the next goes once {target} machines of the class ran the image for {pause_seconds} s");
        return Some(Hold::Later(format!("wave {wave} of class {class} is on its way; {then}")));
    }
    None
}

/// The beginning of a digest, for people: enough to tell images apart.
fn short(image: &str) -> &str {
    const SHOWN: usize = "sha256:".len() + 12;
    image.get(..SHOWN).unwrap_or(image)
}
