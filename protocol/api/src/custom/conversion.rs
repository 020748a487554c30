//! Conversion of custom objects between the versions of their definition by a webhook, the pure part: what is asked, and what
//! of the answer is believed. The gateway carries the documents (`gateway::versions`). After apiextensions-apiserver's
//! `conversion/webhook_converter.go`, whose words these are: people and tests match on them.

use serde_json::{Map, Value, json};

use crate::access::Access;
use crate::cause::{Causes, Path};
use crate::meta;

/// `spec.conversion` of a definition whose strategy is `Webhook`.
#[derive(Clone, Debug, PartialEq)]
pub struct ConversionWebhook {
    /// Where it is: `clientConfig`.
    pub client: Value,
    /// The apiVersion of the reviews that it reads; `None` when it reads no version that is spoken here.
    pub review_version: Option<&'static str>,
}

/// What a webhook is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct ConversionReview {
    /// The document to send.
    pub document: Value,
    /// Group, version and kind of the first object, as messages name it.
    of: String,
}

/// Why objects were not converted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConversionError {
    /// It gave no answer, or said that it failed.
    #[error("conversion webhook for {of} failed: {why}")]
    Failed {
        /// Group, version and kind of what was to be converted.
        of: String,
        /// What it said, or what went wrong on the way.
        why: String,
    },
    /// It answered with more or fewer objects.
    #[error("conversion webhook for {of} returned {got} objects, expected {expected}")]
    Count {
        /// Group, version and kind of what was to be converted.
        of: String,
        /// How many came.
        got: usize,
        /// How many were sent.
        expected: usize,
    },
    /// An object is not the one that was sent, or not in the version that was asked for.
    #[error("conversion webhook for {of} returned invalid converted object at index {index}: {why}")]
    Object {
        /// Group, version and kind of what was to be converted.
        of: String,
        /// Its place in the list.
        index: usize,
        /// What is wrong with it.
        why: String,
    },
    /// An object's metadata cannot be taken.
    #[error("conversion webhook for {of} returned invalid metadata in object at index {index}: {why}")]
    Metadata {
        /// Group, version and kind of what was to be converted.
        of: String,
        /// Its place in the list.
        index: usize,
        /// What is wrong with it.
        why: String,
    },
}

/// `stable.example.com/v1, Kind=CronTab`, as Go prints a GroupVersionKind.
fn kind_text(object: &Value) -> String {
    let (version, kind) = (object.text("apiVersion"), object.text("kind"));
    if version.contains('/') {
        format!("{version}, Kind={kind}")
    } else {
        format!("/{version}, Kind={kind}")
    }
}

impl ConversionWebhook {
    /// Reads `spec.conversion`; `None` where versions differ in their name alone.
    pub fn read(conversion: &Value) -> Option<ConversionWebhook> {
        if conversion.text("strategy") != "Webhook" {
            return None;
        }
        let webhook = conversion.at(&["webhook"]);
        let versions = webhook.items("conversionReviewVersions").iter();
        Some(ConversionWebhook {
            client: webhook.at(&["clientConfig"]).clone(),
            review_version: versions.filter_map(Value::as_str).find_map(|version| match version {
                "v1" => Some("apiextensions.k8s.io/v1"),
                "v1beta1" => Some("apiextensions.k8s.io/v1beta1"),
                _ => None,
            }),
        })
    }

    /// The review that asks for `objects`, at least one, in the version `desired` (`group/version`).
    ///
    /// # Errors
    ///
    /// The webhook reads no version of reviews that is spoken here.
    pub fn review(&self, uid: &str, desired: &str, objects: &[Value]) -> Result<ConversionReview, ConversionError> {
        let of = objects.first().map(kind_text).unwrap_or_default();
        let Some(version) = self.review_version else {
            let why = "does not support any of the ConversionReview versions v1, v1beta1".to_owned();
            return Err(ConversionError::Failed { of, why });
        };
        let request = json!({"uid": uid, "desiredAPIVersion": desired, "objects": objects});
        Ok(ConversionReview {
            document: json!({"apiVersion": version, "kind": "ConversionReview", "request": request}),
            of,
        })
    }
}

