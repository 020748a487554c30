//! Watches: from any revision that is not compacted, without gaps, with bounded memory per watcher. Selections compare
//! what the writer put into an object's header; what they mean is not known here.
//!
//! A watch first replays history from the backend and then, once it has caught up, attaches to the hub and is pushed
//! events through a bounded queue. A watcher that lets its queue overflow is detached and goes back to history from
//! the last event it took: its slowness costs it disk reads and nobody memory. It is lost only when compaction
//! overtakes it.

use std::collections::{HashMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use futures::stream;
use parking_lot::Mutex;
use protocol::selector::{FieldRequirement, field_of};
use protocol::store::{ReadError, StoreEvent, WatchItem, WatchRequest, WatchStream};
use protocol::{Object, Resource, Revision};
use tokio::sync::{Notify, watch};

use crate::backend::Backend;

/// How many events wait for one watcher before it has to read history again. An event is shared, a place costs a
/// pointer.
pub const QUEUE_EVENTS_MAX: usize = 4096;

/// How many events a watcher takes from history at a time.
const REPLAY_EVENTS_MAX: usize = 256;

/// How often an idle watch tells how far it has come.
const PROGRESS_MS: u64 = 2_000;

struct Queue {
    events: VecDeque<Arc<StoreEvent>>,
    /// Set when it overflowed: nothing more is pushed, the watcher goes back to history.
    detached: bool,
}

struct Watcher {
    request: WatchRequest,
    queue: Mutex<Queue>,
    wake: Notify,
}

impl Watcher {
    /// The event as it is seen within the watch's selections; `None` if it is not.
    fn view(&self, event: &Arc<StoreEvent>) -> Option<Arc<StoreEvent>> {
        let change = self.request.view(event)?;
        if change == event.change {
            return Some(event.clone());
        }
        Some(Arc::new(StoreEvent {
            change,
            ..StoreEvent::clone(event)
        }))
    }

    fn push(&self, event: &Arc<StoreEvent>) {
        if !self.request.covers_namespace(&event.key) {
            return;
        }
        let Some(event) = self.view(event) else { return };
        let mut queue = self.queue.lock();
        if queue.detached {
            return;
        }
        if queue.events.len() == QUEUE_EVENTS_MAX {
            queue.events = VecDeque::new();
            queue.detached = true;
        } else {
            queue.events.push_back(event);
        }
        drop(queue);
        self.wake.notify_one();
    }
}

/// The watchers of one resource.
#[derive(Default)]
struct Interested {
    /// Those that have to be asked about every event.
    whole: Vec<Arc<Watcher>>,
    /// Those that want the objects in which a field has a value, by path and value: of thousands of nodes that watch
    /// their own pods, an event looks up the one that it concerns.
    by_field: HashMap<String, HashMap<String, Vec<Arc<Watcher>>>>,
}

impl Interested {
    /// Where a watcher of `resource` belongs.
    fn place(&mut self, resource: &Resource, watcher: &Watcher) -> &mut Vec<Arc<Watcher>> {
        match indexed_field(&watcher.request, resource) {
            Some(FieldRequirement { path, value, .. }) => self
                .by_field
                .entry(path.clone())
                .or_default()
                .entry(value.clone())
                .or_default(),
            None => &mut self.whole,
        }
    }

    fn remove(&mut self, resource: &Resource, watcher: &Arc<Watcher>) {
        self.place(resource, watcher)
            .retain(|other| !Arc::ptr_eq(other, watcher));
        for watchers in self.by_field.values_mut() {
            watchers.retain(|_, watchers| !watchers.is_empty());
        }
        self.by_field.retain(|_, watchers| !watchers.is_empty());
    }

    fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.by_field.is_empty()
    }

    fn everyone(&self) -> impl Iterator<Item = &Arc<Watcher>> {
        self.whole
            .iter()
            .chain(self.by_field.values().flat_map(HashMap::values).flatten())
    }

    fn push(&self, event: &Arc<StoreEvent>) {
        for watcher in &self.whole {
            watcher.push(event);
        }
        let key = &event.key;
        for (path, watchers) in &self.by_field {
            let value = |object: &Object| field_of(&key.namespace, &key.name, &object.header, path).to_owned();
            let now = value(&event.object);
            let before = event.previous.as_deref().map(value).filter(|before| *before != now);
            for value in [Some(now), before].into_iter().flatten() {
                for watcher in watchers.get(&value).into_iter().flatten() {
                    watcher.push(event);
                }
            }
        }
    }
}

