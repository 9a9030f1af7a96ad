//! The kernel command line: the few parameters that are ours, typed, and the rest kept as it stands.
//!
//! The image builder renders it into a UKI, stage one parses /proc/cmdline. The kernel's own parameters are not
//! judged here.

use std::fmt;

use thiserror::Error;

use crate::root_hash::{RootHash, RootHashError};

/// x86's COMMAND_LINE_SIZE, in bytes; the kernel cuts what is longer, so a longer one is a mistake of whoever made it.
pub const COMMAND_LINE_BYTES_MAX: usize = 2048;

const ROOT: &str = "cairn.root";
const ROOT_BLOCKS: &str = "cairn.root.blocks";
const CONSOLE: &str = "console";

/// A parameter that has no meaning here: `name` or `name=value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// What stands before the first `=`.
    pub name: String,
    /// What stands behind it, without quotes; `None` when there is no `=`.
    pub value: Option<String>,
}

/// A parsed kernel command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandLine {
    /// The dm-verity root hash of the slot to boot (`cairn.root`).
    pub root: Option<RootHash>,
    /// The number of 4096-byte data blocks before the hash tree (`cairn.root.blocks`).
    pub root_blocks: Option<u64>,
    /// The consoles in order (`console`); the kernel makes the last one /dev/console.
    pub consoles: Vec<String>,
    /// Everything else, in order.
    pub extra: Vec<Parameter>,
}

/// Why a command line is refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CommandLineError {
    /// Longer than the kernel keeps.
    #[error("the kernel command line has {bytes} bytes, at most {COMMAND_LINE_BYTES_MAX} fit")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// A quotation mark without its partner.
    #[error("the kernel command line opens a quotation mark and never closes it")]
    OpenQuote,
    /// One of our parameters twice: which one counts would be a guess.
    #[error("{name} stands more than once on the kernel command line")]
    Repeated {
        /// The parameter.
        name: &'static str,
    },
    /// `cairn.root` is no hash.
    #[error("cairn.root on the kernel command line is not a root hash")]
    Root(#[source] RootHashError),
    /// `cairn.root.blocks` is no positive number.
    #[error("cairn.root.blocks={value:?} on the kernel command line is not a positive number of blocks")]
    RootBlocks {
        /// What stands there.
        value: String,
    },
    /// A parameter that cannot be written: its value holds a quotation mark, or its name a space.
    #[error("the parameter {name:?} cannot be written on a kernel command line")]
    Unwritable {
        /// The parameter.
        name: String,
    },
}

impl CommandLine {
    /// Parses what /proc/cmdline shows.
    ///
    /// # Errors
    /// When it is too long, a quote stays open, or one of our own parameters is repeated or malformed.
    pub fn parse(text: &str) -> Result<Self, CommandLineError> {
        let text = text.trim_end_matches(['\n', '\0']);
        if text.len() > COMMAND_LINE_BYTES_MAX {
            return Err(CommandLineError::TooLong { bytes: text.len() });
        }
        let mut line = Self::default();
        for word in words(text)? {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (word, None),
            };
            match name.as_str() {
                ROOT => {
                    let root = value.unwrap_or_default().parse().map_err(CommandLineError::Root)?;
                    set_once(&mut line.root, ROOT, root)?;
                }
                ROOT_BLOCKS => {
                    let blocks = parse_blocks(value.unwrap_or_default())?;
                    set_once(&mut line.root_blocks, ROOT_BLOCKS, blocks)?;
                }
                CONSOLE => line.consoles.push(value.unwrap_or_default()),
                _ => line.extra.push(Parameter { name, value }),
            }
        }
        Ok(line)
    }

    /// Writes the line for a UKI; `parse` gives back what was written.
    ///
    /// # Errors
    /// When a parameter cannot be written, or the whole is longer than the kernel keeps.
    pub fn render(&self) -> Result<String, CommandLineError> {
        let mut parts = Vec::new();
        parts.extend(self.root.map(|root| format!("{ROOT}={root}")));
        parts.extend(self.root_blocks.map(|blocks| format!("{ROOT_BLOCKS}={blocks}")));
        for console in &self.consoles {
            parts.push(Parameter { name: CONSOLE.to_owned(), value: Some(console.clone()) }.render()?);
        }
        for parameter in &self.extra {
            parts.push(parameter.render()?);
        }
        let text = parts.join(" ");
        if text.len() > COMMAND_LINE_BYTES_MAX {
            return Err(CommandLineError::TooLong { bytes: text.len() });
        }
        Ok(text)
    }

    /// The value of the last parameter of this name among `extra`; the outer `None` when it is absent.
    pub fn get(&self, name: &str) -> Option<Option<&str>> {
        self.extra.iter().rev().find(|parameter| parameter.name == name).map(|parameter| parameter.value.as_deref())
    }
}

