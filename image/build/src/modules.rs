//! Kernel modules: which files a list of names needs, in an order in which they can be loaded.
//!
//! Debian's package has no modules.dep (depmod runs at installation), so the dependencies are read from the modules themselves
//! (`depends` and `softdep` in .modinfo). Called by the root and initramfs stages. Must never guess: an unknown name is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use init_boot::ModuleList;
use object::{Object as _, ObjectSection as _};

use crate::files::{self, FileError};

/// The largest module that is believed, in bytes; the largest of the cloud kernel has 7 MB.
const MODULE_BYTES_MAX: u64 = 64 << 20;

/// All modules of one kernel.
#[derive(Debug)]
pub struct Catalogue {
    /// Kernel release, such as `6.12.117+deb13-cloud-amd64`.
    pub release: String,
    files: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
}

/// One module, decompressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Name with underscores, as the kernel has it.
    pub name: String,
    /// The ELF file.
    pub bytes: Vec<u8>,
}

/// The list that PID 1 loads in order: what the profile names first is there first.
pub fn load_list<'a>(modules: impl Iterator<Item = &'a Module>, path: impl Fn(&Module) -> String) -> ModuleList {
    ModuleList::new(modules.map(path).collect()).expect("because module names have no spaces and kernels few of them")
}

/// Why modules cannot be selected.
#[derive(Debug, thiserror::Error)]
pub enum ModulesError {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The kernel package has no modules.
    #[error("{} has no modules", .0.display())]
    NoModules(PathBuf),
    /// Nobody has heard of it.
    #[error("the kernel has no module {name}, wanted by {wanted_by}; correct the modules of the profile")]
    Unknown {
        /// The module.
        name: String,
        /// The profile, or the module that depends on it.
        wanted_by: String,
    },
    /// Damaged or too large.
    #[error("cannot read the module {}: {what}", path.display())]
    Damaged {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// What a module says about itself.
#[derive(Debug, Default, PartialEq, Eq)]
struct Info {
    depends: Vec<String>,
    /// To be loaded before it when they exist.
    before: Vec<String>,
    /// To be loaded after it when they exist.
    after: Vec<String>,
}

impl Catalogue {
    /// Finds the modules in an unpacked kernel package.
    ///
    /// # Errors
    /// When there are none.
    pub fn read(package: &Path) -> Result<Catalogue, ModulesError> {
        let modules = package.join("usr/lib/modules");
        let Some(folder) = files::list(&modules)?.pop() else { return Err(ModulesError::NoModules(modules)) };
        let release = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut found = BTreeMap::new();
        let mut open = vec![folder.join("kernel")];
        while let Some(folder) = open.pop() {
            for path in files::list(&folder)? {
                if path.is_dir() {
                    open.push(path);
                } else if let Some(name) = module_name(&path) {
                    found.insert(name, path);
                }
            }
        }
        let list = files::read_text(&folder.join("modules.builtin"))?;
        let builtin = list.lines().filter_map(|line| module_name(Path::new(line))).collect();
        Ok(Catalogue { release, files: found, builtin })
    }

    /// The modules with these names and all that they depend on, each after what it needs.
    ///
    /// Names of built-in modules are accepted and bring nothing: whether ext4 is built in is the kernel's matter.
    ///
    /// # Errors
    /// When a name or a dependency does not exist, or a module cannot be read.
    pub fn select(&self, wanted: &[String]) -> Result<Vec<Module>, ModulesError> {
        let mut selection = Selection { catalogue: self, seen: BTreeSet::new(), ordered: Vec::new() };
        for name in wanted {
            selection.add(&underscored(name), "the profile")?;
        }
        Ok(selection.ordered)
    }

    fn exists(&self, name: &str) -> bool {
        self.files.contains_key(name) || self.builtin.contains(name)
    }
}

/// A depth-first walk in progress.
struct Selection<'a> {
    catalogue: &'a Catalogue,
    seen: BTreeSet<String>,
    ordered: Vec<Module>,
}

impl Selection<'_> {
    /// Adds a module behind what it depends on.
    fn add(&mut self, name: &str, wanted_by: &str) -> Result<(), ModulesError> {
        // Two modules may want each other softly: the second to ask finds the first one seen already.
        if self.catalogue.builtin.contains(name) || !self.seen.insert(name.to_owned()) {
            return Ok(());
        }
        let Some(path) = self.catalogue.files.get(name) else {
            return Err(ModulesError::Unknown { name: name.to_owned(), wanted_by: wanted_by.to_owned() });
        };
        let bytes = decompressed(path)?;
        let damaged = |what: object::Error| ModulesError::Damaged { path: path.clone(), what: what.to_string() };
        let info = info(&bytes).map_err(damaged)?;
        let before = info.before.iter().filter(|soft| self.catalogue.exists(soft));
        for dependency in info.depends.iter().chain(before) {
            self.add(dependency, name)?;
        }
        self.ordered.push(Module { name: name.to_owned(), bytes });
        for soft in info.after.iter().filter(|soft| self.catalogue.exists(soft)) {
            self.add(soft, name)?;
        }
        Ok(())
    }
}

