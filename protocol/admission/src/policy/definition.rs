//! Policies and bindings, read and compiled once, when one of them changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::access::Access;
use api::cause::{Causes, Path};
use expressions::{CompileError, Environment, ObjectType, Program, Type};
use serde_json::Value;

use crate::matching::Criteria;
use crate::reasons::reason_of;
use crate::scene::{self, Condition};

/// Whether a policy judges or changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicySort {
    /// ValidatingAdmissionPolicy.
    Validating,
    /// MutatingAdmissionPolicy.
    Mutating,
}

/// What must be true of an object.
#[derive(Debug)]
pub(super) struct Validation {
    pub(super) expression: String,
    pub(super) program: Result<Program, CompileError>,
    pub(super) message: String,
    pub(super) message_program: Option<Result<Program, CompileError>>,
    /// The reason of the refusal; empty means `Invalid`.
    pub(super) reason: &'static str,
}

/// A change of an object.
#[derive(Debug)]
pub struct Mutation {
    /// Whether it is a list of `JSONPatch` operations; an apply configuration otherwise.
    pub(super) is_json_patch: bool,
    pub(super) expression: String,
    pub(super) program: Result<Program, CompileError>,
}

/// What is written to the audit log.
#[derive(Debug)]
pub(super) struct AuditAnnotation {
    pub(super) key: String,
    pub(super) expression: String,
    pub(super) program: Result<Program, CompileError>,
}

/// A policy's variables: names and expressions.
type Variables = Vec<(String, Program)>;

/// A policy.
#[derive(Debug)]
pub struct Policy {
    /// Its name.
    pub name: Arc<str>,
    pub(super) criteria: Option<Criteria>,
    pub(super) fails_closed: bool,
    /// apiVersion and kind of the objects that configure it.
    pub(super) param_kind: Option<(String, String)>,
    pub(super) environment: Environment,
    pub(super) conditions: Vec<Condition>,
    pub(super) variables: Variables,
    pub(super) validations: Vec<Validation>,
    pub(super) mutations: Vec<Mutation>,
    pub(super) annotations: Vec<AuditAnnotation>,
    /// Whether it sees again what later policies and webhooks made.
    pub(super) reinvoke: bool,
}

impl Policy {
    /// Whether it wants to see what others made of the object since.
    pub(crate) fn reinvokes(&self) -> bool {
        self.reinvoke
    }

    fn read(name: Arc<str>, policy: &Value) -> Policy {
        let spec = policy.at(&["spec"]);
        let param_kind = spec.at(&["paramKind"]);
        let param_kind = param_kind.is_object().then(|| {
            (
                param_kind.text("apiVersion").to_owned(),
                param_kind.text("kind").to_owned(),
            )
        });
        let plain = scene::environment(param_kind.is_some());
        let (environment, variables, _) = compose(plain.clone(), spec);
        let mut without_authorizer = environment.clone();
        without_authorizer.declare("authorizer", Type::Null);
        let validations = spec.items("validations").iter().map(|validation| Validation {
            expression: validation.text("expression").trim().to_owned(),
            program: environment.compile(validation.text("expression")),
            message: validation.text("message").trim().to_owned(),
            message_program: validation
                .has("messageExpression")
                .then(|| without_authorizer.compile(validation.text("messageExpression"))),
            reason: reason_of(validation.text("reason")),
        });
        let mutations = spec.items("mutations").iter().map(|mutation| {
            let is_json_patch = mutation.text("patchType") == "JSONPatch";
            let field = if is_json_patch {
                "jsonPatch"
            } else {
                "applyConfiguration"
            };
            let expression = mutation.at(&[field]).text("expression").trim().to_owned();
            Mutation {
                is_json_patch,
                program: environment.compile(&expression),
                expression,
            }
        });
        let annotations = spec.items("auditAnnotations").iter().map(|annotation| AuditAnnotation {
            key: format!("{name}/{}", annotation.text("key")),
            expression: annotation.text("valueExpression").trim().to_owned(),
            program: environment.compile(annotation.text("valueExpression")),
        });
        Policy {
            criteria: Criteria::read(spec.at(&["matchConstraints"])).ok(),
            fails_closed: spec.text("failurePolicy") != "Ignore",
            conditions: Condition::list(spec, &plain),
            validations: validations.collect(),
            mutations: mutations.collect(),
            annotations: annotations.collect(),
            reinvoke: spec.text("reinvocationPolicy") == "IfNeeded",
            name,
            param_kind,
            environment,
            variables,
        }
    }
}

/// The environment with `variables`, each of which may name those before it; the variables; and those that do not compile,
/// by their place. They are no fields then: whatever names one does not compile either.
pub(super) fn compose(
    mut environment: Environment,
    spec: &Value,
) -> (Environment, Variables, Vec<(usize, CompileError)>) {
    let (mut variables, mut broken) = (Variables::new(), Vec::new());
    let declare = |environment: &mut Environment, variables: &[(String, Program)]| {
        let fields = variables
            .iter()
            .map(|(name, program)| (name.clone(), program.result().clone()));
        let of = ObjectType::new("kubernetes.variables", fields);
        environment.declare("variables", Type::object(of));
    };
    declare(&mut environment, &variables);
    for (index, variable) in spec.items("variables").iter().enumerate() {
        match environment.compile(variable.text("expression")) {
            Ok(program) => variables.push((variable.text("name").to_owned(), program)),
            Err(error) => broken.push((index, error)),
        }
        declare(&mut environment, &variables);
    }
    (environment, variables, broken)
}

