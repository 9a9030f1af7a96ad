//! Reading KDL nodes strictly: each argument, property and child is asked for, and what nobody asked for is a mistake.

use crate::limits::{MAX_POLICY_DEPTH, MAX_POLICY_FILE_BYTES};
use crate::refusal::Mistake;
use kdl::{KdlDocument, KdlEntry, KdlNode, KdlValue};
use std::collections::BTreeSet;

/// One policy file while it is being read; collects every mistake in it.
pub(super) struct Source<'a> {
    pub(super) path: &'a str,
    pub(super) text: &'a str,
    pub(super) mistakes: &'a mut Vec<Mistake>,
}

impl Source<'_> {
    pub(super) fn mistake(&mut self, offset: usize, message: impl Into<String>, expected: &str) {
        self.mistakes.push(Mistake::at_offset(self.path, self.text, offset, message, expected));
    }

    /// The file as KDL version 2, or `None` after noting why not.
    pub(super) fn document(&mut self) -> Option<KdlDocument> {
        if self.text.len() > MAX_POLICY_FILE_BYTES {
            self.mistake(0, format!("larger than {MAX_POLICY_FILE_BYTES} bytes"), "several smaller files");
            return None;
        }
        if let Some(offset) = too_deep(self.text) {
            self.mistake(offset, format!("more than {MAX_POLICY_DEPTH} blocks inside each other"), "a flat policy");
            return None;
        }
        match KdlDocument::parse_v2(self.text) {
            Ok(document) => Some(document),
            Err(error) => {
                for diagnostic in error.diagnostics {
                    let message = diagnostic.message.unwrap_or_else(|| "this is not KDL version 2".to_owned());
                    self.mistake(diagnostic.span.offset(), message, diagnostic.help.as_deref().unwrap_or_default());
                }
                None
            }
        }
    }

    /// The positional arguments of a node as texts; notes all that are not.
    pub(super) fn texts<'n>(&mut self, node: &'n KdlNode) -> Vec<(&'n str, usize)> {
        let mut texts = Vec::new();
        for entry in node.entries().iter().filter(|e| e.name().is_none()) {
            match entry.value().as_string() {
                Some(text) => texts.push((text, entry.span().offset())),
                None => self.mistake(entry.span().offset(), format!("{} is not text", entry.value()), "text in quotes"),
            }
        }
        texts
    }

    /// The one text argument of a node.
    pub(super) fn text<'n>(&mut self, node: &'n KdlNode, what: &str) -> Option<(&'n str, usize)> {
        let texts = self.texts(node);
        if texts.len() != 1 {
            self.mistake(node.span().offset(), format!("{} has {} arguments", node.name().value(), texts.len()), what);
        }
        texts.into_iter().next()
    }

    /// Refuses everything on a node but what is listed. `arguments` says whether positional ones are fine.
    pub(super) fn only(&mut self, node: &KdlNode, arguments: bool, properties: &[&str], children: bool) {
        let mut seen = BTreeSet::new();
        for entry in node.entries() {
            let at = entry.span().offset();
            match entry.name().map(kdl::KdlIdentifier::value) {
                None if arguments => {}
                None => self.mistake(at, format!("{} takes no argument", node.name().value()), ""),
                Some(name) if !properties.contains(&name) => {
                    let known = if properties.is_empty() { "no properties".to_owned() } else { properties.join(", ") };
                    self.mistake(at, format!("unknown property {name}"), &known);
                }
                // The language lets the last one win; a reviewer reads the first.
                Some(name) if !seen.insert(name) => self.mistake(at, format!("property {name} is repeated"), "one"),
                Some(_) => {}
            }
            if entry.ty().is_some() {
                self.mistake(at, "type annotations mean nothing here", "the plain value");
            }
        }
        if node.ty().is_some() {
            self.mistake(node.span().offset(), "type annotations mean nothing here", "the plain node");
        }
        if !children && node.children().is_some() {
            self.mistake(node.span().offset(), format!("{} takes no block", node.name().value()), "");
        }
    }

    /// An integer property of at least `least`.
    pub(super) fn count(&mut self, node: &KdlNode, name: &str, least: u32) -> Option<u32> {
        let entry = property(node, name)?;
        let value = entry.value().as_integer().and_then(|n| u32::try_from(n).ok()).filter(|n| *n >= least);
        if value.is_none() {
            let message = format!("{name}={} does not count", entry.value());
            self.mistake(entry.span().offset(), message, &format!("a whole number, {least} or more"));
        }
        value
    }

    /// A text property.
    pub(super) fn word<'n>(&mut self, node: &'n KdlNode, name: &str) -> Option<(&'n str, usize)> {
        let entry = property(node, name)?;
        match entry.value() {
            KdlValue::String(text) => Some((text, entry.span().offset())),
            other @ (KdlValue::Integer(_) | KdlValue::Float(_) | KdlValue::Bool(_) | KdlValue::Null) => {
                self.mistake(entry.span().offset(), format!("{name}={other} is not text"), "text in quotes");
                None
            }
        }
    }
}

