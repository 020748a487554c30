//! The documents: the AdmissionReview that is sent, and what is read from the one that comes back.

use api::access::Access;
use api::kinds::Kind;
use api::status::Status;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use protocol::Uid;
use serde_json::{Value, json};

use super::configuration::{ReviewVersion, Webhook};
use super::dialogue::Place;
use crate::matching::{Asked, shown};

/// The review to send: the object and the stored one as `seen` tells them. Null stands for an object that there is not.
///
/// # Errors
///
/// They cannot be converted, or not yet.
pub(super) fn build(
    asked: &Asked<'_>,
    webhook: &Webhook,
    seen: &Kind,
    place: Place,
    (object, old): (&Value, &Value),
) -> Result<Value, Status> {
    let version = webhook.version.unwrap_or(ReviewVersion::V1);
    let mut request = asked.request(&uid(asked.random, place), seen);
    request["object"] = shown(asked, seen, object)?;
    request["oldObject"] = shown(asked, seen, old)?;
    Ok(json!({"apiVersion": version.api_version(), "kind": "AdmissionReview", "request": request}))
}

/// A uid of its own for each question of a write. The bits of the write are random; splitmix64 spreads them.
fn uid(random: u64, place: Place) -> String {
    let mut state = random ^ (u64::from(place.round) << 32) ^ place.index as u64;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    };
    Uid::from_bits(u128::from(next()) << 64 | u128::from(next())).to_string()
}

/// What a webhook answered.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// Whether the request may go on.
    pub(super) allowed: bool,
    /// What it says about a refusal; null when it says nothing.
    pub(super) result: Value,
    /// The JSON patch, when there is one.
    pub(super) patch: Option<Value>,
    /// For the client's user.
    pub(super) warnings: Vec<String>,
    /// For the audit log.
    pub(super) annotations: Vec<(String, String)>,
}

/// Reads an answer.
///
/// # Errors
///
/// What is wrong with it, in Kubernetes' words.
pub(super) fn read(sent: &Value, answer: &Value, mutating: bool) -> Result<Verdict, String> {
    let response = answer.at(&["response"]);
    if !response.is_object() {
        return Err("webhook response was absent".to_owned());
    }
    let (version, is_v1) = (
        answer.text("apiVersion"),
        sent.text("apiVersion") == "admission.k8s.io/v1",
    );
    if is_v1 {
        let (uid, got) = (sent.at(&["request"]).text("uid"), response.text("uid"));
        if uid != got {
            return Err(format!("expected response.uid={uid:?}, got {got:?}"));
        }
        if (version, answer.text("kind")) != (sent.text("apiVersion"), "AdmissionReview") {
            return Err(format!(
                "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {version}, Kind={}",
                answer.text("kind")
            ));
        }
    }
    let (patch, patch_type) = (
        response.text("patch"),
        response.get("patchType").and_then(Value::as_str),
    );
    if mutating {
        match (patch.is_empty(), patch_type) {
            (false, None) if is_v1 => {
                return Err("webhook returned response.patch but not response.patchType".to_owned());
            }
            (true, Some(_)) if is_v1 => {
                return Err("webhook returned response.patchType but not response.patch".to_owned());
            }
            (false, Some("JSONPatch") | None) | (true, _) => {}
            (false, Some(other)) => return Err(format!("unsupported patch type {other:?}")),
        }
    } else if is_v1 && !patch.is_empty() {
        return Err("validating webhook may not return response.patch".to_owned());
    } else if is_v1 && patch_type.is_some() {
        return Err("validating webhook may not return response.patchType".to_owned());
    }
    let decoded = |text: &str| -> Result<Value, String> {
        let bytes = STANDARD
            .decode(text)
            .map_err(|error| format!("response.patch is not base64: {error}"))?;
        serde_json::from_slice(&bytes).map_err(|error| format!("response.patch is not JSON: {error}"))
    };
    let patch = (mutating && !patch.is_empty()).then(|| decoded(patch)).transpose()?;
    let warnings = response.items("warnings").iter().filter_map(Value::as_str);
    let annotations = response.members("auditAnnotations");
    Ok(Verdict {
        allowed: response.flag("allowed"),
        result: response.at(&["status"]).clone(),
        patch: patch.filter(|patch| patch.as_array().is_none_or(|operations| !operations.is_empty())),
        warnings: warnings.map(str::to_owned).collect(),
        annotations: annotations
            .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
            .collect(),
    })
}
