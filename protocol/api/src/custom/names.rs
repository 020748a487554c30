//! Names of custom kinds, kept for the life of the process: rows of kinds hold them as the table's own do. Each name is kept
//! once, whatever becomes of its definition, and there is a bound on all of them together: a definition whose names do not
//! fit below it is not served. Updating, deleting and creating definitions again costs nothing.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, OnceLock, PoisonError};

/// What all names together may take, in bytes: some ten thousand definitions.
const BYTES_MAX: usize = 8 << 20;

/// Keys of a list of type map, each with its default.
pub type MapKeys = &'static [(&'static str, Option<&'static str>)];

#[derive(Default)]
struct Names {
    texts: HashSet<&'static str>,
    lists: HashSet<&'static [&'static str]>,
    keys: HashMap<Vec<(&'static str, Option<&'static str>)>, MapKeys>,
    bytes: usize,
}

impl Names {
    fn pay(&mut self, bytes: usize) -> Option<()> {
        (self.bytes + bytes <= BYTES_MAX).then(|| self.bytes += bytes)
    }

    fn text(&mut self, text: &str) -> Option<&'static str> {
        if let Some(known) = self.texts.get(text) {
            return Some(known);
        }
        self.pay(text.len() + 48)?;
        let kept: &'static str = Box::leak(text.into());
        self.texts.insert(kept);
        Some(kept)
    }
}

fn with<T>(run: impl FnOnce(&mut Names) -> T) -> T {
    static NAMES: OnceLock<Mutex<Names>> = OnceLock::new();
    // A panic while a name was added leaves the names that were there.
    let names = NAMES.get_or_init(Mutex::default).lock();
    run(&mut names.unwrap_or_else(PoisonError::into_inner))
}

/// A name; `None` when there is no room for it.
pub fn keep(text: &str) -> Option<&'static str> {
    with(|names| names.text(text))
}

/// A list of names.
pub fn keep_list<'t>(texts: impl Iterator<Item = &'t str>) -> Option<&'static [&'static str]> {
    with(|names| {
        let list: Vec<&'static str> = texts.map(|text| names.text(text)).collect::<Option<_>>()?;
        if list.is_empty() {
            return Some(&[][..]);
        }
        if let Some(known) = names.lists.get(list.as_slice()) {
            return Some(*known);
        }
        names.pay(list.len() * 16 + 48)?;
        let kept: &'static [&'static str] = Box::leak(list.into_boxed_slice());
        names.lists.insert(kept);
        Some(kept)
    })
}

/// The keys of a list of type map.
pub fn keep_keys<'t>(keys: impl Iterator<Item = (&'t str, Option<&'t str>)>) -> Option<MapKeys> {
    with(|names| {
        let mut list = Vec::new();
        for (key, default) in keys {
            let default = match default {
                Some(default) => Some(names.text(default)?),
                None => None,
            };
            list.push((names.text(key)?, default));
        }
        if let Some(known) = names.keys.get(&list) {
            return Some(*known);
        }
        names.pay(list.len() * 64 + 96)?;
        let kept: MapKeys = Box::leak(list.clone().into_boxed_slice());
        names.keys.insert(list, kept);
        Some(kept)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_kept_once() {
        let (first, second) = (keep("widgets").unwrap(), keep("widgets").unwrap());
        assert!(std::ptr::eq(first, second));
        let (first, second) = (
            keep_list(["a", "b"].into_iter()).unwrap(),
            keep_list(["a", "b"].into_iter()).unwrap(),
        );
        assert!(std::ptr::eq(first, second));
        let keys = || keep_keys([("name", None), ("protocol", Some("TCP"))].into_iter()).unwrap();
        assert!(std::ptr::eq(keys(), keys()));
    }
}
