//! CEL as Kubernetes has it: the language of validation rules of custom resources and of admission policies. An expression is
//! parsed, type-checked against declared variables and kept as a `Program`; an `Evaluation` runs programs over JSON values
//! within a budget. Custom resources' validation and the admission policies call it.
//!
//! The parser is the `cel` crate's. Its interpreter is not used: nothing bounds what it spends, it converts a whole object
//! before it looks at one field of it, and it knows no declared types, so that a misspelt field would be found only when an
//! object is written. Costs are counted as cel-go counts them, roughly: one for a step, a tenth for a character.
//!
//! No I/O, no clock, no randomness. Input may be anything: text that nests too deeply, types that do not fit, loops without
//! end. It is answered with an error, never with a panic, and what it may spend is bounded beforehand.
//!
//! ```
//! use expressions::{Budget, Environment, Evaluation, Inputs, Type};
//! use serde_json::json;
//!
//! let mut environment = Environment::default();
//! environment.declare("self", Type::map_of(Type::Int));
//! let program = environment.compile("self.all(name, self[name] < 3)").unwrap();
//!
//! let object = json!({"a": 1, "b": 2});
//! let mut inputs = Inputs::default();
//! inputs.bind("self", &object, environment.declared("self").unwrap());
//! let mut evaluation = Evaluation::new(&inputs, Budget::default());
//! assert_eq!(evaluation.truth(&program), Ok(true));
//! ```

mod check;
mod environment;
mod error;
mod escape;
mod evaluate;
mod functions;
mod node;
mod operators;
mod parse;
mod types;
mod value;

pub use environment::{Environment, Program};
pub use error::{CompileError, EvaluationError, Problem};
pub use escape::{escape, unescape};
pub use evaluate::{Budget, Evaluation, Inputs};
pub use functions::time::read_duration;
pub use functions::{AccessQuestion, AccessReview, Authorizer, NamedFormat};
pub use types::{Field, ObjectType, Type};
pub use value::Value;
