//! What expressions come to, what the checker says of wrong ones, and what hostile ones may spend: tables.

use expressions::{
    AccessQuestion, AccessReview, Authorizer, Budget, Environment, Evaluation, EvaluationError, Inputs, NamedFormat,
    ObjectType, Type, Value,
};
use serde_json::{Value as Json, json};

fn no_spaces(text: &str) -> Vec<String> {
    let found = text.contains(' ');
    found
        .then(|| "must not contain spaces".to_owned())
        .into_iter()
        .collect()
}

static FORMATS: [NamedFormat; 1] = [NamedFormat {
    name: "noSpaces",
    problems: no_spaces,
}];

fn schema() -> Type {
    let item = ObjectType::new(
        "item",
        [("name".to_owned(), Type::Text), ("weight".to_owned(), Type::Double)],
    );
    Type::object(ObjectType::new(
        "object",
        [
            ("name".to_owned(), Type::Text),
            ("replicas".to_owned(), Type::Int),
            ("ratio".to_owned(), Type::Double),
            ("labels".to_owned(), Type::map_of(Type::Text)),
            ("names".to_owned(), Type::list_of(Type::Text)),
            ("numbers".to_owned(), Type::list_of(Type::Int)),
            ("items".to_owned(), Type::list_of(Type::object(item))),
            ("port".to_owned(), Type::Dyn),
            ("a-b".to_owned(), Type::Text),
            ("namespace".to_owned(), Type::Text),
            ("since".to_owned(), Type::Timestamp),
            ("timeout".to_owned(), Type::Duration),
            ("data".to_owned(), Type::Bytes),
            ("absent".to_owned(), Type::Text),
        ],
    ))
}

fn object() -> Json {
    json!({
        "name": "web", "replicas": 3, "ratio": 1, "labels": {"app": "x", "tier": "y"}, "names": ["a", "b", "c"],
        "numbers": [3, 1, 2], "items": [{"name": "one", "weight": 1}, {"name": "two", "weight": 2.5}], "port": "http",
        "a-b": "dash", "namespace": "ns", "since": "2024-02-29T10:20:30Z", "timeout": "1h30m", "data": "aGk=",
    })
}

fn environment() -> Environment {
    let mut environment = Environment::default();
    environment.declare("self", schema());
    environment.declare("oldSelf", Type::optional_of(schema()));
    environment.declare("any", Type::Dyn);
    environment.declare("authorizer", Type::Opaque("kubernetes.authorization.Authorizer"));
    environment.offer_formats(&FORMATS);
    environment
}

#[derive(Debug)]
struct OnlyPods;

impl Authorizer for OnlyPods {
    fn review(&self, question: &AccessQuestion) -> AccessReview {
        AccessReview {
            allowed: question.resource.as_deref() == Some("pods")
                && question.verb == "get"
                && question.namespace == "a",
            ..AccessReview::default()
        }
    }
}

fn evaluate(text: &str, budget: Budget) -> Result<Json, String> {
    let environment = environment();
    let program = environment.compile(text).map_err(|error| error.to_string())?;
    let (object, any) = (
        object(),
        json!({"n": 5, "s": "t", "list": [1, "two", 3.5], "null": null}),
    );
    let mut inputs = Inputs::default();
    inputs.bind("self", &object, environment.declared("self").unwrap());
    inputs.bind_value("oldSelf", Value::Optional(None));
    inputs.bind("any", &any, environment.declared("any").unwrap());
    inputs.bind_authorizer("authorizer", &OnlyPods);
    let mut evaluation = Evaluation::new(&inputs, budget);
    let value = evaluation.run(&program).map_err(|error| error.to_string())?;
    value.to_json().map_err(|error| error.to_string())
}

