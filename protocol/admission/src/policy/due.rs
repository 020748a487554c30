//! Which policies are due for a request, through which binding, and which objects they take as parameters.

use std::sync::Arc;

use api::access::Access;
use api::kinds::{self, Kind};
use protocol::selector::LabelSelector;
use protocol::{Key, Resource};
use serde_json::Value;

use super::definition::{Binding, InForce, Policy};
use crate::facts::Facts;
use crate::matching::Asked;

/// The objects that a policy takes as parameters.
#[derive(Clone, Debug, PartialEq)]
pub enum Parameters {
    /// None: it is evaluated once, with null.
    None,
    /// The object of this key, in this kind's version.
    One {
        /// Its kind.
        kind: &'static Kind,
        /// Its key.
        key: Key,
    },
    /// All that are selected.
    Selected {
        /// Their kind.
        kind: &'static Kind,
        /// Their namespace; `None` for cluster-scoped ones.
        namespace: Option<String>,
        /// Which.
        selector: LabelSelector,
    },
    /// They cannot be had: why.
    Unknown(String),
}

impl Parameters {
    /// The resource of the objects.
    pub fn resource(&self) -> Option<Resource> {
        match self {
            Parameters::One { kind, .. } | Parameters::Selected { kind, .. } => Some(kind.resource()),
            Parameters::None | Parameters::Unknown(_) => None,
        }
    }
}

/// A policy that a request is to be judged by.
#[derive(Clone, Debug)]
pub struct Due<'k> {
    /// The policy.
    pub policy: Arc<Policy>,
    /// The binding; `None` where the policy itself could not be matched.
    pub binding: Option<Arc<Binding>>,
    /// The version in which it sees objects.
    pub(super) seen: &'k Kind,
    /// What it takes.
    pub parameters: Parameters,
}

/// The policies that are due for a request. Null stands for an object that there is not.
pub fn due<'k>(in_force: &[InForce], asked: &Asked<'k>, object: &Value, old: &Value, facts: &Facts) -> Vec<Due<'k>> {
    let mut all = Vec::new();
    if asked.is_exempt() {
        return all;
    }
    for (policy, bindings) in in_force {
        let broken = |binding: Option<&Arc<Binding>>, why: String| Due {
            policy: Arc::clone(policy),
            binding: binding.cloned(),
            seen: asked.kind,
            parameters: Parameters::Unknown(why),
        };
        let matched = match &policy.criteria {
            Some(criteria) => criteria.matches(asked, object, old, facts),
            None => Ok(None),
        };
        let seen = match matched {
            Ok(Some(seen)) => seen,
            Ok(None) => continue,
            Err(status) => {
                all.push(broken(None, format!("failed to configure policy: {}", status.message)));
                continue;
            }
        };
        for binding in bindings {
            let bound = match &binding.criteria {
                Some(criteria) => criteria.matches(asked, object, old, facts).map(|seen| seen.is_some()),
                None => Ok(true),
            };
            match bound {
                Ok(false) => {}
                Err(status) => all.push(broken(
                    Some(binding),
                    format!("failed to configure binding: {}", status.message),
                )),
                Ok(true) => all.push(Due {
                    policy: Arc::clone(policy),
                    binding: Some(Arc::clone(binding)),
                    seen,
                    parameters: parameters(policy, binding, asked),
                }),
            }
        }
    }
    all
}

fn parameters(policy: &Policy, binding: &Binding, asked: &Asked<'_>) -> Parameters {
    let namespace = asked.place();
    let unknown = |why: String| Parameters::Unknown(format!("failed to configure binding: {why}"));
    let Some((api_version, kind)) = &policy.param_kind else {
        return Parameters::None;
    };
    let by = &binding.param_ref;
    if !by.is_object() {
        return Parameters::None;
    }
    let found = kinds::find_by_kind(api_version, kind).or_else(|| asked.customs.find_by_kind(api_version, kind));
    let Some(kind) = found else {
        return unknown(format!("paramKind kind `{api_version}, Kind={kind}` not known"));
    };
    let named = by.text("namespace");
    let namespace = match (kind.namespaced, named) {
        (false, "") => String::new(),
        (false, _) => {
            return unknown("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned());
        }
        (true, "") if namespace.is_empty() => {
            let text = "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources";
            return unknown(text.to_owned());
        }
        (true, "") => namespace.to_owned(),
        (true, named) => named.to_owned(),
    };
    let name = by.text("name");
    if !name.is_empty() {
        let key = Key::new(kind.resource(), namespace.as_str(), name);
        return Parameters::One { kind, key };
    }
    match LabelSelector::from_value(by.at(&["selector"])) {
        Ok(selector) if by.has("selector") => Parameters::Selected {
            kind,
            namespace: kind.namespaced.then_some(namespace),
            selector,
        },
        Ok(_) => unknown("one of name or selector must be provided".to_owned()),
        Err(error) => unknown(error.to_string()),
    }
}

impl Due<'_> {
    /// Which policy by which binding.
    pub(crate) fn place(&self) -> (Arc<str>, Arc<str>) {
        let binding = self.binding.as_ref();
        let binding = binding.map_or_else(|| "".into(), |binding| Arc::clone(&binding.name));
        (Arc::clone(&self.policy.name), binding)
    }

    /// With what the policy is evaluated, one by one; null stands for no parameters.
    ///
    /// # Errors
    ///
    /// Why it cannot be evaluated.
    pub(super) fn evaluations<'p>(&self, read: &'p [Arc<Value>]) -> Result<Vec<&'p Value>, String> {
        static NONE: Value = Value::Null;
        match &self.parameters {
            Parameters::None => Ok(vec![&NONE]),
            Parameters::Unknown(why) => Err(why.clone()),
            Parameters::One { .. } | Parameters::Selected { .. } => {
                let action = self
                    .binding
                    .as_ref()
                    .map_or("", |binding| binding.param_ref.text("parameterNotFoundAction"));
                if read.is_empty() && action == "Deny" {
                    let text = "failed to configure binding: no params found for policy binding with `Deny` \
                                parameterNotFoundAction";
                    return Err(text.to_owned());
                }
                Ok(read.iter().map(|value| &**value).collect())
            }
        }
    }
}
