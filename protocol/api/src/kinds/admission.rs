//! admissionregistration.k8s.io: configurations of webhooks, policies in CEL and their bindings. Rows, defaults, validation
//! and columns. What an expression means is decided elsewhere.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::checks::{self, Rule, check};
use super::{Conversion, Generation, Kind, Subresource, cells};
use crate::access::{Access, existing_mut, items_mut, set_default, set_default_text};
use crate::cause::{Causes, Path};
use crate::rules;
use crate::table::Column;

const FAILURE_POLICIES: &[&str] = &["Fail", "Ignore"];
const MATCH_POLICIES: &[&str] = &["Equivalent", "Exact"];
const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const SCOPES: &[&str] = &["*", "Cluster", "Namespaced"];

const WEBHOOK_COLUMNS: &[Column] = &[
    Column::NAME,
    Column::integer("Webhooks", "The number of webhooks."),
    Column::AGE,
];

pub const VALIDATING_WEBHOOKS: Kind = Kind {
    namespaced: false,
    categories: &["api-extensions"],
    generation: Generation::Spec,
    default: |object| default_webhooks(object, false),
    validate: |object, causes| webhooks(object, false, causes),
    columns: WEBHOOK_COLUMNS,
    cells: |object, now| {
        vec![
            cells::name(object),
            object.items("webhooks").len().into(),
            cells::created_ago(object, now),
        ]
    },
    ..row!(
        "admissionregistration.k8s.io",
        v1,
        admissionregistration,
        ValidatingWebhookConfiguration,
        "validatingwebhookconfigurations",
        "validatingwebhookconfiguration"
    )
};

pub const MUTATING_WEBHOOKS: Kind = Kind {
    namespaced: false,
    categories: &["api-extensions"],
    generation: Generation::Spec,
    default: |object| default_webhooks(object, true),
    validate: |object, causes| webhooks(object, true, causes),
    columns: WEBHOOK_COLUMNS,
    cells: VALIDATING_WEBHOOKS.cells,
    ..row!(
        "admissionregistration.k8s.io",
        v1,
        admissionregistration,
        MutatingWebhookConfiguration,
        "mutatingwebhookconfigurations",
        "mutatingwebhookconfiguration"
    )
};

pub const VALIDATING_POLICY: Kind = Kind {
    namespaced: false,
    categories: &["api-extensions"],
    subresources: &[Subresource::Status],
    generation: Generation::Spec,
    default: default_policy,
    validate: |object, causes| {
        policy(object, causes);
        let root = Path::Root;
        let path = root.field("spec");
        let spec = object.at(&["spec"]);
        if spec.items("validations").is_empty() && spec.items("auditAnnotations").is_empty() {
            let text = "validations or auditAnnotations must contain at least one item";
            causes.required(path.field("validations"), text);
            causes.required(path.field("auditAnnotations"), text);
        }
        check(
            spec,
            &path,
            &[
                (
                    "validations[].expression",
                    Rule::RequiredBecause("expression is not specified"),
                ),
                ("auditAnnotations", Rule::Unique("key")),
                ("auditAnnotations[].key", Rule::Required),
                (
                    "auditAnnotations[].valueExpression",
                    Rule::RequiredBecause("valueExpression is not specified"),
                ),
            ],
            causes,
        );
    },
    columns: &[
        Column::NAME,
        Column::integer("Validations", "The number of validations."),
        Column::text("ParamKind", "The kind of the objects that configure the policy."),
        Column::AGE,
    ],
    cells: |object, now| {
        vec![
            cells::name(object),
            object.at(&["spec"]).items("validations").len().into(),
            parameter_kind(object).into(),
            cells::created_ago(object, now),
        ]
    },
    ..row!(
        "admissionregistration.k8s.io",
        v1,
        admissionregistration,
        ValidatingAdmissionPolicy,
        "validatingadmissionpolicies",
        "validatingadmissionpolicy"
    )
};

const BINDING_COLUMNS: &[Column] = &[
    Column::NAME,
    Column::text("PolicyName", "The policy that is put into force."),
    Column::text("ParamRef", "The object that configures it."),
    Column::AGE,
];

