//! From text to steps. The `cel` crate's parser reads the text without expanding macros; here its tree becomes our own.
//! The text is measured before the parser sees it: the parser, and everything after it, recurses as deep as the text nests.

use cel::common::ast::{EntryExpr, Expr, IdedExpr, LiteralValue, SourceInfo, operators};

use crate::error::{CompileError, Problem};
use crate::functions;
use crate::node::{Call, Entry, Item, Loop, LoopKind, Node, Operator, Select, Step};
use crate::value::Value;

/// How long an expression may be: cel-go's bound in Kubernetes.
const CHARACTERS_MAX: usize = 100_000;

/// How deep it may nest, as `depth` measures: cel-go's bound. The tests show that a thread's stack of 2 MiB holds it.
const DEPTH_MAX: usize = 250;

/// Parses.
pub(crate) fn parse(text: &str) -> Result<Node, CompileError> {
    let refuse = |problems| CompileError {
        source_text: text.to_owned(),
        problems,
    };
    if depth(text) > DEPTH_MAX {
        let problem = problem_at("", 0, format!("expression recursion limit exceeded: {DEPTH_MAX}"));
        return Err(refuse(vec![problem]));
    }
    if text.chars().count() > CHARACTERS_MAX {
        let text = format!(
            "expression code point size exceeds limit: size: {}, limit {CHARACTERS_MAX}",
            text.len()
        );
        return Err(refuse(vec![problem_at("", 0, text)]));
    }
    let parser = cel::Env::default().parser().enable_ident_escape_syntax(true);
    // Every level of brackets is several of the grammar's rules deep; the text was measured above.
    let parsed = parser.max_recursion_depth(u16::MAX).parse_with_source_info(text);
    let (expression, source) = parsed.map_err(|errors| {
        let problems = errors.errors.into_iter().map(|error| Problem {
            line: usize::try_from(error.pos.0).unwrap_or(1).max(1),
            column: usize::try_from(error.pos.1).unwrap_or(1).max(1),
            text: error.msg,
        });
        refuse(problems.collect())
    })?;
    let mut lowering = Lowering {
        text,
        source: &source,
        problems: Vec::new(),
    };
    let node = lowering.node(expression);
    match lowering.problems.is_empty() {
        true => Ok(node),
        false => Err(refuse(lowering.problems)),
    }
}

/// A problem at a place of the text, in bytes.
pub(crate) fn problem_at(source: &str, at: u32, text: impl Into<String>) -> Problem {
    let at = (at as usize).min(source.len());
    let before = source.get(..at).unwrap_or(source);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Problem {
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
        text: text.into(),
    }
}

