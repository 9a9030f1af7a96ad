//! Since when a rollout goes on, also after gitsync was started again: by the kernel's clock, so that no clock that people set counts.
//!
//! After a reboot the time begins anew, since everything that ran does.

use machined_ids::StepId;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The kernel's name for this boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Seconds since boot, and idle ones.
const UPTIME: &str = "/proc/uptime";

/// A moment of one boot.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Moment {
    boot: String,
    uptime: Duration,
}

impl Moment {
    /// Now; `None` where the kernel does not say.
    fn now() -> Option<Self> {
        let boot = fs::read_to_string(BOOT_ID).ok()?.trim().to_owned();
        let uptime = fs::read_to_string(UPTIME).ok()?;
        let seconds: f64 = uptime.split(' ').next()?.parse().ok()?;
        Some(Moment { boot, uptime: Duration::try_from_secs_f64(seconds).ok()? })
    }

    fn line(&self, step: &StepId) -> String {
        format!("{step} {} {}\n", self.boot, self.uptime.as_millis())
    }

    /// How long before this the step of a line was begun; `None` for another step, another boot, or what is no such line.
    fn since(&self, line: &str, step: &StepId) -> Option<Duration> {
        let mut words = line.trim_end().split(' ');
        let (of, boot, millis) = (words.next()?, words.next()?, words.next()?);
        let right = StepId::parse(of).is_ok_and(|of| of == *step) && boot == self.boot && words.next().is_none();
        let begun = Duration::from_millis(millis.parse().ok().filter(|_| right)?);
        self.uptime.checked_sub(begun)
    }
}

/// The file that says since when.
#[derive(Debug, Clone)]
pub(crate) struct RolloutFile(PathBuf);

impl RolloutFile {
    pub(crate) fn new(folder: &Path) -> Self {
        RolloutFile(folder.join("rollout"))
    }

    /// Writes down that a step's rollout begins. Should it not be kept, a restart gives the step its whole time again.
    pub(crate) fn begin(&self, step: &StepId) {
        let Some(now) = Moment::now() else { return };
        if let Err(error) = fs::write(&self.0, now.line(step)) {
            tracing::warn!(path = %self.0.display(), %error, "the start of a rollout was not written down");
        }
    }

    /// How long ago the step's rollout began; none when it was not in this boot.
    pub(crate) fn age(&self, step: &StepId) -> Duration {
        let age = || Moment::now()?.since(&fs::read_to_string(&self.0).ok()?, step);
        age().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(boot: &str, seconds: u64) -> Moment {
        Moment { boot: boot.to_owned(), uptime: Duration::from_secs(seconds) }
    }

    #[test]
    fn a_rollout_goes_on_within_one_boot_and_begins_anew_after_another() {
        let (step, other) = (StepId::from_bytes([1; 32]), StepId::from_bytes([2; 32]));
        let line = at("a", 100).line(&step);
        assert_eq!(at("a", 130).since(&line, &step), Some(Duration::from_secs(30)));
        assert_eq!(at("b", 130).since(&line, &step), None);
        assert_eq!(at("a", 130).since(&line, &other), None);
        assert_eq!(at("a", 99).since(&line, &step), None, "a start in the future is none");
        for damaged in ["", "x y z", "\n", &line.repeat(2).replace('\n', " ")] {
            assert_eq!(at("a", 130).since(damaged, &step), None, "{damaged:?}");
        }
    }

    #[test]
    fn the_start_is_kept_in_a_file() {
        let folder = tempfile::tempdir().expect("because there is a temporary folder");
        let (file, step) = (RolloutFile::new(folder.path()), StepId::from_bytes([1; 32]));
        assert_eq!(file.age(&step), Duration::ZERO);
        let now = Moment::now().expect("because tests run on Linux");
        let before = Moment { uptime: now.uptime.saturating_sub(Duration::from_secs(1)), ..now };
        fs::write(folder.path().join("rollout"), before.line(&step)).expect("because the folder is there");
        assert!(file.age(&step) >= Duration::from_secs(1));
        file.begin(&step);
        assert!(file.age(&step) < Duration::from_secs(1), "a new start takes the old one's place");
    }
}
