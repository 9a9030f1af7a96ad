//! YAML as Kubernetes reads it, with the place of every field.
//!
//! Kubernetes' own converter reads YAML 1.1: `no` is false, `0777` is octal. What a reviewer cannot see is refused: repeated
//! keys, merge keys, alias bombs, unknown tags.

use gitsync_verify::Mistake;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::Spanned;
use serde_saphyr::options::{DuplicateKeyPolicy, MergeKeyPolicy};
use std::fmt;

/// Documents in one file.
const MAX_DOCUMENTS: usize = 1_000;

/// Collections inside each other; a CRD schema has about 30.
const MAX_DEPTH: usize = 64;

/// Nodes of all documents of a file; bounds time and memory.
const MAX_NODES: usize = 500_000;

/// Nodes that aliases may stand for in a file. Bombs begin at millions.
const MAX_ALIASED: usize = 20_000;

/// One document: its value, and where each field stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Document {
    pub(crate) value: Value,
    places: Vec<(String, Place)>,
}

/// Line and column, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) line: u32,
    pub(crate) column: u32,
}

impl Document {
    /// Where a field stands, or the closest one around it that exists: `spec.ports[0].port`.
    pub(crate) fn place(&self, field: &str) -> Place {
        let mut path = field;
        loop {
            if let Some((_, place)) = self.places.iter().find(|(known, _)| known == path) {
                return *place;
            }
            match path.rfind(['.', '[']) {
                Some(at) => path = &path[..at],
                None => return self.places.first().map_or(Place { line: 1, column: 1 }, |(_, place)| *place),
            }
        }
    }

    /// The place of the longest field that a text mentions.
    pub(crate) fn place_in(&self, text: &str) -> Place {
        let word = |c: char| !(c.is_alphanumeric() || matches!(c, '.' | '[' | ']' | '-' | '_' | '/'));
        let known = |word: &&str| self.places.iter().any(|(path, _)| path == word);
        let words = text.split(word).map(|word| word.trim_end_matches('.')).filter(|word| !word.is_empty());
        self.place(words.filter(known).max_by_key(|word| word.len()).unwrap_or_default())
    }

    /// A part of this document as one of its own: an item of a List.
    pub(crate) fn part(&self, field: &str, value: Value) -> Document {
        let inside = |path: &String| {
            let rest = path.strip_prefix(field)?;
            (rest.is_empty() || rest.starts_with('.')).then(|| rest.trim_start_matches('.').to_owned())
        };
        let places = self.places.iter().filter_map(|(path, place)| Some((inside(path)?, *place))).collect();
        Document { value, places }
    }
}

/// Reads all documents of a file; empty ones are left out.
///
/// # Errors
/// The mistake at which the reader had to stop.
pub(crate) fn read(path: &str, text: &str) -> Result<Vec<Document>, Mistake> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_documents: MAX_DOCUMENTS,
            max_depth: MAX_DEPTH,
            max_nodes: MAX_NODES,
        },
        duplicate_keys: DuplicateKeyPolicy::Error,
        merge_keys: MergeKeyPolicy::Error,
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_ALIASED,
            max_replay_stack_depth: 8,
        },
        legacy_octal_numbers: true,
        emit_comments: false,
    };
    let roots: Vec<Spanned<Node>> = serde_saphyr::from_multiple_with_options(text, options).map_err(|error| {
        let error = error.without_snippet();
        let at = error.location();
        let number = |n: u64| u32::try_from(n.max(1)).unwrap_or(u32::MAX);
        Mistake {
            path: path.to_owned(),
            line: at.map_or(1, |at| number(at.line())),
            column: at.map_or(1, |at| number(at.column())),
            message: first_line(&error.to_string()),
            expected: String::new(),
        }
    })?;
    let document = |root: Spanned<Node>| {
        let mut places = Vec::new();
        let value = flatten(root, String::new(), None, &mut places);
        Document { value, places }
    };
    Ok(roots.into_iter().map(document).filter(|document| !document.value.is_null()).collect())
}

/// Messages of the reader may go on with a drawing of the text.
fn first_line(message: &str) -> String {
    message.lines().next().unwrap_or_default().trim().to_owned()
}

/// Any YAML value, with the place of each.
enum Node {
    Leaf(Value),
    List(Vec<Spanned<Node>>),
    Map(Vec<(Spanned<String>, Spanned<Node>)>),
}

