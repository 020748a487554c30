//! An API object as the store keeps it: the JSON bytes that the API serves, and a small header with what routing,
//! selection and garbage collection need, so that none of them parses the JSON.
//!
//! A write travels as a `Draft`. Its body has a gap where the resourceVersion belongs: the revision is only known when
//! the write is applied, on every replica alike, and `Draft::commit` fills the gap.

use std::collections::BTreeMap;
use std::sync::Arc;

use bincode::de::Decoder;
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};
use bincode::{Decode, Encode};
use bytes::Bytes;
use serde_json::Value;

use crate::{Revision, Uid};

/// Bytes that are shared, not copied, and that bincode carries as a length and the content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Body(pub Bytes);

impl Encode for Body {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        Encode::encode(&self.0[..], encoder)
    }
}

impl<C> Decode<C> for Body {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        Ok(Body(Bytes::from(Vec::<u8>::decode(decoder)?)))
    }
}

impl<'de, C> bincode::BorrowDecode<'de, C> for Body {
    fn borrow_decode<D: bincode::de::BorrowDecoder<'de, Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        Ok(Body(Bytes::from(Vec::<u8>::decode(decoder)?)))
    }
}

/// One entry of `metadata.ownerReferences`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct OwnerReference {
    /// `apiVersion` of the owner.
    pub api_version: String,
    /// `kind` of the owner.
    pub kind: String,
    /// Its name, in the dependent's namespace or cluster-scoped.
    pub name: String,
    /// Its uid: an owner of the same name and another uid is not the owner.
    pub uid: Uid,
    /// Whether it is the managing controller; at most one is.
    pub controller: bool,
    /// Whether foreground deletion of the owner waits for this dependent.
    pub block_owner_deletion: bool,
}

/// What the store, the event router and the garbage collector know of an object without parsing it. Every write clones it
/// several times over (state, history, index, watches), so what is made of many strings is shared.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Header {
    /// `metadata.uid`.
    pub uid: Uid,
    /// The revision of the object's first write. Zero in a draft of a new object.
    pub created: Revision,
    /// The revision of its last write, its resourceVersion. Zero in a draft.
    pub revision: Revision,
    /// `metadata.labels`.
    pub labels: Arc<BTreeMap<String, String>>,
    /// Field selectors beyond `metadata.name` and `metadata.namespace`: path and value, such as
    /// `("spec.nodeName", "n1")`. Which paths a kind offers is in its row of the table of kinds.
    pub fields: Arc<Vec<(String, String)>>,
    /// `metadata.ownerReferences`.
    pub owners: Arc<Vec<OwnerReference>>,
    /// Whether `metadata.deletionTimestamp` is set.
    pub deleting: bool,
    /// `metadata.finalizers`.
    pub finalizers: Vec<String>,
}

impl Header {
    /// The owner that is this object's controller.
    pub fn controller(&self) -> Option<&OwnerReference> {
        self.owners.iter().find(|owner| owner.controller)
    }

    /// The value of a selectable field; the empty string when the object has none.
    pub fn field(&self, path: &str) -> &str {
        self.fields
            .iter()
            .find(|(name, _)| name == path)
            .map_or("", |(_, value)| value)
    }
}

/// A stored object. Cloning shares the body.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Object {
    /// What is known without parsing.
    pub header: Header,
    /// The JSON as the API serves it, `metadata.resourceVersion` included.
    pub body: Body,
}

impl Object {
    /// Parses the body. The store only holds what `Draft` encoded, so a failure means a damaged store.
    pub fn value(&self) -> Result<Value, serde_json::Error> {
        serde_json::from_slice(&self.body.0)
    }

    /// Parses the body into a typed object.
    pub fn parse<T: serde::de::DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.body.0)
    }
}

