//! Serves a disk to one QEMU by the Network Block Device protocol, and tells the recorder what QEMU writes.
//!
//! Only what QEMU asks of a plain disk: fixed newstyle handshake, read, write, flush
//! (github.com/NetworkBlockDevice/nbd, doc/proto.md). The thread ends with the connection: a power cut ends both.

use super::disk::Disk;
use super::recording::Recorder;
use anyhow::{Context, Result, bail, ensure};
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Name of the socket, in the folder of the machine.
const SOCKET: &str = "disk.sock";

/// How QEMU, which runs in the folder of the machine, names the disk.
pub(crate) const URL: &str = "nbd+unix:///?socket=disk.sock";

/// Largest request, in bytes: what QEMU asks for at most unless told otherwise.
const REQUEST_BYTES_MAX: u32 = 32 << 20;
/// Longest option of the handshake, in bytes; QEMU's are a few dozen.
const OPTION_BYTES_MAX: u32 = 4096;

const HELLO: &[u8; 16] = b"NBDMAGICIHAVEOPT";
const OPTION: u64 = u64::from_be_bytes(*b"IHAVEOPT");
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const REQUEST: u32 = 0x2560_9513;
const REPLY: u32 = 0x6744_6698;
/// Fixed newstyle, and no zeros behind the handshake.
const HANDSHAKE_FLAGS: u16 = 0b11;
/// It has flags, takes flushes, and writes that are flushed at once.
const EXPORT_FLAGS: u16 = 0b1101;

const OPTION_ABORT: u32 = 2;
const OPTION_GO: u32 = 7;
const ANSWER_ACK: u32 = 1;
const ANSWER_INFO: u32 = 3;
const ANSWER_UNSUPPORTED: u32 = 0x8000_0001;
const INFO_EXPORT: u16 = 0;
const INFO_SIZES: u16 = 3;
const FLAG_FUA: u16 = 1;
const ERROR_IO: u32 = 5;

/// The recorder of a served disk, shared with whoever knows what the machine does.
pub(crate) type Shared = Arc<Mutex<Recorder>>;

/// A disk that is served.
pub(crate) struct Served {
    thread: JoinHandle<Result<()>>,
    listening: Arc<File>,
}

impl Served {
    /// Serves `disk` at the socket in `folder`, for one connection.
    pub(crate) fn start(folder: &Path, disk: Disk, recorder: Option<Shared>) -> Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let listening = Arc::new(File::open(folder).with_context(|| format!("opening {}", folder.display()))?);
        // Left behind by the last one.
        let _absent = std::fs::remove_file(folder.join(SOCKET));
        let listener = UnixListener::bind(path(&listening)).context("listening for QEMU")?;
        let thread = std::thread::spawn(move || {
            let (stream, _) = listener.accept().context("waiting for QEMU")?;
            serve(stream, disk, recorder)
        });
        Ok(Served { thread, listening })
    }

    /// Ends it, once QEMU is gone.
    pub(crate) fn stop(self) -> Result<()> {
        // Where QEMU never came, the thread still waits for it.
        let _gone = UnixStream::connect(path(&self.listening));
        self.thread.join().map_err(|_| anyhow::anyhow!("serving a disk panicked"))?
    }
}

/// Socket addresses are short, and the folder's name may not be: by its descriptor it always is.
fn path(folder: &File) -> String {
    format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd())
}

