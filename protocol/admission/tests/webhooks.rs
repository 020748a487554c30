//! Which webhooks a request concerns, what they are sent, what their answers mean, and when they are asked again: as
//! Kubernetes documents it.

use std::sync::Arc;

use access::User;
use admission::matching::{Asked, Verb};
use admission::webhook::{self, Answer, Answers, Mutation, Pause, Question, Said, Webhook, Webhooks};
use admission::{Fact, Facts, Rights};
use api::kinds::{self, Kind, Subresource};
use api::status::Status;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use protocol::Revision;
use serde_json::{Value, json};

const MUTATING: &str = "mutatingwebhookconfigurations.admissionregistration.k8s.io";
const VALIDATING: &str = "validatingwebhookconfigurations.admissionregistration.k8s.io";

fn kind(plural: &str, group: &str, version: &str) -> &'static Kind {
    kinds::find(group, version, plural).unwrap()
}

fn pods() -> &'static Kind {
    kind("pods", "", "v1")
}

fn facts() -> Facts {
    let mut facts = Facts::default();
    let namespace = json!({"metadata": {"name": "d", "labels": {"tier": "gold"}}});
    let fact = Fact {
        revision: Revision(7),
        value: Arc::new(namespace),
    };
    facts.upsert("namespaces", "", "d", fact);
    facts
}

/// The object, and what webhooks said; or the refusal.
type Mutated = Result<(Value, Said), Status>;

/// How a webhook answers.
type Answering = Box<dyn Fn(&Question) -> Answer>;

struct World {
    facts: Facts,
    webhooks: Webhooks,
    user: User,
    dry_run: bool,
}

impl World {
    fn new(webhooks: &[(&str, &str, Value)]) -> World {
        let mut all = Webhooks::default();
        for (resource, name, list) in webhooks {
            all.upsert(resource, name, &json!({"webhooks": list}));
        }
        World {
            facts: facts(),
            webhooks: all,
            user: User::authenticated("jane", ["devs"]),
            dry_run: false,
        }
    }

    fn rights(&self) -> Rights<'_> {
        Rights {
            authorizers: None,
            user: &self.user,
        }
    }

    fn asked<'a>(&'a self, kind: &'a Kind, verb: Verb) -> Asked<'a> {
        Asked {
            verb,
            kind,
            subresource: None,
            namespace: if kind.namespaced { "d" } else { "" },
            name: "p",
            user: &self.user,
            dry_run: self.dry_run,
            options: &Value::Null,
            random: 7,
            customs: &admission::matching::NoCustoms,
        }
    }

    /// Whom a request would be asked about.
    fn concerned(&self, asked: &Asked<'_>, object: &Value, old: &Value) -> Vec<String> {
        let webhooks: Vec<Arc<Webhook>> = self.webhooks.validating().cloned().collect();
        let questions = webhook::questions(&webhooks, asked, (&self.facts, &self.rights()), object, old).unwrap();
        questions.iter().map(|question| question.webhook.name.clone()).collect()
    }

    /// Mutates an object with webhooks that answer by name.
    fn mutated(
        &self,
        asked: &Asked<'_>,
        object: Value,
        plugins: &mut dyn FnMut(&mut Value) -> Result<(), Status>,
        answer: &dyn Fn(&Question) -> Answer,
    ) -> (Mutated, Vec<(String, u8)>) {
        let webhooks: Vec<Arc<Webhook>> = self.webhooks.mutating().cloned().collect();
        let (mut answers, mut order) = (Answers::default(), Vec::new());
        loop {
            let mut tried = object.clone();
            let mutation = Mutation {
                asked,
                policies: &[],
                webhooks: &webhooks,
                facts: &self.facts,
                rights: &self.rights(),
                answers: &answers,
            };
            let mut said = Said::default();
            match webhook::mutate(&mutation, &mut tried, &Value::Null, &mut said, plugins) {
                Ok(()) => return (Ok((tried, said)), order),
                Err(Pause::Refused(status)) => return (Err(status), order),
                Err(Pause::Read(parameters)) => panic!("{parameters:?}"),
                Err(Pause::Ask(question)) => {
                    order.push((question.webhook.name.clone(), question.place.round));
                    let answer = answer(&question);
                    answers.note(*question, answer);
                }
            }
        }
    }
}

fn hook(name: &str, rule: Value) -> Value {
    json!({
        "name": name, "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Fail",
        "clientConfig": {"url": "https://h/"}, "rules": [rule],
    })
}

