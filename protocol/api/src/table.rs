//! The tables that `kubectl get` shows: meta.k8s.io/v1 Table, with each kind's own columns. Which columns a kind has and
//! what stands in them is in its row; this module puts rows together.

use protocol::UnixMillis;
use serde_json::{Map, Value, json};

use crate::access::Access;
use crate::kinds::Kind;

/// A column of a kind's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// The heading.
    pub name: &'static str,
    /// The OpenAPI type of the cells: `string`, `integer`, `date`.
    pub kind: &'static str,
    /// `name` for the column that names the object.
    pub format: &'static str,
    /// For whoever asks what the column means.
    pub description: &'static str,
    /// Zero: always shown; above: only with `-o wide`.
    pub priority: u8,
}

impl Column {
    /// The object's name.
    pub const NAME: Column = Column {
        name: "Name",
        kind: "string",
        format: "name",
        description: "Name must be unique within a namespace.",
        priority: 0,
    };

    /// A column that is always shown.
    pub const fn text(name: &'static str, description: &'static str) -> Column {
        Column {
            name,
            kind: "string",
            format: "",
            description,
            priority: 0,
        }
    }

    /// A column of whole numbers.
    pub const fn integer(name: &'static str, description: &'static str) -> Column {
        Column {
            name,
            kind: "integer",
            format: "",
            description,
            priority: 0,
        }
    }

    /// A column of booleans.
    pub const fn boolean(name: &'static str, description: &'static str) -> Column {
        Column {
            name,
            kind: "boolean",
            format: "",
            description,
            priority: 0,
        }
    }

    /// A column that is shown with `-o wide`.
    pub const fn wide(name: &'static str, description: &'static str) -> Column {
        Column {
            name,
            kind: "string",
            format: "",
            description,
            priority: 1,
        }
    }

    /// The object's age.
    pub const AGE: Column = Column::text("Age", "How long ago the object was created.");

    /// The object's creation time, for kinds without columns of their own.
    pub const CREATED: Column = Column {
        name: "Created At",
        kind: "date",
        format: "",
        description: "When the object was created.",
        priority: 0,
    };

    pub(crate) fn definition(&self) -> Value {
        json!({
            "name": self.name, "type": self.kind, "format": self.format,
            "description": self.description, "priority": self.priority,
        })
    }
}

/// What of each object is sent along with its row: the query's `includeObject`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// Its metadata.
    Metadata,
    /// All of it.
    Object,
}

impl IncludeObject {
    /// Parses the query's value; absent or empty means metadata.
    pub fn parse(text: &str) -> Option<IncludeObject> {
        match text {
            "" | "Metadata" => Some(IncludeObject::Metadata),
            "None" => Some(IncludeObject::None),
            "Object" => Some(IncludeObject::Object),
            _ => None,
        }
    }
}

/// A table of these objects. `list_meta` becomes the table's metadata (resourceVersion, continue).
pub fn table<'a>(
    kind: &Kind,
    items: impl Iterator<Item = &'a Value>,
    list_meta: Value,
    include_object: IncludeObject,
    now: UnixMillis,
) -> Value {
    let custom = kind.definition_now();
    let columns: Vec<Value> = match &custom {
        Some(custom) => custom.columns(),
        None => kind.columns.iter().map(Column::definition).collect(),
    };
    let cells = |item: &Value| match &custom {
        Some(custom) => custom.cells(item, now),
        None => (kind.cells)(item, now),
    };
    let rows: Vec<Value> = items.map(|item| row(cells(item), item, include_object)).collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": list_meta,
        "columnDefinitions": columns, "rows": rows,
    })
}

fn row(cells: Vec<Value>, item: &Value, include_object: IncludeObject) -> Value {
    let mut row = Map::new();
    row.insert("cells".to_owned(), cells.into());
    match include_object {
        IncludeObject::None => {}
        IncludeObject::Metadata => {
            row.insert("object".to_owned(), partial_metadata(item));
        }
        IncludeObject::Object => {
            row.insert("object".to_owned(), item.clone());
        }
    }
    Value::Object(row)
}

/// An object reduced to its metadata: meta.k8s.io/v1 PartialObjectMetadata.
pub fn partial_metadata(item: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": item.at(&["metadata"]),
    })
}