#[test]
fn expressions_come_to_what_kubernetes_says() {
    let cases = [
        ("1 + 2 * 3", json!(7)),
        ("7 / 2", json!(3)),
        ("-7 % 3", json!(-1)),
        ("7.0 / 2.0", json!(3.5)),
        ("'a' + 'b'", json!("ab")),
        ("[1] + [2]", json!([1, 2])),
        ("self.replicas >= 3 && self.name == 'web'", json!(true)),
        ("self.replicas > 2.5", json!(true)),
        ("self.ratio == 1.0", json!(true)),
        ("has(self.absent)", json!(false)),
        ("has(self.name) && !has(self.absent)", json!(true)),
        ("has(self.absent) ? self.absent : 'none'", json!("none")),
        ("self.absent == 'x' || true", json!(true)),
        ("false && self.absent == 'x'", json!(false)),
        ("self.a__dash__b + self.__namespace__", json!("dashns")),
        ("self.labels['app'] + self.labels.tier", json!("xy")),
        ("'app' in self.labels && !('zone' in self.labels)", json!(true)),
        ("'b' in self.names", json!(true)),
        ("self.labels.all(k, self.labels[k].size() == 1)", json!(true)),
        ("self.labels.all(k, v, v in ['x', 'y'])", json!(true)),
        ("self.items.exists(i, i.weight > 2.0)", json!(true)),
        ("self.items.exists_one(i, i.name.startsWith('t'))", json!(true)),
        ("self.items.map(i, i.name)", json!(["one", "two"])),
        ("self.items.map(i, i.weight > 2.0, i.name)", json!(["two"])),
        ("self.numbers.filter(n, n > 1)", json!([3, 2])),
        ("self.numbers.transformList(i, n, i * n)", json!([0, 1, 4])),
        (
            "self.labels.transformMap(k, v, k + v)",
            json!({"app": "appx", "tier": "tiery"}),
        ),
        ("self.numbers.isSorted()", json!(false)),
        ("self.numbers.sort()", json!([1, 2, 3])),
        ("self.items.sortBy(i, -i.weight).map(i, i.name)", json!(["two", "one"])),
        (
            "[self.numbers.sum(), self.numbers.min(), self.numbers.max()]",
            json!([6, 1, 3]),
        ),
        ("self.names.indexOf('c') + self.names.lastIndexOf('z')", json!(1)),
        ("[[1], [2, 3]].flatten()", json!([1, 2, 3])),
        ("[1, 1, 2].distinct()", json!([1, 2])),
        (
            "sets.contains([1, 2, 3], [2]) && sets.equivalent([1, 2], [2, 1, 1])",
            json!(true),
        ),
        ("sets.intersects([1], [2])", json!(false)),
        ("'héllo'.size()", json!(5)),
        ("'héllo'.charAt(1)", json!("é")),
        ("'tacocat'.indexOf('a', 3)", json!(5)),
        ("'tacocat'.lastIndexOf('a', 4)", json!(1)),
        ("'tacocat'.substring(4) + 'tacocat'.substring(0, 4)", json!("cattaco")),
        ("'hello hello'.replace('he', 'we', 1)", json!("wello hello")),
        ("'a,b,c'.split(',', 2)", json!(["a", "b,c"])),
        ("['a', 'b'].join('-')", json!("a-b")),
        ("'  x '.trim() + 'aB'.upperAscii() + 'aB'.lowerAscii()", json!("xABab")),
        (
            "'%s has %d (%.2f, %x, %e)'.format(['it', 42, 1.5, 255, 12345.678])",
            json!("it has 42 (1.50, ff, 1.234568e+04)"),
        ),
        ("'%s'.format([[1, 2]])", json!("[1, 2]")),
        ("'abc 123'.find('[0-9]+')", json!("123")),
        ("'1 22 333'.findAll('[0-9]+', 2)", json!(["1", "22"])),
        ("'abc'.matches('^[a-z]+$') && !'abc1'.matches('^[a-z]+$')", json!(true)),
        ("quantity('1.5Gi').compareTo(quantity('1536Mi'))", json!(0)),
        ("quantity('100m').isLessThan(quantity('1'))", json!(true)),
        (
            "quantity('2').add(quantity('500m')).sub(1).asApproximateFloat()",
            json!(1.5),
        ),
        ("isQuantity('1Gi') && !isQuantity('x')", json!(true)),
        (
            "url('https://user@example.com:80/a/b?k=v&k=w').getHost()",
            json!("example.com:80"),
        ),
        ("url('https://example.com:443/').getPort()", json!("443")),
        ("url('https://[::1]:80/').getHostname()", json!("::1")),
        ("url('https://example.com/a/b').getEscapedPath()", json!("/a/b")),
        ("url('https://e.com?k=v&k=w').getQuery()", json!({"k": ["v", "w"]})),
        ("isURL('/path') && !isURL('nope')", json!(true)),
        ("ip('10.0.0.1').family()", json!(4)),
        ("isIP('::ffff:1.2.3.4')", json!(false)),
        ("cidr('10.0.0.0/8').containsIP('10.1.2.3')", json!(true)),
        ("cidr('10.0.0.0/8').containsCIDR(cidr('10.1.0.0/16'))", json!(true)),
        ("string(cidr('10.1.2.3/8').masked())", json!("10.0.0.0/8")),
        ("string(cidr('10.1.2.3/8').ip())", json!("10.1.2.3")),
        ("ip.isCanonical('2001:DB8::1')", json!(false)),
        (
            "semver('1.2.3').isLessThan(semver('1.10.0')) && isSemver('v1.2', true)",
            json!(true),
        ),
        (
            "format.noSpaces().validate('a b').value()",
            json!(["must not contain spaces"]),
        ),
        (
            "format.named('noSpaces').hasValue() && !format.named('other').hasValue()",
            json!(true),
        ),
        (
            "self.timeout == duration('90m') && self.timeout.getMinutes() == 90",
            json!(true),
        ),
        ("self.since.getFullYear() * 100 + self.since.getMonth()", json!(202401)),
        ("self.since.getHours('Europe/Berlin')", json!(11)),
        (
            "self.since + duration('24h') > timestamp('2024-03-01T00:00:00Z')",
            json!(true),
        ),
        ("string(self.data)", json!("hi")),
        ("type(self.port) == string && type(1) == int", json!(true)),
        ("any.n + 1 == 6 && any.list[1] == 'two'", json!(true)),
        ("any['null'] == null", json!(true)),
        ("any.?missing.orValue('default')", json!("default")),
        ("any[?'n'].optMap(n, n * 2).orValue(0)", json!(10)),
        ("oldSelf.hasValue()", json!(false)),
        ("oldSelf.?replicas.orValue(1)", json!(1)),
        ("{'a': 1, ?'b': any.?n, ?'c': any.?missing}", json!({"a": 1, "b": 5})),
        (
            "Object{spec: Object.spec{replicas: 1, a__dash__b: 'x'}}",
            json!({"spec": {"replicas": 1, "a-b": "x"}}),
        ),
        (
            "authorizer.group('').resource('pods').namespace('a').check('get').allowed()",
            json!(true),
        ),
        (
            "authorizer.group('').resource('pods').namespace('b').check('get').allowed()",
            json!(false),
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(evaluate(text, Budget::default()), Ok(expected), "{text}");
    }
}

#[test]
fn evaluations_fail_in_cel_gos_words() {
    let cases = [
        ("self.absent == 'x'", "no such key: absent"),
        ("self.labels['zone']", "no such key: zone"),
        ("self.names[5]", "index out of bounds: 5"),
        ("self.replicas / 0", "division by zero"),
        ("self.replicas % 0", "modulus by zero"),
        ("9223372036854775807 + self.replicas", "integer overflow"),
        ("any.n + any.s", "no such overload"),
        ("any.list.min()", "no such overload"),
        ("optional.none().value()", "optional.none() dereference"),
        (
            "quantity('x')",
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(evaluate(text, Budget::default()), Err(expected.to_owned()), "{text}");
    }
}

#[test]
fn wrong_expressions_are_found_before_anything_is_evaluated() {
    let cases = [
        (
            "self.nope",
            "ERROR: <input>:1:5: undefined field 'nope'\n | self.nope\n | ....^",
        ),
        (
            "nope + 1",
            "ERROR: <input>:1:1: undeclared reference to 'nope' (in container '')\n | nope + 1\n | ^",
        ),
        ("self.nope()", "undeclared reference to 'nope' (in container '')"),
        (
            "self.replicas + 'a'",
            "found no matching overload for '_+_' applied to '(int, string)'",
        ),
        (
            "self.replicas == 'a'",
            "found no matching overload for '_==_' applied to '(int, string)'",
        ),
        (
            "self.replicas == 1.0",
            "found no matching overload for '_==_' applied to '(int, double)'",
        ),
        (
            "self.name.startsWith(1)",
            "found no matching overload for 'startsWith' applied to 'string.(int)'",
        ),
        (
            "size(self.replicas)",
            "found no matching overload for 'size' applied to '(int)'",
        ),
        ("self.replicas.foo", "type 'int' does not support field selection"),
        (
            "self.replicas.all(x, true)",
            "expression of type 'int' cannot be range of a comprehension",
        ),
        ("[1, 'a']", "expected type 'int' but found 'string'"),
        ("has(self)", "invalid argument to has() macro"),
        ("self.name.matches('(')", "error parsing regexp"),
        ("format.nope().validate('a')", "undeclared reference to 'nope'"),
        ("self.name ==", "Syntax error"),
        (
            "!self.name",
            "found no matching overload for '!_' applied to '(string)'",
        ),
        ("self.items.exists(i, i.name)", "found no matching overload for '_||_'"),
        ("self.items.map(i.name, 1)", "argument must be a simple name"),
    ];
    for (text, expected) in cases {
        let error = evaluate(text, Budget::default()).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn what_an_expression_spends_is_bounded() {
    let numbers = format!("[{}]", (0..200).map(|n| n.to_string()).collect::<Vec<_>>().join(","));
    let loops = format!("{numbers}.all(a, {numbers}.all(b, {numbers}.all(c, {numbers}.all(d, a + b + c + d >= 0))))");
    let texts = "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'";
    let grown = (0..40).fold(texts.to_owned(), |text, _| {
        format!("{text}.replace('a', 'aaaaaaaaaaaaaaaa')")
    });
    for text in [loops, grown] {
        let exceeded = EvaluationError::CostExceeded.to_string();
        assert_eq!(evaluate(&text, Budget::default()), Err(exceeded));
    }
}

#[test]
fn a_budget_serves_several_expressions() {
    let environment = environment();
    let program = environment.compile("self.numbers.map(n, n).size() > 0").unwrap();
    let object = object();
    let mut inputs = Inputs::default();
    inputs.bind("self", &object, environment.declared("self").unwrap());
    let budget = Budget {
        total: 50,
        per_call: 1000,
    };
    let mut evaluation = Evaluation::new(&inputs, budget);
    let mut passed = 0;
    while evaluation.truth(&program) == Ok(true) {
        passed += 1;
        assert!(passed < 50);
    }
    assert!(passed > 0);
    assert_eq!(evaluation.remaining(), 0);
}

#[test]
fn composed_variables_are_evaluated_once_and_may_name_each_other() {
    let mut environment = environment();
    let first = environment.compile("self.replicas * 2").unwrap();
    let fields = [("double".to_owned(), first.result().clone())];
    environment.declare("variables", Type::object(ObjectType::new("variables", fields)));
    let second = environment.compile("variables.double + 1").unwrap();
    let fields = [("double".to_owned(), Type::Int), ("more".to_owned(), Type::Int)];
    environment.declare("variables", Type::object(ObjectType::new("variables", fields)));
    let program = environment
        .compile("[1, 2].map(double, variables.more + double)")
        .unwrap();
    let members = [("double".to_owned(), first), ("more".to_owned(), second)];
    let object = object();
    let mut inputs = Inputs::default();
    inputs.bind("self", &object, environment.declared("self").unwrap());
    inputs.bind_composed("variables", &members);
    let mut evaluation = Evaluation::new(&inputs, Budget::default());
    assert_eq!(evaluation.run(&program).unwrap().to_json(), Ok(json!([8, 9])));
    assert!(program.names("variables") && !program.names("self"));
}

#[test]
fn deep_and_long_texts_neither_overflow_the_stack_nor_take_long() {
    // The stack of a runtime's worker.
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(|| {
        for (open, middle, close) in [
            ("(", "1", ")"),
            ("[", "1", "]"),
            ("!", "true", ""),
            ("1 + ", "1", ""),
            ("dyn(", "1", ")"),
        ] {
            for depth in [40, 120, 240, 5_000] {
                let text = format!("{}{middle}{}", open.repeat(depth), close.repeat(depth));
                let _ = evaluate(&text, Budget::default());
            }
        }
        let nested = (0..24).fold("true".to_owned(), |inner, n| format!("[1].all(x{n}, {inner})"));
        assert_eq!(evaluate(&nested, Budget::default()), Ok(json!(true)));
    });
    thread.unwrap().join().unwrap();
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "[-+*/%!?:.,()\\[\\]{}'\"a-z0-9=<>&| ]{0,60}") {
        let _ = evaluate(&text, Budget::default());
    }

    #[test]
    fn no_sequence_of_words_makes_it_panic(words in proptest::collection::vec(
        proptest::sample::select(vec![
            "self", ".", "name", "numbers", "(", ")", "[", "]", "0", "1", "'a'", "+", "-", "==", "&&", "?", ":", "all", "x", ",",
            "map", "has", "any", "list", "size", "substring", "replace", "split", "format", "-1", "9223372036854775807", "{", "}",
        ]), 0..24,
    )) {
        let _ = evaluate(&words.join(""), Budget::default());
    }
}