fn rule(operations: &[&str], group: &str, version: &str, resource: &str) -> Value {
    json!({"operations": operations, "apiGroups": [group], "apiVersions": [version], "resources": [resource]})
}

fn with(mut hook: Value, fields: Value) -> Value {
    for (name, value) in fields.as_object().unwrap() {
        hook[name] = value.clone();
    }
    hook
}

fn pod() -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "d", "labels": {"app": "web"}}})
}

fn allow(question: &Question) -> Value {
    let uid = &question.review["request"]["uid"];
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": {"uid": uid, "allowed": true}})
}

fn patch(question: &Question, operations: Value) -> Value {
    let mut answer = allow(question);
    answer["response"]["patchType"] = "JSONPatch".into();
    answer["response"]["patch"] = STANDARD.encode(operations.to_string()).into();
    answer
}

#[test]
fn rules_choose_by_operation_group_version_resource_and_scope() {
    let cases: &[(Value, bool)] = &[
        (rule(&["CREATE"], "", "v1", "pods"), true),
        (rule(&["*"], "*", "*", "*"), true),
        (rule(&["*"], "*", "*", "*/*"), true),
        (rule(&["UPDATE"], "", "v1", "pods"), false),
        (rule(&["CREATE"], "apps", "v1", "pods"), false),
        (rule(&["CREATE"], "", "v2", "pods"), false),
        (rule(&["CREATE"], "", "v1", "pods/*"), true),
        (rule(&["CREATE"], "", "v1", "pods/status"), false),
        (rule(&["CREATE"], "", "v1", "*/status"), false),
        (with(rule(&["*"], "*", "*", "*"), json!({"scope": "Namespaced"})), true),
        (with(rule(&["*"], "*", "*", "*"), json!({"scope": "Cluster"})), false),
    ];
    for (rule, matches) in cases {
        let world = World::new(&[(VALIDATING, "c", json!([hook("h", rule.clone())]))]);
        let asked = world.asked(pods(), Verb::Create);
        let concerned = world.concerned(&asked, &pod(), &Value::Null);
        assert_eq!(!concerned.is_empty(), *matches, "{rule}");
    }
}

#[test]
fn a_subresource_is_asked_about_by_its_name_alone() {
    for (resource, matches) in [
        ("pods", false),
        ("pods/exec", true),
        ("*/exec", true),
        ("*", false),
        ("*/*", true),
    ] {
        let world = World::new(&[(
            VALIDATING,
            "c",
            json!([hook("h", rule(&["CONNECT"], "", "v1", resource))]),
        )]);
        let mut asked = world.asked(pods(), Verb::Connect);
        asked.subresource = Some(Subresource::Exec);
        let options = json!({"apiVersion": "v1", "kind": "PodExecOptions", "command": ["sh"]});
        assert_eq!(
            !world.concerned(&asked, &options, &Value::Null).is_empty(),
            matches,
            "{resource}"
        );
    }
}