/// The field by which a watch finds its objects of a resource: it has one selection of it, which demands a value.
fn indexed_field<'a>(request: &'a WatchRequest, resource: &Resource) -> Option<&'a FieldRequirement> {
    let mut selections = request
        .selections
        .iter()
        .filter(|selection| selection.resource == *resource);
    let only = selections.next()?;
    if selections.next().is_some() {
        return None;
    }
    only.fields.requirements.iter().find(|requirement| !requirement.negated)
}

#[derive(Default)]
struct Registry {
    published: Revision,
    /// Rises when all watches end; a watch of an older epoch is over.
    epoch: u64,
    /// Watchers by the resource that they want.
    of_resource: HashMap<Resource, Interested>,
    /// Watchers that want all resources.
    of_all: Vec<Arc<Watcher>>,
    attached: usize,
}

impl Registry {
    fn attach(&mut self, watcher: &Arc<Watcher>) {
        self.attached += 1;
        if watcher.request.resources.is_empty() {
            self.of_all.push(watcher.clone());
        }
        for resource in &watcher.request.resources {
            let interested = self.of_resource.entry(resource.clone()).or_default();
            interested.place(resource, watcher).push(watcher.clone());
        }
    }

    fn detach(&mut self, watcher: &Arc<Watcher>) {
        self.attached -= 1;
        self.of_all.retain(|other| !Arc::ptr_eq(other, watcher));
        for resource in &watcher.request.resources {
            if let Some(interested) = self.of_resource.get_mut(resource) {
                interested.remove(resource, watcher);
                if interested.is_empty() {
                    self.of_resource.remove(resource);
                }
            }
        }
    }

    fn everyone(&self) -> impl Iterator<Item = &Arc<Watcher>> {
        self.of_all
            .iter()
            .chain(self.of_resource.values().flat_map(Interested::everyone))
    }
}

/// Hands applied events to the watchers that want them.
pub struct Hub {
    registry: Mutex<Registry>,
    reached: watch::Sender<Revision>,
}

impl Hub {
    /// A hub for a store that is at this revision.
    pub fn new(published: Revision) -> Hub {
        Hub {
            registry: Mutex::new(Registry {
                published,
                ..Registry::default()
            }),
            reached: watch::Sender::new(published),
        }
    }

    /// Returns when a revision is committed to the backend; false when the hub goes before.
    pub async fn reached(&self, revision: Revision) -> bool {
        let mut reached = self.reached.subscribe();
        reached.wait_for(|reached| *reached >= revision).await.is_ok()
    }

    /// Hands out events that are committed to the backend. Called in the order of revisions, by one caller at a time.
    pub fn publish(&self, events: &[Arc<StoreEvent>]) {
        let Some(last) = events.last() else { return };
        let mut registry = self.registry.lock();
        for event in events {
            if let Some(interested) = registry.of_resource.get(&event.key.resource) {
                interested.push(event);
            }
            for watcher in &registry.of_all {
                watcher.push(event);
            }
        }
        registry.published = last.revision;
        drop(registry);
        self.reached.send_replace(last.revision);
    }

    /// The whole store was replaced by a newer one (a snapshot): every watcher goes on from history.
    pub fn reset(&self, published: Revision) {
        let mut registry = self.registry.lock();
        registry.published = published;
        for watcher in registry.everyone() {
            let mut queue = watcher.queue.lock();
            queue.events = VecDeque::new();
            queue.detached = true;
            drop(queue);
            watcher.wake.notify_one();
        }
        drop(registry);
        self.reached.send_replace(published);
    }

    /// Ends all watches: this replica can no longer serve them.
    pub fn end_all(&self) {
        let mut registry = self.registry.lock();
        registry.epoch += 1;
        for watcher in registry.everyone() {
            watcher.wake.notify_one();
        }
    }

    /// How many watches are attached.
    pub fn watchers(&self) -> usize {
        self.registry.lock().attached
    }
}