pub const VALIDATING_BINDING: Kind = Kind {
    namespaced: false,
    categories: &["api-extensions"],
    generation: Generation::Spec,
    default: default_binding,
    validate: |object, causes| {
        binding(object, causes);
        let root = Path::Root;
        let path = root.field("spec");
        let spec = object.at(&["spec"]);
        check(
            spec,
            &path,
            &[
                (
                    "validationActions",
                    Rule::RequiredBecause("at least one validation action is required"),
                ),
                ("validationActions[]", Rule::MustBe(&["Audit", "Deny", "Warn"])),
                ("validationActions", Rule::Unique("")),
            ],
            causes,
        );
        let has = |action: &str| {
            spec.items("validationActions")
                .iter()
                .any(|given| given.as_str() == Some(action))
        };
        if has("Deny") && has("Warn") {
            let value = spec.at(&["validationActions"]).clone();
            let text = "must not contain both Deny and Warn (repeating the same validation failure information in the API \
                        response and headers serves no purpose)";
            causes.invalid(path.field("validationActions"), value, text);
        }
    },
    columns: BINDING_COLUMNS,
    cells: |object, now| {
        vec![
            cells::name(object),
            cells::text(object, &["spec", "policyName"]),
            parameter(object).into(),
            cells::created_ago(object, now),
        ]
    },
    ..row!(
        "admissionregistration.k8s.io",
        v1,
        admissionregistration,
        ValidatingAdmissionPolicyBinding,
        "validatingadmissionpolicybindings",
        "validatingadmissionpolicybinding"
    )
};

pub const MUTATING_POLICY: Kind = Kind {
    namespaced: false,
    categories: &["api-extensions"],
    generation: Generation::Spec,
    default: default_policy,
    validate: |object, causes| {
        policy(object, causes);
        let root = Path::Root;
        let path = root.field("spec");
        let spec = object.at(&["spec"]);
        check(
            spec,
            &path,
            &[
                (
                    "mutations",
                    Rule::RequiredBecause("mutations must contain at least one item"),
                ),
                (
                    "mutations[].patchType",
                    Rule::RequiredKnown(&["ApplyConfiguration", "JSONPatch"]),
                ),
                ("reinvocationPolicy", Rule::RequiredKnown(&["IfNeeded", "Never"])),
            ],
            causes,
        );
        let list = path.field("mutations");
        for (index, mutation) in spec.items("mutations").iter().enumerate() {
            let at = list.index(index);
            let field = match mutation.text("patchType") {
                "ApplyConfiguration" => "applyConfiguration",
                "JSONPatch" => "jsonPatch",
                _ => continue,
            };
            if mutation.at(&[field]).text("expression").is_empty() {
                let field = at.field(field);
                causes.required(field.field("expression"), "expression is not specified");
            }
        }
    },
    columns: &[
        Column::NAME,
        Column::integer("Mutations", "The number of mutations."),
        Column::text("ParamKind", "The kind of the objects that configure the policy."),
        Column::AGE,
    ],
    cells: |object, now| {
        vec![
            cells::name(object),
            object.at(&["spec"]).items("mutations").len().into(),
            parameter_kind(object).into(),
            cells::created_ago(object, now),
        ]
    },
    ..row!(
        "admissionregistration.k8s.io",
        v1,
        admissionregistration,
        MutatingAdmissionPolicy,
        "mutatingadmissionpolicies",
        "mutatingadmissionpolicy"
    )
};

pub const MUTATING_BINDING: Kind = Kind {
    namespaced: false,
    categories: &["api-extensions"],
    generation: Generation::Spec,
    default: default_binding,
    validate: binding,
    columns: BINDING_COLUMNS,
    cells: VALIDATING_BINDING.cells,
    ..row!(
        "admissionregistration.k8s.io",
        v1,
        admissionregistration,
        MutatingAdmissionPolicyBinding,
        "mutatingadmissionpolicybindings",
        "mutatingadmissionpolicybinding"
    )
};