impl ConversionReview {
    /// There is no answer.
    pub fn unanswered(&self, why: impl ToString) -> ConversionError {
        self.failed(why.to_string())
    }

    fn failed(&self, why: String) -> ConversionError {
        let of = self.of.clone();
        ConversionError::Failed { of, why }
    }

    /// The objects of an answer, in the order in which they were sent. Of their metadata only labels and annotations are
    /// believed: the rest is what was sent.
    ///
    /// # Errors
    ///
    /// What is wrong with the answer.
    pub fn accepted(&self, mut answer: Value) -> Result<Vec<Value>, ConversionError> {
        let request = self.document.at(&["request"]);
        let sent = request.items("objects");
        self.check_answer(&answer)?;
        let converted = match answer.pointer_mut("/response/convertedObjects").map(Value::take) {
            Some(Value::Array(objects)) => objects,
            _ => Vec::new(),
        };
        if converted.len() != sent.len() {
            return Err(ConversionError::Count {
                of: self.of.clone(),
                got: converted.len(),
                expected: sent.len(),
            });
        }
        let pairs = sent.iter().zip(converted).enumerate();
        pairs
            .map(|(index, (original, mut converted))| {
                let of = || self.of.clone();
                check_object(original, &converted, request.text("desiredAPIVersion"))
                    .map_err(|why| ConversionError::Object { of: of(), index, why })?;
                restore_metadata(original, &mut converted).map_err(|why| ConversionError::Metadata {
                    of: of(),
                    index,
                    why,
                })?;
                Ok(converted)
            })
            .collect()
    }

    fn check_answer(&self, answer: &Value) -> Result<(), ConversionError> {
        let version = self.document.text("apiVersion");
        let is_v1 = version == "apiextensions.k8s.io/v1";
        if is_v1 && (answer.text("apiVersion"), answer.text("kind")) != (version, "ConversionReview") {
            let (expected, got) = (kind_text(&self.document), kind_text(answer));
            return Err(self.failed(format!("expected webhook response of {expected}, got {got}")));
        }
        let response = answer.at(&["response"]);
        if !response.is_object() {
            return Err(self.failed("no response provided".to_owned()));
        }
        let (asked, answered) = (self.document.at(&["request"]).text("uid"), response.text("uid"));
        if is_v1 && asked != answered {
            return Err(self.failed(format!("expected response.uid={asked:?}, got {answered:?}")));
        }
        let result = response.at(&["result"]);
        match (result.text("status"), result.text("message")) {
            ("Success", _) => Ok(()),
            (status, "") => Err(self.failed(format!("response.result.status was '{status}', not 'Success'"))),
            (_, message) => Err(self.failed(message.to_owned())),
        }
    }
}

/// Whether a converted object is the one that was sent, in the version that was asked for.
fn check_object(original: &Value, converted: &Value, desired: &str) -> Result<(), String> {
    let version = converted.text("apiVersion");
    if version != desired {
        return Err(format!("invalid groupVersion (expected {desired}, received {version})"));
    }
    let kinds = (original.text("kind"), converted.text("kind"));
    if kinds.0 != kinds.1 {
        return Err(format!("invalid kind (expected {}, received {})", kinds.0, kinds.1));
    }
    for (name, shown) in [("name", "name"), ("namespace", "namespace"), ("uid", "UID")] {
        let expected = original.at(&["metadata"]).text(name);
        let got = converted.at(&["metadata"]).text(name);
        if expected != got {
            return Err(format!("must have the same {shown}: {expected} != {got}"));
        }
    }
    Ok(())
}