/// An upper bound of how deep the tree of a text is: brackets nest, and operators of one level lean to one side. `&&` and `||`
/// are balanced by the parser, and each argument begins anew.
fn depth(text: &str) -> usize {
    struct Level {
        /// What the terms before the last `&&`, `||` or comma had at most.
        widest: usize,
        /// Operators since then.
        operators: usize,
        /// Ternaries lean on each other over the whole level.
        ternaries: usize,
        /// The deepest level inside this one.
        inner: usize,
    }
    impl Level {
        const NEW: Level = Level {
            widest: 0,
            operators: 0,
            ternaries: 0,
            inner: 0,
        };
        fn depth(&self) -> usize {
            1 + self.widest.max(self.operators) + self.ternaries + self.inner
        }
    }
    let bytes = text.as_bytes();
    let mut levels = vec![Level::NEW];
    let mut deepest = 0;
    let mut at = 0;
    while at < bytes.len() {
        let Some(level) = levels.last_mut() else { break };
        match bytes[at] {
            quote @ (b'"' | b'\'') => {
                let triple = bytes[at..].starts_with(&[quote; 3]);
                let raw = at > 0 && matches!(bytes[at - 1], b'r' | b'R');
                at = end_of_literal(bytes, at, quote, triple, raw);
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                while at < bytes.len() && bytes[at] != b'\n' {
                    at += 1;
                }
                continue;
            }
            b'(' | b'[' | b'{' => {
                level.operators += 1;
                levels.push(Level::NEW);
                if levels.len() > DEPTH_MAX {
                    return DEPTH_MAX + 1;
                }
            }
            b')' | b']' | b'}' => {
                let closed = level.depth();
                if levels.len() > 1 {
                    levels.pop();
                }
                if let Some(outer) = levels.last_mut() {
                    outer.inner = outer.inner.max(closed);
                    deepest = deepest.max(outer.depth());
                }
            }
            b'&' | b'|' if bytes.get(at + 1) == Some(&bytes[at]) => {
                level.widest = level.widest.max(level.operators);
                level.operators = 0;
                at += 1;
            }
            b',' => {
                level.widest = level.widest.max(level.operators + level.ternaries);
                (level.operators, level.ternaries) = (0, 0);
            }
            b'?' if bytes.get(at.wrapping_sub(1)) != Some(&b'.') => level.ternaries += 1,
            b'+' | b'-' | b'*' | b'/' | b'%' | b'<' | b'>' | b'!' | b'=' => {
                level.operators += 1;
                if bytes.get(at + 1) == Some(&b'=') {
                    at += 1;
                }
            }
            b'.' if !bytes.get(at + 1).is_some_and(u8::is_ascii_digit) => level.operators += 1,
            b'i' if bytes[at..].starts_with(b"in")
                && at > 0
                && !is_word(bytes[at - 1])
                && !bytes.get(at + 2).copied().is_some_and(is_word) =>
            {
                level.operators += 1;
            }
            _ => {}
        }
        at += 1;
    }
    levels.iter().map(Level::depth).sum::<usize>().max(deepest)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Where a literal that starts at `at` ends.
fn end_of_literal(bytes: &[u8], at: usize, quote: u8, triple: bool, raw: bool) -> usize {
    let mut at = at + if triple { 3 } else { 1 };
    while at < bytes.len() {
        if bytes[at] == b'\\' && !raw {
            at += 2;
        } else if triple && bytes[at..].starts_with(&[quote; 3]) {
            return at + 3;
        } else if !triple && (bytes[at] == quote || bytes[at] == b'\n') {
            return at + 1;
        } else {
            at += 1;
        }
    }
    bytes.len()
}

struct Lowering<'t> {
    text: &'t str,
    source: &'t SourceInfo,
    problems: Vec<Problem>,
}