#[test]
fn selectors_choose_by_labels_of_namespace_and_object() {
    let any = rule(&["*"], "*", "*", "*");
    let cases = [
        (json!({"namespaceSelector": {"matchLabels": {"tier": "gold"}}}), true),
        (json!({"namespaceSelector": {"matchLabels": {"tier": "iron"}}}), false),
        (json!({"objectSelector": {"matchLabels": {"app": "web"}}}), true),
        (json!({"objectSelector": {"matchLabels": {"app": "db"}}}), false),
        (
            json!({"objectSelector": {"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}}),
            false,
        ),
    ];
    for (fields, matches) in cases {
        let world = World::new(&[(VALIDATING, "c", json!([with(hook("h", any.clone()), fields.clone())]))]);
        let asked = world.asked(pods(), Verb::Create);
        assert_eq!(
            !world.concerned(&asked, &pod(), &Value::Null).is_empty(),
            matches,
            "{fields}"
        );
    }
}

#[test]
fn an_object_that_leaves_a_selector_is_still_asked_about() {
    let fields = json!({"objectSelector": {"matchLabels": {"app": "web"}}});
    let any = rule(&["*"], "*", "*", "*");
    let world = World::new(&[(VALIDATING, "c", json!([with(hook("h", any), fields)]))]);
    let mut changed = pod();
    changed["metadata"]["labels"] = json!({});
    let asked = world.asked(pods(), Verb::Update);
    assert_eq!(world.concerned(&asked, &changed, &pod()), ["h"]);
    assert_eq!(world.concerned(&asked, &changed, &changed), Vec::<String>::new());
}

#[test]
fn a_namespace_is_selected_by_the_labels_that_it_will_have() {
    let fields = json!({"namespaceSelector": {"matchLabels": {"tier": "gold"}}});
    let any = rule(&["*"], "*", "*", "*");
    let world = World::new(&[(VALIDATING, "c", json!([with(hook("h", any), fields)]))]);
    let namespaces = kind("namespaces", "", "v1");
    for (tier, matches) in [("gold", true), ("iron", false)] {
        let asked = Asked {
            name: "new",
            ..world.asked(namespaces, Verb::Create)
        };
        let object = json!({"metadata": {"name": "new", "labels": {"tier": tier}}});
        assert_eq!(
            !world.concerned(&asked, &object, &Value::Null).is_empty(),
            matches,
            "{tier}"
        );
    }
}

#[test]
fn the_configurations_themselves_are_exempt() {
    let world = World::new(&[(VALIDATING, "c", json!([hook("h", rule(&["*"], "*", "*", "*"))]))]);
    for plural in [
        "validatingwebhookconfigurations",
        "mutatingwebhookconfigurations",
        "validatingadmissionpolicies",
    ] {
        let asked = world.asked(kind(plural, "admissionregistration.k8s.io", "v1"), Verb::Delete);
        assert_eq!(
            world.concerned(&asked, &Value::Null, &json!({"metadata": {}})),
            Vec::<String>::new()
        );
    }
}

#[test]
fn another_version_of_the_kind_is_told_in_the_version_of_the_rule_unless_it_must_be_exact() {
    let rule = rule(&["CREATE"], "autoscaling", "v1", "horizontalpodautoscalers");
    let object = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "p", "namespace": "d"},
        "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "w"}, "metrics": [{"type": "Resource",
            "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}]},
    });
    let world = World::new(&[(VALIDATING, "c", json!([hook("h", rule.clone())]))]);
    let asked = world.asked(kind("horizontalpodautoscalers", "autoscaling", "v2"), Verb::Create);
    let webhooks: Vec<Arc<Webhook>> = world.webhooks.validating().cloned().collect();
    let questions = webhook::questions(
        &webhooks,
        &asked,
        (&world.facts, &world.rights()),
        &object,
        &Value::Null,
    )
    .unwrap();
    let request = &questions[0].review["request"];
    assert_eq!(request["object"]["apiVersion"], "autoscaling/v1");
    assert_eq!(
        request["object"]["spec"]["targetCPUUtilizationPercentage"], 50,
        "{request}"
    );
    assert_eq!(request["kind"]["version"], "v1");
    assert_eq!(request["requestKind"]["version"], "v2");
    let exact = with(hook("h", rule), json!({"matchPolicy": "Exact"}));
    let world = World::new(&[(VALIDATING, "c", json!([exact]))]);
    assert!(world.concerned(&asked, &object, &Value::Null).is_empty());
}

#[test]
fn a_review_tells_who_asks_for_what() {
    let world = World::new(&[(VALIDATING, "c", json!([hook("h", rule(&["*"], "*", "*", "*"))]))]);
    let webhooks: Vec<Arc<Webhook>> = world.webhooks.validating().cloned().collect();
    let options = json!({"kind": "UpdateOptions"});
    let asked = Asked {
        options: &options,
        ..world.asked(pods(), Verb::Update)
    };
    let mut new = pod();
    new["spec"] = json!({"nodeName": "n"});
    let questions = webhook::questions(&webhooks, &asked, (&world.facts, &world.rights()), &new, &pod()).unwrap();
    let mut review = questions[0].review.clone();
    let uid = review["request"]["uid"].take();
    assert_eq!(uid.as_str().unwrap().len(), 36);
    let pods = json!({"group": "", "version": "v1", "resource": "pods"});
    let kind = json!({"group": "", "version": "v1", "kind": "Pod"});
    assert_eq!(
        review,
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
            "uid": null, "kind": kind, "resource": pods, "requestKind": kind, "requestResource": pods,
            "name": "p", "namespace": "d", "operation": "UPDATE", "dryRun": false, "options": {"kind": "UpdateOptions"},
            "userInfo": {"username": "jane", "groups": ["devs", "system:authenticated"]},
            "object": new, "oldObject": pod(),
        }})
    );
}

