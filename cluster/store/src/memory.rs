//! The state machine's bytes in memory: for tests of everything that stands on the store, and for the simulation.
//! It keeps objects decoded and shares them with its readers.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::RwLock;
use protocol::store::StoreEvent;
use protocol::{Key, Object, Resource, Revision};

use crate::backend::{Backend, BackendError, Batch, Keep, State, View, Visit, VisitEvent};

#[derive(Default)]
struct Contents {
    objects: BTreeMap<Key, Arc<Object>>,
    history: BTreeMap<Revision, Arc<StoreEvent>>,
    state: State,
    position: Option<Vec<u8>>,
}

impl Contents {
    fn range<'a>(
        &'a self,
        resource: &'a Resource,
        namespace: Option<&'a str>,
        after: Option<&Key>,
    ) -> impl Iterator<Item = (&'a Key, &'a Arc<Object>)> {
        // `Key`'s order is the order of its bytes, so that a resource, and a namespace of it, is one range here too.
        let first = Key::new(resource.clone(), namespace.unwrap_or_default(), "");
        let from = match after {
            Some(after) if *after >= first => Bound::Excluded(after.clone()),
            _ => Bound::Included(first),
        };
        self.objects
            .range((from, Bound::Unbounded))
            .take_while(move |(key, _)| key.resource == *resource && namespace.is_none_or(|n| *key.namespace == *n))
    }
}

/// Keeps the store in memory. Clones share it.
#[derive(Clone, Default)]
pub struct MemoryBackend {
    contents: Arc<RwLock<Contents>>,
}

impl View for Contents {
    fn state(&self) -> Result<State, BackendError> {
        Ok(self.state)
    }

    fn object(&self, key: &Key) -> Result<Option<Arc<Object>>, BackendError> {
        Ok(self.objects.get(key).cloned())
    }

    fn scan(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        after: Option<&Key>,
        keep: Keep<'_>,
        visit: Visit<'_>,
    ) -> Result<(), BackendError> {
        for (key, object) in self.range(resource, namespace, after) {
            if keep(key, &object.header) && visit(key.clone(), object.clone()).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn count(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        after: Option<&Key>,
        most: u64,
    ) -> Result<u64, BackendError> {
        Ok(self.range(resource, namespace, after).take(most as usize).count() as u64)
    }

    fn history(
        &self,
        after: Revision,
        wanted: &dyn Fn(&Key) -> bool,
        visit: VisitEvent<'_>,
    ) -> Result<(), BackendError> {
        for event in self
            .history
            .range((Bound::Excluded(after), Bound::Unbounded))
            .map(|(_, event)| event)
        {
            if wanted(&event.key) && visit(event.clone()).is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl Backend for MemoryBackend {
    fn with_view<R>(&self, read: impl FnOnce(&dyn View) -> R) -> R {
        read(&*self.contents.read())
    }

    fn object(&self, key: &Key) -> Result<Option<Arc<Object>>, BackendError> {
        Ok(self.contents.read().objects.get(key).cloned())
    }

    fn commit(&self, batch: &Batch) -> Result<(), BackendError> {
        let mut contents = self.contents.write();
        for (key, object) in &batch.objects {
            match object {
                Some(object) => contents.objects.insert(key.clone(), Arc::clone(object)),
                None => contents.objects.remove(key),
            };
        }
        let events = batch.events.iter();
        contents
            .history
            .extend(events.map(|event| (event.revision, Arc::clone(event))));
        if let Some((_, to)) = batch.compact {
            contents.history = contents.history.split_off(&to.next());
        }
        contents.state = batch.state;
        if batch.position.is_some() {
            contents.position.clone_from(&batch.position);
        }
        Ok(())
    }

    fn position(&self) -> Result<Option<Vec<u8>>, BackendError> {
        Ok(self.contents.read().position.clone())
    }
}
