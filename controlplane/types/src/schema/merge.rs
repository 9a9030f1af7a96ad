//! Reads the table of merge rules; [`super::build`] hangs them onto the fields.

use std::collections::HashMap;
use std::sync::OnceLock;

/// How the entries of a list belong together for server-side apply.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ListType {
    /// Owned and replaced as a whole.
    #[default]
    Atomic,
    /// Scalars, each owned by itself.
    Set,
    /// Objects, each known by the values of these fields.
    Map(Vec<String>),
}

/// The merge rules of one field (or, under the field name `-`, of a type).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MergeRule {
    /// For lists.
    pub list: ListType,
    /// For maps and objects: owned as a whole.
    pub atomic: bool,
    /// Strategic merge patch merges instead of replacing.
    pub patch_merge: bool,
    /// Strategic merge patch understands `$retainKeys` here.
    pub retain_keys: bool,
    /// The key by which strategic merge patch matches entries; empty for scalars.
    pub patch_key: String,
}

static TABLE: &str = include_str!("merge.txt");

/// Looks up the rules of a field; `type_name` is the full definition name.
pub fn rule(type_name: &str, field: &str) -> MergeRule {
    static RULES: OnceLock<HashMap<(&'static str, &'static str), MergeRule>> = OnceLock::new();
    let rules = RULES.get_or_init(|| TABLE.lines().filter_map(read_line).collect());
    let short = type_name.strip_prefix("io.k8s.").unwrap_or(type_name);
    rules.get(&(short, field)).cloned().unwrap_or_default()
}

fn read_line(line: &'static str) -> Option<((&'static str, &'static str), MergeRule)> {
    let mut words = line.split(' ').filter(|word| !word.is_empty());
    let type_name = words.next().filter(|word| *word != "#")?;
    let field = words.next()?;
    let mut rule = MergeRule::default();
    for (key, value) in words.filter_map(|word| word.split_once('=')) {
        match key {
            "list" if value == "set" => rule.list = ListType::Set,
            "keys" => rule.list = ListType::Map(value.split(',').map(str::to_string).collect()),
            "map" => rule.atomic = value == "atomic",
            "patch" => {
                rule.patch_merge = value.contains("merge");
                rule.retain_keys = value.contains("retainKeys");
            }
            "key" => rule.patch_key = value.to_string(),
            _ => {}
        }
    }
    Some(((type_name, field), rule))
}