impl Lowering<'_> {
    fn at(&self, id: u64) -> u32 {
        // The parser counts characters.
        let characters = self.source.offset_for(id).map_or(0, |(start, _)| start) as usize;
        let byte = self
            .text
            .char_indices()
            .nth(characters)
            .map_or(self.text.len(), |(byte, _)| byte);
        u32::try_from(byte).unwrap_or(u32::MAX)
    }

    fn problem(&mut self, at: u32, text: impl Into<String>) -> Step {
        self.problems.push(problem_at(self.text, at, text));
        Step::Constant(Value::Null)
    }

    fn node(&mut self, expression: IdedExpr) -> Node {
        let at = self.at(expression.id);
        let step = match expression.expr {
            Expr::Unspecified | Expr::Comprehension(_) => self.problem(at, "the expression is incomplete"),
            Expr::Literal(literal) => Step::Constant(constant(&literal)),
            Expr::Ident(name) => Step::Name(name),
            Expr::Select(select) => Step::Select {
                operand: Box::new(self.node(*select.operand)),
                field: select.field,
                form: if select.test { Select::Test } else { Select::Plain },
            },
            Expr::List(list) => {
                let optional = list.optional_indices;
                let item = |(index, element)| Item {
                    value: self.node(element),
                    optional: optional.contains(&index),
                };
                Step::List(list.elements.into_iter().enumerate().map(item).collect())
            }
            Expr::Map(map) => {
                let mut entries = Vec::new();
                for entry in map.entries {
                    if let EntryExpr::MapEntry(entry) = entry.expr {
                        entries.push(Entry {
                            key: self.node(entry.key),
                            value: self.node(entry.value),
                            optional: entry.optional,
                        });
                    }
                }
                Step::Map(entries)
            }
            Expr::Struct(structure) => {
                let mut fields = Vec::new();
                for entry in structure.entries {
                    if let EntryExpr::StructField(field) = entry.expr {
                        fields.push((field.field, self.node(field.value), field.optional));
                    }
                }
                Step::Structure(structure.type_name, fields)
            }
            Expr::Call(call) => return self.call(at, call.func_name, call.target.map(|target| *target), call.args),
        };
        Node { at, step }
    }

    fn call(&mut self, at: u32, name: String, target: Option<IdedExpr>, mut arguments: Vec<IdedExpr>) -> Node {
        let here = |step| Node { at, step };
        if let Some(operator) = Operator::find(&name).filter(|_| target.is_none()) {
            let arguments = arguments.into_iter().map(|argument| self.node(argument)).collect();
            return here(Step::Operator(operator, arguments));
        }
        match (name.as_str(), target, arguments.len()) {
            (operators::INDEX | operators::OPT_INDEX, None, 2) => {
                let index = arguments.pop().map(|index| self.node(index));
                let operand = arguments.pop().map(|operand| self.node(operand));
                let (Some(operand), Some(index)) = (operand, index) else {
                    return here(self.problem(at, "an index is missing"));
                };
                here(Step::Index {
                    operand: Box::new(operand),
                    index: Box::new(index),
                    optional: name == operators::OPT_INDEX,
                })
            }
            (operators::OPT_SELECT, None, 2) => {
                let field = arguments.pop().map(|field| field.expr);
                let operand = arguments.pop().map(|operand| self.node(operand));
                let (Some(operand), Some(Expr::Literal(LiteralValue::String(field)))) = (operand, field) else {
                    return here(self.problem(at, "a field's name is missing"));
                };
                here(Step::Select {
                    operand: Box::new(operand),
                    field: field.inner().to_owned(),
                    form: Select::Optional,
                })
            }
            (operators::HAS, None, 1) => {
                let inner = arguments.pop().map(|argument| self.node(argument));
                match inner.map(|node| node.step) {
                    Some(Step::Select { operand, field, form }) if form != Select::Test => here(Step::Select {
                        operand,
                        field,
                        form: Select::Test,
                    }),
                    _ => here(self.problem(at, "invalid argument to has() macro")),
                }
            }
            (_, Some(target), count) if loop_kind(&name, count).is_some() => self.walk(at, &name, target, arguments),
            (_, target, _) => self.function(at, name, target, arguments),
        }
    }

    /// A macro over a list or a map.
    fn walk(&mut self, at: u32, name: &str, target: IdedExpr, mut arguments: Vec<IdedExpr>) -> Node {
        let Some((kind, variables, filtered)) = loop_kind(name, arguments.len()) else {
            let step = self.problem(at, format!("invalid argument to {name}() macro"));
            return Node { at, step };
        };
        let body = arguments.pop().map(|body| self.node(body));
        let filter = filtered
            .then(|| arguments.pop())
            .flatten()
            .map(|filter| self.node(filter));
        let mut names = Vec::new();
        for variable in arguments {
            let at = self.at(variable.id);
            match variable.expr {
                Expr::Ident(name) => names.push(name),
                _ => {
                    self.problem(at, "argument must be a simple name");
                }
            }
        }
        let range = self.node(target);
        let mut names = names.into_iter();
        let (Some(body), Some(variable)) = (body, names.next()) else {
            return range;
        };
        let second = names.next().filter(|_| variables == 2);
        let step = Step::Loop(Box::new(Loop {
            kind,
            range,
            variable,
            second,
            filter,
            body,
        }));
        Node { at, step }
    }

    fn function(&mut self, at: u32, name: String, target: Option<IdedExpr>, arguments: Vec<IdedExpr>) -> Node {
        // `optional.of(x)` and `ip.isCanonical(x)` are calls of functions whose names have a dot.
        let qualified = match target.as_ref().map(|target| &target.expr) {
            Some(Expr::Ident(namespace)) => {
                let qualified = format!("{namespace}.{name}");
                functions::is_qualified(&qualified).then_some(qualified)
            }
            _ => None,
        };
        let (name, target) = match qualified {
            Some(qualified) => (qualified, None),
            None => (name, target),
        };
        let is_member = target.is_some();
        let arguments: Vec<Node> = target
            .into_iter()
            .chain(arguments)
            .map(|argument| self.node(argument))
            .collect();
        let forms = functions::forms(&name, is_member, arguments.len());
        if forms.is_empty() && !functions::is_known(&name) {
            let step = self.problem(at, format!("undeclared reference to '{name}' (in container '')"));
            return Node { at, step };
        }
        let pattern = match functions::pattern_argument(&name).and_then(|index| arguments.get(index)) {
            Some(Node {
                step: Step::Constant(Value::Text(text)),
                at,
            }) => match functions::regex::compile(text.as_str()) {
                Ok(pattern) => Some(pattern),
                Err(text) => {
                    self.problem(*at, text);
                    None
                }
            },
            _ => None,
        };
        let call = Call {
            name,
            is_member,
            arguments,
            forms,
            pattern,
        };
        Node {
            at,
            step: Step::Call(Box::new(call)),
        }
    }
}

