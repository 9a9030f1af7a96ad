//! A snapshot's content: read from the state file where it is made, carried in pieces, and gathered in a file of its own where it arrives.
//!
//! ```text
//! Image -> pieces(...) -> the network -> Gathering::add ... finish -> Image -> installed in one commit
//! ```

use crate::disk::{StateDisk, StateView};
use crate::files::Files;
use crate::types::{decode, encode};
use controlplane_store::{Batch, DiskError, Table};
use redb::Durability;
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::Arc;

/// Bytes of rows in one piece, but for a single row that is larger.
const PIECE_LIMIT: usize = 1024 * 1024;

/// The file that a snapshot is gathered in. It is not needed after a restart: the leader sends another.
const FILE: &str = "incoming.redb";

/// A consistent state of all tables; it costs nothing until it is read.
pub struct Image {
    view: StateView,
    /// Removes the file that a received one lies in.
    _file: Option<Gathered>,
}

/// Some rows of a snapshot, or its end.
#[derive(Debug, Serialize, Deserialize)]
enum Piece {
    /// Number of the table, key and value.
    Rows(Vec<(u8, Vec<u8>, Vec<u8>)>),
    /// How many rows there were. Without it, the snapshot is not whole.
    End(u64),
}

impl Image {
    pub(crate) fn of(view: StateView) -> Self {
        Image { view, _file: None }
    }

    pub(crate) fn view(&self) -> &StateView {
        &self.view
    }

    /// Reads everything, in pieces of about 1 MiB. Blocks on the disk, and as long as `send` does.
    ///
    /// # Errors
    /// When the disk fails, or what `send` returned.
    pub fn pieces(&self, mut send: impl FnMut(Vec<u8>) -> io::Result<()>) -> io::Result<()> {
        let (mut rows, mut bytes, mut count) = (Vec::new(), 0, 0);
        for (number, table) in (0u8..).zip(Table::ALL) {
            let read = self.view.rows(table, &mut |key, value| {
                rows.push((number, key.to_vec(), value.to_vec()));
                (bytes, count) = (bytes + key.len() + value.len(), count + 1);
                if bytes >= PIECE_LIMIT {
                    bytes = 0;
                    let full = encode(&Piece::Rows(std::mem::take(&mut rows)));
                    full.and_then(&mut send).map_err(|source| DiskError { doing: "send", source: source.into() })?;
                }
                Ok(())
            });
            read.map_err(io::Error::other)?;
        }
        send(encode(&Piece::Rows(rows))?)?;
        send(encode(&Piece::End(count))?)
    }
}

/// The file that a snapshot arrives in; removed when nobody needs it.
struct Gathered {
    // Closed before it is removed.
    disk: Option<Arc<StateDisk>>,
    files: Arc<dyn Files>,
}

impl Drop for Gathered {
    fn drop(&mut self) {
        drop(self.disk.take());
        if let Err(error) = self.files.remove(FILE) {
            tracing::warn!(%error, "a snapshot's file stays until the next one comes");
        }
    }
}

/// A snapshot that is being received. One at a time in a member's folder.
pub struct Gathering {
    disk: Arc<StateDisk>,
    file: Gathered,
    rows: u64,
    whole: bool,
}

impl Gathering {
    /// Begins with an empty file. Blocks on the disk.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn begin(files: Arc<dyn Files>) -> io::Result<Self> {
        files.remove(FILE)?;
        let disk = Arc::new(StateDisk::open_as(&*files, FILE).map_err(io::Error::other)?);
        // A new file has the marks of an empty store; the snapshot brings its own.
        disk.commit(Durability::None, |batch| batch.clear()).map_err(io::Error::other)?;
        let file = Gathered { disk: Some(Arc::clone(&disk)), files };
        Ok(Gathering { disk, file, rows: 0, whole: false })
    }

    /// Takes the next piece. Blocks on the disk.
    ///
    /// # Errors
    /// When it is no piece, comes after the end, or the disk fails.
    pub fn add(&mut self, piece: &[u8]) -> io::Result<()> {
        if self.whole {
            return Err(invalid("a snapshot goes on after its end"));
        }
        match decode(piece)? {
            Piece::End(count) if count == self.rows => self.whole = true,
            Piece::End(_) => return Err(invalid("a snapshot ends with another number of rows than came")),
            Piece::Rows(rows) => {
                self.rows += rows.len() as u64;
                let put = |batch: &mut crate::disk::StateBatch<'_>| {
                    for (number, key, value) in &rows {
                        let table = Table::ALL.get(usize::from(*number)).copied();
                        let unknown =
                            || DiskError { doing: "find the table of a row on", source: "no such table".into() };
                        batch.put(table.ok_or_else(unknown)?, key, value)?;
                    }
                    Ok(())
                };
                self.disk.commit(Durability::None, put).map_err(io::Error::other)?;
            }
        }
        Ok(())
    }

    /// The snapshot, when all of it has come.
    ///
    /// # Errors
    /// When it has not, or the disk fails.
    pub fn finish(self) -> io::Result<Image> {
        if !self.whole {
            return Err(invalid("a snapshot broke off"));
        }
        let view = self.disk.snapshot().map_err(io::Error::other)?;
        Ok(Image { view, _file: Some(self.file) })
    }
}

fn invalid(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}
