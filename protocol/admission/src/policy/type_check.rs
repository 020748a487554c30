//! Whether the expressions of a ValidatingAdmissionPolicy fit the kinds that it is about: what `status.typeChecking` says. A
//! policy is put into force whatever this finds; its author reads it. The gateway's keeper of policies calls it. After
//! apiserver's `plugin/policy/validating/typechecking.go`.

use std::collections::BTreeSet;

use api::access::Access;
use api::cause::Path;
use api::expression_types;
use api::kinds::{self, Kind};
use expressions::Type;
use serde_json::{Value, json};

use super::definition::compose;
use crate::scene;

/// How many kinds of a policy are looked at.
const KINDS_MAX: usize = 10;

/// The `typeChecking` of a policy's status. `customs` are the kinds that the table of kinds does not know.
pub fn type_checking(policy: &Value, customs: &[&'static Kind]) -> Value {
    let spec = policy.at(&["spec"]);
    let scenes: Vec<_> = kinds_of(spec, customs)
        .into_iter()
        .map(|kind| {
            let mut plain = scene::environment(spec.at(&["paramKind"]).is_object());
            let of = expression_types::of_kind(kind).unwrap_or(Type::Dyn);
            plain.declare("object", of.clone());
            plain.declare("oldObject", of);
            if let Some(of) = parameter_kind(spec, customs).and_then(expression_types::of_kind) {
                plain.declare("params", of);
            }
            (kind, compose(plain, spec).0)
        })
        .collect();
    let mut warnings = Vec::new();
    let mut check = |at: Path<'_>, expression: &str| {
        let found = scenes.iter().filter_map(|(kind, environment)| {
            let error = environment.compile(expression).err()?;
            Some(format!("{}, Kind={}: {error}\n", version_text(kind), kind.kind))
        });
        let found: Vec<String> = found.collect();
        if !found.is_empty() {
            warnings.push(json!({"fieldRef": at.to_string(), "warning": found.join("\n")}));
        }
    };
    let (root, validations) = (Path::Root, spec.items("validations"));
    let at = root.field("spec");
    let list = at.field("validations");
    for (index, validation) in validations.iter().enumerate() {
        let item = list.index(index);
        for field in ["expression", "messageExpression"] {
            let text = validation.text(field);
            if !text.is_empty() {
                check(item.field(field), text);
            }
        }
    }
    match warnings.is_empty() {
        true => json!({}),
        false => json!({"expressionWarnings": warnings}),
    }
}

/// `apps/v1`, and `/v1` for the core group, as Go prints it.
fn version_text(kind: &Kind) -> String {
    format!("{}/{}", kind.group, kind.version)
}

