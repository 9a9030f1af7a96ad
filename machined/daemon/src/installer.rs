//! The machine that was started from an installer's medium: it installs, and does nothing else.
//!
//! ```text
//! medium --> is a disk named? --yes--> wait for it --> install --> restart
//!                 | no                      | refused     | failed
//!                 v                         v             v
//!          list, number, code <---- Enter ---- says why, and waits
//! ```
//!
//! No controller, no service and no API runs, nothing is mounted and nothing is kept. Must never write to a disk before a request
//! named it, or a person at the console typed its code.

use crate::console::CONSOLE;
use crate::keyboard::Lines;
use init_boot::{PartitionSizes, ToInit};
use init_linux::{Kernel, Linux};
use machined_controllers::install::{Choice, DiskFacts, Refusal, choose, confirmation, unfit};
use machined_host::{Console, InitSocket, InstallMedium, MediumReadError, install, list_disks};
use machined_ids::RecoveryCode;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the disk that the medium names may take to appear: a RAID controller or a USB bridge needs this long.
const DISK_WAIT: Duration = Duration::from_secs(60);
/// Bytes of the console that are read at once.
const CHUNK: usize = 256;

/// The medium that this machine runs from, or why that one cannot be used; `None` on an installed machine.
pub(crate) fn medium() -> Option<Result<InstallMedium, MediumReadError>> {
    InstallMedium::find().transpose()
}

/// Installs until that succeeds, and then asks PID 1 to restart; ends when PID 1 ends the machine.
pub(crate) async fn run(
    medium: Result<InstallMedium, MediumReadError>,
    init: Option<Arc<InitSocket>>,
) -> anyhow::Result<()> {
    if let Some(init) = &init {
        init.send(ToInit::Healthy)?;
    }
    tokio::select! {
        installed = serve(medium) => installed?,
        ended = crate::wait_for_the_end() => return ended,
    }
    say("The machine restarts now, from the disk. Take the medium away if it starts from there again.");
    match init {
        Some(init) => init.send(ToInit::Reboot)?,
        None => return Ok(()),
    }
    crate::wait_for_the_end().await
}

async fn serve(medium: Result<InstallMedium, MediumReadError>) -> anyhow::Result<()> {
    say("--- Cairn installer ---");
    let mut seat = Seat { console: Console::open(Path::new(CONSOLE))?, lines: Lines::default(), heard: Vec::new() };
    let medium = match medium {
        Ok(medium) => Arc::new(medium),
        Err(error) => {
            say(&format!("This medium cannot be used: {}. Nothing was written.", story(&error)));
            // PID 1 ends it.
            return std::future::pending().await;
        }
    };
    loop {
        match attempt(&medium, &mut seat).await {
            Ok(disk) => {
                tracing::info!(disk, "installed");
                say(&format!("cairn: INSTALLED on /dev/{disk}"));
                return Ok(());
            }
            Err(error) => {
                say(&format!("Not installed: {error:#}."));
                say("Press Enter to begin again.");
                seat.line().await?;
            }
        }
    }
}

/// One try: which disk, and onto it; gives its name.
async fn attempt(medium: &Arc<InstallMedium>, seat: &mut Seat) -> anyhow::Result<String> {
    let sizes = blocking(medium, |medium| medium.check()).await??.sizes;
    let disk = match wait_for_choice(medium, sizes).await? {
        (Choice::Install(name), disks) => disks.into_iter().find(|disk| disk.name == name),
        (Choice::Ask, _) => Some(ask(medium, seat, sizes).await?),
    };
    let disk = disk.expect("because a choice is one of the disks");
    say(&format!("Installing on {}", disk.line()));
    let name = disk.name.clone();
    blocking(medium, move |medium| install(medium, &disk, |phase| say(&format!("  {phase}")))).await??;
    Ok(name)
}

/// Disk work, on a thread of its own.
async fn blocking<T: Send + 'static>(
    medium: &Arc<InstallMedium>,
    work: impl FnOnce(&InstallMedium) -> T + Send + 'static,
) -> Result<T, tokio::task::JoinError> {
    let medium = Arc::clone(medium);
    tokio::task::spawn_blocking(move || work(&medium)).await
}

/// What the medium's request means. A disk that is not there is waited for: the kernel announces each that comes.
async fn wait_for_choice(
    medium: &Arc<InstallMedium>,
    sizes: PartitionSizes,
) -> anyhow::Result<(Choice, Vec<DiskFacts>)> {
    let done = blocking(medium, move |medium| {
        let (kernel, deadline) = (Linux::new(), Instant::now() + DISK_WAIT);
        kernel.wait_for_device(Duration::ZERO)?;
        loop {
            let disks = list_disks(&medium.name)?;
            let left = deadline.saturating_duration_since(Instant::now());
            match choose(&medium.request, &disks, &sizes) {
                Ok(choice) => return anyhow::Ok((choice, disks)),
                Err(Refusal::None { .. }) if !left.is_zero() => kernel.wait_for_device(left)?,
                Err(refusal) => return Err(refusal.into()),
            };
        }
    });
    done.await?
}

