//! The WebSocket subprotocol `v5.channel.k8s.io` (and `v4`): each message begins with the number of its channel. Pure.
//!
//! <https://github.com/kubernetes/enhancements/tree/master/keps/sig-api-machinery/4006-transition-spdy-to-websockets>

use serde_json::json;

/// Subprotocols that are spoken, best first. v4 lacks the message that closes a channel.
pub(super) const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

pub(super) const STDOUT: u8 = 1;
pub(super) const STDERR: u8 = 2;
const STDIN: u8 = 0;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// A message from the client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FromClient<'a> {
    /// Bytes for the process's input.
    Input(&'a [u8]),
    /// The process's input is at its end.
    EndOfInput,
    /// The terminal has another size, in characters.
    Resize {
        /// Columns.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// Nothing that matters.
    Other,
}

/// Reads a message.
pub(super) fn read(message: &[u8]) -> FromClient<'_> {
    match message {
        [STDIN, bytes @ ..] => FromClient::Input(bytes),
        [CLOSE, STDIN, ..] => FromClient::EndOfInput,
        [RESIZE, text @ ..] => match serde_json::from_slice::<serde_json::Value>(text) {
            Ok(size) => FromClient::Resize { width: number(&size["Width"]), height: number(&size["Height"]) },
            Err(_not_json) => FromClient::Other,
        },
        _other => FromClient::Other,
    }
}

fn number(value: &serde_json::Value) -> u32 {
    value.as_u64().and_then(|number| u32::try_from(number).ok()).unwrap_or(0)
}

/// A message on a channel.
pub(super) fn write(channel: u8, bytes: &[u8]) -> Vec<u8> {
    [&[channel], bytes].concat()
}

/// The last message: how the process ended, or why there was none.
pub(super) fn status(ended: Result<i32, &str>) -> Vec<u8> {
    let status = match ended {
        Ok(0) => json!({ "metadata": {}, "status": "Success" }),
        Ok(code) => json!({ "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] } }),
        Err(message) => {
            json!({ "metadata": {}, "status": "Failure", "reason": "InternalError", "message": message, "code": 500 })
        }
    };
    write(STATUS, status.to_string().as_bytes())
}

/// The subprotocol to speak with a client that offers these.
pub(super) fn choose(offered: &str) -> Option<&'static str> {
    let offered: Vec<&str> = offered.split(',').map(str::trim).collect();
    PROTOCOLS.into_iter().find(|known| offered.contains(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart_by_their_first_byte() {
        assert_eq!(read(b"\x00hi"), FromClient::Input(b"hi"));
        assert_eq!(read(b"\xff\x00"), FromClient::EndOfInput);
        assert_eq!(read(b"\x04{\"Width\":80,\"Height\":24}"), FromClient::Resize { width: 80, height: 24 });
        for odd in [&b""[..], b"\x01x", b"\xff", b"\x04nonsense", b"\x63"] {
            assert_eq!(read(odd), FromClient::Other, "{odd:?}");
        }
    }

    #[test]
    fn an_exit_code_reaches_the_client() {
        let message = status(Ok(7));
        let status: serde_json::Value = serde_json::from_slice(&message[1..]).expect("because it is JSON");
        assert_eq!((message[0], status["details"]["causes"][0]["message"].as_str()), (3, Some("7")));
        assert!(String::from_utf8_lossy(&super::status(Ok(0))).contains("Success"));
    }

    #[test]
    fn the_best_common_protocol_is_spoken() {
        assert_eq!(choose("v4.channel.k8s.io, v5.channel.k8s.io"), Some("v5.channel.k8s.io"));
        assert_eq!(choose("channel.k8s.io"), None);
    }
}
