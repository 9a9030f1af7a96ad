//! Path patterns of rules: byte-wise on components, `*` is one component, `**` any number of them.

/// What is never matched by a wildcard: a rule that owns these names them.
const GUARDED: [&str; 3] = ["trust", "machines", "cluster.kdl"];

/// A path pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    parts: Vec<Part>,
    text: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    One,
    Any,
}

/// A text is no path pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {0}")]
pub struct GlobError(&'static str);

impl std::str::FromStr for Glob {
    type Err = GlobError;
    fn from_str(text: &str) -> Result<Self, GlobError> {
        Glob::parse(text)
    }
}

impl Glob {
    /// Components in one pattern; bounds the matcher.
    const MAX_PARTS: usize = 32;

    /// Reads a pattern.
    ///
    /// # Errors
    /// What was expected.
    pub fn parse(text: &str) -> Result<Self, GlobError> {
        let part = |part: &str| match part {
            "" | "." | ".." => Err(GlobError("a path in the repository, without a leading, trailing or double slash")),
            "*" => Ok(Part::One),
            "**" => Ok(Part::Any),
            other if other.contains('*') => Err(GlobError("* and ** to stand for whole names between slashes")),
            other => Ok(Part::Literal(other.to_owned())),
        };
        let parts: Vec<Part> = text.split('/').map(part).collect::<Result<_, _>>()?;
        if parts.len() > Self::MAX_PARTS {
            return Err(GlobError("at most 32 names between slashes"));
        }
        if parts.windows(2).any(|pair| pair == [Part::Any, Part::Any]) {
            return Err(GlobError("one ** instead of two in a row"));
        }
        Ok(Glob { parts, text: text.to_owned() })
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the pattern covers a file.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        let names: Vec<&str> = path.split('/').collect();
        let named = matches!(self.parts.first(), Some(Part::Literal(first)) if names.first() == Some(&first.as_str()));
        let guarded = names.first().is_some_and(|first| GUARDED.contains(first));
        (named || !guarded) && matches(&self.parts, &names)
    }
}

/// Greedy with one place to come back to, so that no pattern costs more than its length times the path's.
fn matches(parts: &[Part], names: &[&str]) -> bool {
    let (mut part, mut name) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while name < names.len() {
        match parts.get(part) {
            Some(Part::Any) => {
                retry = Some((part, name));
                part += 1;
                continue;
            }
            Some(Part::Literal(literal)) if literal == names[name] => (part, name) = (part + 1, name + 1),
            Some(Part::One) => (part, name) = (part + 1, name + 1),
            Some(Part::Literal(_)) | None => match retry {
                Some((at, from)) => {
                    retry = Some((at, from + 1));
                    (part, name) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    parts[part..].iter().all(|rest| *rest == Part::Any)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(pattern: &str, path: &str) -> bool {
        Glob::parse(pattern).expect("because the pattern is well formed").matches(path)
    }

    #[test]
    fn one_star_is_one_name_and_two_are_any_number() {
        for (pattern, path, expected) in [
            ("apps/*/x.yaml", "apps/web/x.yaml", true),
            ("apps/*/x.yaml", "apps/web/deep/x.yaml", false),
            ("apps/**", "apps/web/deep/x.yaml", true),
            ("apps/**", "apps", true),
            ("apps/**", "apps2/x", false),
            ("**/x.yaml", "x.yaml", true),
            ("**/x.yaml", "a/b/x.yaml", true),
            ("**/b/**/d", "a/b/c/b/d", true),
            ("**/b/**/d", "a/c/d", false),
            ("apps/web", "apps/web/x", false),
            ("Apps/**", "apps/x", false),
        ] {
            assert_eq!(covers(pattern, path), expected, "{pattern} on {path}");
        }
    }

    #[test]
    fn t67_wildcards_do_not_reach_trust_machines_or_the_cluster() {
        for path in ["trust/root.kdl", "machines/cp1.kdl", "cluster.kdl"] {
            assert!(!covers("**", path) && !covers("*/**", path) && !covers("*", path), "{path}");
        }
        assert!(covers("machines/**", "machines/cp1.kdl"));
        assert!(covers("cluster.kdl", "cluster.kdl"));
        assert!(covers("**", "apps/machines/x.yaml"));
    }

    #[test]
    fn crooked_patterns_are_refused() {
        for bad in ["", "/a", "a/", "a//b", "a/../b", "a*b", "**/**", "./a"] {
            assert!(Glob::parse(bad).is_err(), "{bad:?} was taken");
        }
    }
}