/// What Go calls the type of a JSON value.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// Gives a converted object the metadata that was sent, with the labels and annotations that came back.
fn restore_metadata(original: &Value, converted: &mut Value) -> Result<(), String> {
    let Some(answered) = converted.get_mut("metadata") else {
        return Err("missing metadata in converted object".to_owned());
    };
    let Value::Object(answered) = answered.take() else {
        return Err(format!(
            "invalid metadata of type {} in converted object",
            go_type(answered)
        ));
    };
    let mut metadata = match original.get("metadata") {
        Some(Value::Object(metadata)) => metadata.clone(),
        _ => Map::new(),
    };
    for name in ["labels", "annotations"] {
        let texts = match answered.get(name) {
            None | Some(Value::Null) => {
                metadata.remove(name);
                continue;
            }
            Some(texts) => texts,
        };
        let Some(members) = texts.as_object() else {
            return Err(format!(
                "invalid metadata.{name} of type {} in converted object",
                go_type(texts)
            ));
        };
        if let Some((key, value)) = members.iter().find(|(_, value)| !value.is_string()) {
            return Err(format!(
                "metadata.{name}[{key}] must be a string, but is {} in converted object",
                go_type(value)
            ));
        }
        // What was stored stays valid, whatever an older version let pass.
        if metadata.get(name) != Some(texts) {
            check_texts(name, texts)?;
        }
        metadata.insert(name.to_owned(), texts.clone());
    }
    converted["metadata"] = metadata.into();
    Ok(())
}

