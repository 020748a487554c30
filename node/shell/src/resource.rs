//! Which kind a word names, and the path of its objects. Pure, over the table of kinds.

use api::kinds::{Kind, find_by_kind, kinds};
use serde_json::Value;

use crate::client::ClientError;

/// The kind that a word of the command line names: plural, singular, short name or kind, with or without group
/// (`deployments.apps`).
pub fn kind_named(word: &str) -> Result<&'static Kind, ClientError> {
    let lower = word.to_lowercase();
    let (name, group) = lower
        .split_once('.')
        .map_or((lower.as_str(), None), |(name, group)| (name, Some(group)));
    let fits = |kind: &&Kind| {
        let named = kind.plural == name
            || kind.singular == name
            || kind.short_names.contains(&name)
            || kind.kind.to_lowercase() == name;
        named && group.is_none_or(|group| kind.group == group)
    };
    kinds().iter().find(fits).ok_or_else(|| {
        let known: Vec<&str> = kinds().iter().map(|kind| kind.plural).collect();
        ClientError::Usage(format!(
            "the server doesn't have a resource type {word:?}; it has: {}",
            known.join(", ")
        ))
    })
}

/// The path of a kind's collection in a namespace; `None` for all namespaces.
pub fn collection(kind: &Kind, namespace: Option<&str>) -> String {
    let root = if kind.group.is_empty() {
        "/api".to_owned()
    } else {
        format!("/apis/{}", kind.group)
    };
    match namespace.filter(|_| kind.namespaced) {
        Some(namespace) => format!("{root}/{}/namespaces/{namespace}/{}", kind.version, kind.plural),
        None => format!("{root}/{}/{}", kind.version, kind.plural),
    }
}

/// The path of an object that a file holds, and its kind and name.
pub fn object_path(object: &Value, namespace: &str) -> Result<(String, &'static Kind, String), ClientError> {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind_name, name) = (text("/apiVersion"), text("/kind"), text("/metadata/name"));
    let kind = find_by_kind(api_version, kind_name).ok_or_else(|| {
        ClientError::Usage(format!(
            "no kind {kind_name:?} in version {api_version:?} is known to the server"
        ))
    })?;
    if name.is_empty() {
        return Err(ClientError::Usage(format!("a {kind_name} has no metadata.name")));
    }
    let own = text("/metadata/namespace");
    let namespace = if own.is_empty() { namespace } else { own };
    Ok((
        format!("{}/{name}", collection(kind, Some(namespace))),
        kind,
        name.to_owned(),
    ))
}

/// `pod/web` or `pod web other`: kind and names.
pub fn names(words: &[String]) -> Result<(&'static Kind, Vec<String>), ClientError> {
    let Some((first, rest)) = words.split_first() else {
        return Err(ClientError::Usage(
            "name a kind, such as pods, and perhaps an object".to_owned(),
        ));
    };
    match first.split_once('/') {
        Some((kind, name)) => {
            let mut all = vec![name.to_owned()];
            for word in rest {
                all.push(word.split_once('/').map_or(word.clone(), |(_, name)| name.to_owned()));
            }
            Ok((kind_named(kind)?, all))
        }
        None => Ok((kind_named(first)?, rest.to_vec())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn kinds_are_found_by_every_name_they_have() {
        for word in ["deploy", "deployments", "Deployment", "deployment", "deployments.apps"] {
            assert_eq!(kind_named(word).unwrap().kind, "Deployment", "{word}");
        }
        assert!(
            kind_named("things")
                .unwrap_err()
                .to_string()
                .contains("the server doesn't have a resource type \"things\"")
        );
    }

    #[test]
    fn paths_follow_group_and_namespace() {
        assert_eq!(
            collection(kind_named("po").unwrap(), Some("d")),
            "/api/v1/namespaces/d/pods"
        );
        assert_eq!(
            collection(kind_named("deploy").unwrap(), None),
            "/apis/apps/v1/deployments"
        );
        assert_eq!(collection(kind_named("nodes").unwrap(), Some("d")), "/api/v1/nodes");
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "x"}});
        assert_eq!(
            object_path(&object, "d").unwrap().0,
            "/api/v1/namespaces/x/configmaps/c"
        );
    }

    #[test]
    fn names_may_carry_their_kind() {
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let (kind, found) = names(&words(&["pod/a", "pod/b"])).unwrap();
        assert_eq!((kind.kind, found), ("Pod", words(&["a", "b"])));
        assert_eq!(names(&words(&["svc", "a"])).unwrap().1, words(&["a"]));
    }
}