static POLICY_STORED: Conversion = Conversion::renamed(
    "admissionregistration.k8s.io",
    "v1",
    "MutatingAdmissionPolicy",
    "mutatingadmissionpolicies",
);
static BINDING_STORED: Conversion = Conversion::renamed(
    "admissionregistration.k8s.io",
    "v1",
    "MutatingAdmissionPolicyBinding",
    "mutatingadmissionpolicybindings",
);

pub const MUTATING_POLICY_V1BETA1: Kind = version_of!(
    MUTATING_POLICY,
    v1beta1,
    admissionregistration,
    MutatingAdmissionPolicy,
    &POLICY_STORED
);
pub const MUTATING_BINDING_V1BETA1: Kind = version_of!(
    MUTATING_BINDING,
    v1beta1,
    admissionregistration,
    MutatingAdmissionPolicyBinding,
    &BINDING_STORED
);
pub const MUTATING_POLICY_V1ALPHA1: Kind = version_of!(
    MUTATING_POLICY,
    v1alpha1,
    admissionregistration,
    MutatingAdmissionPolicy,
    &POLICY_STORED
);
pub const MUTATING_BINDING_V1ALPHA1: Kind = version_of!(
    MUTATING_BINDING,
    v1alpha1,
    admissionregistration,
    MutatingAdmissionPolicyBinding,
    &BINDING_STORED
);

fn default_webhooks(object: &mut Value, mutating: bool) {
    for webhook in items_mut(object, "webhooks")
        .iter_mut()
        .filter(|webhook| webhook.is_object())
    {
        set_default_text(webhook, "failurePolicy", "Fail");
        set_default_text(webhook, "matchPolicy", "Equivalent");
        set_default(webhook, "namespaceSelector", Map::new());
        set_default(webhook, "objectSelector", Map::new());
        set_default(webhook, "timeoutSeconds", 10);
        if mutating {
            set_default_text(webhook, "reinvocationPolicy", "Never");
        }
        for rule in items_mut(webhook, "rules") {
            set_default_text(rule, "scope", "*");
        }
        if let Some(client) = existing_mut(webhook, "clientConfig")
            && let Some(service) = existing_mut(client, "service")
        {
            set_default(service, "port", 443);
        }
    }
}

fn webhooks(object: &Value, mutating: bool, causes: &mut Causes) {
    let root = Path::Root;
    let list = root.field("webhooks");
    check(object, &root, &[("webhooks", Rule::Unique("name"))], causes);
    for (index, webhook) in object.items("webhooks").iter().enumerate() {
        let at = list.index(index);
        check(
            webhook,
            &at,
            &[("name", Rule::RequiredForm(rules::fully_qualified))],
            causes,
        );
        let versions = webhook.items("admissionReviewVersions");
        let field = at.field("admissionReviewVersions");
        if versions.is_empty() {
            causes.required(field, "must specify one of v1, v1beta1");
        } else if !versions
            .iter()
            .any(|version| matches!(version.as_str(), Some("v1" | "v1beta1")))
        {
            let value = webhook.at(&["admissionReviewVersions"]).clone();
            causes.invalid(field, value, "must include at least one of v1, v1beta1");
        }
        operations(webhook, "rules", &at, causes);
        check(
            webhook,
            &at,
            &[
                ("failurePolicy", Rule::Known(FAILURE_POLICIES)),
                ("matchPolicy", Rule::Known(MATCH_POLICIES)),
                ("namespaceSelector", Rule::Selector),
                ("objectSelector", Rule::Selector),
            ],
            causes,
        );
        if mutating {
            check(
                webhook,
                &at,
                &[("reinvocationPolicy", Rule::Known(&["IfNeeded", "Never"]))],
                causes,
            );
        }
        let effects = ["None", "NoneOnDryRun"];
        match webhook.text("sideEffects") {
            "" => causes.required(at.field("sideEffects"), "must specify one of None, NoneOnDryRun"),
            given if !effects.contains(&given) => causes.not_supported(at.field("sideEffects"), given, &effects),
            _ => {}
        }
        if let Some(seconds) = webhook
            .int("timeoutSeconds")
            .filter(|seconds| !(1..=30).contains(seconds))
        {
            let text = "the timeout value must be between 1 and 30 seconds";
            causes.invalid(at.field("timeoutSeconds"), seconds, text);
        }
        match_conditions(webhook, &at, causes);
        client_config(webhook.at(&["clientConfig"]), &at.field("clientConfig"), causes);
    }
}

