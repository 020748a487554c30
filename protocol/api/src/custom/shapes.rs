//! A custom resource's schema as the shapes that ownership of fields and server-side apply walk along. Structures get numbers
//! for names: the numbers are shared by all definitions, so that none of them adds names.

use super::names;
use super::schema::{Additional, ListKind, Schema, SchemaType};
use crate::merge::ListType;
use crate::schema::{Definition, Field, ListShape, MapShape, Schemas, Shape};

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// The shapes of a schema's objects, and the name of the whole object's.
pub fn shapes(schema: &Schema) -> Option<(Schemas, &'static str)> {
    let mut builder = Builder::default();
    let root = builder.structure(schema, true)?;
    Some((Schemas::of(builder.definitions), root))
}

#[derive(Default)]
struct Builder {
    definitions: Vec<Definition>,
    count: usize,
}

impl Builder {
    fn structure(&mut self, schema: &Schema, is_resource: bool) -> Option<&'static str> {
        let name = names::keep(&format!("custom.{}", self.count))?;
        self.count += 1;
        let field = |name: &str, shape: Shape| Field {
            name: name.into(),
            shape,
            // A field's absence is the schema's business; here it only says that an empty list stays.
            required: true,
            patch_replace: false,
        };
        let mut fields = Vec::new();
        for (name, property) in &schema.properties {
            let shape = self.shape(property)?;
            fields.push(field(name, shape));
        }
        if is_resource {
            fields.retain(|field| !matches!(&*field.name, "apiVersion" | "kind" | "metadata"));
            fields.push(field("apiVersion", Shape::Text));
            fields.push(field("kind", Shape::Text));
            fields.push(field("metadata", Shape::Struct(OBJECT_META)));
        }
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        self.definitions.push(Definition {
            name,
            fields,
            atomic: schema.atomic,
        });
        Some(name)
    }

    fn shape(&mut self, schema: &Schema) -> Option<Shape> {
        if schema.int_or_string {
            return Some(Shape::IntOrString);
        }
        Some(match schema.of {
            SchemaType::Array => Shape::List(Box::new(ListShape {
                list_type: self.list_type(schema)?,
                item: match schema.items.as_deref() {
                    Some(item) => self.shape(item)?,
                    None => Shape::Any,
                },
                patch_key: None,
            })),
            SchemaType::Object => match &schema.additional {
                Additional::Of(value) => Shape::Map(Box::new(MapShape {
                    value: self.shape(value)?,
                    atomic: schema.atomic,
                })),
                Additional::Anything | Additional::Absent if schema.properties.is_empty() && !schema.embedded => {
                    // Nothing is known of what is inside, but each member can have an owner.
                    Shape::Map(Box::new(MapShape {
                        value: Shape::Any,
                        atomic: schema.atomic,
                    }))
                }
                _ => Shape::Struct(self.structure(schema, schema.embedded)?),
            },
            SchemaType::Text => Shape::Text,
            SchemaType::Integer => Shape::Int64,
            SchemaType::Number => Shape::Number,
            SchemaType::Boolean => Shape::Boolean,
            SchemaType::Any => Shape::Any,
        })
    }

    fn list_type(&self, schema: &Schema) -> Option<ListType> {
        Some(match &schema.list {
            ListKind::Atomic => ListType::Atomic,
            ListKind::Set => ListType::Set,
            ListKind::Map(keys) => {
                let item = schema.items.as_deref();
                let default = |key: &str| item?.properties.get(key)?.default.as_ref()?.as_str();
                ListType::Map(names::keep_keys(keys.iter().map(|key| (key.as_str(), default(key))))?)
            }
        })
    }
}
