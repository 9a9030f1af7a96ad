//! The machine's console as something that is read: what a person types, as it comes.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

/// A terminal, open for reading and for short answers.
#[derive(Debug)]
pub struct Console {
    /// Not a pipe, but read and waited for in the same way.
    input: pipe::Receiver,
    /// The same open file.
    output: File,
}

impl Console {
    /// Opens a terminal. It does not become this process's own: nothing that is typed sends a signal.
    ///
    /// # Errors
    /// When it is not there, or is nothing that can be waited for.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = nix::libc::O_NOCTTY | nix::libc::O_NONBLOCK;
        Console::of(File::options().read(true).write(true).custom_flags(flags).open(path)?)
    }

    /// Takes a file that does not block.
    ///
    /// # Errors
    /// When it is nothing that can be waited for.
    pub fn of(file: File) -> io::Result<Self> {
        let output = file.try_clone()?;
        Ok(Console { input: pipe::Receiver::from_file_unchecked(file)?, output })
    }

    /// Waits for input; 0 bytes when there is no terminal any more.
    ///
    /// # Errors
    /// When the terminal fails.
    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.input.read(buffer).await
    }

    /// Writes a short answer.
    ///
    /// # Errors
    /// When the terminal fails, or takes nothing at this moment.
    pub fn say(&mut self, text: &str) -> io::Result<()> {
        self.output.write_all(text.as_bytes())
    }
}
