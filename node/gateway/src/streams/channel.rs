//! The framing of `channel.k8s.io`: the first byte of a message names a channel, the rest belongs to it. Pure.
//!
//! Channels of exec and attach are input 0, output 1, error 2, status 3, terminal size 4 (from v3 on); of v5 also 255, by
//! which a client closes another channel. With `base64` in the protocol's name a message is text: a digit and base64.
//! Sources: k8s.io/apimachinery remotecommand constants, k8s.io/kubelet pkg/cri/streaming, KEP-4006.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use protocol::session::SessionInput;
use serde_json::{Value, json};

use api::status::Status;

/// A protocol of this family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol {
    /// Its name as clients offer it.
    pub name: &'static str,
    /// From v4 on the end is told as a Status object; v5 can close channels.
    pub version: u8,
    /// Whether messages are text.
    pub base64: bool,
}

/// Those of exec and attach.
pub const REMOTE_COMMAND: &[Protocol] = &[
    protocol("v5.channel.k8s.io", 5, false),
    protocol("v4.channel.k8s.io", 4, false),
    protocol("v4.base64.channel.k8s.io", 4, true),
    protocol("v3.channel.k8s.io", 3, false),
    protocol("v2.channel.k8s.io", 2, false),
    protocol("channel.k8s.io", 1, false),
    protocol("base64.channel.k8s.io", 1, true),
];

/// Those of port-forward.
pub const PORT_FORWARD: &[Protocol] = &[
    protocol("v4.channel.k8s.io", 4, false),
    protocol("v4.base64.channel.k8s.io", 4, true),
];

const fn protocol(name: &'static str, version: u8, base64: bool) -> Protocol {
    Protocol { name, version, base64 }
}

/// What a client speaks that offers no protocol.
pub const fn first_version() -> Protocol {
    protocol("channel.k8s.io", 1, false)
}

/// The channel of standard input.
pub const STDIN: u8 = 0;
/// The channel of standard output.
pub const STDOUT: u8 = 1;
/// The channel of standard error.
pub const STDERR: u8 = 2;
/// The channel of the end.
pub const STATUS: u8 = 3;
/// The channel of the terminal's size.
pub const RESIZE: u8 = 4;
/// The channel by which v5 closes others.
pub const CLOSE: u8 = 255;

/// The first protocol that the client offers and that is known. A client that offers none speaks the first version.
///
/// # Errors
///
/// It offers others alone.
pub fn negotiate(offered: &[&str], known: &[Protocol]) -> Result<Option<Protocol>, Status> {
    if offered.is_empty() {
        return Ok(None);
    }
    let found = offered
        .iter()
        .find_map(|name| known.iter().find(|protocol| protocol.name == *name));
    found.copied().map(Some).ok_or_else(|| {
        let names: Vec<&str> = known.iter().map(|protocol| protocol.name).collect();
        Status::bad_request(format!(
            "unable to upgrade: the client offers the protocols {offered:?}, of which none is known here: {names:?}"
        ))
    })
}

/// A message of a client, apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelMessage {
    /// The channel.
    pub channel: u8,
    /// What is for it.
    pub content: Bytes,
}

/// Takes a message apart. `None` when it has no channel, or is not base64 where it must be.
pub fn decode(protocol: Protocol, message: Bytes) -> Option<ChannelMessage> {
    let mut content = message;
    if content.is_empty() {
        return None;
    }
    let first = content.split_to(1)[0];
    if !protocol.base64 {
        return Some(ChannelMessage {
            channel: first,
            content,
        });
    }
    let channel = first.checked_sub(b'0').filter(|channel| *channel < 10)?;
    let content = Bytes::from(STANDARD.decode(&content).ok()?);
    Some(ChannelMessage { channel, content })
}

/// Puts a message together; with base64 it is text.
pub fn encode(protocol: Protocol, channel: u8, content: &[u8]) -> Bytes {
    if protocol.base64 {
        let mut text = String::with_capacity(2 + content.len() / 3 * 4 + 4);
        text.push(char::from(b'0' + channel));
        STANDARD.encode_string(content, &mut text);
        return Bytes::from(text);
    }
    let mut bytes = BytesMut::with_capacity(1 + content.len());
    bytes.put_u8(channel);
    bytes.extend_from_slice(content);
    bytes.freeze()
}

/// What a message means for a command. `None` for what says nothing, such as a size that cannot be read.
pub fn input(protocol: Protocol, message: ChannelMessage) -> Option<SessionInput> {
    match message.channel {
        STDIN => Some(SessionInput::Stdin(message.content)),
        RESIZE if protocol.version >= 3 => size(&message.content),
        CLOSE if protocol.version >= 5 && message.content.as_ref() == [STDIN] => Some(SessionInput::StdinClosed),
        _ => None,
    }
}

