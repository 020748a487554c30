//! Small languages: selectors of labels and fields, as text and as objects, and quantities.

use std::collections::BTreeMap;

use protocol::quantity::Quantity;
use protocol::selector::{FieldSelector, LabelSelector};
use serde_json::{Value, json};

use crate::engine::{Outcome, Target};
use crate::mutation::Shape;

/// The query's `labelSelector`.
pub const LABEL_SELECTOR: Target = Target {
    name: "label_selector",
    shape: Shape::Text,
    seeds: || {
        texts(&[
            "a=b",
            "a==b,c!=d",
            "app in (x, y),!gone,tier notin (z)",
            "example.com/a,b",
            "n>1,m<2",
            " a = b ",
            "a in ()",
            "",
        ])
    },
    dictionary: &["in", "notin", " in (", "!=", "==", "!", "example.com/", ",", "(", ")"],
    run: |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let labels: BTreeMap<String, String> = [("a", "b"), ("app", "x"), ("n", "2")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        match LabelSelector::parse(&text) {
            Ok(selector) => Outcome(1 + u64::from(selector.matches(&labels)) + 2 * selector.requirements.len() as u64),
            Err(error) => Outcome::of(&error.to_string()),
        }
    },
};

/// The query's `fieldSelector`.
pub const FIELD_SELECTOR: Target = Target {
    name: "field_selector",
    shape: Shape::Text,
    seeds: || {
        texts(&[
            "metadata.name=a",
            "status.phase!=Running,spec.nodeName==n1",
            "metadata.namespace=a\\,b",
            "spec.nodeName=",
            "x=y",
        ])
    },
    dictionary: &[
        "metadata.name",
        "status.phase",
        "spec.nodeName",
        "!=",
        "==",
        "\\,",
        "\\=",
        "\\\\",
    ],
    run: |bytes| {
        let text = String::from_utf8_lossy(bytes);
        match FieldSelector::parse(&text, &["status.phase", "spec.nodeName"]) {
            Ok(selector) => Outcome(selector.requirements.len() as u64),
            Err(error) => Outcome::of(&error.to_string()),
        }
    },
};

/// A selector within an object: `matchLabels` and `matchExpressions`.
pub const SELECTOR_OBJECT: Target = Target {
    name: "selector_object",
    shape: Shape::Json,
    seeds: || {
        let selectors = [
            json!({"matchLabels": {"a": "b", "c.d/e": ""}}),
            json!({"matchExpressions": [{"key": "a", "operator": "In", "values": ["b", "c"]}, {"key": "x", "operator": "DoesNotExist"}]}),
            json!({}),
        ];
        selectors
            .iter()
            .map(|selector| selector.to_string().into_bytes())
            .collect()
    },
    dictionary: &[
        "matchLabels",
        "matchExpressions",
        "key",
        "operator",
        "values",
        "In",
        "NotIn",
        "Exists",
        "DoesNotExist",
        "a/b",
    ],
    run: |bytes| {
        let Ok(value) = serde_json::from_slice::<Value>(bytes) else {
            return Outcome(0);
        };
        match LabelSelector::from_value(&value) {
            Ok(selector) => Outcome(1 + u64::from(selector.matches(&BTreeMap::new()))),
            Err(error) => Outcome::of(&error.to_string()),
        }
    },
};

/// A quantity. What can be counted with must not lose its sign, and sums must not wrap.
pub const QUANTITY: Target = Target {
    name: "quantity",
    shape: Shape::Text,
    seeds: || {
        texts(&[
            "1",
            "100m",
            "1.5Gi",
            "-3e3",
            "0.1u",
            "12E",
            "9223372036854775807",
            "1n",
            ".5",
            "5.",
            "+1k",
            "1Ki",
        ])
    },
    dictionary: &[
        "Ki",
        "Mi",
        "Gi",
        "Ti",
        "Pi",
        "Ei",
        "n",
        "u",
        "m",
        "k",
        "M",
        "G",
        "T",
        "P",
        "E",
        "e",
        "e-",
        "000000000",
    ],
    run: |bytes| {
        let text = String::from_utf8_lossy(bytes);
        match Quantity::parse(&text) {
            Ok(quantity) => {
                let twice = quantity.plus(quantity);
                assert!(twice.is_negative() == quantity.is_negative() || twice == Quantity::from_units(0));
                assert_eq!(quantity.minus(quantity), Quantity::from_units(0), "{text}");
                let _ = (quantity.units(), quantity.milli());
                Outcome(u64::from(quantity.is_negative()))
            }
            Err(error) => Outcome::of(&error.to_string()),
        }
    },
};

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}