/// Modules in an order in which they can be loaded; what they need and is not among them is somebody else's. A module that says nothing of
/// itself needs nothing.
pub fn in_order<'a>(all: impl Iterator<Item = &'a Module>) -> Vec<&'a Module> {
    let all: BTreeMap<&str, &Module> = all.map(|module| (module.name.as_str(), module)).collect();
    let (mut seen, mut ordered) = (BTreeSet::new(), Vec::new());
    // A stack and no recursion: how long a chain is, is the user's to say. `true`: all that it needs is in front of it.
    let mut open: Vec<(&Module, bool)> = all.values().rev().map(|module| (*module, false)).collect();
    while let Some((module, ready)) = open.pop() {
        if ready {
            ordered.push(module);
        } else if seen.insert(module.name.as_str()) {
            open.push((module, true));
            let info = info(&module.bytes).unwrap_or_default();
            let needed = info.depends.iter().chain(&info.before).filter_map(|name| all.get(name.as_str()));
            open.extend(needed.map(|module| (*module, false)));
        }
    }
    ordered
}

/// The kernel knows modules by names with underscores, whatever their files are called.
fn underscored(name: &str) -> String {
    name.replace('-', "_")
}

/// `virtio_net` for `.../virtio-net.ko.xz`; none for other files.
pub(crate) fn module_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let stem = file.strip_suffix(".ko.xz").or_else(|| file.strip_suffix(".ko"))?;
    Some(underscored(stem))
}

/// The bytes of a module file, without its compression.
pub(crate) fn decompressed(path: &Path) -> Result<Vec<u8>, ModulesError> {
    let file = fs::File::open(path).map_err(FileError::because("open", path))?;
    let mut bytes = Vec::new();
    let mut read = |mut from: Box<dyn std::io::Read>| from.read_to_end(&mut bytes);
    let count = if path.extension().is_some_and(|extension| extension == "xz") {
        read(Box::new(lzma_rust2::XzReader::new(file, true).take(MODULE_BYTES_MAX)))
    } else {
        read(Box::new(file.take(MODULE_BYTES_MAX)))
    };
    match count.map_err(FileError::because("decompress", path))? as u64 {
        MODULE_BYTES_MAX => {
            Err(ModulesError::Damaged { path: path.to_path_buf(), what: format!("more than {MODULE_BYTES_MAX} bytes") })
        }
        _ => Ok(bytes),
    }
}

/// Reads `depends=` and `softdep=` from the .modinfo section.
fn info(bytes: &[u8]) -> Result<Info, object::Error> {
    let file = object::File::parse(bytes)?;
    let Some(section) = file.section_by_name(".modinfo") else { return Ok(Info::default()) };
    Ok(parse_info(section.data()?))
}

/// Parses NUL-terminated `key=value` strings.
fn parse_info(section: &[u8]) -> Info {
    let mut info = Info::default();
    for field in section.split(|byte| *byte == 0).filter_map(|field| std::str::from_utf8(field).ok()) {
        if let Some(names) = field.strip_prefix("depends=") {
            info.depends.extend(names.split(',').filter(|name| !name.is_empty()).map(underscored));
        }
        if let Some(names) = field.strip_prefix("softdep=") {
            let mut after = false;
            for word in names.split_whitespace() {
                match word {
                    "pre:" => after = false,
                    "post:" => after = true,
                    name if after => info.after.push(underscored(name)),
                    name => info.before.push(underscored(name)),
                }
            }
        }
    }
    info
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_with_underscores_and_softdeps_by_side() {
        let info = parse_info(b"license=GPL\0depends=dm-mod,dm-bufio\0softdep=pre: crc32c post: nls-utf8\0depends=\0");
        assert_eq!(info.depends, ["dm_mod", "dm_bufio"]);
        assert_eq!(info.before, ["crc32c"]);
        assert_eq!(info.after, ["nls_utf8"]);
    }

    #[test]
    fn a_module_is_named_by_its_file() {
        assert_eq!(module_name(Path::new("kernel/drivers/md/dm-verity.ko.xz")).as_deref(), Some("dm_verity"));
        assert_eq!(module_name(Path::new("kernel/modules.order")), None);
    }

    #[test]
    fn an_unknown_module_names_who_wanted_it() {
        let catalogue =
            Catalogue { release: "6".to_owned(), files: BTreeMap::new(), builtin: BTreeSet::from(["ext4".to_owned()]) };
        assert_eq!(catalogue.select(&["ext4".to_owned()]).expect("because ext4 is built in"), []);
        let error = catalogue.select(&["ext5".to_owned()]).expect_err("because there is no ext5");
        assert!(error.to_string().contains("no module ext5, wanted by the profile"), "{error}");
    }
}