/// `{"Width":80,"Height":24}`, as Go writes a TerminalSize.
fn size(content: &[u8]) -> Option<SessionInput> {
    let value: Value = serde_json::from_slice(content).ok()?;
    let field = |name: &str| value.get(name)?.as_u64().and_then(|number| u16::try_from(number).ok());
    Some(SessionInput::Resize {
        width: field("Width")?,
        height: field("Height")?,
    })
}

/// The text of the status channel after a command's end.
pub fn exit_text(protocol: Protocol, code: i32) -> Option<String> {
    let why = format!("command terminated with non-zero exit code: exit status {code}");
    match (protocol.version, code) {
        (4.., 0) => Some(json!({"metadata": {}, "status": "Success"}).to_string()),
        (4.., _) => {
            let status = json!({
                "metadata": {},
                "status": "Failure",
                "message": why,
                "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            });
            Some(status.to_string())
        }
        (_, 0) => None,
        (_, _) => Some(why),
    }
}

/// The text of the status channel when a session could not begin, or broke off.
pub fn failure_text(protocol: Protocol, status: &Status) -> String {
    if protocol.version >= 4 {
        String::from_utf8_lossy(&status.to_json()).into_owned()
    } else {
        status.message.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(name: &str) -> Protocol {
        negotiate(&[name], REMOTE_COMMAND).unwrap().unwrap()
    }

    #[test]
    fn the_first_known_protocol_that_is_offered_counts() {
        let offered = ["v6.channel.k8s.io", "v4.channel.k8s.io", "v5.channel.k8s.io"];
        assert_eq!(negotiate(&offered, REMOTE_COMMAND).unwrap().unwrap().version, 4);
        assert_eq!(negotiate(&[], REMOTE_COMMAND).unwrap(), None);
        assert_eq!(negotiate(&["chat"], REMOTE_COMMAND).unwrap_err().code, 400);
    }

    #[test]
    fn messages_round_trip_in_both_forms() {
        for name in ["v5.channel.k8s.io", "v4.base64.channel.k8s.io"] {
            let protocol = known(name);
            for content in [&b""[..], b"x", b"\x00\xff\n"] {
                let message = decode(protocol, encode(protocol, STDERR, content)).unwrap();
                assert_eq!((message.channel, message.content.as_ref()), (STDERR, content), "{name}");
            }
        }
        let base64 = known("base64.channel.k8s.io");
        assert_eq!(encode(base64, STDOUT, b"hi").as_ref(), b"1aGk=");
        for bad in ["", "1***", "xaGk="] {
            assert_eq!(decode(base64, Bytes::from(bad)), None, "{bad:?}");
        }
        assert_eq!(decode(known("v4.channel.k8s.io"), Bytes::new()), None);
    }

    #[test]
    fn what_a_message_means_depends_on_the_version() {
        let message = |channel: u8, content: &'static str| ChannelMessage {
            channel,
            content: Bytes::from(content),
        };
        let (v5, v4, v1) = (
            known("v5.channel.k8s.io"),
            known("v4.channel.k8s.io"),
            known("channel.k8s.io"),
        );
        let resize = || message(RESIZE, r#"{"Width":80,"Height":24}"#);
        let size = SessionInput::Resize { width: 80, height: 24 };
        let close = || message(CLOSE, "\0");
        assert_eq!(input(v4, message(STDIN, "a")), Some(SessionInput::Stdin("a".into())));
        assert_eq!(input(v4, resize()), Some(size));
        assert_eq!(input(v1, resize()), None);
        assert_eq!(input(v5, close()), Some(SessionInput::StdinClosed));
        assert_eq!(input(v4, close()), None);
        assert_eq!(input(v5, message(STDOUT, "a")), None);
        for bad in ["", "{}", r#"{"Width":70000,"Height":1}"#, r#"{"Width":-1,"Height":1}"#] {
            assert_eq!(input(v5, message(RESIZE, bad)), None, "{bad}");
        }
    }

    #[test]
    fn ends_are_told_as_kubernetes_tells_them() {
        let (v4, v1) = (known("v4.channel.k8s.io"), known("channel.k8s.io"));
        let value = |text: Option<String>| serde_json::from_str::<Value>(&text.unwrap()).unwrap();
        assert_eq!(value(exit_text(v4, 0))["status"], "Success");
        let failed = value(exit_text(v4, 7));
        assert_eq!(failed["reason"], "NonZeroExitCode");
        assert_eq!(
            failed["details"]["causes"][0],
            json!({"reason": "ExitCode", "message": "7"})
        );
        assert_eq!(exit_text(v1, 0), None);
        assert_eq!(
            exit_text(v1, 7).unwrap(),
            "command terminated with non-zero exit code: exit status 7"
        );
        let refused = Status::bad_request("no");
        assert_eq!(value(Some(failure_text(v4, &refused)))["code"], 400);
        assert_eq!(failure_text(v1, &refused), "no");
    }
}
