//! The defaults of a pod's spec, alike for pods and for the templates of workloads: `pkg/apis/core/v1/defaults.go`.

use serde_json::{Map, Value};

use crate::access::{Access, existing_mut, items_mut, object_mut, set_default, set_default_text};

/// The lists of a pod spec that hold containers.
pub const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Fills in a pod's spec.
pub fn pod_spec(spec: &mut Value) {
    set_default_text(spec, "restartPolicy", "Always");
    set_default_text(spec, "dnsPolicy", "ClusterFirst");
    set_default(spec, "terminationGracePeriodSeconds", 30);
    set_default_text(spec, "schedulerName", "default-scheduler");
    set_default(spec, "securityContext", Map::new());
    mirror_service_account(spec);
    for list in CONTAINER_LISTS {
        for item in items_mut(spec, list) {
            container(item);
        }
    }
    for item in items_mut(spec, "volumes") {
        volume(item);
    }
}

/// Fills in the spec of a pod itself: what a template leaves to the pods that are made from it.
pub fn pod(spec: &mut Value) {
    set_default(spec, "enableServiceLinks", true);
    pod_spec(spec);
    let host_network = spec.flag("hostNetwork");
    for list in CONTAINER_LISTS {
        for item in items_mut(spec, list) {
            if let Some(resources) = existing_mut(item, "resources") {
                requests_from_limits(resources);
            }
            for port in items_mut(item, "ports").iter_mut().filter(|_| host_network) {
                if let Some(number) = port.int("containerPort") {
                    set_default(port, "hostPort", number);
                }
            }
        }
    }
}

/// `serviceAccount` is the old name of `serviceAccountName`; both are always there.
fn mirror_service_account(spec: &mut Value) {
    let named = [spec.text("serviceAccountName"), spec.text("serviceAccount")]
        .into_iter()
        .find(|name| !name.is_empty());
    if let Some(name) = named.map(str::to_owned) {
        spec["serviceAccountName"] = name.as_str().into();
        spec["serviceAccount"] = name.into();
    }
}

fn container(container: &mut Value) {
    if !container.is_object() {
        return;
    }
    let policy = if image_is_latest(container.text("image")) {
        "Always"
    } else {
        "IfNotPresent"
    };
    set_default_text(container, "imagePullPolicy", policy);
    set_default_text(container, "terminationMessagePath", "/dev/termination-log");
    set_default_text(container, "terminationMessagePolicy", "File");
    for port in items_mut(container, "ports") {
        set_default_text(port, "protocol", "TCP");
    }
    for variable in items_mut(container, "env") {
        if let Some(reference) = variable.pointer_mut("/valueFrom/fieldRef") {
            set_default_text(reference, "apiVersion", "v1");
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(check) = existing_mut(container, name) {
            probe(check);
        }
    }
    for hook in ["/lifecycle/postStart/httpGet", "/lifecycle/preStop/httpGet"] {
        if let Some(get) = container.pointer_mut(hook) {
            http_get(get);
        }
    }
    object_mut(container, "resources");
}

/// A limit without a request is a request too.
fn requests_from_limits(resources: &mut Value) {
    let limits: Vec<(String, Value)> = resources
        .members("limits")
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    if limits.is_empty() {
        return;
    }
    let requests = object_mut(resources, "requests");
    for (name, limit) in limits {
        set_default(requests, &name, limit);
    }
}

/// Whether an image reference names the tag `latest`, or no tag and no digest.
fn image_is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn probe(check: &mut Value) {
    for (name, default) in [
        ("timeoutSeconds", 1),
        ("periodSeconds", 10),
        ("successThreshold", 1),
        ("failureThreshold", 3),
    ] {
        if check.int(name).unwrap_or(0) == 0 {
            check[name] = default.into();
        }
    }
    if let Some(get) = existing_mut(check, "httpGet") {
        http_get(get);
    }
    if let Some(call) = existing_mut(check, "grpc") {
        set_default(call, "service", "");
    }
}

fn http_get(get: &mut Value) {
    set_default_text(get, "path", "/");
    set_default_text(get, "scheme", "HTTP");
}

/// Permissions of projected files: rw-r--r--.
const FILE_MODE: i64 = 0o644;

fn volume(volume: &mut Value) {
    let Some(members) = volume.as_object_mut() else { return };
    if members.iter().all(|(name, source)| name == "name" || source.is_null()) {
        members.insert("emptyDir".to_owned(), Map::new().into());
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = existing_mut(volume, source) {
            set_default(source, "defaultMode", FILE_MODE);
        }
    }
    if let Some(path) = existing_mut(volume, "hostPath") {
        set_default(path, "type", "");
    }
    if let Some(downward) = existing_mut(volume, "downwardAPI") {
        downward_items(downward);
    }
    if let Some(image) = volume.get_mut("image").filter(|image| image.is_object()) {
        let policy = if image_is_latest(image.text("reference")) {
            "Always"
        } else {
            "IfNotPresent"
        };
        set_default_text(image, "pullPolicy", policy);
    }
    if let Some(claim) = volume.pointer_mut("/ephemeral/volumeClaimTemplate/spec") {
        set_default_text(claim, "volumeMode", "Filesystem");
    }
    if let Some(projected) = existing_mut(volume, "projected") {
        for source in items_mut(projected, "sources") {
            if let Some(token) = existing_mut(source, "serviceAccountToken") {
                set_default(token, "expirationSeconds", 3600);
            }
            if let Some(downward) = existing_mut(source, "downwardAPI") {
                downward_items(downward);
            }
        }
    }
}

fn downward_items(downward: &mut Value) {
    for item in items_mut(downward, "items") {
        if let Some(reference) = existing_mut(item, "fieldRef") {
            set_default_text(reference, "apiVersion", "v1");
        }
    }
}