fn serve(stream: UnixStream, mut disk: Disk, recorder: Option<Shared>) -> Result<()> {
    let mut writer = stream.try_clone().context("the connection of QEMU")?;
    let mut reader = BufReader::new(stream);
    if !handshake(&mut reader, &mut writer, disk.size())? {
        return Ok(());
    }
    let mut buffer = Vec::new();
    // A connection that ends between two requests is the power that was cut.
    while let Some(request) = Request::read(&mut reader)? {
        if request.length > REQUEST_BYTES_MAX {
            bail!("QEMU asks for {} bytes at once", request.length);
        }
        buffer.resize(request.length as usize, 0);
        let done = match request.kind {
            Kind::Read => disk.read(request.offset, &mut buffer),
            Kind::Write => {
                if reader.read_exact(&mut buffer).is_err() {
                    return Ok(());
                }
                let written = disk.write(request.offset, &buffer);
                written.and_then(|()| note(recorder.as_ref(), |recorder| recorder.write(request.offset, &buffer)))
            }
            Kind::Flush => note(recorder.as_ref(), Recorder::flush),
            Kind::Disconnect => return Ok(()),
            Kind::Other(number) => Err(anyhow::anyhow!("QEMU asks for {number}, which was not offered")),
        };
        if request.kind == Kind::Write && request.flags & FLAG_FUA != 0 {
            note(recorder.as_ref(), Recorder::flush)?;
        }
        let mut answer = REPLY.to_be_bytes().to_vec();
        answer.extend_from_slice(&if done.is_ok() { 0 } else { ERROR_IO }.to_be_bytes());
        answer.extend_from_slice(&request.cookie);
        if request.kind == Kind::Read && done.is_ok() {
            answer.extend_from_slice(&buffer);
        }
        if writer.write_all(&answer).is_err() {
            return Ok(());
        }
        done?;
    }
    Ok(())
}

fn note(recorder: Option<&Shared>, what: impl FnOnce(&mut Recorder) -> Result<()>) -> Result<()> {
    recorder.map_or(Ok(()), |recorder| what(&mut recorder.lock().unwrap_or_else(PoisonError::into_inner)))
}

/// Whether the other side wants the disk.
fn handshake(reader: &mut impl Read, writer: &mut impl Write, size: u64) -> Result<bool> {
    writer.write_all(HELLO)?;
    writer.write_all(&HANDSHAKE_FLAGS.to_be_bytes())?;
    let mut flags = [0; 4];
    if reader.read_exact(&mut flags).is_err() {
        return Ok(false);
    }
    loop {
        ensure!(u64::from_be_bytes(bytes(reader)?) == OPTION, "QEMU's option does not begin like one");
        let (option, length) = (u32::from_be_bytes(bytes(reader)?), u32::from_be_bytes(bytes(reader)?));
        ensure!(length <= OPTION_BYTES_MAX, "an option of {length} bytes");
        reader.read_exact(&mut vec![0; length as usize])?;
        let mut answer = |kind: u32, data: &[u8]| -> Result<()> {
            let mut bytes = OPTION_REPLY.to_be_bytes().to_vec();
            bytes.extend_from_slice(&option.to_be_bytes());
            bytes.extend_from_slice(&kind.to_be_bytes());
            bytes.extend_from_slice(&u32::try_from(data.len())?.to_be_bytes());
            bytes.extend_from_slice(data);
            Ok(writer.write_all(&bytes)?)
        };
        match option {
            OPTION_GO => {
                let export = [&INFO_EXPORT.to_be_bytes()[..], &size.to_be_bytes(), &EXPORT_FLAGS.to_be_bytes()];
                answer(ANSWER_INFO, &export.concat())?;
                let sizes = [512_u32, 4096, REQUEST_BYTES_MAX].map(u32::to_be_bytes).concat();
                answer(ANSWER_INFO, &[&INFO_SIZES.to_be_bytes()[..], &sizes].concat())?;
                answer(ANSWER_ACK, &[])?;
                return Ok(true);
            }
            OPTION_ABORT => {
                answer(ANSWER_ACK, &[])?;
                return Ok(false);
            }
            _other => answer(ANSWER_UNSUPPORTED, &[])?,
        }
    }
}

fn bytes<const N: usize>(reader: &mut impl Read) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    reader.read_exact(&mut bytes).context("QEMU went away in the handshake")?;
    Ok(bytes)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Disconnect,
    Flush,
    Other(u16),
}

struct Request {
    flags: u16,
    kind: Kind,
    cookie: [u8; 8],
    offset: u64,
    length: u32,
}

