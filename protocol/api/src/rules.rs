//! The formats of names and texts in the API, with Kubernetes' explanations: apimachinery's `util/validation`. Each rule
//! returns what is wrong, nothing when the text is right; `meta` and the kinds turn that into causes.

/// What one rule has to say about a text.
pub type Problems = Vec<String>;

const DNS_LABEL_MESSAGE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and \
     must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const DNS_SUBDOMAIN_MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' \
     or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const DNS_1035_MESSAGE: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
     alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for \
     validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const LABEL_VALUE_MESSAGE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or \
     '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used \
     for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const QUALIFIED_NAME_MESSAGE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with \
     an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
     '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const CONFIG_KEY_MESSAGE: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. \
     'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
const ENV_NAME_MESSAGE: &str =
    "a valid environment variable name must consist only of printable ASCII characters other than '='";

fn too_long(bytes_max: usize) -> String {
    format!("must be no more than {bytes_max} bytes")
}

fn is_lower_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// Whether every byte fits `inner` and the ends are alphanumeric by `end`.
fn is_framed(text: &str, end: fn(u8) -> bool, inner: fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => end(*first) && end(*last) && bytes.iter().all(|byte| inner(*byte)),
        _ => false,
    }
}

fn is_dns_label(text: &str) -> bool {
    is_framed(text, is_lower_alphanumeric, |byte| {
        is_lower_alphanumeric(byte) || byte == b'-'
    })
}

fn is_name(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    is_framed(text, |byte| byte.is_ascii_alphanumeric(), inner)
}

/// A DNS label: `my-name`, at most 63 bytes.
pub fn dns_label(text: &str) -> Problems {
    let mut problems = Vec::new();
    if text.len() > 63 {
        problems.push(too_long(63));
    }
    if !is_dns_label(text) {
        problems.push(DNS_LABEL_MESSAGE.to_owned());
    }
    problems
}

/// A DNS subdomain: `example.com`, at most 253 bytes.
pub fn dns_subdomain(text: &str) -> Problems {
    let mut problems = Vec::new();
    if text.len() > 253 {
        problems.push(too_long(253));
    }
    if !text.split('.').all(is_dns_label) {
        problems.push(DNS_SUBDOMAIN_MESSAGE.to_owned());
    }
    problems
}

const WILDCARD_MESSAGE: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which \
     must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. \
     '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

/// A DNS subdomain of which the first label is a star.
pub fn wildcard_dns_subdomain(text: &str) -> Problems {
    match text.strip_prefix("*.") {
        Some(rest) if text.len() <= 253 && rest.split('.').all(is_dns_label) => Vec::new(),
        _ => vec![WILDCARD_MESSAGE.to_owned()],
    }
}

/// A DNS label that starts with a letter, as Service names must.
pub fn dns_1035_label(text: &str) -> Problems {
    let mut problems = Vec::new();
    if text.len() > 63 {
        problems.push(too_long(63));
    }
    if !(is_dns_label(text) && text.starts_with(|first: char| first.is_ascii_lowercase())) {
        problems.push(DNS_1035_MESSAGE.to_owned());
    }
    problems
}

/// A name that is only a segment of a URL's path: role names and their like.
pub fn path_segment(text: &str) -> Problems {
    let mut problems = Vec::new();
    if matches!(text, "." | "..") {
        problems.push(format!("may not be '{text}'"));
    }
    for part in ["/", "%"].into_iter().filter(|part| text.contains(part)) {
        problems.push(format!("may not contain '{part}'"));
    }
    problems
}

/// A label's or annotation's key: `app`, `example.com/app`.
pub fn qualified_name(text: &str) -> Problems {
    let mut problems = Vec::new();
    let parts: Vec<&str> = text.split('/').collect();
    let name = match parts.as_slice() {
        [name] => *name,
        [prefix, name] => {
            if prefix.is_empty() {
                problems.push("prefix part must be non-empty".to_owned());
            } else {
                problems.extend(
                    dns_subdomain(prefix)
                        .into_iter()
                        .map(|problem| format!("prefix part {problem}")),
                );
            }
            *name
        }
        _ => {
            return vec![format!(
                "a qualified name {QUALIFIED_NAME_MESSAGE} with an optional DNS subdomain prefix and '/' (e.g. \
                 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        problems.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        problems.push(format!("name part {}", too_long(63)));
    }
    if !is_name(name) {
        problems.push(format!("name part {QUALIFIED_NAME_MESSAGE}"));
    }
    problems
}

/// A label's value.
pub fn label_value(text: &str) -> Problems {
    let mut problems = Vec::new();
    if text.len() > 63 {
        problems.push(too_long(63));
    }
    if !text.is_empty() && !is_name(text) {
        problems.push(LABEL_VALUE_MESSAGE.to_owned());
    }
    problems
}

/// A key of a ConfigMap or Secret.
pub fn config_key(text: &str) -> Problems {
    let mut problems = Vec::new();
    if text.len() > 253 {
        problems.push(too_long(253));
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if text.is_empty() || !text.bytes().all(allowed) {
        problems.push(CONFIG_KEY_MESSAGE.to_owned());
    }
    match text {
        "." => problems.push("must not be '.'".to_owned()),
        ".." => problems.push("must not be '..'".to_owned()),
        _ if text.starts_with("..") => problems.push("must not start with '..'".to_owned()),
        _ => {}
    }
    problems
}

/// A name of at least three labels, such as that of a webhook.
pub fn fully_qualified(text: &str) -> Problems {
    let mut problems = dns_subdomain(text);
    if text.split('.').count() < 3 {
        problems.push("should be a domain with at least three segments separated by dots".to_owned());
    }
    problems
}

/// An environment variable's name.
pub fn env_name(text: &str) -> Problems {
    if !text.is_empty() && text.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'=') {
        return Vec::new();
    }
    vec![ENV_NAME_MESSAGE.to_owned()]
}

/// A port's name: an IANA service name.
pub fn port_name(text: &str) -> Problems {
    let mut problems = Vec::new();
    if text.len() > 15 {
        problems.push(too_long(15));
    }
    if !text.bytes().all(|byte| is_lower_alphanumeric(byte) || byte == b'-') {
        problems.push("must contain only alphanumeric characters (a-z, 0-9), and hyphens ('-')".to_owned());
    }
    if !text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        problems.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        problems.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        problems.push("must not begin or end with a hyphen".to_owned());
    }
    problems
}

/// A port's number.
pub fn port_number(number: i64) -> Problems {
    if (1..=65535).contains(&number) {
        Vec::new()
    } else {
        vec!["must be between 1 and 65535, inclusive".to_owned()]
    }
}

/// An IP address.
pub fn ip(text: &str) -> Problems {
    if text.parse::<std::net::IpAddr>().is_ok() {
        return Vec::new();
    }
    vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()]
}

/// A network in CIDR notation.
pub fn cidr(text: &str) -> Problems {
    let parsed = text.split_once('/').and_then(|(address, bits)| {
        let address: std::net::IpAddr = address.parse().ok()?;
        let bits_max = if address.is_ipv4() { 32 } else { 128 };
        (bits.parse::<u8>().ok()? <= bits_max).then_some(())
    });
    if parsed.is_some() {
        return Vec::new();
    }
    vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_owned()]
}
