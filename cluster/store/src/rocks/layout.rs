//! How objects and events lie on disk. An object is its header, behind the length of it, and then its body as the API
//! serves it: a selector decodes the header alone, and a body is copied, never parsed. Nothing read from a disk panics.

use std::sync::Arc;

use bincode::enc::Encoder;
use bincode::enc::write::Writer;
use bincode::error::EncodeError;
use bincode::{Decode, Encode};
use bytes::Bytes;
use protocol::object::Body;
use protocol::store::{Change, StoreEvent};
use protocol::{Cause, Header, Key, Object, Revision, codec};

use crate::backend::{BackendError, State};

fn damaged(what: &str, reason: impl ToString) -> BackendError {
    BackendError::Damaged {
        what: what.to_owned(),
        reason: reason.to_string(),
    }
}

/// Takes `length` bytes off the front.
fn take<'a>(bytes: &mut &'a [u8], length: usize, what: &str) -> Result<&'a [u8], BackendError> {
    match bytes.split_at_checked(length) {
        Some((front, rest)) => {
            *bytes = rest;
            Ok(front)
        }
        None => Err(damaged(what, format!("it ends {} bytes early", length - bytes.len()))),
    }
}

/// Takes a length and as many bytes.
fn take_part<'a>(bytes: &mut &'a [u8], what: &str) -> Result<&'a [u8], BackendError> {
    let length = take(bytes, 4, what)?.try_into().expect("four bytes were taken");
    take(bytes, u32::from_le_bytes(length) as usize, what)
}

fn put_part(bytes: &mut Vec<u8>, part: &[u8]) {
    bytes.extend_from_slice(&(part.len() as u32).to_le_bytes());
    bytes.extend_from_slice(part);
}

/// Puts a length, and as many bytes as `encode` makes.
fn put_encoded<T: Encode>(bytes: &mut Vec<u8>, value: &T, what: &str) -> Result<(), BackendError> {
    let at = bytes.len();
    bytes.extend_from_slice(&[0; 4]);
    codec::encode_into(value, bytes).map_err(|error| damaged(what, error))?;
    let length = (bytes.len() - at - 4) as u32;
    bytes[at..at + 4].copy_from_slice(&length.to_le_bytes());
    Ok(())
}

/// Room for a header in a value: most are smaller.
const HEADER_BYTES: usize = 512;

/// The value of an object.
pub fn object_to_bytes(object: &Object) -> Result<Vec<u8>, BackendError> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + object.body.0.len());
    put_encoded(&mut bytes, &object.header, "an object's header")?;
    bytes.extend_from_slice(&object.body.0);
    Ok(bytes)
}

/// The header of an object's value, and where its body begins.
pub fn header_from_bytes(key: &[u8], bytes: &[u8]) -> Result<(Header, usize), BackendError> {
    let what = || format!("object {}", String::from_utf8_lossy(key).replace('\0', "/"));
    let mut rest = bytes;
    let header = take_part(&mut rest, &what())?;
    let header = codec::decode(header).map_err(|error| damaged(&what(), error))?;
    Ok((header, bytes.len() - rest.len()))
}

/// The body of an object's value.
pub fn body_of_bytes<'a>(key: &[u8], mut bytes: &'a [u8]) -> Result<&'a [u8], BackendError> {
    match take_part(&mut bytes, "an object") {
        Ok(_) => Ok(bytes),
        Err(_) => Err(header_from_bytes(key, bytes)
            .err()
            .unwrap_or_else(|| damaged("an object", "it has no header"))),
    }
}

/// The object of a value.
pub fn object_from_bytes(key: &[u8], bytes: &[u8]) -> Result<Object, BackendError> {
    let (header, body_at) = header_from_bytes(key, bytes)?;
    Ok(Object {
        header,
        body: Body(Bytes::copy_from_slice(&bytes[body_at..])),
    })
}

/// The key of an event: its revision, so that history lies in order.
pub fn revision_key(revision: Revision) -> [u8; 8] {
    revision.0.to_be_bytes()
}

