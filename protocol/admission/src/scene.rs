//! What expressions of webhooks and policies may name (`object`, `oldObject`, `request`, `params`, `namespaceObject`,
//! `authorizer`, `variables`), and match conditions, which both have. After apiserver's `plugin/cel` and `matchconditions`.

use access::{Attributes, Authorizers, ResourceRequest, User};
use api::access::Access;
use api::cause::{Causes, Path};
use expressions::{
    AccessQuestion, AccessReview, Authorizer, Budget, CompileError, Environment, Evaluation, Inputs, ObjectType,
    Program, Type,
};
use serde_json::Value;

/// What match conditions of one request may spend together.
const CONDITIONS_BUDGET: Budget = Budget {
    total: 2_500_000,
    per_call: 1_000_000,
};

/// The rights of a user, as `authorizer` asks for them.
#[derive(Clone, Copy, Debug)]
pub struct Rights<'a> {
    /// Who decides; nobody where authorization is not at hand, and nothing is allowed then.
    pub authorizers: Option<&'a Authorizers>,
    /// The request's user.
    pub user: &'a User,
}

impl Authorizer for Rights<'_> {
    fn review(&self, question: &AccessQuestion) -> AccessReview {
        let Some(authorizers) = self.authorizers else {
            return AccessReview {
                error: "no authorizer is at hand".to_owned(),
                ..AccessReview::default()
            };
        };
        let account = question
            .service_account
            .as_ref()
            .map(|(namespace, name)| User::service_account(namespace, name, ""));
        let user = account.as_ref().unwrap_or(self.user);
        let verdict = match &question.path {
            Some(path) => authorizers.authorize(&Attributes::path(user, &question.verb, path)),
            None => {
                let request = ResourceRequest {
                    namespace: &question.namespace,
                    group: question.group.as_deref().unwrap_or_default(),
                    version: "*",
                    resource: question.resource.as_deref().unwrap_or_default(),
                    subresource: &question.subresource,
                    name: &question.name,
                    ..ResourceRequest::default()
                };
                authorizers.authorize(&Attributes::resource(user, &question.verb, request))
            }
        };
        AccessReview {
            allowed: verdict.allows(),
            reason: verdict.reason().to_owned(),
            error: String::new(),
        }
    }
}

/// What an expression looks at. Null stands for what there is not.
#[derive(Clone, Copy)]
pub(crate) struct Scene<'a> {
    pub(crate) object: &'a Value,
    pub(crate) old: &'a Value,
    pub(crate) request: &'a Value,
    pub(crate) params: &'a Value,
    pub(crate) namespace: &'a Value,
    pub(crate) rights: &'a Rights<'a>,
}