fn check_texts(name: &str, texts: &Value) -> Result<(), String> {
    let (root, mut causes) = (Path::Root, Causes::default());
    let metadata = root.field("metadata");
    match name {
        "labels" => meta::labels(texts, metadata.field("labels"), &mut causes),
        _ => meta::annotations(texts, metadata.field("annotation"), &mut causes),
    }
    let problems: Vec<String> = causes.0.iter().map(ToString::to_string).collect();
    match problems.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "stable.example.com/v1";

    fn webhook(versions: Value) -> ConversionWebhook {
        ConversionWebhook::read(&json!({"strategy": "Webhook", "webhook": {
            "clientConfig": {"url": "https://h/convert"}, "conversionReviewVersions": versions,
        }}))
        .unwrap()
    }

    fn stored(name: &str) -> Value {
        json!({
            "apiVersion": "stable.example.com/v1beta1", "kind": "CronTab",
            "metadata": {"name": name, "namespace": "d", "uid": format!("u-{name}"), "labels": {"a": "1"}, "generation": 3},
            "hostPort": "h:1",
        })
    }

    fn converted(name: &str) -> Value {
        json!({
            "apiVersion": V1, "kind": "CronTab",
            "metadata": {"name": name, "namespace": "d", "uid": format!("u-{name}"), "labels": {"a": "1"}},
            "host": "h", "port": "1",
        })
    }

    fn review() -> ConversionReview {
        webhook(json!(["v1"]))
            .review("u-0", V1, &[stored("a"), stored("b")])
            .unwrap()
    }

    fn answer(objects: Value) -> Value {
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "response": {
            "uid": "u-0", "result": {"status": "Success"}, "convertedObjects": objects,
        }})
    }

    #[test]
    fn the_first_version_of_reviews_that_is_spoken_here_is_taken() {
        assert_eq!(
            webhook(json!(["v2", "v1beta1", "v1"])).review_version,
            Some("apiextensions.k8s.io/v1beta1")
        );
        let error = webhook(json!(["v2"])).review("u", V1, &[stored("a")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "conversion webhook for stable.example.com/v1beta1, Kind=CronTab failed: does not support any of the \
             ConversionReview versions v1, v1beta1"
        );
        assert_eq!(ConversionWebhook::read(&json!({"strategy": "None"})), None);
    }

    #[test]
    fn converted_objects_keep_the_metadata_that_was_sent_but_labels_and_annotations() {
        let mut b = converted("b");
        b["metadata"]["labels"] = json!({"a": "2"});
        b["metadata"]["annotations"] = json!({"n": "x"});
        b["metadata"]["generation"] = 99.into();
        let accepted = review().accepted(answer(json!([converted("a"), b]))).unwrap();
        assert_eq!(
            (&accepted[0]["host"], &accepted[0]["apiVersion"]),
            (&json!("h"), &json!(V1))
        );
        let metadata = &accepted[1]["metadata"];
        assert_eq!(metadata["generation"], 3, "the webhook may not change it");
        assert_eq!(metadata["labels"], json!({"a": "2"}));
        assert_eq!(metadata["annotations"], json!({"n": "x"}));
        let mut bare = converted("a");
        bare["metadata"].as_object_mut().unwrap().remove("labels");
        let accepted = review().accepted(answer(json!([bare, converted("b")]))).unwrap();
        assert!(accepted[0]["metadata"].get("labels").is_none());
    }

    #[test]
    fn an_answer_that_lies_is_refused_in_kubernetes_words() {
        let of = "conversion webhook for stable.example.com/v1beta1, Kind=CronTab";
        let with = |edit: &dyn Fn(&mut Value)| {
            let mut value = answer(json!([converted("a"), converted("b")]));
            edit(&mut value);
            value
        };
        let object = |edit: &dyn Fn(&mut Value)| with(&|value| edit(&mut value["response"]["convertedObjects"][1]));
        let cases: Vec<(Value, &str)> = vec![
            (with(&|v| v["response"] = Value::Null), " failed: no response provided"),
            (
                with(&|v| v["response"]["uid"] = "other".into()),
                " failed: expected response.uid=\"u-0\", got \"other\"",
            ),
            (
                with(&|v| v["apiVersion"] = "apiextensions.k8s.io/v1beta1".into()),
                " failed: expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got \
                 apiextensions.k8s.io/v1beta1, Kind=ConversionReview",
            ),
            (
                with(&|v| v["response"]["result"] = json!({"status": "Failed", "message": "no port"})),
                " failed: no port",
            ),
            (
                with(&|v| v["response"]["result"] = json!({"status": "Failed"})),
                " failed: response.result.status was 'Failed', not 'Success'",
            ),
            (
                with(&|v| v["response"]["convertedObjects"] = json!([converted("a")])),
                " returned 1 objects, expected 2",
            ),
            (
                with(&|v| v["response"]["convertedObjects"] = json!([converted("b"), converted("a")])),
                " returned invalid converted object at index 0: must have the same name: a != b",
            ),
            (
                object(&|o| o["metadata"]["namespace"] = "e".into()),
                " returned invalid converted object at index 1: must have the same namespace: d != e",
            ),
            (
                object(&|o| o["metadata"]["uid"] = "e".into()),
                " returned invalid converted object at index 1: must have the same UID: u-b != e",
            ),
            (
                object(&|o| o["apiVersion"] = "stable.example.com/v2".into()),
                " returned invalid converted object at index 1: invalid groupVersion (expected stable.example.com/v1, \
                 received stable.example.com/v2)",
            ),
            (
                object(&|o| o["kind"] = "Other".into()),
                " returned invalid converted object at index 1: invalid kind (expected CronTab, received Other)",
            ),
            (
                object(&|o| o["metadata"]["labels"] = json!({"a": 1})),
                " returned invalid metadata in object at index 1: metadata.labels[a] must be a string, but is int64 in \
                 converted object",
            ),
            (
                object(&|o| o["metadata"]["annotations"] = json!([])),
                " returned invalid metadata in object at index 1: invalid metadata.annotations of type []interface {} in \
                 converted object",
            ),
        ];
        for (answer, expected) in cases {
            let error = review().accepted(answer).unwrap_err();
            assert_eq!(error.to_string(), format!("{of}{expected}"));
        }
        let bad = object(&|o| o["metadata"]["labels"] = json!({"a": "not a label!"}));
        let error = review().accepted(bad).unwrap_err().to_string();
        assert!(
            error.contains("metadata.labels: Invalid value: \"not a label!\""),
            "{error}"
        );
    }

    #[test]
    fn reviews_of_v1beta1_are_told_apart_by_nothing() {
        let review = webhook(json!(["v1beta1"])).review("u-0", V1, &[stored("a")]).unwrap();
        let answer = json!({"response": {"result": {"status": "Success"}, "convertedObjects": [converted("a")]}});
        assert_eq!(review.accepted(answer).unwrap().len(), 1);
    }
}
