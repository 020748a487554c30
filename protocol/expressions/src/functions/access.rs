//! Questions about access: `authorizer.group("").resource("pods").namespace("a").check("get").allowed()`. Who answers them is
//! the caller's business.

use std::sync::Arc;

use super::opaque::{AUTHORIZER, DECISION, GROUP_CHECK, Opaque, PATH_CHECK, RESOURCE_CHECK};
use super::{Arguments, Function, Outcome, Sort, member, text};
use crate::error::EvaluationError;
use crate::value::Value;

/// Who decides about access.
pub trait Authorizer: Sync {
    /// Answers a question about the user of the request, or about the service account that the question names.
    fn review(&self, question: &AccessQuestion) -> AccessReview;
}

/// What is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessQuestion {
    /// Namespace and name of the service account that is asked about; the request's user where there is none.
    pub service_account: Option<(String, String)>,
    /// A path that is no resource; everything below is empty then.
    pub path: Option<String>,
    /// The API group; `None` until `group(...)` was called.
    pub group: Option<String>,
    /// The resource; `None` until `resource(...)` was called.
    pub resource: Option<String>,
    /// The subresource, or empty.
    pub subresource: String,
    /// The namespace, or empty for all.
    pub namespace: String,
    /// The object's name, or empty.
    pub name: String,
    /// The field selector's text, or empty.
    pub field_selector: String,
    /// The label selector's text, or empty.
    pub label_selector: String,
    /// What is to be done.
    pub verb: String,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessReview {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Why.
    pub reason: String,
    /// What kept the question from being answered; empty if nothing did.
    pub error: String,
}

/// What a check costs: cel-go's figure allows two of them in an expression.
const CHECK_COST: u64 = 350_000;

impl AccessQuestion {
    pub(crate) fn type_name(&self) -> &'static str {
        match (&self.path, &self.resource, &self.group) {
            (Some(_), ..) => PATH_CHECK,
            (_, Some(_), _) => RESOURCE_CHECK,
            (_, _, Some(_)) => GROUP_CHECK,
            _ => AUTHORIZER,
        }
    }
}

const ROOT: Sort = Sort::Opaque(AUTHORIZER);
const RESOURCE: Sort = Sort::Opaque(RESOURCE_CHECK);
const ANSWER: Sort = Sort::Opaque(DECISION);

pub(super) static FUNCTIONS: &[Function] = &[
    member("path", &[ROOT, Sort::Text], Sort::Opaque(PATH_CHECK), |call| {
        with(call, |question, text| question.path = Some(text))
    }),
    member("group", &[ROOT, Sort::Text], Sort::Opaque(GROUP_CHECK), |call| {
        with(call, |question, text| question.group = Some(text))
    }),
    member("serviceAccount", &[ROOT, Sort::Text, Sort::Text], ROOT, |call| {
        let name = text(&call.values[2])?.to_owned();
        with(call, |question, namespace| {
            question.service_account = Some((namespace, name))
        })
    }),
    member("resource", &[Sort::Opaque(GROUP_CHECK), Sort::Text], RESOURCE, |call| {
        with(call, |question, text| question.resource = Some(text))
    }),
    member("subresource", &[RESOURCE, Sort::Text], RESOURCE, |call| {
        with(call, |question, text| question.subresource = text)
    }),
    member("namespace", &[RESOURCE, Sort::Text], RESOURCE, |call| {
        with(call, |question, text| question.namespace = text)
    }),
    member("name", &[RESOURCE, Sort::Text], RESOURCE, |call| {
        with(call, |question, text| question.name = text)
    }),
    member("fieldSelector", &[RESOURCE, Sort::Text], RESOURCE, |call| {
        with(call, |question, text| question.field_selector = text)
    }),
    member("labelSelector", &[RESOURCE, Sort::Text], RESOURCE, |call| {
        with(call, |question, text| question.label_selector = text)
    }),
    member("check", &[RESOURCE, Sort::Text], ANSWER, check),
    member("check", &[Sort::Opaque(PATH_CHECK), Sort::Text], ANSWER, check),
    member("allowed", &[ANSWER], Sort::Bool, |call| {
        Ok(Value::Bool(answer(&call)?.allowed))
    }),
    member("reason", &[ANSWER], Sort::Text, |call| {
        Ok(Value::text(answer(&call)?.reason.as_str()))
    }),
    member("errored", &[ANSWER], Sort::Bool, |call| {
        Ok(Value::Bool(!answer(&call)?.error.is_empty()))
    }),
    member("error", &[ANSWER], Sort::Text, |call| {
        Ok(Value::text(answer(&call)?.error.as_str()))
    }),
];

fn with<'a>(call: Arguments<'_, 'a>, change: impl FnOnce(&mut AccessQuestion, String)) -> Outcome<'a> {
    let Value::Opaque(Opaque::Access(authorizer, question)) = &call.values[0] else {
        return Err(EvaluationError::NoSuchOverload);
    };
    let mut question = (**question).clone();
    change(&mut question, text(&call.values[1])?.to_owned());
    Ok(Value::Opaque(Opaque::Access(*authorizer, Arc::new(question))))
}

fn check<'a>(call: Arguments<'_, 'a>) -> Outcome<'a> {
    (call.spend)(CHECK_COST)?;
    let Value::Opaque(Opaque::Access(authorizer, question)) = &call.values[0] else {
        return Err(EvaluationError::NoSuchOverload);
    };
    let mut question = (**question).clone();
    question.verb = text(&call.values[1])?.to_owned();
    Ok(Value::Opaque(Opaque::Answer(Arc::new(authorizer.review(&question)))))
}

fn answer<'v>(call: &'v Arguments<'_, '_>) -> Result<&'v AccessReview, EvaluationError> {
    match &call.values[0] {
        Value::Opaque(Opaque::Answer(answer)) => Ok(answer),
        _ => Err(EvaluationError::NoSuchOverload),
    }
}
