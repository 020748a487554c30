//! Custom resources: kinds that CustomResourceDefinitions define. `CustomKinds` is the table of them beside the table of
//! built-in kinds; each node's gateway keeps one, fed by what it follows in the store.
//!
//! A custom kind has a row like any other, so that everything that serves kinds serves it. What a row cannot hold (a schema,
//! columns) is behind `Kind::custom`, where an update of the definition replaces it. Rows and names stay for the life of the
//! process and are used again (see `names`); what they point at goes with the definition.

pub(crate) mod cel;
mod columns;
mod conversion;
mod definition;
mod fill;
mod names;
mod names_accepted;
mod prune;
mod schema;
mod shapes;
pub(crate) mod structural;
mod validate;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use serde_json::Value;

use crate::access::Access;
use crate::kinds::{self, Generation, Kind, Subresource};

pub use cel::FORMATS;
pub use columns::JsonPath;
pub use conversion::{ConversionError, ConversionReview, ConversionWebhook};
pub use definition::Definition;
pub(crate) use definition::published_schema;
pub(crate) use names_accepted::set_terminating;
pub use names_accepted::{CLEANUP_FINALIZER, conditions};

/// What is behind a custom kind's row: replaced when its definition is updated, empty when that is gone.
#[derive(Debug, Default)]
pub struct Slot(RwLock<Option<Arc<Definition>>>);

impl Slot {
    /// The definition of this moment.
    pub fn get(&self) -> Option<Arc<Definition>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, definition: Option<Arc<Definition>>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = definition;
    }
}

