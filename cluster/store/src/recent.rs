//! The objects that were written last, as they are: what is created is mostly written again soon (a pod is bound, started,
//! and reports), and the machine must know it to judge the precondition. Owned by the `Machine`, which notes here what it has
//! committed; bounded in bytes. It never answers that something does not exist.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use protocol::{Key, Object};

/// Bytes of bodies that are kept. The bodies are shared with whoever else has the object.
const BYTES_MAX: usize = 16 << 20;

/// What an object costs beside its body.
const OVERHEAD_BYTES: usize = 512;

/// The cache.
#[derive(Default)]
pub(crate) struct Recent {
    objects: HashMap<Key, Arc<Object>>,
    /// In the order of their writes. An object that was written again since is not the one in `objects` any more.
    order: VecDeque<(Key, Arc<Object>)>,
    bytes: usize,
}

impl Recent {
    /// An object as it is now, if it is known.
    pub fn get(&self, key: &Key) -> Option<&Arc<Object>> {
        self.objects.get(key)
    }

    /// Notes what a committed write made of a key; `None` if it was removed.
    pub fn note(&mut self, key: &Key, object: Option<&Arc<Object>>) {
        let Some(object) = object else {
            self.objects.remove(key);
            return;
        };
        self.bytes += size(object);
        self.objects.insert(key.clone(), Arc::clone(object));
        self.order.push_back((key.clone(), Arc::clone(object)));
        while self.bytes > BYTES_MAX {
            let Some((key, object)) = self.order.pop_front() else {
                return;
            };
            self.bytes -= size(&object);
            if self
                .objects
                .get(&key)
                .is_some_and(|current| Arc::ptr_eq(current, &object))
            {
                self.objects.remove(&key);
            }
        }
    }
}

fn size(object: &Object) -> usize {
    object.body.0.len() + OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{Draft, Revision};

    fn object(revision: u64, bytes: usize) -> Arc<Object> {
        let value = serde_json::json!({"metadata": {"uid": "u"}, "data": "x".repeat(bytes)});
        Arc::new(
            Draft::encode(&value, Vec::new())
                .unwrap()
                .commit(Revision(revision), None),
        )
    }

    #[test]
    fn the_newest_are_kept_within_the_bound() {
        let mut recent = Recent::default();
        let key = |number: u64| Key::new("pods", "default", format!("p-{number}"));
        for number in 0..40 {
            recent.note(&key(number), Some(&object(number + 1, 1 << 20)));
            assert!(recent.bytes <= BYTES_MAX, "{}", recent.bytes);
        }
        assert!(recent.get(&key(0)).is_none());
        assert_eq!(recent.get(&key(39)).unwrap().header.revision, Revision(40));
        assert_eq!(recent.order.len(), recent.objects.len());
    }

    #[test]
    fn an_old_write_that_falls_out_does_not_take_the_newer_one_with_it() {
        let mut recent = Recent::default();
        let key = Key::new("pods", "default", "p");
        recent.note(&key, Some(&object(1, 9 << 20)));
        recent.note(&key, Some(&object(2, 6 << 20)));
        recent.note(&Key::new("pods", "default", "q"), Some(&object(3, 5 << 20)));
        assert_eq!(recent.get(&key).unwrap().header.revision, Revision(2));
        recent.note(&key, None);
        assert!(recent.get(&key).is_none());
    }
}
