//! `machines/*.kdl` together: machines, and the classes that they share.
//!
//! A file holds one machine, called like the file, or one or more classes. A class holds what [`Settings`] are, and how a new image goes
//! through its machines; who a machine is and which part it has stands in its own document only.

use crate::cluster::RolloutDeadline;
use crate::machine::{MachineConfig, MachineDocument};
use crate::read::{self, Block, Node, Place, Problem, Problems};
use crate::settings::{Settings, too_many_extensions};
use init_boot::artefact::EXTENSIONS_MAX;
use machined_ids::{ClassName, Fingerprint, MachineName};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Most machines of a class that may be away at once: as many turns the disruption gate has for workers.
pub const UNAVAILABLE_MAX: u8 = 8;

/// Most waves of a class; Bottlerocket's slowest schedule has seven.
const WAVES_MAX: usize = 16;

/// A machine that tries new images before others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Canary {
    /// How long it must have run a new image, ready, before others follow. Default: none.
    pub pause: Duration,
}

/// How a new image goes through the machines of a class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolloutConfig {
    /// Most machines of the class that may be away at once, 1 to [`UNAVAILABLE_MAX`]. Default 1; counts for workers only.
    pub unavailable: u8,
    /// Waves, in order; what is left after the last follows without a pause.
    pub waves: Vec<Wave>,
}

impl Default for RolloutConfig {
    fn default() -> Self {
        RolloutConfig { unavailable: 1, waves: Vec::new() }
    }
}

/// A part of a class that goes before the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wave {
    /// Until so many machines of the class run the image.
    pub until: Share,
    /// How long they must have run it, ready, before the next wave. Default: none.
    pub pause: Duration,
}

/// A part of the machines of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// So many, at least 1.
    Machines(u32),
    /// So many of a hundred, 1 to 100, rounded up.
    Percent(u8),
}

impl Share {
    /// How many of `all` machines that is.
    #[must_use]
    pub fn of(self, all: usize) -> usize {
        match self {
            Share::Machines(count) => all.min(count as usize),
            Share::Percent(percent) => (all * usize::from(percent)).div_ceil(100),
        }
    }
}

impl FromStr for Share {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected a number of machines from 1, or a percentage from \"1%\" to \"100%\"";
        let number = |digits: &str| digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse::<u32>().ok())?;
        let share = match text.strip_suffix('%') {
            Some(digits) => number(digits).and_then(|percent| u8::try_from(percent).ok()).map(Share::Percent),
            None => number(text).map(Share::Machines),
        };
        share.filter(|share| !matches!(share, Share::Machines(0) | Share::Percent(0 | 101..))).ok_or(EXPECTED)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Share::Machines(count) => write!(f, "{count}"),
            Share::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// A class as its document has it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ClassDocument {
    settings: Settings,
    rollout: RolloutConfig,
}

/// One machine of the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The machine with all that its class adds.
    pub config: MachineConfig,
    /// Its class.
    pub class: Option<ClassName>,
    /// The document that the machine is handed: its own file, or one that holds what its class adds as well.
    pub text: String,
}

/// All machines of a repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machines {
    /// By name.
    pub machines: BTreeMap<MachineName, Member>,
    /// How a new image goes through each class.
    pub classes: BTreeMap<ClassName, RolloutConfig>,
}

enum File {
    Machine(Box<MachineDocument>),
    Classes(Vec<(ClassName, Place, ClassDocument)>),
}

impl Machines {
    /// Reads the files of `machines/`: paths and texts.
    ///
    /// # Errors
    /// Every mistake of every file; classes that are not there or stand twice.
    pub fn read<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, Problems> {
        let (mut problems, mut documents) = (Vec::new(), Vec::new());
        let mut classes = BTreeMap::<ClassName, (String, Place, ClassDocument)>::new();
        // Of a class whose file has mistakes nobody is told that it is not there.
        let mut whole = true;
        for (path, text) in files {
            match read::document(path, text, |file| read_file(path, file)) {
                Ok(File::Machine(document)) => documents.push((path, text, *document)),
                Ok(File::Classes(found)) => {
                    for (name, place, class) in found {
                        if let Some((other, at, _)) = classes.get(&name) {
                            let message = format!("class {name} stands in {other}:{} already", at.line);
                            problems.push(at_place(path, place, message));
                        } else {
                            classes.insert(name, (path.to_owned(), place, class));
                        }
                    }
                }
                Err(found) => {
                    whole = false;
                    problems.extend(found.0);
                }
            }
        }
        problems.extend(shared_identities(documents.iter().map(|(path, _, document)| (*path, document))));
        let mut machines = BTreeMap::new();
        for (path, text, document) in documents {
            let (name, class) = (document.name.clone(), document.class.clone());
            let settings = match &class {
                None => None,
                Some((class, place)) => match classes.get(class) {
                    Some((_, _, class)) => Some(&class.settings),
                    None if !whole => continue,
                    None => {
                        let known: Vec<&str> = classes.keys().map(ClassName::as_str).collect();
                        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                        let message = format!("class {class} is in no file of machines/; there are: {known}");
                        problems.push(at_place(path, *place, message));
                        continue;
                    }
                },
            };
            let config = document.with(settings);
            if let Some((_, place)) = class.as_ref().filter(|_| config.extensions.len() > EXTENSIONS_MAX) {
                problems.push(at_place(path, *place, too_many_extensions(config.extensions.len())));
            }
            let text = if class.is_some() { config.render() } else { text.to_owned() };
            machines.insert(name, Member { config, class: class.map(|(class, _)| class), text });
        }
        if problems.is_empty() {
            let classes = classes.into_iter().map(|(name, (_, _, class))| (name, class.rollout)).collect();
            return Ok(Machines { machines, classes });
        }
        problems.sort();
        Err(Problems(problems))
    }
}

