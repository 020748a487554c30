//! What can be wrong with an expression, when it is compiled and when it is evaluated, in cel-go's words: clients match on them.

use std::fmt;

/// One thing that is wrong with an expression's text, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line, from one.
    pub line: usize,
    /// Column, from one, in characters.
    pub column: usize,
    /// What is wrong.
    pub text: String,
}

/// Why an expression does not compile: printed as cel-go prints it, with the line and a mark below the place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct CompileError {
    /// The expression.
    pub source_text: String,
    /// What is wrong, by place.
    pub problems: Vec<Problem>,
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(
                f,
                "ERROR: <input>:{}:{}: {}",
                problem.line, problem.column, problem.text
            )?;
            if let Some(line) = self.source_text.lines().nth(problem.line.saturating_sub(1)) {
                let dots = ".".repeat(problem.column.saturating_sub(1));
                write!(f, "\n | {line}\n | {dots}^")?;
            }
        }
        Ok(())
    }
}

/// Why an evaluation has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvaluationError {
    /// A map or an object has no such member.
    #[error("no such key: {0}")]
    NoSuchKey(String),
    /// A name that nothing was given for.
    #[error("no such attribute(s): {0}")]
    NoSuchAttribute(String),
    /// A function has no form for these values.
    #[error("no such overload")]
    NoSuchOverload,
    /// A list is shorter.
    #[error("index out of bounds: {0}")]
    IndexOutOfBounds(i64),
    /// A result does not fit its type.
    #[error("{0} overflow")]
    Overflow(&'static str),
    /// A division by zero.
    #[error("division by zero")]
    DivisionByZero,
    /// A remainder by zero.
    #[error("modulus by zero")]
    ModulusByZero,
    /// It would cost more than it may.
    #[error("operation cancelled: actual cost limit exceeded")]
    CostExceeded,
    /// A function refused its argument.
    #[error("{0}")]
    Refused(String),
    /// The result is not of the type that was asked for.
    #[error("{0}")]
    UnexpectedResult(String),
}
