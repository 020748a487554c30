//! Types of expressions and of the values that they look at. They are declared by the callers (from a custom resource's schema,
//! from a kind's shapes) and serve twice: the checker reads them, and they say what a JSON value means (`"1h"` may be a
//! text or a duration, `1` a whole number or not).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A type.
#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    /// Known only when it is evaluated.
    Dyn,
    /// `null`.
    Null,
    /// A truth value.
    Bool,
    /// A whole number of 64 bits.
    Int,
    /// A whole number of 64 bits without sign.
    Uint,
    /// A number with a fraction.
    Double,
    /// A text.
    Text,
    /// Bytes; base64 text in JSON.
    Bytes,
    /// An instant; RFC 3339 in JSON.
    Timestamp,
    /// A span of time; Go's form (`1h30m`) in JSON.
    Duration,
    /// The type of types.
    Type,
    /// A list.
    List(Arc<Type>),
    /// A map: the keys' type and the values'.
    Map(Arc<Type>, Arc<Type>),
    /// A structure with known fields.
    Object(Arc<ObjectType>),
    /// A value that may be absent.
    Optional(Arc<Type>),
    /// A type of Kubernetes' libraries, by its name: `kubernetes.Quantity`.
    Opaque(&'static str),
}

/// A structure's fields.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObjectType {
    /// Its name, for messages.
    pub name: String,
    /// Its fields, by the name that expressions use (see `escape`).
    pub fields: BTreeMap<String, Field>,
}

/// A field of a structure.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// Its name in JSON.
    pub name: String,
    /// Its type.
    pub of: Type,
}

impl ObjectType {
    /// A structure of this name with these fields (names as in JSON). Those whose name cannot be escaped are left out: no
    /// expression can reach them.
    pub fn new(name: impl Into<String>, fields: impl IntoIterator<Item = (String, Type)>) -> ObjectType {
        let field = |(name, of): (String, Type)| Some((crate::escape(&name)?, Field { name, of }));
        ObjectType {
            name: name.into(),
            fields: fields.into_iter().filter_map(field).collect(),
        }
    }
}

impl Type {
    /// A list of this.
    pub fn list_of(item: Type) -> Type {
        Type::List(Arc::new(item))
    }

    /// A map from texts to this.
    pub fn map_of(value: Type) -> Type {
        Type::Map(Arc::new(Type::Text), Arc::new(value))
    }

    /// This or nothing.
    pub fn optional_of(value: Type) -> Type {
        Type::Optional(Arc::new(value))
    }

    /// A structure.
    pub fn object(of: ObjectType) -> Type {
        Type::Object(Arc::new(of))
    }

    /// Whether a value of the other type may stand where this one is asked for. Dynamic values may stand anywhere.
    pub fn takes(&self, other: &Type) -> bool {
        match (self, other) {
            (Type::Dyn, _) | (_, Type::Dyn) => true,
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => a.takes(b),
            (Type::Map(key, value), Type::Map(other_key, other_value)) => {
                key.takes(other_key) && value.takes(other_value)
            }
            // Opaque structures are the same by declaration; two declarations of the same fields are too.
            (Type::Object(a), Type::Object(b)) => Arc::ptr_eq(a, b) || a == b,
            // A structure or wrapper may be null.
            (Type::Null, Type::Object(_) | Type::Optional(_)) | (Type::Object(_) | Type::Optional(_), Type::Null) => {
                true
            }
            _ => self == other,
        }
    }

    /// The type of a value that is either of this type or of the other.
    pub(crate) fn joined(&self, other: &Type) -> Type {
        match (self, other) {
            (Type::List(a), Type::List(b)) => Type::list_of(a.joined(b)),
            (Type::Map(key, value), Type::Map(other_key, other_value)) => {
                Type::Map(Arc::new(key.joined(other_key)), Arc::new(value.joined(other_value)))
            }
            (Type::Optional(a), Type::Optional(b)) => Type::optional_of(a.joined(b)),
            _ if self == other => self.clone(),
            _ => Type::Dyn,
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Type::Dyn => "dyn",
            Type::Null => "null",
            Type::Bool => "bool",
            Type::Int => "int",
            Type::Uint => "uint",
            Type::Double => "double",
            Type::Text => "string",
            Type::Bytes => "bytes",
            Type::Timestamp => "google.protobuf.Timestamp",
            Type::Duration => "google.protobuf.Duration",
            Type::Type => "type",
            Type::List(item) => return write!(f, "list({item})"),
            Type::Map(key, value) => return write!(f, "map({key}, {value})"),
            Type::Object(object) => &object.name,
            Type::Optional(value) => return write!(f, "optional_type({value})"),
            Type::Opaque(name) => name,
        };
        f.write_str(name)
    }
}
