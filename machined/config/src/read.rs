//! A strict reader of KDL version 2: unknown and repeated nodes, properties and arguments are mistakes, and every mistake is
//! collected with its line and column before any is reported.
//!
//! ```text
//! Reader (one file, collects problems) -> Block (a node's children) -> Node (name, arguments, properties) -> values
//! ```

mod nesting;

use kdl::{KdlDocument, KdlEntry, KdlNode, KdlValue};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// Largest document that is read, in bytes; ten times the largest policy anybody maintains by hand.
pub const DOCUMENT_BYTES_MAX: usize = 1024 * 1024;

/// Deepest nesting of `{` that is read; documents of Cairn use four. Bounds the parser's stack.
pub const DEPTH_MAX: usize = 32;

/// One mistake, where it is, and what was expected.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// File in the repository.
    pub path: String,
    /// Line, from 1; 0 when the mistake is about the whole file.
    pub line: usize,
    /// Column in characters, from 1; 0 when the mistake is about the whole file.
    pub column: usize,
    /// What is wrong and what was expected.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.message),
            line => write!(f, "{}:{}:{}: {}", self.path, line, self.column, self.message),
        }
    }
}

/// Where something stands in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

/// All mistakes of one reading, in the order of files and lines. Never empty when it is an error.
#[derive(Debug, Clone, Default, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.0.iter().enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

/// Reads one file: `read` takes what it understands, and gives `None` where a required value was missing or wrong.
///
/// # Errors
/// Every mistake of the text: of the language, and of what `read` found.
pub fn document<T>(path: &str, text: &str, read: impl FnOnce(&Block<'_>) -> Option<T>) -> Result<T, Problems> {
    let whole_file = |message: String| Problem { path: path.to_owned(), line: 0, column: 0, message };
    if text.len() > DOCUMENT_BYTES_MAX {
        let message = format!("the file has {} bytes; the limit is {DOCUMENT_BYTES_MAX}", text.len());
        return Err(Problems(vec![whole_file(message)]));
    }
    let reader = Reader { path, text, problems: RefCell::default() };
    if let Some(offset) = nesting::too_deep(text) {
        reader.report(offset, format!("blocks or comments are nested deeper than {DEPTH_MAX} levels"));
        return Err(Problems(reader.problems.into_inner()));
    }
    let value = match KdlDocument::parse_v2(text) {
        Ok(parsed) => {
            let block = Block::new(&reader, Some(&parsed), 0);
            let value = read(&block);
            block.finish();
            value
        }
        Err(error) => {
            for diagnostic in &error.diagnostics {
                let text = [&diagnostic.message, &diagnostic.label, &diagnostic.help];
                let parts: Vec<&str> = text.into_iter().filter_map(|part| part.as_deref()).collect();
                let message = if parts.is_empty() { "not KDL".to_owned() } else { parts.join(": ") };
                reader.report(diagnostic.span.offset(), message);
            }
            None
        }
    };
    let mut problems = reader.problems.into_inner();
    match value {
        Some(value) if problems.is_empty() => Ok(value),
        Some(_) | None => {
            if problems.is_empty() {
                problems.push(whole_file("not a complete document".to_owned()));
            }
            problems.sort();
            problems.dedup();
            Err(Problems(problems))
        }
    }
}

struct Reader<'a> {
    path: &'a str,
    text: &'a str,
    problems: RefCell<Vec<Problem>>,
}

impl Reader<'_> {
    fn place(&self, offset: usize) -> Place {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Place { line, column }
    }

    fn report(&self, offset: usize, message: String) {
        let Place { line, column } = self.place(offset);
        self.problems.borrow_mut().push(Problem { path: self.path.to_owned(), line, column, message });
    }
}

/// The nodes of a file or of one node, each taken at most once; what nobody took is a mistake.
pub struct Block<'a> {
    reader: &'a Reader<'a>,
    nodes: Vec<&'a KdlNode>,
    /// Names that were asked for, to say what was expected instead of an unknown one.
    known: RefCell<BTreeSet<&'static str>>,
    /// Where the block begins, for what is missing in it.
    offset: usize,
}

