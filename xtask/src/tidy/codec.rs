//! bincode is frozen upstream: it is called in protocol's codec module only, so that it can be replaced in one place.
//!
//! Everyone may derive its traits for types that travel; what turns them into bytes and back is the codec's.

use super::paths::{SpokenPath, begins};
use super::{Finding, Rule};
use std::path::Path;

/// What makes bytes, takes them apart, or fixes their form.
const RESERVED: [&str; 8] = [
    "bincode::config",
    "bincode::serde",
    "bincode::encode_to_vec",
    "bincode::encode_into_slice",
    "bincode::encode_into_writer",
    "bincode::encode_into_std_write",
    "bincode::decode_from_slice",
    "bincode::decode_from_std_read",
];

/// Calls to bincode outside of the codec module.
pub fn check(path: &Path, spoken: &[SpokenPath]) -> Vec<Finding> {
    if path == Path::new("protocol/src/codec.rs") || path.starts_with("protocol/src/codec") {
        return Vec::new();
    }
    let calls = spoken
        .iter()
        .filter(|spoken| RESERVED.iter().any(|reserved| begins(&spoken.name, reserved)));
    calls
        .map(|spoken| Finding {
            rule: Rule::Codec,
            path: path.to_path_buf(),
            line: Some(spoken.line),
            message: format!(
                "`{}`: bincode is called in protocol's codec module only; call that",
                spoken.name
            ),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::paths::spoken_paths;
    use super::*;

    #[test]
    fn traits_may_be_derived_everywhere_and_bytes_are_made_in_the_codec_only() {
        let encodes = "fn f() { bincode::encode_to_vec(x, bincode::config::standard()); }";
        let derives = "use bincode::{Decode, Encode};";
        let imports = "use bincode::{Decode, config::standard};";
        for (path, text, findings) in [
            ("cluster/src/a.rs", encodes, 2),
            ("cluster/src/a.rs", imports, 1),
            ("cluster/src/a.rs", derives, 0),
            ("protocol/src/codec.rs", encodes, 0),
            ("protocol/src/codec/frame.rs", encodes, 0),
            ("protocol/src/key.rs", encodes, 2),
        ] {
            let spoken = spoken_paths(syn::parse_str(text).unwrap());
            assert_eq!(check(Path::new(path), &spoken).len(), findings, "{path}: {text}");
        }
    }
}