/// The inverse of `revision_key`.
pub fn revision_from_key(key: &[u8]) -> Result<Revision, BackendError> {
    let bytes = key
        .try_into()
        .map_err(|_| damaged("a key of the history", "it has not 8 bytes"))?;
    Ok(Revision(u64::from_be_bytes(bytes)))
}

#[derive(Decode)]
struct EventParts {
    cause: Cause,
    change: Change,
    header: Header,
    body_bytes: u64,
    previous: Option<Header>,
}

/// `EventParts` as they are written. The header is there already, as the object's value has it.
#[derive(Encode)]
struct EventPartsRef<'a> {
    cause: Cause,
    change: Change,
    header: Verbatim<'a>,
    body_bytes: u64,
    previous: Option<&'a Header>,
}

/// Bytes that are an encoded value.
struct Verbatim<'a>(&'a [u8]);

impl Encode for Verbatim<'_> {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        encoder.writer().write(self.0)
    }
}

/// The value of an event: its key, then what is known without the bodies, then the bodies. The key comes first so that
/// a replay for one resource skips all others at the price of a comparison.
///
/// `object` is the value of the event's object, which has the header encoded already.
pub fn event_to_bytes(event: &StoreEvent, object: &[u8]) -> Result<Vec<u8>, BackendError> {
    let mut rest = object;
    // Without the codec's version: the parts as a whole have one.
    let header = take_part(&mut rest, "an object's header")?.get(1..).unwrap_or_default();
    let parts = EventPartsRef {
        cause: event.cause,
        change: event.change,
        header: Verbatim(header),
        body_bytes: event.object.body.0.len() as u64,
        previous: event.previous.as_ref().map(|previous| &previous.header),
    };
    let previous = event.previous.as_ref().map_or(&[][..], |previous| &previous.body.0);
    let key = event.key.to_bytes();
    let room = 8 + key.len() + 2 * HEADER_BYTES + event.object.body.0.len() + previous.len();
    let mut bytes = Vec::with_capacity(room);
    put_part(&mut bytes, &key);
    put_encoded(&mut bytes, &parts, "an event")?;
    bytes.extend_from_slice(&event.object.body.0);
    bytes.extend_from_slice(previous);
    Ok(bytes)
}

/// The key of an event's value.
pub fn event_key(revision: Revision, mut bytes: &[u8]) -> Result<Key, BackendError> {
    let what = format!("the event of revision {revision}");
    let key = take_part(&mut bytes, &what)?;
    Key::from_bytes(key).ok_or_else(|| damaged(&what, "its key is no key"))
}

/// The event of a value.
pub fn event_from_bytes(revision: Revision, mut bytes: &[u8]) -> Result<StoreEvent, BackendError> {
    let what = format!("the event of revision {revision}");
    let key = event_key(revision, bytes)?;
    take_part(&mut bytes, &what)?;
    let parts: EventParts = codec::decode(take_part(&mut bytes, &what)?).map_err(|error| damaged(&what, error))?;
    let body_bytes = usize::try_from(parts.body_bytes).map_err(|error| damaged(&what, error))?;
    let body = take(&mut bytes, body_bytes, &what)?;
    let object = Object {
        header: parts.header,
        body: Body(Bytes::copy_from_slice(body)),
    };
    let previous = parts.previous.map(|header| {
        Arc::new(Object {
            header,
            body: Body(Bytes::copy_from_slice(bytes)),
        })
    });
    Ok(StoreEvent {
        revision,
        cause: parts.cause,
        key,
        change: parts.change,
        object: Arc::new(object),
        previous,
    })
}

/// The value of the counters.
pub fn state_to_bytes(state: State) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&state.revision.0.to_be_bytes());
    bytes[8..].copy_from_slice(&state.compacted.0.to_be_bytes());
    bytes
}

/// The inverse of `state_to_bytes`.
pub fn state_from_bytes(bytes: &[u8]) -> Result<State, BackendError> {
    let what = "the record of the store's revision";
    let mut rest = bytes;
    let revision = revision_from_key(take(&mut rest, 8, what)?)?;
    let compacted = revision_from_key(take(&mut rest, 8, what)?)?;
    Ok(State { revision, compacted })
}

/// The first key after all keys with this prefix. A prefix of keys ends with NUL, so the last byte can always grow.
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}