impl<'a> Scene<'a> {
    pub(crate) fn inputs(&self, declared: &'a Environment) -> Inputs<'a> {
        let mut inputs = Inputs::default();
        let values = [
            ("object", self.object),
            ("oldObject", self.old),
            ("request", self.request),
            ("params", self.params),
            ("namespaceObject", self.namespace),
        ];
        for (name, value) in values {
            if let Some(of) = declared.declared(name) {
                inputs.bind(name, value, of);
            }
        }
        inputs.bind_authorizer("authorizer", self.rights);
        inputs
    }
}

/// What may be named, without `variables`.
pub(crate) fn environment(with_params: bool) -> Environment {
    let mut environment = Environment::default();
    for name in ["object", "oldObject", "namespaceObject"] {
        environment.declare(name, Type::Dyn);
    }
    environment.declare("request", request_type());
    environment.declare("authorizer", Type::Opaque("kubernetes.authorization.Authorizer"));
    if with_params {
        environment.declare("params", Type::Dyn);
    }
    environment
}

/// The fields of an AdmissionRequest but for its objects, which have names of their own.
fn request_type() -> Type {
    let object = |name: &str, fields: &[(&str, Type)]| {
        let fields = fields.iter().map(|(name, of)| ((*name).to_owned(), of.clone()));
        Type::object(ObjectType::new(name, fields))
    };
    let texts = |name: &str, fields: &[&str]| {
        let fields: Vec<(&str, Type)> = fields.iter().map(|field| (*field, Type::Text)).collect();
        object(name, &fields)
    };
    let kind = texts("kubernetes.GroupVersionKind", &["group", "version", "kind"]);
    let resource = texts("kubernetes.GroupVersionResource", &["group", "version", "resource"]);
    let user = object(
        "kubernetes.UserInfo",
        &[
            ("username", Type::Text),
            ("uid", Type::Text),
            ("groups", Type::list_of(Type::Text)),
            ("extra", Type::map_of(Type::list_of(Type::Text))),
        ],
    );
    object(
        "kubernetes.AdmissionRequest",
        &[
            ("kind", kind.clone()),
            ("resource", resource.clone()),
            ("subResource", Type::Text),
            ("requestKind", kind),
            ("requestResource", resource),
            ("requestSubResource", Type::Text),
            ("name", Type::Text),
            ("namespace", Type::Text),
            ("operation", Type::Text),
            ("userInfo", user),
            ("dryRun", Type::Bool),
            ("options", Type::Dyn),
        ],
    )
}

/// The request as expressions read it: fields that Go would leave out are empty texts there.
pub(crate) fn complete_request(mut request: Value) -> Value {
    for name in ["name", "namespace", "subResource", "requestSubResource"] {
        if !request.has(name) {
            request[name] = "".into();
        }
    }
    let user = &mut request["userInfo"];
    for (name, empty) in [
        ("uid", Value::from("")),
        ("username", Value::from("")),
        ("groups", Value::Array(Vec::new())),
    ] {
        if user.is_object() && !user.has(name) {
            user[name] = empty;
        }
    }
    request
}

/// A condition in CEL that a request must meet beside the rules.
#[derive(Debug)]
pub struct Condition {
    expression: String,
    program: Result<Program, CompileError>,
}

impl Condition {
    /// Reads `matchConditions`.
    pub(crate) fn list(value: &Value, environment: &Environment) -> Vec<Condition> {
        let items = value.items("matchConditions").iter();
        items
            .map(|condition| Condition {
                expression: condition.text("expression").to_owned(),
                program: environment.compile(condition.text("expression")),
            })
            .collect()
    }
}

/// What of `matchConditions` below a path does not compile.
pub(crate) fn condition_problems(value: &Value, at: &Path<'_>, declared: &Environment, causes: &mut Causes) {
    let list = at.field("matchConditions");
    for (index, condition) in value.items("matchConditions").iter().enumerate() {
        let item = list.index(index);
        let expression = condition.text("expression");
        problem(
            declared,
            item.field("expression"),
            expression,
            Some(&Type::Bool),
            causes,
        );
    }
}

/// What is wrong with one expression: it does not compile, or it comes to something else than is wanted.
pub(crate) fn problem(
    declared: &Environment,
    at: Path<'_>,
    expression: &str,
    wanted: Option<&Type>,
    causes: &mut Causes,
) {
    let text = match (declared.compile(expression), wanted) {
        (Err(error), _) => format!("compilation failed: {error}"),
        (Ok(program), Some(wanted)) if *program.result() != Type::Dyn && program.result() != wanted => {
            let wanted = if *wanted == Type::Bool { "bool" } else { "string" };
            format!("must evaluate to {wanted}")
        }
        _ => return,
    };
    causes.invalid(at, expression, text);
}

/// Whether all conditions hold. One that is false decides, whatever fails beside it. `Ok(false)` also where one fails and
/// failures are ignored.
///
/// # Errors
///
/// What failed, where failures count.
pub(crate) fn conditions_hold(
    conditions: &[Condition],
    declared: &Environment,
    scene: &Scene<'_>,
    fails_closed: bool,
) -> Result<bool, String> {
    if conditions.is_empty() {
        return Ok(true);
    }
    let inputs = scene.inputs(declared);
    let mut evaluation = Evaluation::new(&inputs, CONDITIONS_BUDGET);
    let mut failures = Vec::new();
    for condition in conditions {
        match truth(&mut evaluation, &condition.expression, &condition.program) {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(failure) => failures.push(failure),
        }
    }
    match failures.as_slice() {
        [] => Ok(true),
        _ if !fails_closed => Ok(false),
        [one] => Err(one.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}

/// What an expression comes to, as a yes or no.
pub(crate) fn truth<'a>(
    evaluation: &mut Evaluation<'a>,
    expression: &str,
    program: &'a Result<Program, CompileError>,
) -> Result<bool, String> {
    let program = program
        .as_ref()
        .map_err(|error| format!("compilation error: {error}"))?;
    evaluation
        .truth(program)
        .map_err(|error| format!("expression '{expression}' resulted in error: {error}"))
}
