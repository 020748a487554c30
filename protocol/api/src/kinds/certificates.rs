//! certificates.k8s.io: CertificateSigningRequest, ClusterTrustBundle and PodCertificateRequest. Rows, validation, columns.
//! Nothing here checks a signature; a request's PEM envelope is all that is looked at.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use protocol::UnixMillis;
use serde_json::{Map, Value};

use super::checks::{self, Rule, check};
use super::{Conversion, Kind, Subresource, cells};
use crate::access::{Access, object_mut, remove};
use crate::cause::{Causes, Path};
use crate::rules::{self, Problems};
use crate::table::Column;
use crate::time::age;
use crate::write::WriteContext;

/// The shortest life that can be asked for.
const SECONDS_MIN: i64 = 600;
/// The names of the uses that a certificate can have.
const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

pub const SIGNING_REQUEST: Kind = Kind {
    short_names: &["csr"],
    namespaced: false,
    subresources: &[Subresource::Status, Subresource::Approval],
    selectable_fields: &["spec.signerName"],
    stamp: requester,
    prepare_update: |old, new| {
        // What was asked for, and by whom, stays.
        new["spec"] = old.at(&["spec"]).clone();
    },
    validate: validate_signing_request,
    validate_status: |old, new, causes| decisions(old, new, causes),
    columns: &[
        Column::NAME,
        Column::AGE,
        Column::text("SignerName", "Who is asked to sign."),
        Column::text("Requestor", "Who asks."),
        Column::text("RequestedDuration", "For how long the certificate should be valid."),
        Column::text("Condition", "What was decided, and whether the certificate was issued."),
    ],
    cells: print_signing_request,
    ..row!(
        "certificates.k8s.io",
        v1,
        certificates,
        CertificateSigningRequest,
        "certificatesigningrequests",
        "certificatesigningrequest"
    )
};

pub const TRUST_BUNDLE: Kind = Kind {
    namespaced: false,
    selectable_fields: &["spec.signerName"],
    validate: |object, causes| {
        let root = Path::Root;
        let path = root.field("spec");
        let spec = object.at(&["spec"]);
        check(spec, &path, &[("signerName", Rule::Form(signer_name))], causes);
        // The bundles of a signer are named after it.
        let (name, signer) = (object.at(&["metadata"]).text("name"), spec.text("signerName"));
        let metadata = root.field("metadata");
        let prefix = format!("{}:", signer.replace('/', ":"));
        if !signer.is_empty() && !name.starts_with(&prefix) {
            let text = format!("ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}");
            causes.invalid(metadata.field("name"), name, text);
        }
        if signer.is_empty() && name.contains(':') {
            let text = "ClusterTrustBundle without signer name must not have \":\" in its name";
            causes.invalid(metadata.field("name"), name, text);
        }
        let bundle = spec.text("trustBundle");
        if !bundle.contains("-----BEGIN CERTIFICATE-----") {
            let text = "at least one trust anchor must be provided";
            causes.invalid(path.field("trustBundle"), "<value omitted>", text);
        }
    },
    validate_update: |old, new, causes| checks::immutable(old, new, &["spec.signerName"], causes),
    name_rule: |name| rules::dns_subdomain(name.rsplit(':').next().unwrap_or(name)),
    columns: &[
        Column::NAME,
        Column::text("SignerName", "Whose certificates it vouches for."),
    ],
    cells: |object, _| {
        vec![
            cells::name(object),
            cells::text_or(object, &["spec", "signerName"], "<none>"),
        ]
    },
    ..row!(
        "certificates.k8s.io",
        v1,
        certificates,
        ClusterTrustBundle,
        "clustertrustbundles",
        "clustertrustbundle"
    )
};

static TRUST_BUNDLE_STORED: Conversion =
    Conversion::renamed("certificates.k8s.io", "v1", "ClusterTrustBundle", "clustertrustbundles");
pub const TRUST_BUNDLE_V1BETA1: Kind = version_of!(
    TRUST_BUNDLE,
    v1beta1,
    certificates,
    ClusterTrustBundle,
    &TRUST_BUNDLE_STORED
);
pub const POD_REQUEST: Kind = Kind {
    subresources: &[Subresource::Status],
    selectable_fields: &["spec.signerName", "spec.podName", "spec.nodeName"],
    validate: |object, causes| {
        let root = Path::Root;
        check(
            object.at(&["spec"]),
            &root.field("spec"),
            &[
                ("signerName", Rule::RequiredForm(signer_name)),
                ("podName", Rule::RequiredForm(rules::dns_subdomain)),
                ("podUID", Rule::Required),
                ("serviceAccountName", Rule::RequiredForm(rules::dns_subdomain)),
                ("serviceAccountUID", Rule::Required),
                ("nodeName", Rule::RequiredForm(rules::dns_subdomain)),
                ("nodeUID", Rule::Required),
                ("stubPKCS10Request", Rule::Required),
                ("maxExpirationSeconds", Rule::Within(3600, 7_862_400)),
            ],
            causes,
        );
    },
    validate_update: |old, new, causes| checks::immutable(old, new, &["spec"], causes),
    columns: &[
        Column::NAME,
        Column::text("PodName", "The pod that asks."),
        Column::text("ServiceAccountName", "Its service account."),
        Column::text("NodeName", "Its node."),
        Column::text("SignerName", "Who is asked to sign."),
        Column::text("State", "What was decided."),
    ],
    cells: |object, _| {
        let state = ["Denied", "Failed", "Issued"]
            .into_iter()
            .find(|state| cells::has_condition(object, state));
        vec![
            cells::name(object),
            cells::text(object, &["spec", "podName"]),
            cells::text(object, &["spec", "serviceAccountName"]),
            cells::text(object, &["spec", "nodeName"]),
            cells::text(object, &["spec", "signerName"]),
            state.unwrap_or("Pending").into(),
        ]
    },
    ..row!(
        "certificates.k8s.io",
        v1,
        certificates,
        PodCertificateRequest,
        "podcertificaterequests",
        "podcertificaterequest"
    )
};