#[test]
fn refusals_and_failures_are_told_in_kubernetes_words() {
    let any = rule(&["*"], "*", "*", "*");
    let said = |response: Value| {
        move |question: &Question| -> Answer {
            let mut answer = allow(question);
            for (name, value) in response.as_object().unwrap() {
                answer["response"][name] = value.clone();
            }
            Ok(answer)
        }
    };
    let message = |status: Value| said(json!({"allowed": false, "status": status}));
    let cases: Vec<(Answering, u16, &str)> = vec![
        (
            Box::new(message(
                json!({"message": "no latest tags", "code": 403, "reason": "Forbidden"}),
            )),
            403,
            "admission webhook \"h\" denied the request: no latest tags",
        ),
        (
            Box::new(message(json!({"reason": "TooOld"}))),
            400,
            "admission webhook \"h\" denied the request: TooOld",
        ),
        (
            Box::new(said(json!({"allowed": false}))),
            400,
            "admission webhook \"h\" denied the request without explanation",
        ),
        (
            Box::new(message(json!({"message": "m", "code": 200}))),
            400,
            "admission webhook \"h\" denied the request: m",
        ),
        (
            Box::new(|_: &Question| Err("Post \"https://h/?timeout=10s\": context deadline exceeded".to_owned())),
            500,
            "Internal error occurred: failed calling webhook \"h\": failed to call webhook: Post \
             \"https://h/?timeout=10s\": context deadline exceeded",
        ),
        (
            Box::new(|_: &Question| Ok(json!({}))),
            500,
            "Internal error occurred: failed calling webhook \"h\": received invalid webhook response: webhook response was \
             absent",
        ),
        (
            Box::new(said(json!({"uid": "other"}))),
            500,
            "Internal error occurred: failed calling webhook \"h\": received invalid webhook response: expected \
             response.uid=\"UID\", got \"other\"",
        ),
        (
            Box::new(said(json!({"patch": "W10="}))),
            500,
            "Internal error occurred: failed calling webhook \"h\": received invalid webhook response: webhook returned \
             response.patch but not response.patchType",
        ),
    ];
    let world = World::new(&[(MUTATING, "c", json!([hook("h", any)]))]);
    let asked = world.asked(pods(), Verb::Create);
    for (answer, code, expected) in cases {
        let uid = std::cell::RefCell::new(String::new());
        let outcome = world.mutated(&asked, pod(), &mut |_| Ok(()), &|question| {
            *uid.borrow_mut() = question.review["request"]["uid"].as_str().unwrap().to_owned();
            answer(question)
        });
        let status = outcome.0.unwrap_err();
        let expected = expected.replace("UID", &uid.borrow());
        assert_eq!((status.code, status.message.as_str()), (code, expected.as_str()));
    }
}

#[test]
fn a_webhook_that_may_fail_lets_the_request_pass_but_its_refusal_counts() {
    let any = rule(&["*"], "*", "*", "*");
    let ignored = with(hook("h", any), json!({"failurePolicy": "Ignore"}));
    let world = World::new(&[(MUTATING, "c", json!([ignored]))]);
    let asked = world.asked(pods(), Verb::Create);
    let (outcome, _) = world.mutated(&asked, pod(), &mut |_| Ok(()), &|_| Err("refused".into()));
    assert_eq!(outcome.unwrap().0, pod());
    let refuse = |question: &Question| {
        let mut answer = allow(question);
        answer["response"]["allowed"] = false.into();
        Ok(answer)
    };
    assert!(world.mutated(&asked, pod(), &mut |_| Ok(()), &refuse).0.is_err());
}

#[test]
fn a_dry_run_is_refused_by_a_webhook_that_has_effects() {
    let any = rule(&["*"], "*", "*", "*");
    for (effects, refused) in [
        ("None", false),
        ("NoneOnDryRun", false),
        ("Some", true),
        ("Unknown", true),
    ] {
        let fields = json!({"sideEffects": effects, "failurePolicy": "Ignore"});
        let mut world = World::new(&[(MUTATING, "c", json!([with(hook("h", any.clone()), fields)]))]);
        world.dry_run = true;
        let asked = world.asked(pods(), Verb::Create);
        let (outcome, _) = world.mutated(&asked, pod(), &mut |_| Ok(()), &|question| Ok(allow(question)));
        match outcome {
            Ok(_) => assert!(!refused, "{effects}"),
            Err(status) => {
                assert!(refused, "{effects}");
                assert_eq!(
                    (status.code, status.message.as_str()),
                    (400, "admission webhook \"h\" does not support dry run")
                );
            }
        }
    }
}