impl Parameter {
    fn render(&self) -> Result<String, CommandLineError> {
        let writable = |text: &str| !text.contains(['"', '\n', '\0']);
        let plain = |text: &str| !text.contains(char::is_whitespace);
        let value = self.value.as_deref().unwrap_or_default();
        if self.name.is_empty()
            || self.name.contains('=')
            || !plain(&self.name)
            || !writable(&self.name)
            || !writable(value)
        {
            return Err(CommandLineError::Unwritable { name: self.name.clone() });
        }
        Ok(match &self.value {
            None => self.name.clone(),
            Some(value) if plain(value) => format!("{}={value}", self.name),
            Some(value) => format!("{}=\"{value}\"", self.name),
        })
    }
}

impl fmt::Display for Parameter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            None => formatter.write_str(&self.name),
            Some(value) => write!(formatter, "{}={value}", self.name),
        }
    }
}

fn parse_blocks(value: String) -> Result<u64, CommandLineError> {
    value.parse().ok().filter(|blocks| *blocks > 0).ok_or(CommandLineError::RootBlocks { value })
}

fn set_once<T>(place: &mut Option<T>, name: &'static str, value: T) -> Result<(), CommandLineError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(CommandLineError::Repeated { name }),
    }
}

/// Splits at white space outside of quotation marks and drops the marks, as the kernel's next_arg() does.
fn words(text: &str) -> Result<Vec<String>, CommandLineError> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quoted = false;
    for character in text.chars() {
        match character {
            '"' => quoted = !quoted,
            other if other.is_whitespace() && !quoted => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            other => word.push(other),
        }
    }
    if quoted {
        return Err(CommandLineError::OpenQuote);
    }
    if !word.is_empty() {
        words.push(word);
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "00112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef";

    #[test]
    fn our_parameters_are_typed_and_the_rest_is_kept() {
        let text =
            format!("quiet cairn.root={HASH} console=tty0 console=ttyS0 cairn.root.blocks=77 note=\"a b\" panic=5\n");
        let line = CommandLine::parse(&text).expect("because the line is well formed");
        assert_eq!(line.root.map(|root| root.to_string()).as_deref(), Some(HASH));
        assert_eq!(line.root_blocks, Some(77));
        assert_eq!(line.consoles, ["tty0", "ttyS0"]);
        assert_eq!(line.get("quiet"), Some(None));
        assert_eq!(line.get("note"), Some(Some("a b")));
        assert_eq!(line.get("absent"), None);
    }

    #[test]
    fn what_was_rendered_parses_to_the_same() {
        let line = CommandLine {
            root: Some(RootHash::from_bytes([9; 32])),
            root_blocks: Some(12),
            consoles: vec!["ttyS0".to_owned()],
            extra: vec![
                Parameter { name: "quiet".to_owned(), value: None },
                Parameter { name: "note".to_owned(), value: Some("two words".to_owned()) },
            ],
        };
        let text = line.render().expect("because every parameter is writable");
        assert_eq!(CommandLine::parse(&text), Ok(line));
    }

    #[test]
    fn ambiguous_or_malformed_lines_are_refused() {
        let twice = format!("cairn.root={HASH} cairn.root={HASH}");
        assert_eq!(CommandLine::parse(&twice), Err(CommandLineError::Repeated { name: ROOT }));
        assert!(matches!(CommandLine::parse("cairn.root=abc"), Err(CommandLineError::Root(_))));
        assert!(matches!(CommandLine::parse("cairn.root"), Err(CommandLineError::Root(_))));
        for value in ["0", "-1", "x", "", "99999999999999999999"] {
            assert!(CommandLine::parse(&format!("cairn.root.blocks={value}")).is_err(), "{value} was accepted");
        }
        assert_eq!(CommandLine::parse("a=\"b"), Err(CommandLineError::OpenQuote));
        assert_eq!(CommandLine::parse(&"x".repeat(3000)), Err(CommandLineError::TooLong { bytes: 3000 }));
    }
}
