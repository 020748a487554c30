//! Actor paths such as `/nodes/n1/pods/default/web-1`: how a person names an actor, and the order in which the registry
//! keeps them. Holds no reference to an actor.

use std::fmt;
use std::sync::Arc;

/// Why a text is no actor path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no actor path: {reason} (a path looks like /cluster/default/deployments.apps/web)")]
pub struct PathError {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// An absolute path. The root is `/`; no segment is empty and none contains a slash.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ActorPath(Arc<str>);

impl ActorPath {
    /// The root, `/`.
    pub fn root() -> ActorPath {
        ActorPath("/".into())
    }

    /// Parses what a person typed. A trailing slash is ignored.
    pub fn parse(text: &str) -> Result<ActorPath, PathError> {
        let fail = |reason| PathError {
            text: text.to_owned(),
            reason,
        };
        let rest = text
            .strip_prefix('/')
            .ok_or_else(|| fail("it must begin with a slash"))?;
        if rest.is_empty() {
            return Ok(ActorPath::root());
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.split('/').any(str::is_empty) {
            return Err(fail("a segment is empty"));
        }
        Ok(ActorPath(format!("/{rest}").into()))
    }

    /// The path of a child. A slash in the segment separates further segments; leading and doubled ones are dropped.
    #[must_use]
    pub fn child(&self, segment: &str) -> ActorPath {
        let mut path = String::with_capacity(self.0.len() + 1 + segment.len());
        path.push_str(self.0.trim_end_matches('/'));
        for part in segment.split('/').filter(|part| !part.is_empty()) {
            path.push('/');
            path.push_str(part);
        }
        if path.is_empty() {
            ActorPath::root()
        } else {
            ActorPath(path.into())
        }
    }

    /// The path above; `None` for the root.
    pub fn parent(&self) -> Option<ActorPath> {
        let (above, last) = self.0.rsplit_once('/')?;
        if last.is_empty() {
            return None;
        }
        Some(if above.is_empty() {
            ActorPath::root()
        } else {
            ActorPath(above.into())
        })
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// How many segments it has; the root has none.
    pub fn depth(&self) -> usize {
        if &*self.0 == "/" {
            0
        } else {
            self.0.matches('/').count()
        }
    }

    /// Whether it lies below `above`, at any depth.
    pub fn is_below(&self, above: &ActorPath) -> bool {
        if &*above.0 == "/" {
            return &*self.0 != "/";
        }
        self.0.strip_prefix(&*above.0).is_some_and(|rest| rest.starts_with('/'))
    }
}

impl fmt::Display for ActorPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_parse_and_print() {
        let cases = [
            ("/", Some("/")),
            ("/nodes", Some("/nodes")),
            ("/nodes/n1/", Some("/nodes/n1")),
            ("", None),
            ("nodes", None),
            ("/a//b", None),
            ("//", None),
        ];
        for (text, expected) in cases {
            assert_eq!(
                ActorPath::parse(text).ok().as_ref().map(ActorPath::as_str),
                expected,
                "{text:?}"
            );
        }
    }

    #[test]
    fn children_and_parents_are_inverse() {
        let path = ActorPath::root().child("nodes").child("n1/pods");
        assert_eq!(path.as_str(), "/nodes/n1/pods");
        assert_eq!(path.depth(), 3);
        let above: Vec<String> = std::iter::successors(path.parent(), ActorPath::parent)
            .map(|path| path.to_string())
            .collect();
        assert_eq!(above, ["/nodes/n1", "/nodes", "/"]);
    }

    #[test]
    fn below_means_whole_segments() {
        let path = |text: &str| ActorPath::parse(text).unwrap();
        for (path_text, above, expected) in [
            ("/a/b", "/a", true),
            ("/ab", "/a", false),
            ("/a", "/a", false),
            ("/a", "/", true),
            ("/", "/", false),
        ] {
            assert_eq!(
                path(path_text).is_below(&path(above)),
                expected,
                "{path_text} below {above}"
            );
        }
    }
}
