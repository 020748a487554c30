//! Consistent paged lists, now and as of an older revision. Pure over a `View`. An older state is the present one with
//! the history since then undone.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use protocol::store::{Bodies, Change, ListPage, ListRequest, ReadError};
use protocol::{Header, Key, Object, Revision};

use crate::backend::{Keep, View};

/// Counting what follows a page stops here: past it the page does not tell a number.
const COUNT_MAX: u64 = 20_000;

/// What history since the requested revision did to one key.
struct Undo {
    /// The object as of the requested revision.
    then: Option<Arc<Object>>,
    /// Whether the key exists in the present state.
    exists_now: bool,
}

/// Answers a list.
pub fn list(view: &dyn View, request: &ListRequest) -> Result<ListPage, ReadError> {
    let state = view.state()?;
    let at = request.at.unwrap_or(state.revision);
    state.admits(at)?;
    let undone = if at < state.revision {
        undo(view, request, at)?
    } else {
        BTreeMap::new()
    };
    let mut page = Page {
        limit: request.limit,
        items: Vec::new(),
        more: false,
    };
    collect(view, request, &undone, &mut page)?;
    let selective = !(request.labels.is_empty() && request.fields.is_empty());
    let remaining = match page.items.last() {
        Some((last, _)) if page.more && !selective => count_after(view, request, &undone, last)?,
        _ => None,
    };
    Ok(ListPage {
        items: page.items,
        revision: at,
        more: page.more,
        remaining,
    })
}

/// A part of a list's bodies takes about so many bytes: enough that handing it on costs nothing, and few enough that the
/// first is on its way while the last is read.
pub const PART_BYTES: usize = 256 << 10;

/// Gathers the bodies of a whole list into parts. `begun` is told the list's revision before the first; `send` breaks when nobody
/// wants the rest.
pub fn bodies(
    view: &dyn View,
    request: &ListRequest,
    begun: impl FnOnce(Revision),
    send: &mut dyn FnMut(Bodies) -> ControlFlow<()>,
) -> Result<(), ReadError> {
    begun(view.state()?.revision);
    let selected = |key: &Key, header: &Header| {
        request.labels.matches(&header.labels) && request.fields.matches(&key.namespace, &key.name, header)
    };
    let selective = !(request.labels.is_empty() && request.fields.is_empty());
    let keep: Option<Keep<'_>> = if selective { Some(&selected) } else { None };
    let (mut joined, mut objects, mut is_first) = (Vec::new(), 0, true);
    view.bodies(&request.resource, request.namespace.as_deref(), keep, &mut |body| {
        if !std::mem::take(&mut is_first) {
            joined.push(b',');
        }
        joined.extend_from_slice(body);
        objects += 1;
        if joined.len() < PART_BYTES {
            return ControlFlow::Continue(());
        }
        let full = std::mem::replace(&mut joined, Vec::with_capacity(PART_BYTES + body.len()));
        send(Bodies {
            joined: full.into(),
            objects: std::mem::take(&mut objects),
        })
    })?;
    if objects > 0 {
        // Whether anybody wants it makes no difference any more.
        let _ = send(Bodies {
            joined: joined.into(),
            objects,
        });
    }
    Ok(())
}

struct Page {
    limit: usize,
    items: Vec<(Key, Arc<Object>)>,
    more: bool,
}

impl Page {
    fn push(&mut self, key: Key, object: Arc<Object>) -> ControlFlow<()> {
        if self.limit != 0 && self.items.len() == self.limit {
            self.more = true;
            return ControlFlow::Break(());
        }
        self.items.push((key, object));
        ControlFlow::Continue(())
    }
}

fn in_range(request: &ListRequest, key: &Key) -> bool {
    key.resource == request.resource
        && request
            .namespace
            .as_ref()
            .is_none_or(|namespace| key.namespace == *namespace)
        && request.after.as_ref().is_none_or(|after| key > after)
}

fn undo(view: &dyn View, request: &ListRequest, at: Revision) -> Result<BTreeMap<Key, Undo>, ReadError> {
    let mut undone: BTreeMap<Key, Undo> = BTreeMap::new();
    view.history(at, &|key| in_range(request, key), &mut |event| {
        let exists_now = event.change != Change::Deleted;
        // The first event after `at` knows what was there before it; later ones only whether it is there now.
        undone
            .entry(event.key.clone())
            .and_modify(|undo| undo.exists_now = exists_now)
            .or_insert_with(|| Undo {
                then: event.previous.clone(),
                exists_now,
            });
        ControlFlow::Continue(())
    })?;
    Ok(undone)
}

fn collect(
    view: &dyn View,
    request: &ListRequest,
    undone: &BTreeMap<Key, Undo>,
    page: &mut Page,
) -> Result<(), ReadError> {
    let selected = |key: &Key, header: &Header| {
        request.labels.matches(&header.labels) && request.fields.matches(&key.namespace, &key.name, header)
    };
    let mut older = undone
        .iter()
        .filter_map(|(key, undo)| Some((key, undo.then.as_ref()?)))
        .filter(|(key, object)| selected(key, &object.header))
        .peekable();
    let keep = |key: &Key, header: &Header| !undone.contains_key(key) && selected(key, header);
    view.scan(
        &request.resource,
        request.namespace.as_deref(),
        request.after.as_ref(),
        &keep,
        &mut |key, object| {
            while let Some((older_key, older_object)) = older.next_if(|(older_key, _)| **older_key < key) {
                page.push(older_key.clone(), older_object.clone())?;
            }
            page.push(key, object)
        },
    )?;
    for (key, object) in older {
        if page.more || page.push(key.clone(), object.clone()).is_break() {
            break;
        }
    }
    Ok(())
}

fn count_after(
    view: &dyn View,
    request: &ListRequest,
    undone: &BTreeMap<Key, Undo>,
    last: &Key,
) -> Result<Option<u64>, ReadError> {
    let now = view.count(&request.resource, request.namespace.as_deref(), Some(last), COUNT_MAX)?;
    if now >= COUNT_MAX {
        return Ok(None);
    }
    let (mut gone, mut back) = (0, 0);
    for undo in undone
        .range((Bound::Excluded(last), Bound::Unbounded))
        .map(|(_, undo)| undo)
    {
        gone += u64::from(undo.exists_now);
        back += u64::from(undo.then.is_some());
    }
    Ok(Some(now - gone + back))
}