#[test]
fn patches_apply_in_order_and_what_is_left_out_is_filled_in() {
    let any = rule(&["*"], "*", "*", "*");
    let world = World::new(&[
        (MUTATING, "b", json!([hook("third", any.clone())])),
        (MUTATING, "a", json!([hook("first", any.clone()), hook("second", any)])),
    ]);
    let asked = world.asked(pods(), Verb::Create);
    let answer = |question: &Question| -> Answer {
        let labels = question.review["request"]["object"]["metadata"]["labels"]
            .as_object()
            .unwrap()
            .len();
        Ok(match question.webhook.name.as_str() {
            "third" => patch(
                question,
                json!([{"op": "add", "path": "/spec", "value": {"containers": [{"name": "c", "image": "i"}]}}]),
            ),
            name => patch(
                question,
                json!([{"op": "add", "path": format!("/metadata/labels/{name}"), "value": labels.to_string()}]),
            ),
        })
    };
    let (outcome, order) = world.mutated(&asked, pod(), &mut |_| Ok(()), &answer);
    let (object, _) = outcome.unwrap();
    assert_eq!(
        order.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        ["first", "second", "third"]
    );
    assert_eq!(
        object["metadata"]["labels"],
        json!({"app": "web", "first": "1", "second": "2"})
    );
    assert_eq!(
        object["spec"]["restartPolicy"], "Always",
        "a default of what the third added"
    );
}

#[test]
fn a_webhook_that_wants_to_sees_what_later_ones_made() {
    let any = rule(&["*"], "*", "*", "*");
    let again = json!({"reinvocationPolicy": "IfNeeded"});
    let world = World::new(&[(
        MUTATING,
        "c",
        json!([
            with(hook("keen", any.clone()), again.clone()),
            hook("once", any.clone()),
            with(hook("last", any), again),
        ]),
    )]);
    let asked = world.asked(pods(), Verb::Create);
    let mark = |question: &Question| {
        let labels = &question.review["request"]["object"]["metadata"]["labels"];
        let name = &question.webhook.name;
        // Idempotent, as webhooks should be.
        if name == "once" && labels["once"].is_null() {
            return Ok(patch(
                question,
                json!([{"op": "add", "path": "/metadata/labels/once", "value": "1"}]),
            ));
        }
        Ok(allow(question))
    };
    let mut rounds = 0;
    let (outcome, order) = world.mutated(
        &asked,
        pod(),
        &mut |_| {
            rounds += 1;
            Ok(())
        },
        &mark,
    );
    outcome.unwrap();
    let expected = [("keen", 0), ("once", 0), ("last", 0), ("keen", 1)];
    let expected: Vec<(String, u8)> = expected.map(|(name, round)| (name.to_owned(), round)).into();
    assert_eq!(order, expected, "the last one has seen the object as it is");
}

#[test]
fn what_the_plugins_make_of_a_changed_object_is_shown_again() {
    let any = rule(&["*"], "*", "*", "*");
    let again = json!({"reinvocationPolicy": "IfNeeded"});
    let world = World::new(&[(MUTATING, "c", json!([with(hook("keen", any), again)]))]);
    let asked = world.asked(pods(), Verb::Create);
    let label = |question: &Question| {
        let labels = &question.review["request"]["object"]["metadata"]["labels"];
        if labels["hook"].is_null() {
            return Ok(patch(
                question,
                json!([{"op": "add", "path": "/metadata/labels/hook", "value": "1"}]),
            ));
        }
        Ok(allow(question))
    };
    let mut plugins = |object: &mut Value| {
        if !object["metadata"]["labels"]["hook"].is_null() {
            object["metadata"]["labels"]["plugin"] = "1".into();
        }
        Ok(())
    };
    let (outcome, order) = world.mutated(&asked, pod(), &mut plugins, &label);
    assert_eq!(outcome.unwrap().0["metadata"]["labels"]["plugin"], "1");
    assert_eq!(order, [("keen".to_owned(), 0), ("keen".to_owned(), 1)]);
}

#[test]
fn nothing_is_patched_where_there_is_no_object() {
    let world = World::new(&[(MUTATING, "c", json!([hook("h", rule(&["DELETE"], "*", "*", "*"))]))]);
    let asked = world.asked(pods(), Verb::Delete);
    let answer = |question: &Question| Ok(patch(question, json!([{"op": "add", "path": "/x", "value": 1}])));
    let (outcome, _) = world.mutated(&asked, Value::Null, &mut |_| Ok(()), &answer);
    assert_eq!(
        outcome.unwrap_err().message,
        "Internal error occurred: admission webhook \"h\" attempted to modify the object, which is not supported for this \
         operation"
    );
}

