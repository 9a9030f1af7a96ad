//! The list of kernel modules to load, in order: written by the image builder, read by both stages of PID 1.
//!
//! Each line is one absolute path; a module comes behind what it depends on. Empty lines and lines that begin with `#` are
//! skipped.

use thiserror::Error;

/// Where stage one finds its list, in the initramfs.
pub const STAGE_ONE_MODULES: &str = "/modules.load";
/// Where stage two finds its list, in the root.
pub const ROOT_MODULES: &str = "/usr/lib/cairn/modules.load";
/// Where machined finds the list of what encrypted volumes need, in the root; loaded only where there are some.
pub const ENCRYPTION_MODULES: &str = "/usr/lib/cairn/encryption.load";
/// Where machined finds the list of what extensions need, in the root; loaded only where there are some.
pub const EXTENSION_MODULES: &str = "/usr/lib/cairn/extension.load";
/// More modules than any Debian kernel has; a longer list is a mistake.
const MODULES_MAX: usize = 8192;

/// Modules in the order of their loading.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModuleList {
    paths: Vec<String>,
}

/// Why a list is refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ModuleListError {
    /// A path that is not absolute or that a line cannot hold.
    #[error("the module list names {path:?}, which is no absolute path without spaces")]
    Path {
        /// What stands there.
        path: String,
    },
    /// Too many.
    #[error("the module list names more than {MODULES_MAX} modules")]
    TooMany,
}

impl ModuleList {
    /// Takes the paths, the first one first.
    ///
    /// # Errors
    /// When a path is not absolute or holds white space, or there are too many.
    pub fn new(paths: Vec<String>) -> Result<Self, ModuleListError> {
        if paths.len() > MODULES_MAX {
            return Err(ModuleListError::TooMany);
        }
        let wrong = paths.iter().find(|path| !path.starts_with('/') || path.contains(char::is_whitespace));
        match wrong {
            None => Ok(Self { paths }),
            Some(path) => Err(ModuleListError::Path { path: path.clone() }),
        }
    }

    /// Parses a list.
    ///
    /// # Errors
    /// When a path is not absolute, or there are too many.
    pub fn parse(text: &str) -> Result<Self, ModuleListError> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self::new(lines.map(str::to_owned).collect())
    }

    /// Writes the list.
    pub fn render(&self) -> String {
        self.paths.iter().map(|path| format!("{path}\n")).collect()
    }

    /// The paths, the first one first.
    pub fn paths(&self) -> &[String] {
        &self.paths
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_kept_and_comments_are_skipped() {
        let list = ModuleList::parse("# made by hand\n/b.ko\n\n/a.ko\n").expect("because the paths are absolute");
        assert_eq!(list.paths(), ["/b.ko", "/a.ko"]);
        assert_eq!(ModuleList::parse(&list.render()), Ok(list));
    }

    #[test]
    fn relative_paths_are_refused() {
        let refused = ModuleList::parse("/a.ko\nb.ko\n");
        assert_eq!(refused, Err(ModuleListError::Path { path: "b.ko".to_owned() }));
        assert!(ModuleList::new(vec!["/a b.ko".to_owned()]).is_err());
    }
}
