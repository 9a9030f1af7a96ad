//! Every `cairnctl` command that a message, a comment or the book names must exist: a next step that is no command helps nobody.

use crate::arguments::Arguments;
use clap::{Command, CommandFactory};
use std::path::{Path, PathBuf};

/// Folders and files of the workspace that name commands.
const PLACES: [&str; 8] = ["README.md", "docs", "init", "machined", "controlplane", "gitsync", "image", "tests"];

fn texts(place: &Path, found: &mut Vec<PathBuf>) {
    if place.is_dir() {
        let entries = std::fs::read_dir(place).expect("because the workspace can be read");
        entries.for_each(|entry| texts(&entry.expect("because the workspace can be read").path(), found));
    } else if place.extension().is_some_and(|kind| kind == "rs" || kind == "md") {
        found.push(place.to_owned());
    }
}

/// What stands behind `cairnctl` wherever it begins a command: in a span of code, behind a prompt, or as the step behind a colon.
fn named(line: &str) -> Vec<&str> {
    let begins = |at: &usize| {
        let before = &line[..*at];
        before.ends_with('`') || before.ends_with("$ ") || before.ends_with(": ") || before.trim().is_empty()
    };
    let ends = ['`', '"', ';', ',', '|', '(', ')', '<', '>', '&', '\\', '#'];
    let places = line.match_indices("cairnctl ").map(|(at, _)| at).filter(begins);
    places.map(|at| line[at + "cairnctl ".len()..].split(ends).next().unwrap_or_default()).collect()
}

/// The first thing in a command that does not exist.
fn unknown(mut command: &Command, words: &str) -> Option<String> {
    let mut known: Vec<String> = Vec::new();
    let mut flags = vec!["help".to_owned(), "version".to_owned()];
    let mut words = words.split_whitespace().peekable();
    loop {
        flags.extend(command.get_arguments().filter_map(|argument| argument.get_long()).map(str::to_owned));
        let Some(next) = words.peek().and_then(|word| command.find_subcommand(word)) else { break };
        known.extend(words.next().map(str::to_owned));
        command = next;
    }
    if known.is_empty() {
        return words.next().map(|word| format!("no command {word}"));
    }
    let flag = |word: &str| Some(word.strip_prefix("--")?.split(['=', '.', '\'']).next()?.to_owned());
    let missing = words.filter_map(flag).find(|flag| !flag.is_empty() && !flags.contains(flag));
    missing.map(|flag| format!("no option --{flag} of {}", known.join(" ")))
}

#[test]
fn every_command_that_is_named_anywhere_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let (mut files, mut command) = (Vec::new(), Arguments::command());
    PLACES.iter().for_each(|place| texts(&root.join(place), &mut files));
    // Makes clap hand global options down to the commands.
    command.build();
    let (mut wrong, mut count) = (Vec::new(), 0);
    for file in &files {
        let text = std::fs::read_to_string(file).expect("because sources are text");
        for (number, line) in text.lines().enumerate() {
            for words in named(line) {
                count += 1;
                let place = || format!("{}:{}", file.strip_prefix(&root).unwrap_or(file).display(), number + 1);
                wrong.extend(unknown(&command, words).map(|what| format!("{}: {what} in {words:?}", place())));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    assert!(count > 200, "only {count} commands were found: the book alone has more");
}

#[test]
fn what_does_not_exist_is_found() {
    let mut command = Arguments::command();
    command.build();
    let first = |line: &str| named(line).first().and_then(|words| unknown(&command, words));
    let tool = "cairnctl";
    assert_eq!(first(&format!("look at it: {tool} machine status")), Some("no command machine".to_owned()));
    let lasting = format!("run `{tool} hold --for-ever` now");
    assert_eq!(first(&lasting), Some("no option --for-ever of hold".to_owned()));
    assert_eq!(first("run `cairnctl upgrade status --output json` now"), None);
    assert_eq!(named("somebody who runs cairnctl says so"), Vec::<&str>::new());
}
