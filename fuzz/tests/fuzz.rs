//! Every target for its time: seconds in the plain run, a minute when the suite is named. A test is a target.

use fuzz::engine::{Target, fuzz};
use fuzz::targets;

/// Runs a target and checks that its inputs did reach something: different answers came.
fn run(target: &Target, outcomes_min: usize) {
    let report = fuzz(target);
    assert!(
        report.outcomes >= outcomes_min,
        "{}: {} inputs brought {} different answers only",
        target.name,
        report.inputs,
        report.outcomes
    );
}

macro_rules! target {
    ($test:ident, $target:ident, $outcomes_min:literal) => {
        #[test]
        fn $test() {
            run(&targets::$target, $outcomes_min);
        }
    };
}

target!(json_body, JSON_BODY, 50);
target!(yaml_body, YAML_BODY, 5);
target!(protobuf_body, PROTOBUF_BODY, 5);
target!(patch, PATCH, 20);
target!(label_selector, LABEL_SELECTOR, 5);
target!(field_selector, FIELD_SELECTOR, 3);
target!(selector_object, SELECTOR_OBJECT, 3);
target!(quantity, QUANTITY, 3);
target!(expression, EXPRESSION, 10);
target!(request, REQUEST, 10);
target!(credential, CREDENTIAL, 3);
target!(message, MESSAGE, 20);
target!(stored_key, STORED_KEY, 2);
target!(spdy, SPDY, 3);
target!(channel, CHANNEL, 3);

#[test]
fn every_target_is_a_test() {
    let source = include_str!("fuzz.rs");
    for target in targets::ALL {
        assert!(
            source.contains(&format!("target!({},", target.name)),
            "{} is run by no test",
            target.name
        );
    }
}
