//! Names of fields as expressions write them: a field whose name is no identifier of CEL, or a reserved word, is reached by an
//! escaped name (KEP-2876). Used by the makers of object types.

/// Words that no identifier may be.
const RESERVED: [&str; 23] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
    "__type__",
    "__size__",
];

/// The name by which an expression reaches a field; `None` where there is none.
pub fn escape(name: &str) -> Option<String> {
    let first = name.chars().next()?;
    if first.is_ascii_digit() {
        return None;
    }
    if RESERVED.contains(&name) {
        return Some(format!("__{name}__"));
    }
    let mut escaped = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(character) = rest.chars().next() {
        let (text, length) = match character {
            '_' if rest.starts_with("__") => ("__underscores__", 2),
            '.' => ("__dot__", 1),
            '-' => ("__dash__", 1),
            '/' => ("__slash__", 1),
            _ if character.is_ascii_alphanumeric() || character == '_' => (&rest[..1], 1),
            _ => return None,
        };
        escaped.push_str(text);
        rest = &rest[length..];
    }
    Some(escaped)
}

/// The field's name that an escaped name stands for.
pub fn unescape(escaped: &str) -> String {
    if let Some(word) = escaped.strip_prefix("__").and_then(|rest| rest.strip_suffix("__"))
        && RESERVED.contains(&word)
    {
        return word.to_owned();
    }
    // An underscore pair is put last, so that it makes no new escape.
    escaped
        .replace("__dot__", ".")
        .replace("__dash__", "-")
        .replace("__slash__", "/")
        .replace("__underscores__", "__")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_as_kubernetes_escapes_them() {
        let cases = [
            ("foo", Some("foo")),
            ("foo-bar", Some("foo__dash__bar")),
            ("foo.bar/x", Some("foo__dot__bar__slash__x")),
            ("a__b", Some("a__underscores__b")),
            ("_a", Some("_a")),
            ("namespace", Some("__namespace__")),
            ("if", Some("__if__")),
            ("1a", None),
            ("", None),
            ("a b", None),
            ("ä", None),
        ];
        for (name, expected) in cases {
            let escaped = escape(name);
            assert_eq!(escaped.as_deref(), expected, "{name}");
            if let Some(escaped) = escaped {
                assert_eq!(unescape(&escaped), name);
            }
        }
    }
}
