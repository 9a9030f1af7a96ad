//! Where a member's files are: a folder for the daemon, memory that fails on purpose for the simulator.

use redb::{Builder, Database, DatabaseError};
use std::io;
use std::path::PathBuf;

/// Opens a member's files.
pub trait Files: Send + Sync + 'static {
    /// Where they are, for people.
    fn place(&self) -> String;

    /// Opens or makes a file.
    ///
    /// # Errors
    /// When it cannot be read or made, another process has it open, or it is no such file.
    fn open(&self, name: &str, builder: &Builder) -> Result<Database, DatabaseError>;

    /// Removes a file; one that is not there is no error.
    ///
    /// # Errors
    /// When it cannot be removed.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes the names of new files survive a power cut.
    ///
    /// # Errors
    /// When the folder cannot be synced.
    fn sync_names(&self) -> io::Result<()>;
}

/// A folder on a disk.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

impl Folder {
    /// Makes the folder when it is not there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        std::fs::create_dir_all(&path)?;
        Ok(Folder(path))
    }
}

impl Files for Folder {
    fn place(&self) -> String {
        self.0.display().to_string()
    }

    fn open(&self, name: &str, builder: &Builder) -> Result<Database, DatabaseError> {
        builder.create(self.0.join(name))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match std::fs::remove_file(self.0.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn sync_names(&self) -> io::Result<()> {
        std::fs::File::open(&self.0)?.sync_all()
    }
}