/// A person chooses a disk by its number and confirms it by its code.
async fn ask(medium: &Arc<InstallMedium>, seat: &mut Seat, sizes: PartitionSizes) -> anyhow::Result<DiskFacts> {
    loop {
        let disks = blocking(medium, |medium| list_disks(&medium.name)).await??;
        say(&listing(&disks, &sizes));
        let typed = seat.line().await?;
        let Some(disk) = numbered(&typed, &disks, &sizes) else {
            say("Nothing was chosen.");
            continue;
        };
        let code = confirmation(disk);
        say(&format!("{}\nALL THAT IS ON THIS DISK WILL BE LOST. To install, type {code}", disk.line()));
        match RecoveryCode::parse(&seat.line().await?) {
            Ok(typed) if typed == code => return Ok(disk.clone()),
            Ok(_) | Err(_) => say("That is not its code; nothing was written."),
        }
    }
}

fn listing(disks: &[DiskFacts], sizes: &PartitionSizes) -> String {
    let mut text = String::from("Disks of this machine:\n");
    for (index, disk) in disks.iter().enumerate() {
        let why = unfit(disk, sizes).map(|why| format!(" (cannot be used: {why})")).unwrap_or_default();
        writeln!(text, "  {}  {}{why}", index + 1, disk.line()).expect("because a String takes all");
    }
    text.push_str("Type the number of the disk to install on; Enter looks again");
    text
}

/// The disk with the typed number, when it can be installed on.
fn numbered<'a>(typed: &str, disks: &'a [DiskFacts], sizes: &PartitionSizes) -> Option<&'a DiskFacts> {
    let index = typed.parse::<usize>().ok()?.checked_sub(1)?;
    disks.get(index).filter(|disk| unfit(disk, sizes).is_none())
}

/// A person at the console.
struct Seat {
    console: Console,
    lines: Lines,
    heard: Vec<u8>,
}

impl Seat {
    /// The next line, an empty one too.
    async fn line(&mut self) -> std::io::Result<String> {
        let mut chunk = [0; CHUNK];
        loop {
            while !self.heard.is_empty() {
                let byte = self.heard.remove(0);
                let ends = matches!(byte, b'\r' | b'\n');
                let line = self.lines.push(byte);
                if ends {
                    return Ok(line.unwrap_or_default());
                }
            }
            match self.console.read(&mut chunk).await? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                read => self.heard.extend_from_slice(&chunk[..read]),
            }
        }
    }
}

/// Writes to the console; what it does not take is lost, like all that nobody reads there.
fn say(text: &str) {
    tracing::info!(text, "installer");
    let bytes = format!("{}\r\n", text.replace('\n', "\r\n"));
    let written =
        std::fs::File::options().write(true).open(CONSOLE).and_then(|mut file| file.write_all(bytes.as_bytes()));
    if let Err(error) = written {
        tracing::warn!(%error, "the console takes no text");
    }
}

/// An error with its causes.
fn story(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |story, cause| format!("{story}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use machined_controllers::install::Holds;

    const SIZES: PartitionSizes = PartitionSizes { esp: 260 << 20, root: 256 << 20, state: 1 << 30 };

    fn disk(name: &str, is_medium: bool) -> DiskFacts {
        DiskFacts {
            name: name.to_owned(),
            bytes: 500_000_000_000,
            sector_bytes: 512,
            model: "Example 500".to_owned(),
            serial: "S1".to_owned(),
            wwn: String::new(),
            read_only: false,
            is_medium,
            holds: Holds::Something,
        }
    }

    #[test]
    fn only_the_number_of_a_disk_that_can_be_used_chooses_it() {
        let disks = [disk("sda", true), disk("sdb", false)];
        assert_eq!(numbered("2", &disks, &SIZES).map(|disk| disk.name.as_str()), Some("sdb"));
        for typed in ["", "0", "1", "3", "sdb", "-1", "99999999999999999999"] {
            assert_eq!(numbered(typed, &disks, &SIZES), None, "{typed:?}");
        }
    }

    #[test]
    fn the_list_says_what_would_be_lost_and_what_cannot_be_used() {
        let text = listing(&[disk("sda", true), disk("sdb", false)], &SIZES);
        assert!(
            text.contains("1  /dev/sda") && text.contains("the medium that this machine was started from"),
            "{text}"
        );
        assert!(text.contains("2  /dev/sdb  500.0 GB  Example 500  serial S1  HOLDS DATA\n"), "{text}");
    }
}