fn property<'n>(node: &'n KdlNode, name: &str) -> Option<&'n KdlEntry> {
    node.entries().iter().find(|e| e.name().is_some_and(|n| n.value() == name))
}

/// The children of a node, none when it has no block.
pub(super) fn children(node: &KdlNode) -> &[KdlNode] {
    node.children().map_or(&[], KdlDocument::nodes)
}

/// Where blocks or comments nest deeper than any policy does. The KDL parser recurses, and a stack overflow is no error
/// that anybody could report, so this runs before it. It reads only what can hide a brace: strings and comments.
fn too_deep(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut at, mut depth) = (0, 0_usize);
    while at < bytes.len() {
        match bytes[at] {
            b'{' | b'(' | b'[' => {
                depth += 1;
                if depth > MAX_POLICY_DEPTH {
                    return Some(at);
                }
            }
            b'}' | b')' | b']' => depth = depth.saturating_sub(1),
            b'"' => at = skip_string(bytes, at),
            b'/' if bytes[at..].starts_with(b"//") => {
                at += bytes[at..].iter().position(|b| *b == b'\n').unwrap_or(bytes.len() - at);
            }
            b'/' if bytes[at..].starts_with(b"/*") => match skip_comment(bytes, at) {
                Some(end) => at = end,
                None => return Some(at),
            },
            _ => {}
        }
        at += 1;
    }
    None
}

/// The last byte of the string that begins at `at`; raw strings are as many `#` long at the end as stand before it.
fn skip_string(bytes: &[u8], at: usize) -> usize {
    let hashes = bytes[..at].iter().rev().take_while(|b| **b == b'#').count();
    let quotes = if bytes[at..].starts_with(b"\"\"\"") { 3 } else { 1 };
    let mut end = vec![b'"'; quotes];
    end.resize(quotes + hashes, b'#');
    let mut place = at + quotes;
    while place < bytes.len() {
        if bytes[place..].starts_with(&end) {
            return place + end.len() - 1;
        }
        place += if hashes == 0 && bytes[place] == b'\\' { 2 } else { 1 };
    }
    bytes.len()
}

/// The last byte of the block comment that begins at `at`, or `None` when comments nest too deep.
fn skip_comment(bytes: &[u8], at: usize) -> Option<usize> {
    let (mut place, mut depth) = (at, 0_usize);
    while place < bytes.len() {
        if bytes[place..].starts_with(b"/*") {
            depth += 1;
            place += 1;
        } else if bytes[place..].starts_with(b"*/") {
            depth -= 1;
            place += 1;
        }
        if depth == 0 {
            return Some(place);
        }
        if depth > MAX_POLICY_DEPTH {
            return None;
        }
        place += 1;
    }
    Some(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nesting_is_counted_outside_strings_and_comments() {
        let hidden = "a \"{{{{{{{{{{{{{{{{{{{{{\" #\"{{{{{{{{{{{{{{{{{{\"{{{\"# // {{{{{{{{{{{{{{{{{{{\n/* {{{{{{{{{{{{{{{{{{{{ */";
        assert_eq!(too_deep(hidden), None);
        assert!(too_deep(&"a { ".repeat(MAX_POLICY_DEPTH + 1)).is_some());
        assert!(too_deep(&"a { b \"}\"; ".repeat(MAX_POLICY_DEPTH + 1)).is_some());
        assert!(too_deep(&"/*".repeat(MAX_POLICY_DEPTH + 1)).is_some());
        assert_eq!(too_deep(&"a {}\n".repeat(1_000)), None);
    }

    #[test]
    fn a_hundred_thousand_blocks_end_in_a_mistake_and_not_in_an_overflow() {
        let text = "a {".repeat(100_000);
        let mut mistakes = Vec::new();
        assert!(Source { path: "p", text: &text, mistakes: &mut mistakes }.document().is_none());
        assert_eq!(mistakes.len(), 1);
    }
}