/// Group, version and plural.
type Path = (&'static str, &'static str, &'static str);

/// The custom kinds of a cluster, as far as this process has heard of them.
#[derive(Debug, Default)]
pub struct CustomKinds(RwLock<Table>);

#[derive(Debug, Default)]
struct Table {
    /// Served rows by definition.
    served: BTreeMap<String, Vec<&'static Kind>>,
    /// Served rows by path.
    paths: HashMap<Path, &'static Kind>,
    /// Whatever was served once.
    slots: HashMap<Path, &'static Slot>,
    rows: Vec<&'static Kind>,
}

/// How many rows may ever be made: a bound for those who rename without end.
const ROWS_MAX: usize = 20_000;

impl CustomKinds {
    /// Serves what a definition defines from now on, instead of what it defined before. A definition that is not established
    /// serves nothing.
    pub fn define(&self, crd: &Value) {
        let name = crd.at(&["metadata"]).text("name").to_owned();
        let established = kinds::established(crd);
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let before = table.served.remove(&name).unwrap_or_default();
        let mut now: Vec<&'static Kind> = Vec::new();
        let versions = crd.at(&["spec"]).items("versions").iter();
        let schemas = definition::all_schemas(crd);
        for version in versions.filter(|version| established && version.flag("served")) {
            let made = Definition::read(crd, version, &schemas).and_then(|definition| {
                let row = table.row(crd, version)?;
                row.custom?.set(Some(Arc::new(definition)));
                Some(row)
            });
            now.extend(made);
        }
        for row in &before {
            let path = (row.group, row.version, row.plural);
            table.paths.remove(&path);
            if !now
                .iter()
                .any(|kept: &&'static Kind| (kept.group, kept.version, kept.plural) == path)
                && let Some(slot) = row.custom
            {
                slot.set(None);
            }
        }
        for row in &now {
            table.paths.insert((row.group, row.version, row.plural), row);
        }
        if !now.is_empty() {
            now.sort_by_key(|row| priority(row.version));
            table.served.insert(name, now);
        }
    }

    /// Serves a definition no longer.
    pub fn undefine(&self, name: &str) {
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for row in table.served.remove(name).unwrap_or_default() {
            table.paths.remove(&(row.group, row.version, row.plural));
            if let Some(slot) = row.custom {
                slot.set(None);
            }
        }
    }

    /// The names of all definitions that are served.
    pub fn names(&self) -> Vec<String> {
        self.read(|table| table.served.keys().cloned().collect())
    }

    /// The kind behind a path.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
        self.read(|table| {
            // The keys' strings live for ever; those of the question need not.
            let paths: &HashMap<(&str, &str, &str), &'static Kind> = &table.paths;
            paths.get(&(group, version, plural)).copied()
        })
    }

    /// The kind of an object.
    pub fn find_by_kind(&self, api_version: &str, kind: &str) -> Option<&'static Kind> {
        let (group, version) = api_version.split_once('/')?;
        let is_it = |row: &&&'static Kind| (row.group, row.version, row.kind) == (group, version, kind);
        self.read(|table| table.served.values().flatten().find(is_it).copied())
    }

    /// All served versions of a custom kind, by preference.
    pub fn versions(&self, kind: &Kind) -> Vec<&'static Kind> {
        let name = format!("{}.{}", kind.plural, kind.group);
        self.read(|table| table.served.get(&name).cloned().unwrap_or_default())
    }

    /// The kinds of all definitions, groups together, versions of a group by preference.
    pub fn rows(&self) -> Vec<&'static Kind> {
        let mut rows: Vec<&'static Kind> = self.read(|table| table.served.values().flatten().copied().collect());
        rows.sort_by_key(|row| (row.group, priority(row.version), row.plural));
        rows
    }

    /// All kinds: those of the table and these.
    pub fn with_built_in(&self) -> Vec<&'static Kind> {
        kinds::kinds().iter().chain(self.rows()).collect()
    }

    fn read<T>(&self, look: impl FnOnce(&Table) -> T) -> T {
        look(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Table {
    /// The row of a version: one that was made before, if its names are the same.
    fn row(&mut self, crd: &Value, version: &Value) -> Option<&'static Kind> {
        let spec = crd.at(&["spec"]);
        // What was accepted is what is served: a change of names may be refused.
        let accepted = crd.at(&["status", "acceptedNames"]);
        let spelled = |name: &str| match accepted.text(name) {
            "" => spec.at(&["names"]).text(name),
            text => text,
        };
        let list = |value: &Value, name: &str| {
            let texts = value.items(name).iter().filter_map(Value::as_str);
            names::keep_list(texts)
        };
        let subresources: &'static [Subresource] = match (
            version.at(&["subresources"]).has("status"),
            version.at(&["subresources"]).has("scale"),
        ) {
            (true, true) => &[Subresource::Status, Subresource::Scale],
            (true, false) => &[Subresource::Status],
            (false, true) => &[Subresource::Scale],
            (false, false) => &[],
        };
        let group = names::keep(spec.text("group"))?;
        let name = names::keep(version.text("name"))?;
        let plural = names::keep(spelled("plural"))?;
        let fields = version.items("selectableFields").iter();
        let fields = fields.map(|field| field.text("jsonPath").trim_start_matches('.'));
        let kind = spelled("kind");
        let package: Vec<&str> = group.rsplit('.').collect();
        let slot = match self.slots.get(&(group, name, plural)) {
            Some(slot) => *slot,
            None => {
                let slot: &'static Slot = Box::leak(Box::default());
                self.slots.insert((group, name, plural), slot);
                slot
            }
        };
        let row = Kind {
            group,
            version: name,
            plural,
            kind: names::keep(kind)?,
            list_kind: names::keep(spelled("listKind"))?,
            singular: names::keep(spelled("singular"))?,
            short_names: list(accepted, "shortNames")?,
            categories: list(accepted, "categories")?,
            selectable_fields: names::keep_list(fields)?,
            definition: names::keep(&format!("{}.{name}.{kind}", package.join(".")))?,
            namespaced: spec.text("scope") == "Namespaced",
            subresources,
            generation: Generation::Spec,
            custom: Some(slot),
            ..kinds::STORED
        };
        if let Some(known) = self.rows.iter().find(|known| known.is_same_row(&row)) {
            return Some(known);
        }
        if self.rows.len() >= ROWS_MAX {
            return None;
        }
        let kept: &'static Kind = Box::leak(Box::new(row));
        self.rows.push(kept);
        Some(kept)
    }
}

/// The order of versions by preference: stable ones first, newer before older, others last by name.
pub fn priority(version: &str) -> (u8, std::cmp::Reverse<(u64, u64)>, String) {
    let parsed = version.strip_prefix('v').and_then(|rest| {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let major: u64 = rest[..digits].parse().ok()?;
        let rest = &rest[digits..];
        if rest.is_empty() {
            return Some((0, major, 0));
        }
        let (level, minor) = match (rest.strip_prefix("beta"), rest.strip_prefix("alpha")) {
            (Some(minor), _) => (1, minor),
            (_, Some(minor)) => (2, minor),
            _ => return None,
        };
        Some((level, major, minor.parse().ok()?))
    });
    match parsed {
        Some((level, major, minor)) => (level, std::cmp::Reverse((major, minor)), String::new()),
        None => (3, std::cmp::Reverse((0, 0)), version.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_preferred_as_kubernetes_prefers_them() {
        let mut versions = vec![
            "foo10", "v1beta1", "v10", "v2alpha1", "v11beta2", "v1", "v2", "v10beta3", "foo1", "v3beta1",
        ];
        versions.sort_by_key(|version| priority(version));
        let expected = [
            "v10", "v2", "v1", "v11beta2", "v10beta3", "v3beta1", "v1beta1", "v2alpha1", "foo1", "foo10",
        ];
        assert_eq!(versions, expected);
    }
}