/// What of a policy's expressions does not compile: as the API server refuses it when the policy is written.
pub fn problems(policy: &Value, causes: &mut Causes) {
    let spec = policy.at(&["spec"]);
    let root = Path::Root;
    let at = root.field("spec");
    let plain = scene::environment(spec.at(&["paramKind"]).is_object());
    scene::condition_problems(spec, &at, &plain, causes);
    let mut check = |environment: &Environment, path: Path<'_>, expression: &str, wanted: Option<&Type>| {
        scene::problem(environment, path, expression, wanted, causes);
    };
    let (environment, _, broken) = compose(plain, spec);
    let list = at.field("validations");
    for (index, validation) in spec.items("validations").iter().enumerate() {
        let item = list.index(index);
        check(
            &environment,
            item.field("expression"),
            validation.text("expression"),
            Some(&Type::Bool),
        );
        if validation.has("messageExpression") {
            let text = validation.text("messageExpression");
            check(&environment, item.field("messageExpression"), text, Some(&Type::Text));
        }
    }
    let list = at.field("auditAnnotations");
    for (index, annotation) in spec.items("auditAnnotations").iter().enumerate() {
        let item = list.index(index);
        check(
            &environment,
            item.field("valueExpression"),
            annotation.text("valueExpression"),
            None,
        );
    }
    let list = at.field("mutations");
    for (index, mutation) in spec.items("mutations").iter().enumerate() {
        let item = list.index(index);
        for field in ["jsonPatch", "applyConfiguration"] {
            if mutation.has(field) {
                let item = item.field(field);
                check(
                    &environment,
                    item.field("expression"),
                    mutation.at(&[field]).text("expression"),
                    None,
                );
            }
        }
    }
    let list = at.field("variables");
    for (index, error) in broken {
        let item = list.index(index);
        let expression = spec.items("variables")[index].text("expression");
        causes.invalid(
            item.field("expression"),
            expression,
            format!("compilation failed: {error}"),
        );
    }
}

/// A binding puts a policy into force.
#[derive(Debug)]
pub struct Binding {
    /// Its name.
    pub name: Arc<str>,
    pub(super) policy: Arc<str>,
    /// `paramRef`; null when there is none.
    pub(super) param_ref: Value,
    /// What requests it bounds its policy to; `None` for all that the policy takes.
    pub(super) criteria: Option<Criteria>,
    pub(super) denies: bool,
    pub(super) warns: bool,
    pub(super) audits: bool,
}

impl Binding {
    fn read(name: Arc<str>, binding: &Value) -> Binding {
        let spec = binding.at(&["spec"]);
        let acts = |action: &str| spec.items("validationActions").iter().any(|known| known == action);
        Binding {
            name,
            policy: spec.text("policyName").into(),
            param_ref: spec.at(&["paramRef"]).clone(),
            criteria: spec
                .has("matchResources")
                .then(|| Criteria::read(spec.at(&["matchResources"])).unwrap_or_default()),
            denies: acts("Deny"),
            warns: acts("Warn"),
            audits: acts("Audit"),
        }
    }
}

type Named<T> = BTreeMap<Arc<str>, Arc<T>>;

/// Policies and bindings of one sort.
type Both = (Named<Policy>, Named<Binding>);

/// A policy and the bindings that put it into force.
pub type InForce = (Arc<Policy>, Vec<Arc<Binding>>);

/// All policies and bindings, by name.
#[derive(Debug, Default)]
pub struct Policies {
    validating: Both,
    mutating: Both,
}

impl Policies {
    fn of(&mut self, resource: &str) -> Option<(&mut Both, bool)> {
        match resource.split('.').next() {
            Some("validatingadmissionpolicies") => Some((&mut self.validating, false)),
            Some("validatingadmissionpolicybindings") => Some((&mut self.validating, true)),
            Some("mutatingadmissionpolicies") => Some((&mut self.mutating, false)),
            Some("mutatingadmissionpolicybindings") => Some((&mut self.mutating, true)),
            _ => None,
        }
    }

    /// Notes a policy or a binding. Other resources than `RESOURCES` are neither.
    pub fn upsert(&mut self, resource: &str, name: &str, object: &Value) {
        let name: Arc<str> = name.into();
        match self.of(resource) {
            Some((all, true)) => {
                all.1.insert(Arc::clone(&name), Arc::new(Binding::read(name, object)));
            }
            Some((all, false)) => {
                all.0.insert(Arc::clone(&name), Arc::new(Policy::read(name, object)));
            }
            None => {}
        }
    }

    /// Forgets one.
    pub fn remove(&mut self, resource: &str, name: &str) {
        match self.of(resource) {
            Some((all, true)) => {
                all.1.remove(name);
            }
            Some((all, false)) => {
                all.0.remove(name);
            }
            None => {}
        }
    }

    /// Forgets all of a resource.
    pub fn clear(&mut self, resource: &str) {
        match self.of(resource) {
            Some((all, true)) => all.1.clear(),
            Some((all, false)) => all.0.clear(),
            None => {}
        }
    }

    /// The policies that bindings put into force, by name.
    pub fn in_force(&self, sort: PolicySort) -> Vec<InForce> {
        let (policies, bindings) = match sort {
            PolicySort::Validating => &self.validating,
            PolicySort::Mutating => &self.mutating,
        };
        let bound = |policy: &Arc<Policy>| {
            let own = bindings.values().filter(|binding| binding.policy == policy.name);
            (Arc::clone(policy), own.cloned().collect::<Vec<_>>())
        };
        policies
            .values()
            .map(bound)
            .filter(|(_, bindings)| !bindings.is_empty())
            .collect()
    }
}
