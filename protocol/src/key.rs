//! How an object is addressed: its resource (plural name and API group), its namespace and its name. The store orders
//! by the bytes of a key, so that one resource, and one namespace of it, is one contiguous range.

use std::fmt;
use std::sync::Arc;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// A resource as Kubernetes prints a GroupResource: `pods`, `deployments.apps`, `leases.coordination.k8s.io`. The
/// version is not part of it: every version of an object is one stored object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Resource(Arc<str>);

impl Resource {
    /// From the printed form, `plural` or `plural.group`.
    pub fn new(text: impl Into<Arc<str>>) -> Resource {
        Resource(text.into())
    }

    /// From plural name and group; the core group is the empty string.
    pub fn of(plural: &str, group: &str) -> Resource {
        if group.is_empty() {
            Resource(plural.into())
        } else {
            Resource(format!("{plural}.{group}").into())
        }
    }

    /// The printed form.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The plural name: `deployments`.
    pub fn plural(&self) -> &str {
        self.0.split_once('.').map_or(&*self.0, |(plural, _)| plural)
    }

    /// The API group: `apps`; empty for the core group.
    pub fn group(&self) -> &str {
        self.0.split_once('.').map_or("", |(_, group)| group)
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for Resource {
    fn from(text: &str) -> Self {
        Resource::new(text)
    }
}

/// Addresses one object. A cluster-scoped object has an empty namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize)]
pub struct Key {
    /// The resource.
    pub resource: Resource,
    /// The namespace; empty for cluster-scoped resources.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl Key {
    /// A key from its three parts.
    pub fn new(resource: impl Into<Resource>, namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Key {
        Key {
            resource: resource.into(),
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The bytes by which the store orders: `resource NUL namespace NUL name`. Validated names contain no NUL.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.resource.0.len() + self.namespace.len() + self.name.len() + 2);
        bytes.extend_from_slice(self.resource.0.as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(self.namespace.as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(self.name.as_bytes());
        bytes
    }

    /// The inverse of `to_bytes`; `None` for bytes that no key produces.
    pub fn from_bytes(bytes: &[u8]) -> Option<Key> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut parts = text.splitn(3, '\0');
        let (resource, namespace, name) = (parts.next()?, parts.next()?, parts.next()?);
        (!name.contains('\0')).then(|| Key::new(Resource::new(resource), namespace, name))
    }

    /// The prefix that all keys of a resource share, or of one namespace of it.
    pub fn prefix(resource: &Resource, namespace: Option<&str>) -> Vec<u8> {
        let mut bytes = resource.0.as_bytes().to_vec();
        bytes.push(0);
        if let Some(namespace) = namespace {
            bytes.extend_from_slice(namespace.as_bytes());
            bytes.push(0);
        }
        bytes
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{}/{}", self.resource, self.name)
        } else {
            write!(f, "{}/{}/{}", self.resource, self.namespace, self.name)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_bytes_round_trip_and_keep_namespaces_together() {
        let key = Key::new("deployments.apps", "default", "web");
        assert_eq!(Key::from_bytes(&key.to_bytes()), Some(key.clone()));
        assert!(key.to_bytes().starts_with(&Key::prefix(&key.resource, Some("default"))));
        assert!(!key.to_bytes().starts_with(&Key::prefix(&key.resource, Some("defaul"))));
        assert_eq!(Key::from_bytes(b"pods"), None);
        assert_eq!(Key::from_bytes(b"a\0b\0c\0d"), None);
    }

    #[test]
    fn a_resource_splits_into_plural_and_group() {
        let leases = Resource::new("leases.coordination.k8s.io");
        assert_eq!((leases.plural(), leases.group()), ("leases", "coordination.k8s.io"));
        assert_eq!(Resource::of("pods", "").to_string(), "pods");
        assert_eq!(Resource::of("leases", "coordination.k8s.io"), leases);
    }
}