/// One fingerprint is one machine.
fn shared_identities<'a>(documents: impl Iterator<Item = (&'a str, &'a MachineDocument)>) -> Vec<Problem> {
    let (mut owners, mut problems) = (BTreeMap::<&Fingerprint, &MachineName>::new(), Vec::new());
    for (path, document) in documents {
        if let Some(other) = owners.insert(&document.identity, &document.name) {
            let message = format!("the identity is already that of machine {other}; one fingerprint is one machine");
            problems.push(at_place(path, Place { line: 1, column: 1 }, message));
        }
    }
    problems
}

fn at_place(path: &str, place: Place, message: String) -> Problem {
    Problem { path: path.to_owned(), line: place.line, column: place.column, message }
}

fn read_file(path: &str, file: &Block<'_>) -> Option<File> {
    let classes = file.many("class");
    if classes.is_empty() {
        return MachineDocument::read(path, &file.one("machine")?).map(Box::new).map(File::Machine);
    }
    if let Some(machine) = file.optional("machine") {
        machine.problem("a file holds one machine or classes, not both; give the classes a file of their own");
        return None;
    }
    let read: Vec<_> = classes.iter().map(class).collect();
    let names = classes.iter().zip(&read).filter_map(|(node, read)| Some((node, &read.as_ref()?.0)));
    read::report_repeats(names, "class");
    read.into_iter().collect::<Option<_>>().map(File::Classes)
}

fn class(node: &Node<'_>) -> Option<(ClassName, Place, ClassDocument)> {
    let name = node.argument(0);
    let document = node.children(|block| {
        for own in ["identity", "role", "class"] {
            if let Some(node) = block.optional(own) {
                node.problem(format!("`{own}` is not a class's to say; it stands in each machine's own document"));
            }
        }
        let settings = Settings::read(block);
        let rollout = block.optional("rollout").map_or_else(RolloutConfig::default, |node| rollout(&node));
        Some(ClassDocument { settings: settings?, rollout })
    });
    Some((name?, node.place(), document?))
}

fn rollout(node: &Node<'_>) -> RolloutConfig {
    let unavailable = node.property("unavailable").unwrap_or(1);
    if !(1..=UNAVAILABLE_MAX).contains(&unavailable) {
        node.problem(format!("`unavailable` is {unavailable}; it may be 1 to {UNAVAILABLE_MAX}"));
    }
    let waves = node.children(|block| {
        let nodes = block.many("wave");
        if nodes.len() > WAVES_MAX {
            block.problem(format!("a class has at most {WAVES_MAX} waves"));
        }
        let waves: Vec<Option<Wave>> = nodes.iter().map(wave).collect();
        for (node, pair) in nodes.iter().skip(1).zip(waves.windows(2)) {
            if let [Some(before), Some(wave)] = pair
                && !grows(before.until, wave.until)
            {
                node.problem(format!("wave {} adds nothing to wave {} before it", wave.until, before.until));
            }
        }
        waves.into_iter().flatten().collect()
    });
    RolloutConfig { unavailable, waves }
}

/// Whether a wave can be larger than the one before it; a number and a percentage depend on how many machines there are.
fn grows(before: Share, wave: Share) -> bool {
    match (before, wave) {
        (Share::Machines(before), Share::Machines(wave)) => before < wave,
        (Share::Percent(before), Share::Percent(wave)) => before < wave,
        (Share::Machines(_), Share::Percent(_)) | (Share::Percent(_), Share::Machines(_)) => true,
    }
}

fn wave(node: &Node<'_>) -> Option<Wave> {
    let (until, pause) = (node.argument(0), pause(node));
    node.finish();
    Some(Wave { until: until?, pause })
}

/// A pause is written like a rollout's deadline, and has its bounds.
fn pause(node: &Node<'_>) -> Duration {
    node.property::<RolloutDeadline>("pause").map_or(Duration::ZERO, RolloutDeadline::get)
}

/// Reads `canary pause="10m"` or `canary #false`.
pub(crate) fn canary(node: &Node<'_>) -> Option<Canary> {
    let pause = pause(node);
    node.switch().then_some(Canary { pause })
}
