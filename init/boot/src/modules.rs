//! The list of kernel modules to load, in order: written by the image builder, read by both stages of PID 1.
//!
//! Each line is one level: its modules depend only on lines above, so they may be loaded at the same time. A line
//! holds one or more absolute paths separated by spaces; empty lines and lines that begin with `#` are skipped.

use thiserror::Error;

/// Where stage one finds its list, in the initramfs.
pub const STAGE_ONE_MODULES: &str = "/modules.load";
/// Where stage two finds its list, in the root.
pub const ROOT_MODULES: &str = "/usr/lib/cairn/modules.load";
/// More modules than any Debian kernel has; a longer list is a mistake.
const MODULES_MAX: usize = 8192;

/// Modules by level.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModuleList {
    levels: Vec<Vec<String>>,
}

/// Why a list is refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ModuleListError {
    /// A path that is not absolute or that a line cannot hold.
    #[error("line {line} of the module list names {path:?}, which is no absolute path without spaces")]
    Path {
        /// The line, from 1.
        line: usize,
        /// What stands there.
        path: String,
    },
    /// Too many.
    #[error("the module list names more than {MODULES_MAX} modules")]
    TooMany,
}

impl ModuleList {
    /// Takes the levels, the first one first.
    ///
    /// # Errors
    /// When a path is not absolute or holds white space, or there are too many.
    pub fn new(levels: Vec<Vec<String>>) -> Result<Self, ModuleListError> {
        if levels.iter().map(Vec::len).sum::<usize>() > MODULES_MAX {
            return Err(ModuleListError::TooMany);
        }
        for (line, path) in (1..).zip(&levels).flat_map(|(line, level)| level.iter().map(move |path| (line, path))) {
            if !path.starts_with('/') || path.contains(char::is_whitespace) {
                return Err(ModuleListError::Path { line, path: path.clone() });
            }
        }
        Ok(Self { levels })
    }

    /// Parses a list.
    ///
    /// # Errors
    /// When a path is not absolute, or there are too many.
    pub fn parse(text: &str) -> Result<Self, ModuleListError> {
        let levels = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
            .filter(|level| !level.is_empty())
            .collect();
        Self::new(levels)
    }

    /// Writes the list.
    pub fn render(&self) -> String {
        self.levels.iter().map(|level| level.join(" ") + "\n").collect()
    }

    /// The levels, the first one first.
    pub fn levels(&self) -> &[Vec<String>] {
        &self.levels
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_levels() {
        let list = ModuleList::parse("# made by hand\n/a.ko\n\n/b.ko /c.ko\n").expect("because the paths are absolute");
        assert_eq!(list.levels(), [vec!["/a.ko"], vec!["/b.ko", "/c.ko"]]);
        assert_eq!(ModuleList::parse(&list.render()), Ok(list));
    }

    #[test]
    fn relative_paths_are_refused() {
        assert!(matches!(ModuleList::parse("/a.ko\nb.ko\n"), Err(ModuleListError::Path { line: 2, .. })));
        assert!(ModuleList::new(vec![vec!["/a b.ko".to_owned()]]).is_err());
    }
}