/// The request is that of its sender, whatever the body says.
fn requester(object: &mut Value, ctx: &WriteContext<'_>) {
    let spec = object_mut(object, "spec");
    for name in ["uid", "extra", "username", "groups"] {
        remove(spec, name);
    }
    if !ctx.user.is_empty() {
        spec["username"] = ctx.user.into();
    }
    if !ctx.groups.is_empty() {
        spec["groups"] = ctx.groups.into();
    }
}

/// `example.com/signer-name`.
fn signer_name(text: &str) -> Problems {
    let Some((domain, path)) = text.split_once('/').filter(|(_, path)| !path.is_empty()) else {
        return vec!["must be a fully qualified domain and path of the form 'example.com/signer-name'".to_owned()];
    };
    let mut problems = rules::dns_subdomain(domain);
    if !domain.contains('.') {
        problems.push("should be a domain with at least two segments separated by dots".to_owned());
    }
    for part in path.split('.') {
        problems.extend(rules::dns_subdomain(part));
    }
    problems
}

fn validate_signing_request(object: &Value, causes: &mut Causes) {
    let root = Path::Root;
    let path = root.field("spec");
    let spec = object.at(&["spec"]);
    let request = STANDARD.decode(spec.text("request")).unwrap_or_default();
    let request = String::from_utf8_lossy(&request);
    if !request.contains("-----BEGIN CERTIFICATE REQUEST-----") {
        let text = "PEM block type must be CERTIFICATE REQUEST";
        causes.invalid(path.field("request"), spec.at(&["request"]).clone(), text);
    }
    check(
        spec,
        &path,
        &[("usages", Rule::RequiredBecause("usages is required"))],
        causes,
    );
    let usages = path.field("usages");
    for (index, usage) in spec.items("usages").iter().enumerate() {
        let usage = usage.as_str().unwrap_or_default();
        if !USAGES.contains(&usage) {
            causes.not_supported(usages.index(index), usage, &USAGES);
        }
    }
    check(
        spec,
        &path,
        &[
            ("usages", Rule::Unique("")),
            ("signerName", Rule::RequiredForm(signer_name)),
        ],
        causes,
    );
    if let Some(seconds) = spec.int("expirationSeconds").filter(|seconds| *seconds < SECONDS_MIN) {
        let text = "may not specify a duration less than 600 seconds (10 minutes)";
        causes.invalid(path.field("expirationSeconds"), seconds, text);
    }
}

/// A decision is made once: it is not taken back, and it is not both.
fn decisions(old: &Value, new: &Value, causes: &mut Causes) {
    let root = Path::Root;
    let status = root.field("status");
    let path = status.field("conditions");
    for kind in ["Approved", "Denied", "Failed"] {
        if cells::has_condition(old, kind) && !cells::has_condition(new, kind) {
            causes.forbidden(path, format!("updates may not remove a condition of type {kind:?}"));
        }
    }
    let conditions = new.at(&["status"]).items("conditions");
    let mut known = Map::new();
    for (index, condition) in conditions.iter().enumerate() {
        let (at, kind) = (path.index(index), condition.text("type"));
        if kind.is_empty() {
            causes.required(at.field("type"), "");
        }
        let state = condition.text("status");
        let decides = matches!(kind, "Approved" | "Denied" | "Failed");
        if state.is_empty() {
            causes.required(at.field("status"), "");
        } else if decides && state != "True" {
            causes.not_supported(at.field("status"), state, &["True"]);
        }
        let contrary = match kind {
            "Approved" => "Denied",
            "Denied" => "Approved",
            _ => "",
        };
        if known.contains_key(contrary) {
            let text = "Approved and Denied conditions are mutually exclusive";
            causes.invalid(at.field("type"), kind, text);
        }
        if known.insert(kind.to_owned(), Value::Null).is_some() {
            causes.duplicate(at.field("type"), kind);
        }
    }
}

fn print_signing_request(object: &Value, now: UnixMillis) -> Vec<Value> {
    let decided: Vec<&str> = ["Approved", "Denied", "Failed"]
        .into_iter()
        .filter(|kind| cells::has_condition(object, kind))
        .collect();
    let mut words = if decided.is_empty() { vec!["Pending"] } else { decided };
    if !object.at(&["status"]).text("certificate").is_empty() {
        words.push("Issued");
    }
    let spec = object.at(&["spec"]);
    let duration = match spec
        .int("expirationSeconds")
        .and_then(|seconds| u64::try_from(seconds).ok())
    {
        Some(seconds) => age(seconds.saturating_mul(1000)),
        None => "<none>".to_owned(),
    };
    let signer = cells::text_or(object, &["spec", "signerName"], "<none>");
    vec![
        cells::name(object),
        cells::created_ago(object, now),
        signer,
        spec.text("username").into(),
        duration.into(),
        words.join(",").into(),
    ]
}
