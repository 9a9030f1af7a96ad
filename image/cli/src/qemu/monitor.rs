//! QEMU's control socket (QMP): the two commands that `cairn-image stop` needs.
//!
//! One JSON object a line; see QEMU's docs/interop/qmp-spec.rst. Must never wait for ever: every read has a deadline.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;

/// Longest time until QEMU answers.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// Sends one command and waits for its answer.
pub(crate) fn command(socket: &Path, name: &str) -> anyhow::Result<()> {
    let stream = UnixStream::connect(socket).with_context(|| format!("no machine answers at {}", socket.display()))?;
    stream.set_read_timeout(Some(ANSWER_DEADLINE)).context("cannot set a deadline")?;
    let mut lines = BufReader::new(stream.try_clone().context("cannot read from QEMU")?).lines();
    let mut answer = || -> anyhow::Result<Value> {
        let line = lines.next().context("QEMU closed its control socket")?.context("QEMU does not answer")?;
        serde_json::from_str(&line).context("QEMU's answer is not JSON")
    };
    answer()?; // its greeting
    for execute in ["qmp_capabilities", name] {
        let request = serde_json::json!({ "execute": execute });
        writeln!(&stream, "{request}").context("cannot write to QEMU")?;
        loop {
            let answer = answer()?;
            if answer.get("return").is_some() {
                break;
            }
            if let Some(error) = answer.get("error") {
                bail!("QEMU refused {execute}: {error}");
            }
            // Anything else is an event.
        }
    }
    Ok(())
}