/// The kind of a macro, the number of its variables, and whether it has a filter.
fn loop_kind(name: &str, arguments: usize) -> Option<(LoopKind, usize, bool)> {
    Some(match (name, arguments) {
        ("all", 2) => (LoopKind::All, 1, false),
        ("all", 3) => (LoopKind::All, 2, false),
        ("exists", 2) => (LoopKind::Exists, 1, false),
        ("exists", 3) => (LoopKind::Exists, 2, false),
        ("exists_one" | "existsOne", 2) => (LoopKind::ExistsOne, 1, false),
        ("existsOne", 3) => (LoopKind::ExistsOne, 2, false),
        ("map", 2) => (LoopKind::Map, 1, false),
        ("map", 3) => (LoopKind::Map, 1, true),
        ("filter", 2) => (LoopKind::Filter, 1, false),
        ("transformList", 3) => (LoopKind::TransformList, 2, false),
        ("transformList", 4) => (LoopKind::TransformList, 2, true),
        ("transformMap", 3) => (LoopKind::TransformMap, 2, false),
        ("transformMap", 4) => (LoopKind::TransformMap, 2, true),
        ("transformMapEntry", 3) => (LoopKind::TransformMapEntry, 2, false),
        ("transformMapEntry", 4) => (LoopKind::TransformMapEntry, 2, true),
        ("sortBy", 2) => (LoopKind::SortBy, 1, false),
        ("optMap", 2) => (LoopKind::OptMap, 1, false),
        ("optFlatMap", 2) => (LoopKind::OptFlatMap, 1, false),
        _ => return None,
    })
}

fn constant(literal: &LiteralValue) -> Value<'static> {
    match literal {
        LiteralValue::Null => Value::Null,
        LiteralValue::Boolean(value) => Value::Bool(*value.inner()),
        LiteralValue::Int(value) => Value::Int(*value.inner()),
        LiteralValue::UInt(value) => Value::Uint(*value.inner()),
        LiteralValue::Double(value) => Value::Double(*value.inner()),
        LiteralValue::String(text) => Value::text(text.inner()),
        LiteralValue::Bytes(bytes) => Value::Bytes(bytes.inner().into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_measured_depth_is_no_less_than_the_trees() {
        let cases = [
            ("a", 1),
            ("(((a)))", 3),
            ("a.b.c.d", 4),
            ("a + b + c", 3),
            ("a && b && c", 1),
            ("'((((' == x", 2),
            ("f(a, g(b, h(c)))", 3),
            ("a ? b : c ? d : e", 3),
        ];
        for (text, least) in cases {
            assert!(depth(text) >= least, "{text}: {}", depth(text));
            assert!(parse(text).is_ok() || text.contains("f("), "{text}");
        }
    }

    #[test]
    fn long_rules_of_many_terms_are_not_deep() {
        let text = vec!["self.a.b == 'x'"; 400].join(" && ");
        assert!(parse(&text).is_ok());
    }

    #[test]
    fn deep_texts_are_refused_before_the_parser_recurses() {
        for (open, close) in [
            ("(", ")"),
            ("[", "]"),
            ("!", ""),
            ("-", ""),
            ("a.", "a"),
            ("1+", "1"),
            ("a?b:", "c"),
            ("{1:", "}"),
        ] {
            let text = format!("{}1{}", open.repeat(20_000), close.repeat(20_000));
            let error = parse(&text).unwrap_err().to_string();
            assert!(error.contains("recursion limit"), "{open}: {error:.200}");
        }
    }
}
