//! Pod templates: when two are the same, and the hash that names a template's ReplicaSet. Pure and stable: the hash must
//! be the same in every version of this program, or an upgrade would roll out every Deployment.

use serde_json::Value;

/// The label that tells the pods of one template from those of another.
pub(super) const HASH_LABEL: &str = "pod-template-hash";

/// The characters of hashes and generated names: no vowels, so that no words arise (apimachinery's `SafeEncodeString`).
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// The hash of a template. `collisions` is the Deployment's collision count: another one gives another hash.
pub(super) fn hash(template: &Value, collisions: i64) -> String {
    let mut canonical = String::new();
    write_canonical(template, &mut canonical);
    let mut hash = fnv1a(canonical.as_bytes(), 0x811c_9dc5);
    if collisions > 0 {
        hash = fnv1a(&collisions.to_le_bytes(), hash);
    }
    hash.to_string()
        .bytes()
        .map(|digit| ALPHABET[usize::from(digit) % ALPHABET.len()] as char)
        .collect()
}

/// Whether two templates are the same but for the hash label.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    let canonical = |template: &Value| {
        let mut text = String::new();
        write_canonical(template, &mut text);
        text
    };
    canonical(a) == canonical(b)
}

fn fnv1a(bytes: &[u8], seed: u32) -> u32 {
    bytes
        .iter()
        .fold(seed, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// JSON with sorted members, without nulls, empty objects and the hash label. Members that are null or empty mean the
/// same as absent ones in every field of a pod template, but for volumes: `emptyDir: {}` selects a kind of volume, so
/// empty objects are kept below `spec`.
fn write_canonical(value: &Value, out: &mut String) {
    write_member(value, true, out);
}

fn write_member(value: &Value, in_metadata: bool, out: &mut String) {
    match value {
        Value::Object(members) => {
            let mut names: Vec<&String> = members.keys().collect();
            names.sort_unstable();
            out.push('{');
            for name in names {
                let member = &members[name];
                let empty = member.is_null() || (in_metadata && member.as_object().is_some_and(is_blank));
                if empty || (in_metadata && name == HASH_LABEL) {
                    continue;
                }
                out.push_str(&Value::String(name.clone()).to_string());
                out.push(':');
                write_member(member, in_metadata && name != "spec", out);
                out.push(',');
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for item in items {
                write_member(item, in_metadata, out);
                out.push(',');
            }
            out.push(']');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

fn is_blank(members: &serde_json::Map<String, Value>) -> bool {
    members
        .iter()
        .all(|(name, value)| name == HASH_LABEL || value.is_null())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_hash_is_stable_across_versions() {
        // Written down once; a change here rolls out every Deployment of every user.
        let template =
            json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
        assert_eq!(hash(&template, 0), hash(&template.clone(), 0));
        assert_ne!(hash(&template, 0), hash(&template, 1));
        assert!(hash(&template, 0).bytes().all(|byte| ALPHABET.contains(&byte)));
        assert_eq!(hash(&template, 0), STABLE);
    }

    const STABLE: &str = "f7b485779";

    #[test]
    fn templates_are_compared_without_order_nulls_and_the_hash_label() {
        let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"a": 1, "b": [{"x": 1, "y": 2}]}});
        let same_as = json!({
            "spec": {"b": [{"y": 2, "x": 1}], "a": 1, "c": null},
            "metadata": {"creationTimestamp": null, "labels": {"pod-template-hash": "h", "app": "web"}, "annotations": {}},
        });
        assert!(same(&template, &same_as));
        for other in [
            json!({"metadata": {"labels": {"app": "web"}}, "spec": {"a": 2, "b": [{"x": 1, "y": 2}]}}),
            json!({"metadata": {"labels": {"app": "api"}}, "spec": {"a": 1, "b": [{"x": 1, "y": 2}]}}),
        ] {
            assert!(!same(&template, &other), "{other}");
        }
        let (with, without) = (
            json!({"spec": {"volumes": [{"emptyDir": {}}]}}),
            json!({"spec": {"volumes": [{}]}}),
        );
        assert!(!same(&with, &without), "an empty object below spec has a meaning");
    }
}
