//! What expressions know of a kind's objects: its schema as the types of `expressions`. The type checking of admission
//! policies calls it. What a schema leaves open, and what contains itself, is dynamic.

use std::collections::HashMap;

use expressions::{ObjectType, Type};

use crate::kinds::Kind;
use crate::schema::{Schemas, Shape};

/// The type of a kind's objects; `None` for a custom kind that is defined no longer.
pub fn of_kind(kind: &Kind) -> Option<Type> {
    if kind.custom.is_some() {
        return kind.definition_now()?.expression_type();
    }
    let mut reader = Reader {
        schemas: Schemas::built_in(),
        known: HashMap::new(),
    };
    Some(reader.structure(kind.definition))
}

struct Reader {
    schemas: &'static Schemas,
    /// What was read; dynamic while it is being read.
    known: HashMap<String, Type>,
}

impl Reader {
    fn structure(&mut self, name: &str) -> Type {
        if let Some(known) = self.known.get(name) {
            return known.clone();
        }
        let Some(definition) = self.schemas.definition(name) else {
            return Type::Dyn;
        };
        self.known.insert(name.to_owned(), Type::Dyn);
        let fields: Vec<(String, Type)> = definition
            .fields
            .iter()
            .map(|field| (field.name.to_string(), self.shape(&field.shape)))
            .collect();
        let of = Type::object(ObjectType::new(name, fields));
        self.known.insert(name.to_owned(), of.clone());
        of
    }

    fn shape(&mut self, shape: &Shape) -> Type {
        match shape {
            Shape::Text => Type::Text,
            Shape::Bytes => Type::Bytes,
            Shape::Time | Shape::MicroTime => Type::Timestamp,
            Shape::Int32 | Shape::Int64 => Type::Int,
            Shape::Number => Type::Double,
            Shape::Boolean => Type::Bool,
            // Either a number or a text.
            Shape::IntOrString | Shape::Quantity | Shape::Any => Type::Dyn,
            Shape::Struct(name) => self.structure(name),
            Shape::Map(map) => Type::map_of(self.shape(&map.value)),
            Shape::List(list) => Type::list_of(self.shape(&list.item)),
        }
    }
}
