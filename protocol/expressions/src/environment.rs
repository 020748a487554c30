//! Compiling: which variables an expression may name and of which types they are, and what comes of a text.

use std::collections::BTreeMap;

use crate::check;
use crate::error::CompileError;
use crate::functions::NamedFormat;
use crate::node::{Node, Step};
use crate::parse;
use crate::types::Type;

/// What expressions may name.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    variables: BTreeMap<String, Type>,
    pub(crate) formats: &'static [NamedFormat],
}

/// A compiled expression.
#[derive(Debug)]
pub struct Program {
    pub(crate) root: Node,
    pub(crate) formats: &'static [NamedFormat],
    result: Type,
}

impl Environment {
    /// Declares a variable; a later declaration replaces an earlier one.
    pub fn declare(&mut self, name: impl Into<String>, of: Type) {
        self.variables.insert(name.into(), of);
    }

    /// Offers formats for `format.named("dns1123Label")` and `format.dns1123Label()`.
    pub fn offer_formats(&mut self, formats: &'static [NamedFormat]) {
        self.formats = formats;
    }

    /// The type of a declared variable.
    pub fn declared(&self, name: &str) -> Option<&Type> {
        self.variables.get(name)
    }

    /// Compiles and checks an expression of any type.
    pub fn compile(&self, text: &str) -> Result<Program, CompileError> {
        let root = parse::parse(text)?;
        let result = check::check(self, text, &root)?;
        Ok(Program {
            root,
            formats: self.formats,
            result,
        })
    }
}

impl Program {
    /// The type of its result, as far as it is known beforehand.
    pub fn result(&self) -> &Type {
        &self.result
    }

    /// Whether it names this variable.
    pub fn names(&self, variable: &str) -> bool {
        let mut found = false;
        self.root
            .walk(&mut |node| found |= matches!(&node.step, Step::Name(name) if name == variable));
        found
    }
}
