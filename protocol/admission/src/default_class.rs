//! The default one among the classes of a kind: marked by an annotation; the newest where there are several, and the first by
//! name of those of one second (upstream's rule for StorageClass and IngressClass).

use std::cmp::Reverse;

use api::access::Access;

use crate::facts::Facts;

/// The name of the default class of a resource, if there is one.
pub(crate) fn default_class(facts: &Facts, resource: &str, annotations: &[&str]) -> Option<String> {
    let marked = facts.all(resource, "").filter(|(_, class)| {
        let own = class.value.at(&["metadata", "annotations"]);
        annotations.iter().any(|annotation| own.text(annotation) == "true")
    });
    // Creation times are RFC 3339 in UTC: they sort as text.
    let newest =
        marked.max_by_key(|(name, class)| (class.value.at(&["metadata"]).text("creationTimestamp"), Reverse(*name)));
    newest.map(|(name, _)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Fact;
    use protocol::Revision;
    use serde_json::json;
    use std::sync::Arc;

    #[test]
    fn the_newest_marked_class_is_the_default_and_the_name_decides_between_equals() {
        let classes = [
            ("old", "2026-01-01T00:00:00Z", "true"),
            ("b", "2026-01-02T00:00:00Z", "true"),
            ("a", "2026-01-02T00:00:00Z", "true"),
            ("unmarked", "2026-01-03T00:00:00Z", "false"),
        ];
        let mut facts = Facts::default();
        assert_eq!(default_class(&facts, "r", &["default"]), None);
        for (name, created, mark) in classes {
            let value =
                json!({"metadata": {"name": name, "creationTimestamp": created, "annotations": {"default": mark}}});
            let fact = Fact {
                revision: Revision(1),
                value: Arc::new(value),
            };
            facts.upsert("r", "", name, fact);
        }
        assert_eq!(default_class(&facts, "r", &["other", "default"]).as_deref(), Some("a"));
    }
}
