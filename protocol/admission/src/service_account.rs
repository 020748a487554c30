//! ServiceAccount: a pod runs as an account that exists, brings the account's pull secrets, and finds the account's token,
//! the cluster's CA and its namespace where client libraries look for them.

use api::access::{Access, items_mut, object_mut};
use api::status::Status;
use api::write::name_suffix;
use protocol::Key;
use serde_json::{Value, json};

use crate::chain::Plugin;
use crate::facts::Facts;
use crate::review::{Attributes, Review};

/// Where client libraries look for a token.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// How long a mounted token is valid: an hour and seven seconds, by which upstream tells these tokens from others.
const TOKEN_EXPIRATION_SECONDS: u64 = 3607;

/// The plugin.
pub struct ServiceAccount;

impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn concerns(&self, attributes: &Attributes<'_>) -> bool {
        attributes.creates("pods")
    }

    fn looks_up(&self, attributes: &Attributes<'_>, object: &Value) -> Option<Key> {
        Some(Key::new("serviceaccounts", attributes.namespace, account_of(object)))
    }

    fn admit(&self, review: &mut Review<'_>, facts: &Facts) -> Result<(), Status> {
        if is_mirror(&review.object) {
            return refuse_in_mirror(review);
        }
        let name = account_of(&review.object).to_owned();
        let namespace = review.attributes.namespace;
        let Some(account) = facts.one("serviceaccounts", namespace, &name) else {
            return Err(review.attributes.forbidden(format_args!(
                "error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"
            )));
        };
        let account = account.value.clone();
        let suffix = review.attributes.random;
        let spec = object_mut(&mut review.object, "spec");
        spec["serviceAccountName"] = name.as_str().into();
        spec["serviceAccount"] = name.into();
        if spec.items("imagePullSecrets").is_empty() && !account.items("imagePullSecrets").is_empty() {
            spec["imagePullSecrets"] = account["imagePullSecrets"].clone();
        }
        let wish = [&*spec, &account]
            .into_iter()
            .find_map(|holder| holder.get("automountServiceAccountToken").and_then(Value::as_bool));
        if facts.settings.mount_tokens && wish.unwrap_or(true) {
            mount_token(spec, suffix);
        }
        Ok(())
    }
}

/// The account that a pod names, or the default one.
fn account_of(pod: &Value) -> &str {
    let named = pod.at(&["spec"]).text("serviceAccountName");
    if named.is_empty() { "default" } else { named }
}

/// Whether the pod is the image of a static pod.
fn is_mirror(pod: &Value) -> bool {
    pod.at(&["metadata", "annotations"]).has("kubernetes.io/config.mirror")
}

/// A mirror pod has no account, and reaches none.
fn refuse_in_mirror(review: &Review<'_>) -> Result<(), Status> {
    // Defaulting names the account `default` in every pod; that reaches nothing by itself.
    if !matches!(review.spec().text("serviceAccountName"), "" | "default") {
        return Err(review
            .attributes
            .forbidden("a mirror pod may not reference service accounts"));
    }
    let token = review.spec().items("volumes").iter().any(|volume| {
        let sources = volume.at(&["projected"]).items("sources");
        sources.iter().any(|source| source.has("serviceAccountToken"))
    });
    if token {
        return Err(review
            .attributes
            .forbidden("a mirror pod may not use ServiceAccountToken volume projections"));
    }
    Ok(())
}

/// Adds the projected volume and mounts it in every container that has nothing of its own there.
fn mount_token(spec: &mut Value, random: u64) {
    let mounted = |container: &Value| {
        let mounts = container.items("volumeMounts");
        mounts.iter().any(|mount| mount.text("mountPath") == MOUNT_PATH)
    };
    // A volume of an earlier admission is used again, so that a second review of an object changes nothing.
    let known = spec
        .items("volumes")
        .iter()
        .find(|volume| volume.text("name").starts_with("kube-api-access-"));
    let known = known.map(|volume| volume.text("name").to_owned());
    let name = known
        .clone()
        .unwrap_or_else(|| format!("kube-api-access-{}", name_suffix(random)));
    let mut used = false;
    for list in ["initContainers", "containers"] {
        for container in items_mut(spec, list) {
            if mounted(container) {
                continue;
            }
            used = true;
            let mount = json!({"name": name, "mountPath": MOUNT_PATH, "readOnly": true});
            push(container, "volumeMounts", mount);
        }
    }
    if used && known.is_none() {
        push(spec, "volumes", token_volume(&name));
    }
}

fn token_volume(name: &str) -> Value {
    json!({
        "name": name,
        "projected": {
            "defaultMode": 420,
            "sources": [
                {"serviceAccountToken": {"path": "token", "expirationSeconds": TOKEN_EXPIRATION_SECONDS}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{
                    "path": "namespace",
                    "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
                }]}},
            ],
        },
    })
}

fn push(holder: &mut Value, list: &str, item: Value) {
    match &mut holder[list] {
        Value::Array(items) => items.push(item),
        absent => *absent = json!([item]),
    }
}