/// Where a webhook is: a URL or a service.
pub fn client_config(client: &Value, path: &Path<'_>, causes: &mut Causes) {
    let (url, service) = (client.text("url"), client.at(&["service"]));
    if client.has("url") == client.has("service") {
        causes.required(*path, "exactly one of url or service is required");
        return;
    }
    if client.has("url") {
        let at = path.field("url");
        let Some(rest) = url.strip_prefix("https://") else {
            let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
            let text =
                format!("'https' is the only allowed URL scheme; desired format: https://host[/path] (not {scheme:?})");
            causes.invalid(at, url, text);
            return;
        };
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if host.is_empty() {
            causes.invalid(at, url, "host must be specified; desired format: https://host[/path]");
        }
        if host.contains('@') {
            causes.invalid(at, url, "user information is not permitted in the URL");
        }
        if rest.contains('#') {
            causes.invalid(at, url, "fragments are not permitted in the URL");
        }
        if rest.contains('?') {
            causes.invalid(at, url, "query parameters are not permitted in the URL");
        }
        return;
    }
    let at = path.field("service");
    check(
        service,
        &at,
        &[
            ("name", Rule::RequiredBecause("service name is required")),
            ("namespace", Rule::RequiredBecause("service namespace is required")),
        ],
        causes,
    );
    let port = service.int("port").unwrap_or(443);
    for problem in rules::port_number(port) {
        causes.invalid(at.field("port"), port, format!("port is not valid: {problem}"));
    }
    let place = service.text("path");
    if !place.is_empty() && !place.starts_with('/') {
        causes.invalid(at.field("path"), place, "must start with a '/'");
    }
}

/// Which operations on which resources are meant.
fn operations(holder: &Value, field: &str, path: &Path<'_>, causes: &mut Causes) {
    let list = path.field(field);
    for (index, rule) in holder.items(field).iter().enumerate() {
        let at = list.index(index);
        check(
            rule,
            &at,
            &[
                ("operations", Rule::Required),
                ("operations[]", Rule::MustBe(OPERATIONS)),
                ("apiGroups", Rule::Required),
                ("apiVersions", Rule::Required),
                ("apiVersions[]", Rule::Required),
                ("resources", Rule::Required),
                ("resources[]", Rule::Required),
                ("scope", Rule::Known(SCOPES)),
            ],
            causes,
        );
        for (name, star) in [("operations", "*"), ("apiGroups", "*"), ("apiVersions", "*")] {
            let given = rule.items(name);
            if given.len() > 1 && given.iter().any(|value| value.as_str() == Some(star)) {
                let value = rule.at(&[name]).clone();
                let text = if name == "operations" {
                    "if '*' is present, must not specify other operations"
                } else if name == "apiGroups" {
                    "if '*' is present, must not specify other API groups"
                } else {
                    "if '*' is present, must not specify other API versions"
                };
                causes.invalid(at.field(name), value, text);
            }
        }
    }
}

fn match_conditions(holder: &Value, path: &Path<'_>, causes: &mut Causes) {
    check(
        holder,
        path,
        &[
            ("matchConditions", Rule::ItemsMax(64)),
            ("matchConditions", Rule::Unique("name")),
            ("matchConditions[].name", Rule::RequiredForm(rules::qualified_name)),
            ("matchConditions[].expression", Rule::Required),
        ],
        causes,
    );
}

fn default_match(resources: &mut Value) {
    set_default_text(resources, "matchPolicy", "Equivalent");
    set_default(resources, "namespaceSelector", Map::new());
    set_default(resources, "objectSelector", Map::new());
    for list in ["resourceRules", "excludeResourceRules"] {
        for rule in items_mut(resources, list) {
            set_default_text(rule, "scope", "*");
        }
    }
}

fn default_policy(object: &mut Value) {
    if let Some(spec) = existing_mut(object, "spec") {
        set_default_text(spec, "failurePolicy", "Fail");
        if let Some(constraints) = existing_mut(spec, "matchConstraints") {
            default_match(constraints);
        }
    }
}

