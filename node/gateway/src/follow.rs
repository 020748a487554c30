//! Follows a few resources of the store: lists them, then hears of every write, over losses of the leader and gaps. What is
//! kept of them is the follower's business. Used for what every request needs at hand (policy objects, access rules).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use protocol::store::{Change, ListRequest, ObjectStore, ReadError, WatchItem, WatchRequest};
use protocol::{Key, Object, Resource, Revision};

/// How long it waits before it asks a store again that did not answer.
const RETRY: Duration = Duration::from_millis(200);

/// Who keeps what is followed. Calls come one at a time, and each replaces what an earlier one said about a key.
pub trait Follower: Send + Sync + 'static {
    /// All objects of a resource: any other is gone.
    fn listed(&self, resource: &Resource, items: &[(Key, Arc<Object>)]);

    /// An object was written.
    fn changed(&self, key: &Key, object: &Object);

    /// An object was removed, at this revision.
    fn gone(&self, key: &Key, removed: Revision);

    /// What was listed at first is complete.
    fn complete(&self);
}

/// Follows until the process ends.
pub async fn follow(store: Arc<dyn ObjectStore>, resources: Vec<Resource>, follower: Arc<dyn Follower>) {
    loop {
        match list(store.as_ref(), &resources, follower.as_ref()).await {
            Ok(listed) => {
                follower.complete();
                watch(store.as_ref(), &resources, follower.as_ref(), &listed).await;
            }
            Err(error) => tracing::debug!(%error, "objects that are followed cannot be listed; trying again"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Up to which revision each resource is known.
type Listed = HashMap<Resource, Revision>;

async fn list(store: &dyn ObjectStore, resources: &[Resource], follower: &dyn Follower) -> Result<Listed, ReadError> {
    let mut listed = Listed::new();
    for resource in resources {
        let page = store.list(ListRequest::all(resource.clone())).await?;
        follower.listed(resource, &page.items);
        listed.insert(resource.clone(), page.revision);
    }
    Ok(listed)
}

/// Watches, again and again, until events were lost. The lists are of different moments: of the events between them, those
/// that a list has shown already are passed over.
async fn watch(store: &dyn ObjectStore, resources: &[Resource], follower: &dyn Follower, listed: &Listed) {
    let mut seen = listed.values().min().copied().unwrap_or(Revision::ZERO);
    loop {
        let request = WatchRequest {
            resources: resources.to_vec(),
            namespace: None,
            selections: Vec::new(),
            after: Some(seen),
        };
        match store.watch(request).await {
            Ok(mut items) => {
                while let Some(item) = items.next().await {
                    match item {
                        WatchItem::Event(event) => {
                            seen = event.revision;
                            if listed.get(&event.key.resource).is_some_and(|listed| *listed >= seen) {
                                continue;
                            }
                            match event.change {
                                Change::Deleted => follower.gone(&event.key, event.revision),
                                Change::Created | Change::Updated => follower.changed(&event.key, &event.object),
                            }
                        }
                        WatchItem::Progress(revision) => seen = seen.max(revision),
                        WatchItem::Lost(_) => return,
                    }
                }
            }
            Err(ReadError::Compacted { .. }) => return,
            Err(error) => tracing::debug!(%error, "objects that are followed cannot be watched; trying again"),
        }
        tokio::time::sleep(RETRY).await;
    }
}