fn parameter_kind(spec: &Value, customs: &[&'static Kind]) -> Option<&'static Kind> {
    let of = spec.at(&["paramKind"]);
    let (version, name) = (of.text("apiVersion"), of.text("kind"));
    let known = customs
        .iter()
        .find(|kind| kind.api_version() == version && kind.kind == name);
    kinds::find_by_kind(version, name).or(known.copied())
}

/// The kinds that the rules name one by one. A rule with a wildcard names none, and what is below objects has no kind here.
fn kinds_of(spec: &Value, customs: &[&'static Kind]) -> Vec<&'static Kind> {
    let mut found: Vec<&'static Kind> = Vec::new();
    for rule in spec.at(&["matchConstraints"]).items("resourceRules") {
        let texts = |name: &str| -> BTreeSet<&str> { rule.items(name).iter().filter_map(Value::as_str).collect() };
        let (groups, versions, mut resources) = (texts("apiGroups"), texts("apiVersions"), texts("resources"));
        if [&groups, &versions, &resources].iter().any(|texts| texts.contains("*")) {
            continue;
        }
        resources.retain(|resource| !resource.contains('/'));
        for group in &groups {
            for version in &versions {
                for plural in &resources {
                    let is_it =
                        |kind: &&&'static Kind| (kind.group, kind.version, kind.plural) == (group, version, plural);
                    let custom = customs.iter().find(is_it).copied();
                    let kind = kinds::find(group, version, plural).or(custom);
                    if let Some(kind) = kind.filter(|kind| !found.contains(kind)) {
                        found.push(kind);
                    }
                    if found.len() == KINDS_MAX {
                        return sorted(found);
                    }
                }
            }
        }
    }
    sorted(found)
}

fn sorted(mut kinds: Vec<&'static Kind>) -> Vec<&'static Kind> {
    kinds.sort_by_key(|kind| (kind.group, kind.version, kind.kind));
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::custom::{CustomKinds, conditions};
    use protocol::UnixMillis;

    fn policy(group: &str, resources: Value, validations: Value) -> Value {
        json!({"spec": {
            "matchConstraints": {"resourceRules": [
                {"apiGroups": [group], "apiVersions": ["v1"], "operations": ["*"], "resources": resources}]},
            "variables": [{"name": "spec", "expression": "object.spec"}],
            "validations": validations,
        }})
    }

    #[test]
    fn fields_that_a_kind_has_not_are_told_in_kubernetes_shape() {
        let few = json!([{"expression": "object.spec.replicas > 1"}, {"expression": "variables.spec.replica > 1",
            "messageExpression": "object.metadata.name + object.nowhere"}]);
        let checked = type_checking(&policy("apps", json!(["deployments", "deployments/scale"]), few), &[]);
        assert_eq!(
            checked,
            json!({"expressionWarnings": [
                {"fieldRef": "spec.validations[1].expression", "warning":
                    "apps/v1, Kind=Deployment: ERROR: <input>:1:15: undefined field 'replica'\n | variables.spec.replica > \
                     1\n | ..............^\n"},
                {"fieldRef": "spec.validations[1].messageExpression", "warning":
                    "apps/v1, Kind=Deployment: ERROR: <input>:1:30: undefined field 'nowhere'\n | object.metadata.name + \
                     object.nowhere\n | .............................^\n"},
            ]})
        );
        let both = json!([{"expression": "object.spec.podManagementPolicy == 'Parallel'"}]);
        let checked = type_checking(
            &policy("apps", json!(["statefulsets", "deployments"]), both.clone()),
            &[],
        );
        let warning = checked["expressionWarnings"][0]["warning"].as_str().unwrap();
        assert!(
            warning.contains("Kind=Deployment") && !warning.contains("StatefulSet"),
            "{warning}"
        );
        assert_eq!(type_checking(&policy("apps", json!(["*"]), both), &[]), json!({}));
        let wrong = json!([{"expression": "object.spec.replicas == 'two'"}]);
        let checked = type_checking(&policy("apps", json!(["deployments"]), wrong), &[]);
        let warning = checked["expressionWarnings"][0]["warning"].as_str().unwrap();
        assert!(
            warning.contains("found no matching overload for '_==_' applied to '(int, string)'"),
            "{warning}"
        );
    }

    #[test]
    fn custom_kinds_are_checked_by_their_schemas() {
        let definition = json!({
            "metadata": {"name": "widgets.example.com"}, "spec": {
                "group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget", "singular": "widget",
                    "listKind": "WidgetList"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object",
                    "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer"}}}}}}}],
            }, "status": {}});
        let established = conditions(&definition, std::iter::empty(), UnixMillis(1)).unwrap();
        let customs = CustomKinds::default();
        customs.define(&established);
        let rows = customs.rows();
        assert_eq!(rows.len(), 1);
        let validations =
            json!([{"expression": "object.spec.size > 1"}, {"expression": "object.spec.colour == 'red'"}]);
        let checked = type_checking(&policy("example.com", json!(["widgets"]), validations), &rows);
        let warnings = checked["expressionWarnings"].as_array().unwrap();
        assert_eq!(warnings.len(), 1);
        assert_eq!(warnings[0]["fieldRef"], "spec.validations[1].expression");
        let text = warnings[0]["warning"].as_str().unwrap();
        assert!(
            text.starts_with("example.com/v1, Kind=Widget: ERROR: ") && text.contains("undefined field 'colour'"),
            "{text}"
        );
    }
}
