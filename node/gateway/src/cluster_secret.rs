//! What the cluster keeps to itself: keys beside the CA's in the store, under a resource that no kind has, so that the API cannot
//! reach it. The first node that needs one makes it; when two do so at once, the store keeps the first. `issuer` and
//! `aggregation::front_proxy` ask for theirs. It must never be logged.

use api::status::Status;
use protocol::store::{ObjectStore, Precondition, Proposal, ProposeError, Refusal, Write};
use protocol::{Cause, Draft, Key};
use serde_json::{Map, Value};

use crate::read::read_status;

/// The resource. No kind has it.
const AUTHORITIES: &str = "authorities.internal.actorium.io";

/// The secret of this name and kind, made by `make` when the cluster has none as yet.
///
/// # Errors
///
/// The store does not answer, or nothing could be made.
pub async fn read_or_make(
    store: &dyn ObjectStore,
    name: &str,
    kind: &str,
    make: impl Fn() -> Result<Map<String, Value>, Status>,
) -> Result<Value, Status> {
    let key = Key::new(AUTHORITIES, "", name);
    for _ in 0..2 {
        if let Some(stored) = store.read(&key).await.map_err(read_status)? {
            return stored.value().map_err(Status::internal);
        }
        let mut object = make()?;
        object.insert("apiVersion".to_owned(), "internal.actorium.io/v1".into());
        object.insert("kind".to_owned(), kind.into());
        object.insert("metadata".to_owned(), serde_json::json!({"name": name, "uid": name}));
        let write = Write::Put {
            key: key.clone(),
            precondition: Precondition::Absent,
            draft: Draft::encode(&Value::Object(object), Vec::new()).map_err(Status::internal)?,
        };
        match store.propose(Proposal::one(Cause::default(), write)).await {
            Ok(_) | Err(ProposeError::Refused(Refusal::AlreadyExists { .. })) => {}
            Err(error) => {
                return Err(Status::internal(format!(
                    "the cluster's {kind} cannot be stored: {error}"
                )));
            }
        }
    }
    Err(Status::internal(format!(
        "the cluster's {kind} was stored and is not there"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use store::MemoryStore;

    #[tokio::test]
    async fn the_first_that_is_made_is_everybodys() {
        let store: Arc<dyn ObjectStore> = MemoryStore::new();
        let made = AtomicU32::new(0);
        let make = || {
            Ok(Map::from_iter([(
                "key".to_owned(),
                json!(made.fetch_add(1, Ordering::Relaxed)),
            )]))
        };
        let both = futures::join!(
            read_or_make(store.as_ref(), "k", "SomeKey", make),
            read_or_make(store.as_ref(), "k", "SomeKey", make),
        );
        let later = read_or_make(store.as_ref(), "k", "SomeKey", make).await.unwrap();
        assert_eq!(both.0.unwrap()["key"], later["key"]);
        assert_eq!(both.1.unwrap()["key"], later["key"]);
        assert_eq!(later["metadata"]["name"], "k");
    }
}