/// Opens a watch over a backend and the hub that its writer publishes to.
pub(crate) fn open<B: Backend>(backend: B, hub: Arc<Hub>, request: WatchRequest) -> Result<WatchStream, ReadError> {
    let (published, epoch) = {
        let registry = hub.registry.lock();
        (registry.published, registry.epoch)
    };
    let after = request.after.unwrap_or(published);
    // Read after `published`: the backend is never behind the hub.
    backend.with_view(|view| view.state())?.admits(after)?;
    let watcher = Arc::new(Watcher {
        request,
        queue: Mutex::new(Queue {
            events: VecDeque::new(),
            detached: true,
        }),
        wake: Notify::new(),
    });
    let cursor = Cursor {
        backend,
        hub,
        watcher,
        epoch,
        seen: after,
        replayed: VecDeque::new(),
        attached: false,
        over: false,
    };
    Ok(Box::pin(stream::unfold(cursor, |mut cursor| async move {
        cursor.next().await.map(|item| (item, cursor))
    })))
}

/// Where one watch stands.
struct Cursor<B: Backend> {
    backend: B,
    hub: Arc<Hub>,
    watcher: Arc<Watcher>,
    epoch: u64,
    /// Every event up to here was yielded, waits in `replayed`, or is not wanted.
    seen: Revision,
    replayed: VecDeque<Arc<StoreEvent>>,
    attached: bool,
    over: bool,
}

/// What the hub says to a cursor that asks for its next item.
enum Next {
    Event(Arc<StoreEvent>),
    Idle(Revision),
    Behind,
    Over,
}

impl<B: Backend> Cursor<B> {
    async fn next(&mut self) -> Option<WatchItem> {
        loop {
            if self.over {
                return None;
            }
            if let Some(event) = self.replayed.pop_front() {
                return Some(WatchItem::Event(event));
            }
            if !self.attached {
                if let Err(error) = self.replay() {
                    self.over = true;
                    return Some(WatchItem::Lost(error));
                }
                if self.replayed.is_empty() && self.try_attach() {
                    return Some(WatchItem::Progress(self.seen));
                }
                continue;
            }
            match self.poll_queue() {
                Next::Event(event) => {
                    self.seen = event.revision;
                    return Some(WatchItem::Event(event));
                }
                Next::Behind => {
                    self.hub.registry.lock().detach(&self.watcher);
                    self.attached = false;
                }
                Next::Over => self.over = true,
                Next::Idle(published) => {
                    self.seen = self.seen.max(published);
                    let wake = self.watcher.wake.notified();
                    if tokio::time::timeout(Duration::from_millis(PROGRESS_MS), wake)
                        .await
                        .is_err()
                    {
                        // Nothing was pushed in the meantime that would precede this revision.
                        return Some(WatchItem::Progress(self.seen));
                    }
                }
            }
        }
    }

    /// Takes the next events from history, and notes how far it has looked.
    fn replay(&mut self) -> Result<(), ReadError> {
        let watcher = &self.watcher;
        let replayed = &mut self.replayed;
        let after = self.seen;
        self.seen = self.backend.with_view(|view| {
            let state = view.state()?;
            state.admits(after)?;
            let mut reached = state.revision;
            view.history(after, &|key| watcher.request.covers(key), &mut |event| {
                reached = event.revision;
                replayed.extend(watcher.view(&event));
                if replayed.len() < REPLAY_EVENTS_MAX {
                    reached = state.revision;
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            })?;
            Ok::<_, ReadError>(reached)
        })?;
        Ok(())
    }

    /// Attaches to the hub if nothing was published past what was seen. Otherwise there is more to replay.
    fn try_attach(&mut self) -> bool {
        let mut registry = self.hub.registry.lock();
        if registry.epoch != self.epoch {
            self.over = true;
            return false;
        }
        // The backend is written before the hub publishes: a view may have been ahead of the hub. What the hub is about
        // to publish was then seen already, and is dropped in `poll_queue`.
        if registry.published > self.seen {
            return false;
        }
        let mut queue = self.watcher.queue.lock();
        queue.detached = false;
        queue.events.clear();
        drop(queue);
        registry.attach(&self.watcher);
        self.attached = true;
        true
    }

    fn poll_queue(&self) -> Next {
        let registry = self.hub.registry.lock();
        if registry.epoch != self.epoch {
            return Next::Over;
        }
        let mut queue = self.watcher.queue.lock();
        if queue.detached {
            return Next::Behind;
        }
        while let Some(event) = queue.events.pop_front() {
            if event.revision > self.seen {
                return Next::Event(event);
            }
        }
        Next::Idle(registry.published)
    }
}

impl<B: Backend> Drop for Cursor<B> {
    fn drop(&mut self) {
        if self.attached {
            self.hub.registry.lock().detach(&self.watcher);
        }
    }
}