#[test]
fn warnings_and_annotations_are_kept_also_of_a_refusal() {
    let world = World::new(&[(VALIDATING, "c", json!([hook("h", rule(&["*"], "*", "*", "*"))]))]);
    let webhooks: Vec<Arc<Webhook>> = world.webhooks.validating().cloned().collect();
    let asked = world.asked(pods(), Verb::Create);
    let questions =
        webhook::questions(&webhooks, &asked, (&world.facts, &world.rights()), &pod(), &Value::Null).unwrap();
    let mut answer = allow(&questions[0]);
    answer["response"]["warnings"] = json!(["old image"]);
    answer["response"]["auditAnnotations"] = json!({"k": "v"});
    let answered: Vec<(Question, Answer)> = questions
        .into_iter()
        .map(|question| (question, Ok(answer.clone())))
        .collect();
    let mut said = Said::default();
    webhook::verdicts(&answered, &mut said).unwrap();
    assert_eq!(said.warnings, ["old image"]);
    assert_eq!(said.annotations, [("h/k".to_owned(), "v".to_owned())]);
    answer["response"]["allowed"] = false.into();
    answer["response"]["status"] = json!({
        "reason": "TooOld", "message": "it is too old", "code": 409,
        "details": {"name": "p", "kind": "pods", "group": "g", "retryAfterSeconds": 3,
            "causes": [{"reason": "Aged", "message": "of 2020", "field": "spec.containers[0].image"}]},
    });
    let refused: Vec<(Question, Answer)> = answered
        .iter()
        .map(|(question, _)| (question.clone(), Ok(answer.clone())))
        .collect();
    let mut said = Said::default();
    let status = webhook::verdicts(&refused, &mut said).unwrap_err();
    assert_eq!(said.annotations, [("h/k".to_owned(), "v".to_owned())]);
    let told = status.to_value();
    assert_eq!(
        (&told["reason"], &told["code"], &told["details"]),
        (&json!("TooOld"), &json!(409), &answer["response"]["status"]["details"]),
        "what the webhook tells machines reaches the client"
    );
    answer["response"]["allowed"] = true.into();
    answer["response"]["patch"] = "e30=".into();
    let answered: Vec<(Question, Answer)> = answered
        .into_iter()
        .map(|(question, _)| (question, Ok(answer.clone())))
        .collect();
    let error = webhook::verdicts(&answered, &mut Said::default()).unwrap_err();
    assert!(
        error
            .message
            .ends_with("validating webhook may not return response.patch"),
        "{error}"
    );
}

#[test]
fn match_conditions_decide_beside_the_rules() {
    let any = rule(&["*"], "*", "*", "*");
    let condition = |expression: &str| json!({"matchConditions": [{"name": "c", "expression": expression}]});
    let cases = [
        ("object.metadata.name == 'p'", "Fail", Ok(true)),
        ("request.operation == 'DELETE'", "Fail", Ok(false)),
        ("!('devs' in request.userInfo.groups)", "Fail", Ok(false)),
        ("namespaceObject.metadata.labels.tier == 'gold'", "Fail", Ok(true)),
        ("object.metadata.absent == 'x'", "Ignore", Ok(false)),
        (
            "object.metadata.absent == 'x'",
            "Fail",
            Err(
                "pods \"p\" is forbidden: expression 'object.metadata.absent == 'x'' resulted in error: no such key: absent",
            ),
        ),
    ];
    for (expression, policy, expected) in cases {
        let hook = with(hook("h", any.clone()), condition(expression));
        let hook = with(hook, json!({"failurePolicy": policy}));
        let world = World::new(&[(VALIDATING, "c", json!([hook]))]);
        let asked = world.asked(pods(), Verb::Create);
        let webhooks: Vec<Arc<Webhook>> = world.webhooks.validating().cloned().collect();
        let found = webhook::questions(&webhooks, &asked, (&world.facts, &world.rights()), &pod(), &Value::Null);
        let found = found
            .map(|questions| !questions.is_empty())
            .map_err(|status| status.message);
        assert_eq!(found, expected.map_err(str::to_owned), "{expression}");
    }
}