/// Why a JSON value is not an object that can be stored.
#[derive(Debug, thiserror::Error)]
pub enum DraftError {
    /// The value is not a JSON object with `metadata`.
    #[error("not an API object: {missing} is missing")]
    Incomplete {
        /// The absent field.
        missing: &'static str,
    },
    /// It could not be encoded.
    #[error("the object does not encode as JSON: {0}")]
    Encode(#[from] serde_json::Error),
}

/// What precedes the resourceVersion in a body: `Draft::encode` puts it first in the metadata. The quotes of a string value
/// are escaped, so no value before it can contain this text.
const REVISION_MARK: &[u8] = b"\"metadata\":{\"resourceVersion\":\"";

/// An object on its way into the store.
#[derive(Clone, Debug, PartialEq, Eq, Encode)]
pub struct Draft {
    /// The header; its revisions are set when the write is applied.
    pub header: Header,
    /// The JSON with an empty `metadata.resourceVersion`.
    body: Body,
    /// Where in `body` the digits of the resourceVersion go.
    revision_at: u32,
}

impl Draft {
    /// Encodes a complete object (defaulted and validated, with uid). `fields` are its selectable fields. Any
    /// `metadata.resourceVersion` in `value` is dropped: the store sets it.
    pub fn encode(value: &Value, fields: Vec<(String, String)>) -> Result<Draft, DraftError> {
        let object = value.as_object().ok_or(DraftError::Incomplete {
            missing: "the object itself",
        })?;
        let metadata = object
            .get("metadata")
            .and_then(Value::as_object)
            .ok_or(DraftError::Incomplete { missing: "metadata" })?;
        let uid = metadata
            .get("uid")
            .and_then(Value::as_str)
            .ok_or(DraftError::Incomplete {
                missing: "metadata.uid",
            })?;
        let mut body = Vec::with_capacity(1024);
        body.push(b'{');
        for name in ["apiVersion", "kind"] {
            if let Some(part) = object.get(name) {
                write_member(&mut body, name, part)?;
                body.push(b',');
            }
        }
        body.extend_from_slice(REVISION_MARK);
        let revision_at = body.len() as u32;
        body.push(b'"');
        for (name, part) in metadata.iter().filter(|(name, _)| *name != "resourceVersion") {
            body.push(b',');
            write_member(&mut body, name, part)?;
        }
        body.push(b'}');
        for (name, part) in object {
            if !matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
                body.push(b',');
                write_member(&mut body, name, part)?;
            }
        }
        body.push(b'}');
        let header = Header {
            uid: Uid::new(uid),
            created: Revision::ZERO,
            revision: Revision::ZERO,
            labels: Arc::new(string_map(metadata.get("labels"))),
            fields: Arc::new(fields),
            owners: Arc::new(owners(metadata.get("ownerReferences"))),
            deleting: metadata.get("deletionTimestamp").is_some_and(|at| !at.is_null()),
            finalizers: strings(metadata.get("finalizers")),
        };
        Ok(Draft {
            header,
            body: Body(Bytes::from(body)),
            revision_at,
        })
    }

    /// A draft that keeps a stored object's bytes up to `kept`, behind which it has `rest`: an edit of what follows the
    /// metadata, at the price of a copy. `fields` are the selectable fields of the result; everything else of the header
    /// comes from the metadata, which stays. The caller vouches that both parts together are a JSON object. `None` if the
    /// stored body does not have its metadata, as `encode` writes it, before `kept`.
    pub fn continued(stored: &Object, kept: usize, rest: &[u8], fields: Vec<(String, String)>) -> Option<Draft> {
        let head = stored.body.0.get(..kept)?;
        let mark = head
            .windows(REVISION_MARK.len())
            .position(|window| window == REVISION_MARK)?;
        let at = mark + REVISION_MARK.len();
        let digits = head[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if head.get(at + digits) != Some(&b'"') {
            return None;
        }
        let mut body = Vec::with_capacity(kept + rest.len());
        body.extend_from_slice(&head[..at]);
        body.extend_from_slice(&head[at + digits..]);
        body.extend_from_slice(rest);
        let header = Header {
            created: Revision::ZERO,
            revision: Revision::ZERO,
            fields: Arc::new(fields),
            ..stored.header.clone()
        };
        Some(Draft {
            header,
            body: Body(Bytes::from(body)),
            revision_at: at as u32,
        })
    }

    /// The stored object that this draft becomes at `revision`. `created` is the first revision of the object that it
    /// replaces, or `None` for a new one.
    pub fn commit(&self, revision: Revision, created: Option<Revision>) -> Object {
        let digits = revision.to_string();
        let at = self.revision_at as usize;
        let mut body = Vec::with_capacity(self.body.0.len() + digits.len());
        body.extend_from_slice(&self.body.0[..at]);
        body.extend_from_slice(digits.as_bytes());
        body.extend_from_slice(&self.body.0[at..]);
        let mut header = self.header.clone();
        header.revision = revision;
        header.created = created.unwrap_or(revision);
        Object {
            header,
            body: Body(Bytes::from(body)),
        }
    }

    /// Length of the encoded object in bytes, for limits.
    pub fn len_bytes(&self) -> usize {
        self.body.0.len()
    }

    /// The object as it would be stored at revision zero: what a dry run answers.
    pub fn preview(&self) -> Object {
        self.commit(Revision::ZERO, None)
    }

    /// Whether this draft would leave `stored` as it is, its resourceVersion aside: such a write is skipped, as
    /// Kubernetes skips it, and makes no event.
    pub fn changes_nothing(&self, stored: &Object) -> bool {
        let at = self.revision_at as usize;
        let stored_body = &stored.body.0;
        let digits = stored_body
            .get(at..)
            .map_or(0, |tail| tail.iter().take_while(|b| b.is_ascii_digit()).count());
        stored_body.len() == self.body.0.len() + digits
            && stored_body[..at] == self.body.0[..at]
            && stored_body[at + digits..] == self.body.0[at..]
    }
}

impl<C> Decode<C> for Draft {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let (header, body, revision_at) = (Header::decode(decoder)?, Body::decode(decoder)?, u32::decode(decoder)?);
        // From a peer: a gap outside of the body would stop every replica that applies it.
        if revision_at as usize > body.0.len() {
            return Err(DecodeError::Other(
                "the gap for the resourceVersion lies outside of the body",
            ));
        }
        Ok(Draft {
            header,
            body,
            revision_at,
        })
    }
}