fn default_binding(object: &mut Value) {
    if let Some(spec) = existing_mut(object, "spec") {
        if let Some(resources) = existing_mut(spec, "matchResources") {
            default_match(resources);
        }
        if let Some(reference) = existing_mut(spec, "paramRef") {
            set_default_text(reference, "parameterNotFoundAction", "Deny");
        }
    }
}

fn match_resources(resources: &Value, path: &Path<'_>, causes: &mut Causes) {
    check(
        resources,
        path,
        &[
            ("matchPolicy", Rule::RequiredKnown(MATCH_POLICIES)),
            ("namespaceSelector", Rule::Selector),
            ("objectSelector", Rule::Selector),
        ],
        causes,
    );
    for list in ["resourceRules", "excludeResourceRules"] {
        operations(resources, list, path, causes);
    }
}

fn policy(object: &Value, causes: &mut Causes) {
    let root = Path::Root;
    let path = root.field("spec");
    let spec = object.at(&["spec"]);
    check(
        spec,
        &path,
        &[("failurePolicy", Rule::RequiredKnown(FAILURE_POLICIES))],
        causes,
    );
    if spec.has("paramKind") {
        check(
            spec,
            &path,
            &[
                ("paramKind.apiVersion", Rule::Required),
                ("paramKind.kind", Rule::RequiredForm(lower_label)),
            ],
            causes,
        );
    }
    let at = path.field("matchConstraints");
    let constraints = spec.at(&["matchConstraints"]);
    if constraints.is_null() {
        causes.required(at, "");
    } else {
        match_resources(constraints, &at, causes);
        if constraints.items("resourceRules").is_empty() {
            causes.required(at.field("resourceRules"), "");
        }
    }
    match_conditions(spec, &path, causes);
    let mut known = BTreeSet::new();
    let list = path.field("variables");
    for (index, variable) in spec.items("variables").iter().enumerate() {
        let at = list.index(index);
        let name = variable.text("name");
        check(
            variable,
            &at,
            &[("name", Rule::Required), ("expression", Rule::Required)],
            causes,
        );
        if !name.is_empty() && !known.insert(name) {
            causes.duplicate(at.field("name"), name);
        }
    }
}

fn lower_label(text: &str) -> rules::Problems {
    rules::dns_1035_label(&text.to_lowercase())
}

fn binding(object: &Value, causes: &mut Causes) {
    let root = Path::Root;
    let path = root.field("spec");
    let spec = object.at(&["spec"]);
    check(
        spec,
        &path,
        &[("policyName", Rule::RequiredForm(rules::dns_subdomain))],
        causes,
    );
    if spec.has("matchResources") {
        match_resources(spec.at(&["matchResources"]), &path.field("matchResources"), causes);
    }
    let reference = spec.at(&["paramRef"]);
    if reference.is_null() {
        return;
    }
    let at = path.field("paramRef");
    check(reference, &at, &[("selector", Rule::Selector)], causes);
    match (reference.text("name").is_empty(), reference.has("selector")) {
        (true, false) => causes.required(at, "one of name or selector must be specified"),
        (false, true) => {
            let text = "name and selector are mutually exclusive";
            causes.forbidden(at.field("name"), text);
        }
        _ => {}
    }
    checks::check(
        reference,
        &at,
        &[("parameterNotFoundAction", Rule::RequiredKnown(&["Allow", "Deny"]))],
        causes,
    );
}

fn parameter_kind(object: &Value) -> String {
    let kind = object.at(&["spec", "paramKind"]);
    if kind.is_null() {
        "<unset>".to_owned()
    } else {
        format!("{}/{}", kind.text("apiVersion"), kind.text("kind"))
    }
}

fn parameter(object: &Value) -> String {
    let reference = object.at(&["spec", "paramRef"]);
    match (reference.text("namespace"), reference.text("name")) {
        _ if reference.is_null() => "<unset>".to_owned(),
        ("", "") => "*".to_owned(),
        ("", name) => format!("*/{name}"),
        (namespace, "") => format!("{namespace}/*"),
        (namespace, name) => format!("{namespace}/{name}"),
    }
}
