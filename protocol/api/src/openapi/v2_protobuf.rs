//! `/openapi/v2` as protobuf, the one encoding in which Go clients up to 1.29 ask for it (`kubectl apply` of that age does
//! nothing without). The messages are those of gnostic's `openapi.v2`; the document is that of `v2`.

use serde_json::{Map, Value};

use crate::access::Access;

/// The content type of the answer.
pub const CONTENT_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// Encodes a document of `v2`.
pub fn encode(document: &Value) -> Vec<u8> {
    let mut message = Message::default();
    message.text(1, document.text("swagger"));
    message.nested(2, |info| {
        info.text(1, document.at(&["info"]).text("title"));
        info.text(2, document.at(&["info"]).text("version"));
    });
    message.nested(8, |paths| {
        for (path, item) in document.members("paths") {
            paths.named(2, path, |message| path_item(item, message));
        }
    });
    message.nested(9, |definitions| {
        for (name, definition) in document.members("definitions") {
            definitions.named(1, name, |message| schema(definition, message));
        }
    });
    message.bytes
}

/// A message that is being written.
#[derive(Default)]
struct Message {
    bytes: Vec<u8>,
}

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    fn raw(&mut self, field: u32, content: &[u8]) {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(content.len() as u64);
        self.bytes.extend_from_slice(content);
    }

    /// An empty text is the default and is not written.
    fn text(&mut self, field: u32, text: &str) {
        if !text.is_empty() {
            self.raw(field, text.as_bytes());
        }
    }

    fn texts(&mut self, field: u32, texts: &[Value]) {
        for text in texts.iter().filter_map(Value::as_str) {
            self.raw(field, text.as_bytes());
        }
    }

    fn flag(&mut self, field: u32, flag: bool) {
        if flag {
            self.varint(u64::from(field) << 3);
            self.varint(1);
        }
    }

    fn nested(&mut self, field: u32, write: impl FnOnce(&mut Message)) {
        let mut inner = Message::default();
        write(&mut inner);
        self.raw(field, &inner.bytes);
    }

    /// An entry of what gnostic writes for a map: a name and a value.
    fn named(&mut self, field: u32, name: &str, write: impl FnOnce(&mut Message)) {
        self.nested(field, |entry| {
            entry.text(1, name);
            entry.nested(2, write);
        });
    }

    /// The `x-` members. A value travels as YAML, which JSON is a part of.
    fn extensions(&mut self, field: u32, members: &Map<String, Value>) {
        for (name, value) in members.iter().filter(|(name, _)| name.starts_with("x-")) {
            self.named(field, name, |any| any.text(2, &format!("{value}\n")));
        }
    }
}

fn members(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

fn schema(schema: &Value, message: &mut Message) {
    message.text(1, schema.text("$ref"));
    message.text(2, schema.text("format"));
    message.text(4, schema.text("description"));
    message.texts(19, schema.items("required"));
    let additional = schema.at(&["additionalProperties"]);
    match additional {
        Value::Null => {}
        Value::Bool(allowed) => message.nested(21, |item| item.flag(2, *allowed)),
        inner => message.nested(21, |item| item.nested(1, |message| self::schema(inner, message))),
    }
    if schema.has("type") {
        message.nested(22, |item| item.text(1, schema.text("type")));
    }
    if schema.has("items") {
        message.nested(23, |item| {
            item.nested(1, |message| self::schema(schema.at(&["items"]), message))
        });
    }
    if schema.has("properties") {
        message.nested(25, |properties| {
            for (name, property) in schema.members("properties") {
                properties.named(1, name, |message| self::schema(property, message));
            }
        });
    }
    message.extensions(31, &members(schema));
}

fn path_item(item: &Value, message: &mut Message) {
    for (method, field) in [("get", 2), ("put", 3), ("post", 4), ("delete", 5), ("patch", 8)] {
        if item.has(method) {
            message.nested(field, |message| operation(item.at(&[method]), message));
        }
    }
    for entry in item.items("parameters") {
        message.nested(9, |item| parameter(entry, item));
    }
}

fn operation(operation: &Value, message: &mut Message) {
    message.texts(1, operation.items("tags"));
    message.text(3, operation.text("description"));
    message.texts(6, operation.items("produces"));
    message.texts(7, operation.items("consumes"));
    for entry in operation.items("parameters") {
        message.nested(8, |item| parameter(entry, item));
    }
    message.nested(9, |responses| {
        for (code, answer) in operation.members("responses") {
            responses.named(1, code, |value| value.nested(1, |message| response(answer, message)));
        }
    });
    message.extensions(13, &members(operation));
}

fn response(response: &Value, message: &mut Message) {
    message.text(1, response.text("description"));
    if response.has("schema") {
        message.nested(2, |item| {
            item.nested(1, |message| schema(response.at(&["schema"]), message))
        });
    }
}

/// A parameter, in the nest of alternatives that gnostic makes of it.
fn parameter(parameter: &Value, item: &mut Message) {
    let place = parameter.text("in");
    item.nested(1, |alternative| {
        if place == "body" {
            alternative.nested(1, |body| {
                body.text(1, parameter.text("description"));
                body.text(2, parameter.text("name"));
                body.text(3, place);
                body.flag(4, parameter.flag("required"));
                body.nested(5, |message| schema(parameter.at(&["schema"]), message));
            });
            return;
        }
        // The type of a query parameter has another number than that of a path parameter.
        let (kind, type_field, unique_field) = if place == "path" { (4, 5, 19) } else { (3, 6, 20) };
        alternative.nested(2, |other| {
            other.nested(kind, |message| {
                message.flag(1, parameter.flag("required"));
                message.text(2, place);
                message.text(3, parameter.text("description"));
                message.text(4, parameter.text("name"));
                message.text(type_field, parameter.text("type"));
                message.flag(unique_field, parameter.flag("uniqueItems"));
            });
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_small_document_has_the_bytes_that_gnostic_reads() {
        let document = json!({
            "swagger": "2.0", "info": {"title": "K", "version": "v1"},
            "definitions": {"A": {"type": "object", "x-y": 1}},
        });
        // swagger, info, paths (empty), definitions: by hand after the message definitions.
        #[rustfmt::skip]
        let expected = [
            0x0a, 0x03, 0x32, 0x2e, 0x30, 0x12, 0x07, 0x0a, 0x01, 0x4b, 0x12, 0x02, 0x76, 0x31, 0x42, 0x00,
            0x4a, 0x20, 0x0a, 0x1e, 0x0a, 0x01, 0x41, 0x12, 0x19, 0xb2, 0x01, 0x08, 0x0a, 0x06, 0x6f, 0x62,
            0x6a, 0x65, 0x63, 0x74, 0xfa, 0x01, 0x0b, 0x0a, 0x03, 0x78, 0x2d, 0x79, 0x12, 0x04, 0x12, 0x02,
            0x31, 0x0a,
        ];
        assert_eq!(encode(&document), expected);
    }
}