bincode::impl_borrow_decode!(Draft);

fn write_member(body: &mut Vec<u8>, name: &str, value: &Value) -> Result<(), serde_json::Error> {
    serde_json::to_writer(&mut *body, name)?;
    body.push(b':');
    serde_json::to_writer(&mut *body, value)
}

fn string_map(value: Option<&Value>) -> BTreeMap<String, String> {
    let entries = value.and_then(Value::as_object).into_iter().flatten();
    entries
        .filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned())))
        .collect()
}

fn strings(value: Option<&Value>) -> Vec<String> {
    let items = value.and_then(Value::as_array).into_iter().flatten();
    items.filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

fn owners(value: Option<&Value>) -> Vec<OwnerReference> {
    let items = value.and_then(Value::as_array).into_iter().flatten();
    items
        .filter_map(|item| {
            let text = |name: &str| item.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            let flag = |name: &str| item.get(name).and_then(Value::as_bool).unwrap_or(false);
            Some(OwnerReference {
                api_version: text("apiVersion"),
                kind: text("kind"),
                name: text("name"),
                uid: Uid::new(item.get("uid")?.as_str()?),
                controller: flag("controller"),
                block_owner_deletion: flag("blockOwnerDeletion"),
            })
        })
        .collect()
}

/// A stored object as it is shared between readers.
pub type SharedObject = Arc<Object>;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn web() -> Value {
        json!({
            "kind": "Pod", "apiVersion": "v1",
            "metadata": {
                "name": "web", "uid": "u-1", "resourceVersion": "7", "labels": {"app": "web"},
                "annotations": {"note": "\"resourceVersion\":\"\""},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "u-0", "controller": true}],
            },
            "spec": {"nodeName": "n1"},
        })
    }

    #[test]
    fn commit_fills_in_the_revision_and_keeps_everything_else() {
        let draft = Draft::encode(&web(), vec![("spec.nodeName".into(), "n1".into())]).unwrap();
        let stored = draft.commit(Revision(1234), Some(Revision(9)));
        let mut expected = web();
        expected["metadata"]["resourceVersion"] = "1234".into();
        assert_eq!(stored.value().unwrap(), expected);
        assert_eq!(
            (stored.header.created, stored.header.revision),
            (Revision(9), Revision(1234))
        );
        assert_eq!(stored.header.labels["app"], "web");
        assert_eq!(stored.header.field("spec.nodeName"), "n1");
        assert_eq!(stored.header.controller().unwrap().name, "rs");
    }

    #[test]
    fn an_unchanged_draft_is_recognised_whatever_its_revision() {
        let draft = Draft::encode(&web(), vec![]).unwrap();
        assert!(draft.changes_nothing(&draft.commit(Revision(10_000), None)));
        let mut other = web();
        other["spec"]["nodeName"] = "n2".into();
        assert!(
            !Draft::encode(&other, vec![])
                .unwrap()
                .changes_nothing(&draft.commit(Revision(10_000), None))
        );
    }

    #[test]
    fn a_draft_can_go_on_from_stored_bytes() {
        let draft = Draft::encode(&web(), vec![("spec.nodeName".into(), "n1".into())]).unwrap();
        let stored = draft.commit(Revision(1234), Some(Revision(9)));
        let text = std::str::from_utf8(&stored.body.0).unwrap();
        let kept = text.find(",\"spec\"").unwrap();
        let fields = vec![("spec.nodeName".into(), "n2".into())];
        let continued = Draft::continued(&stored, kept, b",\"spec\":{\"nodeName\":\"n2\"}}", fields.clone()).unwrap();
        let mut expected = web();
        expected["spec"]["nodeName"] = "n2".into();
        assert_eq!(continued, Draft::encode(&expected, fields).unwrap());
        assert_eq!(
            Draft::continued(&stored, 5, b"}", vec![]),
            None,
            "the metadata must be kept"
        );
        assert_eq!(Draft::continued(&stored, text.len() + 1, b"}", vec![]), None);
    }

    #[test]
    fn a_draft_whose_gap_lies_outside_of_its_body_is_no_draft() {
        let mut draft = Draft::encode(&web(), vec![]).unwrap();
        assert_eq!(
            crate::codec::decode::<Draft>(&crate::codec::encode(&draft).unwrap()).unwrap(),
            draft
        );
        draft.revision_at = draft.body.0.len() as u32 + 1;
        assert!(crate::codec::decode::<Draft>(&crate::codec::encode(&draft).unwrap()).is_err());
    }

    #[test]
    fn an_object_without_uid_is_refused() {
        let error = Draft::encode(&json!({"metadata": {}}), vec![]).unwrap_err();
        assert_eq!(error.to_string(), "not an API object: metadata.uid is missing");
    }
}
