//! A compiled expression: the parser's tree with its macros recognized, its constants made and its calls looked up, so that
//! an evaluation decides nothing that the text has decided already. Made by `parse`, typed by `check`, run by `evaluate`.

use regex::Regex;

use crate::functions::Function;
use crate::value::Value;

/// One step, and where in the text it stands (in bytes).
#[derive(Debug)]
pub(crate) struct Node {
    pub at: u32,
    pub step: Step,
}

/// What a step does.
#[derive(Debug)]
pub(crate) enum Step {
    Constant(Value<'static>),
    Name(String),
    /// `operand.field`, `operand.?field`, or `has(operand.field)`.
    Select {
        operand: Box<Node>,
        field: String,
        form: Select,
    },
    /// `operand[index]` or `operand[?index]`.
    Index {
        operand: Box<Node>,
        index: Box<Node>,
        optional: bool,
    },
    Operator(Operator, Vec<Node>),
    Call(Box<Call>),
    List(Vec<Item>),
    Map(Vec<Entry>),
    /// `Object.spec{replicas: 1}`: the structures that mutating policies make.
    Structure(String, Vec<(String, Node, bool)>),
    Loop(Box<Loop>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Select {
    Plain,
    Optional,
    Test,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operator {
    And,
    Or,
    Not,
    Conditional,
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
    Negate,
    In,
}

#[derive(Debug)]
pub(crate) struct Call {
    pub name: String,
    /// Whether the first argument stands before the name.
    pub is_member: bool,
    pub arguments: Vec<Node>,
    /// All forms of the function with this number of arguments.
    pub forms: Vec<&'static Function>,
    /// The regular expression, where the argument that holds it is a constant.
    pub pattern: Option<Regex>,
}

#[derive(Debug)]
pub(crate) struct Item {
    pub value: Node,
    pub optional: bool,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub key: Node,
    pub value: Node,
    pub optional: bool,
}

/// A macro that walks a list, a map or an optional value.
#[derive(Debug)]
pub(crate) struct Loop {
    pub kind: LoopKind,
    pub range: Node,
    pub variable: String,
    /// The second variable of `all(k, v, ...)`: the value, where the first is the key or the index.
    pub second: Option<String>,
    pub filter: Option<Node>,
    pub body: Node,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LoopKind {
    All,
    Exists,
    ExistsOne,
    Map,
    Filter,
    TransformList,
    TransformMap,
    TransformMapEntry,
    SortBy,
    /// Over the one value of an optional.
    OptMap,
    OptFlatMap,
}

impl Operator {
    /// The operator's name in messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Operator::And => "_&&_",
            Operator::Or => "_||_",
            Operator::Not => "!_",
            Operator::Conditional => "_?_:_",
            Operator::Equal => "_==_",
            Operator::Unequal => "_!=_",
            Operator::Less => "_<_",
            Operator::LessOrEqual => "_<=_",
            Operator::Greater => "_>_",
            Operator::GreaterOrEqual => "_>=_",
            Operator::Add => "_+_",
            Operator::Subtract => "_-_",
            Operator::Multiply => "_*_",
            Operator::Divide => "_/_",
            Operator::Modulo => "_%_",
            Operator::Negate => "-_",
            Operator::In => "@in",
        }
    }

    /// The operator of this name.
    pub(crate) fn find(name: &str) -> Option<Operator> {
        use Operator::*;
        [
            And,
            Or,
            Not,
            Conditional,
            Equal,
            Unequal,
            Less,
            LessOrEqual,
            Greater,
            GreaterOrEqual,
            Add,
            Subtract,
            Multiply,
            Divide,
            Modulo,
            Negate,
            In,
        ]
        .into_iter()
        .find(|operator| operator.name() == name)
    }
}

impl Node {
    /// Calls `visit` for this step and all below it.
    pub(crate) fn walk(&self, visit: &mut dyn FnMut(&Node)) {
        visit(self);
        match &self.step {
            Step::Constant(_) | Step::Name(_) => {}
            Step::Select { operand, .. } => operand.walk(visit),
            Step::Index { operand, index, .. } => {
                operand.walk(visit);
                index.walk(visit);
            }
            Step::Operator(_, arguments) => arguments.iter().for_each(|node| node.walk(visit)),
            Step::Call(call) => call.arguments.iter().for_each(|node| node.walk(visit)),
            Step::List(items) => items.iter().for_each(|item| item.value.walk(visit)),
            Step::Map(entries) => entries.iter().for_each(|entry| {
                entry.key.walk(visit);
                entry.value.walk(visit);
            }),
            Step::Structure(_, fields) => fields.iter().for_each(|(_, node, _)| node.walk(visit)),
            Step::Loop(inner) => {
                inner.range.walk(visit);
                inner.filter.iter().for_each(|node| node.walk(visit));
                inner.body.walk(visit);
            }
        }
    }
}