impl Request {
    /// The next one; `None` when the other side is gone.
    fn read(reader: &mut impl Read) -> Result<Option<Self>> {
        let mut head = [0; 28];
        if reader.read_exact(&mut head).is_err() {
            return Ok(None);
        }
        let u16_at = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        ensure!(head[..4] == REQUEST.to_be_bytes(), "QEMU's request does not begin like one");
        let kind = match u16_at(6) {
            0 => Kind::Read,
            1 => Kind::Write,
            2 => Kind::Disconnect,
            3 => Kind::Flush,
            other => Kind::Other(other),
        };
        let length = u32::from_be_bytes(head[24..28].try_into()?);
        Ok(Some(Request {
            flags: u16_at(4),
            kind,
            cookie: head[8..16].try_into()?,
            offset: u64::from_be_bytes(head[16..24].try_into()?),
            length,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::disk::tests::empty;
    use super::super::recording::{Entry, Recording};
    use super::*;

    fn request(kind: u16, flags: u16, offset: u64, length: u32) -> Vec<u8> {
        let mut bytes = REQUEST.to_be_bytes().to_vec();
        bytes.extend_from_slice(&flags.to_be_bytes());
        bytes.extend_from_slice(&kind.to_be_bytes());
        bytes.extend_from_slice(b"cookie..");
        bytes.extend_from_slice(&offset.to_be_bytes());
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes
    }

    #[test]
    fn a_client_reads_what_it_wrote_and_all_of_it_is_recorded() {
        let folder = std::env::temp_dir().join(format!("cairn-nbd-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("because it is ours");
        let (log, variables) = (folder.join("log"), folder.join("variables"));
        std::fs::write(&variables, b"vars").expect("because it is ours");
        let recorder = Arc::new(Mutex::new(Recorder::create(&log, variables).expect("because the folder is there")));
        let served =
            Served::start(&folder, empty(5), Some(Arc::clone(&recorder))).expect("because the folder is there");
        let mut client = UnixStream::connect(folder.join(SOCKET)).expect("because it listens");
        let mut hello = [0; 18];
        client.read_exact(&mut hello).expect("because it greets");
        let mut go = 3_u32.to_be_bytes().to_vec();
        go.extend_from_slice(&OPTION.to_be_bytes());
        go.extend_from_slice(&OPTION_GO.to_be_bytes());
        go.extend_from_slice(&0_u32.to_be_bytes());
        client.write_all(&go).expect("because it listens");
        client.read_exact(&mut [0; 20 + 12 + 20 + 14 + 20]).expect("because it answers");
        let mut ask = |bytes: &[u8], answer: usize| {
            client.write_all(bytes).expect("because it listens");
            let mut head = vec![0; 16 + answer];
            client.read_exact(&mut head).expect("because it answers");
            assert_eq!(head[4..8], [0; 4], "no error");
            head.split_off(16)
        };
        ask(&[request(1, 0, 4094, 4), b"text".to_vec()].concat(), 0);
        ask(&[request(1, FLAG_FUA, 0, 2), b"up".to_vec()].concat(), 0);
        assert_eq!(ask(&request(0, 0, 4094, 4), 4), b"text");
        drop(client);
        served.stop().expect("because the client is gone");
        let recorder = Arc::into_inner(recorder).expect("because the thread is over").into_inner();
        recorder.expect("because nobody panicked").finish().expect("because it is a file");
        let recording = Recording::load(&log).expect("because it was written");
        let texts: Vec<&[u8]> = recording
            .entries
            .iter()
            .filter_map(|entry| match entry {
                Entry::Write { bytes, .. } | Entry::Variables { bytes } => Some(recording.slice(bytes)),
                Entry::Flush | Entry::Mark(_) => None,
            })
            .collect();
        assert_eq!(texts, [&b"text"[..], b"up", b"vars"]);
        assert_eq!(recording.entries[2], Entry::Flush);
        std::fs::remove_dir_all(&folder).expect("because it is ours");
    }
}
