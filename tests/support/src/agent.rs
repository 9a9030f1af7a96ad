//! An SSH agent made of software that holds one hardware key made of software, so that ssh-keygen and git sign with it as they would with
//! one that blinks.
//!
//! Protocol: <https://datatracker.ietf.org/doc/draft-ietf-sshm-ssh-agent/>. Only listing and signing are spoken; all else fails.

use crate::authenticator::{Authenticator, Holder, string};
use anyhow::{Context, Result};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;

/// Bytes of a message; what is signed is less than a thousand.
const MAX_MESSAGE: usize = 256 << 10;

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;

/// A running agent. It ends when this is dropped.
#[derive(Debug)]
pub struct Agent {
    socket: PathBuf,
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

struct State {
    key: Authenticator,
    /// Signatures for which the holder will touch the key; none after those.
    touches: AtomicU32,
    ended: AtomicBool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("touches", &self.touches).finish_non_exhaustive()
    }
}

impl Agent {
    /// Listens on a socket. Nobody touches the key until [`Agent::touch`] says so.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn start(socket: &Path, key: Authenticator) -> Result<Self> {
        let listener = UnixListener::bind(socket).with_context(|| format!("listening on {}", socket.display()))?;
        let state = Arc::new(State { key, touches: AtomicU32::new(0), ended: AtomicBool::new(false) });
        let serving = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if serving.ended.load(Ordering::SeqCst) {
                    break;
                }
                let serving = Arc::clone(&serving);
                // ssh-keygen keeps one connection open while it signs over another. A client that goes away is its own affair.
                std::thread::spawn(move || serve(&serving, stream));
            }
        });
        Ok(Agent { socket: socket.to_owned(), state, thread: Some(thread) })
    }

    /// The holder touches the key for so many signatures from now on, and then no more.
    pub fn touch(&self, times: u32) {
        self.state.touches.store(times, Ordering::SeqCst);
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        // Wakes the thread, which then sees that it is over. Where the socket is gone, nobody can wake it, and nobody can reach it.
        if UnixStream::connect(&self.socket).is_ok() {
            let _ended = self.thread.take().map(JoinHandle::join);
        }
    }
}

fn serve(state: &State, mut stream: UnixStream) -> std::io::Result<()> {
    loop {
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        if length > MAX_MESSAGE {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        let mut message = vec![0; length];
        stream.read_exact(&mut message)?;
        stream.write_all(&string(&answer(state, &message)))?;
    }
}

fn answer(state: &State, message: &[u8]) -> Vec<u8> {
    match message.split_first() {
        Some((&REQUEST_IDENTITIES, _)) => {
            [&[IDENTITIES_ANSWER, 0, 0, 0, 1][..], &string(&state.key.blob()), &string(b"software")].concat()
        }
        Some((&SIGN_REQUEST, rest)) => sign(state, rest).unwrap_or_else(|| vec![FAILURE]),
        Some(_) | None => vec![FAILURE],
    }
}

fn sign(state: &State, request: &[u8]) -> Option<Vec<u8>> {
    let (key, rest) = take(request)?;
    let (data, _flags) = take(rest)?;
    if key != state.key.blob() {
        return None;
    }
    let less = |touches: u32| touches.checked_sub(1);
    let holder = match state.touches.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less) {
        Ok(_) => Holder::Touched,
        Err(_) => Holder::Absent,
    };
    Some([vec![SIGN_RESPONSE], string(&state.key.sign_blob(holder, data))].concat())
}

/// An SSH wire string, and what follows it.
fn take(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_be_bytes(*length) as usize)
}
