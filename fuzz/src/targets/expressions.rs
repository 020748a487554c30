//! CEL: an expression is parsed, checked and evaluated over an object, within its budget. What an expression means here is what a
//! custom resource's author may write, so nothing in it is trusted.

use std::sync::OnceLock;

use expressions::{Budget, Environment, Evaluation, Inputs, ObjectType, Type, escape, unescape};
use serde_json::{Value, json};

use crate::engine::{Outcome, Target};
use crate::mutation::Shape;

/// An expression over a `self` of known fields and an `object` of unknown ones.
pub const EXPRESSION: Target = Target {
    name: "expression",
    shape: Shape::Text,
    seeds: || {
        let texts = [
            "self.replicas <= self.maxReplicas && self.name.matches('^[a-z]+$')",
            "self.all(x, x > 1) || self.items.exists_one(i, i.size() < 3)",
            "has(self.spec) ? self.spec.orValue(1) : {'a': [1, 2u, 3.0, b'x', null]}.a[0]",
            "self.items.map(i, i.startsWith('a'), i + '-' + string(i.size())).filter(i, i in ['a', 'b'])",
            "duration('1h3m').getSeconds() > timestamp('2026-11-24T15:00:00Z').getHours('UTC')",
            "quantity('1Gi').isGreaterThan(quantity('100Mi')) && ip('10.0.0.1').isLoopback() || cidr('::1/128').containsIP('::1')",
            "url('https://h.example:80/p?q=a').getHost().lowerAscii().split('.')[0].replace('h', 'x').substring(0, 1) == 'x'",
            "object.metadata.?labels[?'a'].hasValue() ? optional.of(object.metadata.labels) : optional.none()",
            "'%s is %d'.format(['a', 1]) == r'a\\d' && '\\u00e4\\x41'.reverse().indexOf('A') >= -1",
            "1 / (self.replicas - 1) % 9223372036854775807 * -(-9223372036854775808) + int('7') == double(1e308) * 10.0",
            "sets.contains([1], [1]) && [[1, 2], [3]].sum() > 0 && [3, 1].sort() == [1, 3].distinct().slice(0, 1)",
            "self == oldSelf || cel.bind(x, self, x.replicas) > 3 || variables.unknown",
        ];
        texts.iter().map(|text| text.as_bytes().to_vec()).collect()
    },
    dictionary: &[
        "self",
        "object",
        "oldSelf",
        ".replicas",
        ".items",
        ".name",
        ".all(x, ",
        ".exists(x, ",
        ".map(x, ",
        ".filter(x, ",
        "has(",
        "size(",
        "matches('",
        ".format([",
        "quantity('",
        "duration('",
        "timestamp('",
        "string(",
        "int(",
        "uint(",
        "double(",
        "bytes(",
        "dyn(",
        "type(",
        "optional.of(",
        ".?",
        "[?",
        "?",
        ":",
        "&&",
        "||",
        "!",
        "==",
        "!=",
        "<=",
        ">=",
        " in ",
        "+",
        "-",
        "*",
        "/",
        "%",
        "'",
        "\"\"\"",
        "b'",
        "r'",
        "\\u",
        "1u",
        "0x",
        "1e",
        "true",
        "null",
        "[",
        "]",
        "{",
        "}",
        "(",
        ")",
        ",",
        "__dash__",
        "//",
    ],
    run: evaluated,
};

struct World {
    environment: Environment,
    own: Value,
    any: Value,
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let own = ObjectType::new(
            "self",
            [
                ("name".to_owned(), Type::Text),
                ("replicas".to_owned(), Type::Int),
                ("maxReplicas".to_owned(), Type::Int),
                ("items".to_owned(), Type::list_of(Type::Text)),
                ("labels".to_owned(), Type::map_of(Type::Text)),
            ],
        );
        let mut environment = Environment::default();
        environment.declare("self", Type::object(own.clone()));
        environment.declare("oldSelf", Type::object(own));
        environment.declare("object", Type::Dyn);
        let items: Vec<String> = (0..200).map(|at| format!("item-{at}")).collect();
        World {
            environment,
            own: json!({"name": "web", "replicas": 3, "maxReplicas": 5, "items": items, "labels": {"a": "b"}}),
            any: json!({"metadata": {"name": "web", "labels": {"a": "b"}}, "spec": {"list": [1, 2.5, null, "x", [true]]}}),
        }
    })
}

fn evaluated(bytes: &[u8]) -> Outcome {
    let text = String::from_utf8_lossy(bytes);
    if let Some(escaped) = escape(&text) {
        assert_eq!(unescape(&escaped), text, "a name that is escaped can be read again");
    }
    let World { environment, own, any } = world();
    let program = match environment.compile(&text) {
        Ok(program) => program,
        Err(error) => return Outcome::of(&error.to_string()),
    };
    let mut inputs = Inputs::default();
    for (name, value) in [("self", own), ("oldSelf", own), ("object", any)] {
        inputs.bind(name, value, environment.declared(name).expect("it was declared"));
    }
    let mut evaluation = Evaluation::new(&inputs, Budget::default());
    match evaluation.run(&program) {
        Ok(value) => Outcome::of(value.type_name()),
        Err(error) => Outcome::of(&error.to_string()),
    }
}