impl<'a> Block<'a> {
    fn new(reader: &'a Reader<'a>, document: Option<&'a KdlDocument>, offset: usize) -> Self {
        let nodes = document.map(|document| document.nodes().iter().collect()).unwrap_or_default();
        Block { reader, nodes, known: RefCell::default(), offset }
    }

    /// Every node called `name`, in order.
    pub fn many(&self, name: &'static str) -> Vec<Node<'a>> {
        self.known.borrow_mut().insert(name);
        let named = self.nodes.iter().filter(|node| node.name().value() == name);
        named.map(|node| Node { reader: self.reader, node, read: RefCell::default() }).collect()
    }

    /// The node called `name`, if there is one; a second one is a mistake.
    pub fn optional(&self, name: &'static str) -> Option<Node<'a>> {
        let mut nodes = self.many(name).into_iter();
        let first = nodes.next();
        for extra in nodes {
            extra.problem(format!("`{name}` stands here a second time; it may stand once"));
        }
        first
    }

    /// The node called `name`; a missing or second one is a mistake.
    pub fn one(&self, name: &'static str) -> Option<Node<'a>> {
        let node = self.optional(name);
        if node.is_none() {
            self.reader.report(self.offset, format!("`{name}` is missing here"));
        }
        node
    }

    /// Reads the single argument of the node called `name`; see [`Block::one`].
    pub fn value<T: FromStr<Err: fmt::Display>>(&self, name: &'static str) -> Option<T> {
        self.one(name)?.only_argument()
    }

    /// Reads the single argument of the node called `name`, if there is one.
    pub fn optional_value<T: FromStr<Err: fmt::Display>>(&self, name: &'static str) -> Option<T> {
        self.optional(name)?.only_argument()
    }

    /// Adds a mistake about the whole block.
    pub fn problem(&self, message: impl Into<String>) {
        self.reader.report(self.offset, message.into());
    }

    /// Reports what nobody asked for.
    pub fn finish(&self) {
        let known = self.known.borrow();
        for node in self.nodes.iter().filter(|node| !known.contains(node.name().value())) {
            let expected: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
            let expected = if expected.is_empty() { "nothing".to_owned() } else { expected.join(", ") };
            let message = format!("`{}` is not known here; expected {expected}", node.name().value());
            self.reader.report(node.span().offset(), message);
        }
    }
}

/// One node. Its arguments and properties must be asked for, and [`Node::finish`] (or a method that says so) called.
pub struct Node<'a> {
    reader: &'a Reader<'a>,
    node: &'a KdlNode,
    read: RefCell<BTreeSet<usize>>,
}

impl<'a> Node<'a> {
    /// Where the node begins, for mistakes that show only when everything was read.
    pub fn place(&self) -> Place {
        self.reader.place(self.node.span().offset())
    }

    /// Adds a mistake about this node.
    pub fn problem(&self, message: impl Into<String>) {
        self.reader.report(self.node.span().offset(), message.into());
    }

    /// The argument at `index`, from 0; a missing or wrong one is a mistake.
    pub fn argument<T: FromStr<Err: fmt::Display>>(&self, index: usize) -> Option<T> {
        let positions = self.node.entries().iter().enumerate().filter(|(_, entry)| entry.name().is_none());
        let Some((position, entry)) = positions.clone().nth(index) else {
            self.problem(format!("`{}` lacks its value", self.node.name().value()));
            return None;
        };
        self.read.borrow_mut().insert(position);
        self.parse(entry)
    }

    /// All arguments from `index` on.
    pub fn arguments<T: FromStr<Err: fmt::Display>>(&self, index: usize) -> Vec<T> {
        let count = self.node.entries().iter().filter(|entry| entry.name().is_none()).count();
        (index..count).filter_map(|index| self.argument(index)).collect()
    }

    /// The property `name`, if there is one; a repeated one is a mistake (KDL itself would take the last).
    pub fn property<T: FromStr<Err: fmt::Display>>(&self, name: &str) -> Option<T> {
        let named = |entry: &KdlEntry| entry.name().is_some_and(|found| found.value() == name);
        let mut found = None;
        for (position, entry) in self.node.entries().iter().enumerate().filter(|(_, entry)| named(entry)) {
            self.read.borrow_mut().insert(position);
            if found.is_some() {
                self.reader.report(entry.span().offset(), format!("property `{name}` stands here a second time"));
            } else {
                found = self.parse(entry);
            }
        }
        found
    }

    /// Whether a node that is a switch is on: `name` or `name #true`, off: `name #false`. Its properties are asked for before.
    pub fn switch(&self) -> bool {
        let bare = self.node.entries().iter().all(|entry| entry.name().is_some());
        let on = if bare { true } else { self.argument(0).unwrap_or(false) };
        self.finish();
        on
    }

    /// The only argument of a node that has nothing else.
    pub fn only_argument<T: FromStr<Err: fmt::Display>>(&self) -> Option<T> {
        let value = self.argument(0);
        self.finish();
        value
    }

    /// The node's children.
    pub fn block(&self) -> Block<'a> {
        Block::new(self.reader, self.node.children(), self.node.span().offset())
    }

    /// Reads the children with `read` and reports those that it did not ask for, and the node's own leftovers.
    pub fn children<T>(&self, read: impl FnOnce(&Block<'a>) -> T) -> T {
        let block = self.block();
        let value = read(&block);
        block.finish();
        self.finish_entries();
        value
    }

    /// Reports arguments and properties that nobody asked for, and children of a node that has none.
    pub fn finish(&self) {
        self.finish_entries();
        if let Some(children) = self.node.children() {
            self.reader.report(children.span().offset(), format!("`{}` takes no block", self.node.name().value()));
        }
    }

    fn finish_entries(&self) {
        let read = self.read.borrow();
        let annotated = self.node.entries().iter().filter(|entry| entry.ty().is_some()).map(|entry| entry.span());
        for span in annotated.chain(self.node.ty().map(|_| self.node.span())) {
            self.reader.report(span.offset(), "a type annotation means nothing here".to_owned());
        }
        for (_, entry) in self.node.entries().iter().enumerate().filter(|(position, _)| !read.contains(position)) {
            let what = match entry.name() {
                Some(name) => format!("property `{}` is not known here", name.value()),
                None => format!("`{}` takes no further value", self.node.name().value()),
            };
            self.reader.report(entry.span().offset(), what);
        }
    }

    fn parse<T: FromStr<Err: fmt::Display>>(&self, entry: &KdlEntry) -> Option<T> {
        let text = match entry.value() {
            KdlValue::String(text) => text.clone(),
            KdlValue::Integer(number) => number.to_string(),
            KdlValue::Bool(truth) => truth.to_string(),
            KdlValue::Float(_) | KdlValue::Null => {
                let message = "expected a string, a whole number, #true or #false".to_owned();
                self.reader.report(entry.span().offset(), message);
                return None;
            }
        };
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                let message = format!("`{}`: {error}, found {text:?}", self.node.name().value());
                self.reader.report(entry.span().offset(), message);
                None
            }
        }
    }
}

/// Reports keys that several items share, by the text that `key` gives.
pub fn report_repeats<'n, T>(items: impl IntoIterator<Item = (&'n Node<'n>, T)>, what: &str)
where
    T: Ord + fmt::Display,
{
    let mut seen = BTreeSet::new();
    for (node, key) in items {
        let problem = format!("{what} {key} stands here a second time");
        if !seen.insert(key) {
            node.problem(problem);
        }
    }
}

impl fmt::Debug for Block<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block").field("path", &self.reader.path).field("nodes", &self.nodes.len()).finish()
    }
}

impl fmt::Debug for Node<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("path", &self.reader.path).field("name", &self.node.name().value()).finish()
    }
}

#[cfg(test)]
mod tests;
