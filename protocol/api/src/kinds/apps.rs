//! What the workloads of group apps share: replicas, a selector that never changes, a template that it selects.

use protocol::selector::LabelSelector;
use serde_json::Value;

use super::checks::{Rule, check};
use super::{pod_defaults, pod_spec};
use crate::access::{Access, existing_mut};
use crate::cause::{Causes, Path};
use crate::meta;

/// Fills in the template's pod spec.
pub fn default_template(spec: &mut Value) {
    if let Some(template) = existing_mut(spec, "template")
        && template.has("spec")
    {
        pod_defaults::pod_spec(&mut template["spec"]);
    }
}

/// Validates replicas, selector and template. `what` names the kind in the message about an empty selector, `workload` in
/// that about the template.
pub fn validate(object: &Value, what: &str, workload: &str, causes: &mut Causes) {
    let root = Path::Root;
    let path = root.field("spec");
    let spec = object.at(&["spec"]);
    check(
        spec,
        &path,
        &[("replicas", Rule::NotNegative), ("minReadySeconds", Rule::NotNegative)],
        causes,
    );
    let selector = spec.at(&["selector"]);
    let at = path.field("selector");
    if selector.is_null() {
        causes.required(at, "");
    } else {
        meta::label_selector(selector, at, causes);
        if selector.members("matchLabels").next().is_none() && selector.items("matchExpressions").is_empty() {
            causes.invalid(at, selector.clone(), format!("empty selector is invalid for {what}"));
        }
    }
    let template_path = path.field("template");
    let template = spec.at(&["template"]);
    let labels = template.at(&["metadata", "labels"]);
    if let (false, Ok(parsed)) = (selector.is_null(), LabelSelector::from_value(selector)) {
        let set = labels.as_object().into_iter().flatten();
        let set = set
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect();
        if !parsed.is_empty() && !parsed.matches(&set) {
            let metadata = template_path.field("metadata");
            let text = "`selector` does not match template `labels`";
            causes.invalid(metadata.field("labels"), labels.clone(), text);
        }
    }
    pod_spec::template(template, &template_path, Some(workload), causes);
}

/// The selector of a workload never changes: its pods would be orphaned.
pub fn validate_update(old: &Value, new: &Value, causes: &mut Causes) {
    let root = Path::Root;
    let path = root.field("spec");
    meta::immutable(
        new.at(&["spec", "selector"]),
        old.at(&["spec", "selector"]),
        path.field("selector"),
        causes,
    );
}

/// `app=web,tier=front`: a selector as tables show it.
pub fn selector_text(selector: &Value) -> String {
    let parsed = if selector.is_null() {
        None
    } else {
        LabelSelector::from_value(selector).ok()
    };
    match parsed {
        Some(parsed) if !parsed.is_empty() => parsed.to_string(),
        _ => "<none>".to_owned(),
    }
}

/// The names and images of a template's containers, as the wide columns show them.
pub fn containers_and_images(template: &Value) -> (String, String) {
    let containers = template.at(&["spec"]).items("containers");
    let list = |name: &str| {
        containers
            .iter()
            .map(|container| container.text(name))
            .collect::<Vec<_>>()
            .join(",")
    };
    (list("name"), list("image"))
}
