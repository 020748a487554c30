//! What validating policies say about a request.

use std::sync::Arc;

use api::status::Status;
use expressions::{Budget, Evaluation};
use serde_json::{Value, json};

use super::definition::{Binding, Policy, Validation};
use super::due::Due;
use crate::facts::Facts;
use crate::matching::{Asked, shown};
use crate::scene::{Rights, Scene, complete_request, conditions_hold, truth};
use crate::webhook::Said;

/// The longest message that an expression may make; a longer one counts as none.
const MESSAGE_BYTES_MAX: usize = 5 * 1024;

/// The longest value of an annotation; a longer one is cut.
const ANNOTATION_BYTES_MAX: usize = 10 * 1024;

/// A failed validation.
struct Failure {
    message: String,
    /// Empty where the evaluation itself failed.
    reason: &'static str,
    /// The validation's place in its policy.
    index: usize,
}

/// Judges a request by the policies that are due, each with the parameters that were read for it. Null stands for an object
/// that there is not. What they say beside is noted in `said`, also where the request is refused.
///
/// # Errors
///
/// The first refusal, in the order of policies.
pub fn validate(
    due: &[(Due<'_>, Vec<Arc<Value>>)],
    asked: &Asked<'_>,
    (object, old): (&Value, &Value),
    (facts, rights): (&Facts, &Rights<'_>),
    said: &mut Said,
) -> Result<(), Status> {
    let mut denial = None;
    for (one, read) in due {
        let (policy, binding) = (&*one.policy, one.binding.as_deref());
        let params = match one.evaluations(read) {
            Ok(params) => params,
            Err(_) if !policy.fails_closed => continue,
            Err(why) => {
                denial.get_or_insert_with(|| denied(asked, policy, binding, &why, ""));
                continue;
            }
        };
        let request = complete_request(asked.request("", one.seen));
        let (object, old) = (shown(asked, one.seen, object)?, shown(asked, one.seen, old)?);
        let namespace = facts.one("namespaces", "", asked.place());
        for params in params {
            let scene = Scene {
                object: &object,
                old: &old,
                request: &request,
                params,
                namespace: namespace.map_or(&Value::Null, |fact| &*fact.value),
                rights,
            };
            for failure in judged(policy, &scene, said) {
                let Some(binding) = binding else { continue };
                if binding.denies {
                    let Failure { message, reason, .. } = &failure;
                    denial.get_or_insert_with(|| denied(asked, policy, Some(binding), message, reason));
                }
                if binding.warns {
                    said.warnings.push(format!(
                        "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}",
                        policy.name, binding.name, failure.message
                    ));
                }
                if binding.audits {
                    said.annotations.push(audited(policy, binding, &failure));
                }
            }
        }
    }
    denial.map_or(Ok(()), Err)
}

/// What a policy finds wrong. An evaluation that fails counts as a failed validation where failures count.
fn judged(policy: &Policy, scene: &Scene<'_>, said: &mut Said) -> Vec<Failure> {
    let failed = |message: String, index: usize| Failure {
        message,
        reason: "",
        index,
    };
    match conditions_hold(&policy.conditions, &policy.environment, scene, policy.fails_closed) {
        Ok(true) => {}
        Ok(false) => return Vec::new(),
        Err(message) => return vec![failed(message, 0)],
    }
    let mut inputs = scene.inputs(&policy.environment);
    inputs.bind_composed("variables", &policy.variables);
    let mut evaluation = Evaluation::new(&inputs, Budget::default());
    let mut failures = Vec::new();
    for (index, validation) in policy.validations.iter().enumerate() {
        match truth(&mut evaluation, &validation.expression, &validation.program) {
            Ok(true) => {}
            Ok(false) => failures.push(Failure {
                message: message_of(validation, &mut evaluation),
                reason: if validation.reason.is_empty() {
                    "Invalid"
                } else {
                    validation.reason
                },
                index,
            }),
            Err(_) if !policy.fails_closed => {}
            Err(error) => failures.push(failed(error, index)),
        }
    }
    for annotation in &policy.annotations {
        let value = match &annotation.program {
            Ok(program) => evaluation
                .run(program)
                .map_err(|error| format!("expression '{}' resulted in error: {error}", annotation.expression)),
            Err(error) => Err(format!("compilation error: {error}")),
        };
        match value.map(|value| value.as_text().map(|text| text.trim().to_owned())) {
            Ok(Some(mut text)) if !text.is_empty() => {
                let mut end = text.len().min(ANNOTATION_BYTES_MAX);
                while !text.is_char_boundary(end) {
                    end -= 1;
                }
                text.truncate(end);
                annotate(said, &annotation.key, text);
            }
            Ok(_) => {}
            Err(_) if !policy.fails_closed => {}
            Err(error) => failures.push(failed(error, 0)),
        }
    }
    failures
}

/// Notes an annotation of a policy. Values that it has with other parameters are joined, each once.
fn annotate(said: &mut Said, key: &str, value: String) {
    match said.annotations.iter_mut().find(|(known, _)| known == key) {
        None => said.annotations.push((key.to_owned(), value)),
        Some((_, known)) if known.split(", ").any(|known| known == value) => {}
        Some((_, known)) => {
            known.push_str(", ");
            known.push_str(&value);
        }
    }
}

/// What a failed validation says: what its message expression makes, else its message, else the expression itself.
fn message_of<'a>(validation: &'a Validation, evaluation: &mut Evaluation<'a>) -> String {
    if let Some(Ok(program)) = &validation.message_program
        && let Ok(made) = evaluation.run(program)
        && let Some(text) = made.as_text().map(str::trim)
        && !text.is_empty()
        && text.len() <= MESSAGE_BYTES_MAX
        && !text.contains('\n')
    {
        return text.to_owned();
    }
    if !validation.message.is_empty() {
        return validation.message.clone();
    }
    format!("failed expression: {}", validation.expression)
}

/// The 403-like answer, with the policy's own reason and the code that belongs to it.
fn denied(asked: &Asked<'_>, policy: &Policy, binding: Option<&Binding>, why: &str, reason: &'static str) -> Status {
    let message = match binding {
        Some(binding) => format!(
            "ValidatingAdmissionPolicy '{}' with binding '{}' denied request: {why}",
            policy.name, binding.name
        ),
        None => format!("ValidatingAdmissionPolicy '{}' denied request: {why}", policy.name),
    };
    let mut status = Status::forbidden(asked.kind, asked.name, &message);
    let (reason, code) = match reason {
        "Forbidden" => ("Forbidden", 403),
        "Unauthorized" => ("Unauthorized", 401),
        "RequestEntityTooLarge" => ("RequestEntityTooLarge", 413),
        _ => ("Invalid", 422),
    };
    (status.reason, status.code) = (reason.into(), code);
    status.details.causes.push(api::cause::Cause {
        field: String::new(),
        reason: "".into(),
        message,
    });
    status
}

fn audited(policy: &Policy, binding: &Binding, failure: &Failure) -> (String, String) {
    let mut actions = Vec::new();
    for (acts, action) in [
        (binding.denies, "Deny"),
        (binding.warns, "Warn"),
        (binding.audits, "Audit"),
    ] {
        if acts {
            actions.push(action);
        }
    }
    let value = json!([{
        "message": failure.message, "policy": &*policy.name, "binding": &*binding.name,
        "expressionIndex": failure.index.to_string(), "validationActions": actions,
    }]);
    let key = "validation.policy.admission.k8s.io/validation_failure";
    (key.to_owned(), value.to_string())
}
