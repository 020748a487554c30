//! Validation of probes and lifecycle hooks: exactly one way to ask, and sensible numbers.

use serde_json::Value;

use super::container::port_reference;
use crate::access::Access;
use crate::cause::{Causes, Path};

/// Validates the probes and hooks of a container.
pub fn validate(container: &Value, path: &Path<'_>, causes: &mut Causes) {
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = container.at(&[name]);
        if probe.is_null() {
            continue;
        }
        let at = path.field(name);
        handler(probe, &at, &["exec", "httpGet", "tcpSocket", "grpc"], causes);
        numbers(probe, &at, causes);
        if name != "readinessProbe" && probe.int("successThreshold").is_some_and(|count| count != 1) {
            causes.invalid(
                at.field("successThreshold"),
                probe.at(&["successThreshold"]).clone(),
                "must be 1",
            );
        }
    }
    let lifecycle = path.field("lifecycle");
    for name in ["postStart", "preStop"] {
        let hook = container.at(&["lifecycle", name]);
        if !hook.is_null() {
            handler(
                hook,
                &lifecycle.field(name),
                &["exec", "httpGet", "tcpSocket", "sleep"],
                causes,
            );
        }
    }
}

fn numbers(probe: &Value, path: &Path<'_>, causes: &mut Causes) {
    let names = [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ];
    for name in names {
        let number = probe.int(name).unwrap_or(0);
        if number < 0 {
            causes.invalid(path.field(name), number, "must be greater than or equal to 0");
        }
    }
    if probe.has("terminationGracePeriodSeconds") && probe.int("terminationGracePeriodSeconds").unwrap_or(0) <= 0 {
        let number = probe.int("terminationGracePeriodSeconds").unwrap_or(0);
        causes.invalid(
            path.field("terminationGracePeriodSeconds"),
            number,
            "must be greater than 0",
        );
    }
}

fn handler(handler: &Value, path: &Path<'_>, kinds: &[&str], causes: &mut Causes) {
    let mut given = 0;
    for kind in kinds.iter().copied().filter(|kind| handler.has(kind)) {
        given += 1;
        let at = path.field(kind);
        if given > 1 {
            causes.forbidden(at, "may not specify more than 1 handler type");
            continue;
        }
        let body = handler.at(&[kind]);
        match kind {
            "exec" if body.items("command").is_empty() => causes.required(at.field("command"), ""),
            "httpGet" => {
                if body.text("path").is_empty() {
                    causes.required(at.field("path"), "");
                }
                port_reference(body.at(&["port"]), at.field("port"), causes);
                if !matches!(body.text("scheme"), "HTTP" | "HTTPS") {
                    causes.not_supported(at.field("scheme"), body.text("scheme"), &["HTTP", "HTTPS"]);
                }
            }
            "tcpSocket" | "grpc" => port_reference(body.at(&["port"]), at.field("port"), causes),
            _ => {}
        }
    }
    if given == 0 {
        causes.required(*path, "must specify a handler type");
    }
}