fn place_of<T>(spanned: &Spanned<T>) -> Place {
    let number = |n: u64| u32::try_from(n.max(1)).unwrap_or(u32::MAX);
    Place { line: number(spanned.referenced.line()), column: number(spanned.referenced.column()) }
}

fn flatten(node: Spanned<Node>, path: String, key: Option<Place>, places: &mut Vec<(String, Place)>) -> Value {
    places.push((path.clone(), key.unwrap_or_else(|| place_of(&node))));
    match node.value {
        Node::Leaf(value) => value,
        Node::List(items) => {
            let items = items.into_iter().enumerate();
            items.map(|(index, item)| flatten(item, format!("{path}[{index}]"), None, places)).collect()
        }
        Node::Map(fields) => {
            let mut map = Map::new();
            for (key, value) in fields {
                let path = if path.is_empty() { key.value.clone() } else { format!("{path}.{}", key.value) };
                let value = flatten(value, path, Some(place_of(&key)), places);
                map.insert(key.value, value);
            }
            Value::Object(map)
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that JSON has")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Leaf(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Leaf(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Leaf(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Node, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("this number is not finite"))?;
        Ok(Node::Leaf(Value::Number(number)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Leaf(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Leaf(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Leaf(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Node, A::Error> {
        let mut map = Vec::new();
        while let Some(field) = fields.next_entry()? {
            map.push(field);
        }
        Ok(Node::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn one(text: &str) -> Document {
        let mut documents = read("a.yaml", text).expect("because it is well formed");
        assert_eq!(documents.len(), 1);
        documents.remove(0)
    }

    #[test]
    fn t51_words_and_numbers_are_read_as_kubernetes_reads_them() {
        let document = one(
            "norway: no\non: off\nmode: 0644\nquoted: \"no\"\nversion: 1.10\nnothing:\nbig: 18446744073709551615\n",
        );
        let expected = json!({"norway": false, "on": false, "mode": 0o644, "quoted": "no", "version": 1.1, "nothing": null, "big": u64::MAX});
        assert_eq!(document.value, expected);
    }

    #[test]
    fn documents_are_separate_and_empty_ones_are_nothing() {
        let documents =
            read("a.yaml", "---\n# only a comment\n---\na: 1\n---\nb: 2\n...\n").expect("because it is well formed");
        assert_eq!(documents.iter().map(|d| &d.value).collect::<Vec<_>>(), [&json!({"a": 1}), &json!({"b": 2})]);
        assert_eq!(documents[1].place("b"), Place { line: 6, column: 1 });
    }

    #[test]
    fn every_field_has_its_place() {
        let document = one("a:\n  b:\n    - c: 1\n      d: x\n");
        assert_eq!(document.place("a.b[0].d"), Place { line: 4, column: 7 });
        assert_eq!(document.place("a.b[0].missing"), Place { line: 3, column: 7 });
        assert_eq!(document.place_in("unknown field \"a.b[0].d\""), Place { line: 4, column: 7 });
        assert_eq!(document.place("elsewhere"), Place { line: 1, column: 1 });
    }

    #[test]
    fn t51_repeated_keys_merges_and_bombs_are_refused_with_their_place() {
        let mistake = read("a.yaml", "a: 1\nb: 2\na: 3\n").expect_err("because a is repeated");
        assert_eq!((mistake.line, mistake.column), (3, 1), "{mistake}");
        assert!(read("a.yaml", "x: &x {a: 1}\ny:\n  <<: *x\n").is_err());
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for level in 1..9 {
            let previous = vec![format!("*a{}", level - 1); 10].join(",");
            bomb.push_str(&format!("a{level}: &a{level} [{previous}]\n"));
        }
        assert!(read("a.yaml", &bomb).is_err());
        assert!(read("a.yaml", &"[".repeat(100_000)).is_err());
        assert!(read("a.yaml", &"a:\n".repeat(3).replace("a:\n", "? [")).is_err());
    }

    #[test]
    fn crooked_text_is_a_mistake_with_a_place() {
        let mistake = read("a.yaml", "a: [1, 2\nb: 3\n").expect_err("because the list does not end");
        assert!(mistake.line >= 1 && !mistake.message.is_empty(), "{mistake}");
    }
}
