//! What is wrong with a field, in Kubernetes' words: the path of the field, the machine-readable reason and the message,
//! as apimachinery's `field.Error` builds them. Validation collects them; `Status::invalid` carries them to the client.

use std::borrow::Cow;
use std::fmt;

use serde_json::Value;

/// One thing that is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The field's path: `spec.containers[0].name`.
    pub field: String,
    /// `FieldValueRequired`, `FieldValueInvalid` and their like; a webhook may say anything.
    pub reason: Cow<'static, str>,
    /// What is wrong, without the path: `Required value`.
    pub message: String,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// The path of a field, as a list on the stack: it is only printed when something is wrong, and most objects are right.
#[derive(Clone, Copy, Debug)]
pub enum Path<'a> {
    /// The object itself.
    Root,
    /// A field of what the parent names.
    Field(&'a Path<'a>, &'a str),
    /// An item of a list.
    Index(&'a Path<'a>, usize),
    /// An entry of a map.
    Key(&'a Path<'a>, &'a str),
}

impl<'a> Path<'a> {
    /// The path of a field below this one.
    pub fn field(&'a self, name: &'a str) -> Path<'a> {
        Path::Field(self, name)
    }

    /// The path of a list's item.
    pub fn index(&'a self, index: usize) -> Path<'a> {
        Path::Index(self, index)
    }

    /// The path without indices, as Go's decoder prints it: `spec.containers.image`.
    pub fn dotted(&self) -> String {
        match self {
            Path::Root => String::new(),
            Path::Field(Path::Root, name) => (*name).to_owned(),
            Path::Field(parent, name) | Path::Key(parent, name) => format!("{}.{name}", parent.dotted()),
            Path::Index(parent, _) => parent.dotted(),
        }
    }

    /// The path of a map's entry.
    pub fn key(&'a self, key: &'a str) -> Path<'a> {
        Path::Key(self, key)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Field(Path::Root, name) => f.write_str(name),
            Path::Field(parent, name) => write!(f, "{parent}.{name}"),
            Path::Index(parent, index) => write!(f, "{parent}[{index}]"),
            Path::Key(parent, key) => write!(f, "{parent}[{key}]"),
        }
    }
}

/// What validation has found so far.
#[derive(Clone, Debug, Default)]
pub struct Causes(pub Vec<Cause>);

impl Causes {
    fn push(&mut self, field: Path<'_>, reason: &'static str, message: String) {
        // The object itself has no name; upstream prints it so.
        let field = if matches!(field, Path::Root) {
            "[]".to_owned()
        } else {
            field.to_string()
        };
        let reason = Cow::Borrowed(reason);
        self.0.push(Cause { field, reason, message });
    }

    /// A problem with its reason and its whole message, for validation that words it itself.
    pub fn add(&mut self, field: Path<'_>, reason: &'static str, message: String) {
        self.push(field, reason, message);
    }

    /// A field that must be given is not.
    pub fn required(&mut self, field: Path<'_>, detail: &str) {
        let message = if detail.is_empty() {
            "Required value".to_owned()
        } else {
            format!("Required value: {detail}")
        };
        self.push(field, "FieldValueRequired", message);
    }

    /// A field's value is malformed or out of bounds.
    pub fn invalid(&mut self, field: Path<'_>, value: impl Into<Value>, detail: impl fmt::Display) {
        let shown = printed(&value.into());
        self.push(field, "FieldValueInvalid", format!("Invalid value: {shown}: {detail}"));
    }

    /// A field's value is none of those that exist.
    pub fn not_supported(&mut self, field: Path<'_>, value: &str, supported: &[&str]) {
        let mut supported = supported.to_vec();
        supported.sort_unstable();
        let list: Vec<String> = supported.iter().map(|value| format!("{value:?}")).collect();
        let message = format!("Unsupported value: {value:?}: supported values: {}", list.join(", "));
        self.push(field, "FieldValueNotSupported", message);
    }

    /// A value that must be unique is there a second time.
    pub fn duplicate(&mut self, field: Path<'_>, value: impl Into<Value>) {
        let shown = printed(&value.into());
        self.push(field, "FieldValueDuplicate", format!("Duplicate value: {shown}"));
    }

    /// A field refers to something that is not there.
    pub fn not_found(&mut self, field: Path<'_>, value: impl Into<Value>) {
        let shown = printed(&value.into());
        self.push(field, "FieldValueNotFound", format!("Not found: {shown}"));
    }

    /// A field may not be given, or not be changed.
    pub fn forbidden(&mut self, field: Path<'_>, detail: impl fmt::Display) {
        self.push(field, "FieldValueForbidden", format!("Forbidden: {detail}"));
    }

    /// A text or an object is too large.
    pub fn too_long(&mut self, field: Path<'_>, bytes_max: usize) {
        self.push(
            field,
            "FieldValueTooLong",
            format!("Too long: may not be more than {bytes_max} bytes"),
        );
    }

    /// A list has too many items.
    pub fn too_many(&mut self, field: Path<'_>, actual: usize, items_max: usize) {
        let unit = if items_max == 1 { "item" } else { "items" };
        let message = format!("Too many: {actual}: must have at most {items_max} {unit}");
        self.push(field, "FieldValueTooMany", message);
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A value as Kubernetes shows it in an error: texts quoted, null for a nil pointer, everything else as JSON.
fn printed(value: &Value) -> String {
    value.to_string()
}
