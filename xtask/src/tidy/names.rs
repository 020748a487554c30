//! Names that say nothing are refused: of files, directories and crates.
//!
//! The rule looks at whole words between `_`, `-` and `.`, so `commonwealth.rs` is fine.

use super::{Finding, Rule};
use crate::workspace::Workspace;
use std::path::Path;

const FORBIDDEN: [&str; 9] = [
    "util",
    "utils",
    "common",
    "helper",
    "helpers",
    "manager",
    "managers",
    "misc",
    "miscellaneous",
];

/// Looks at the name of a file and of each directory above it.
pub fn check_file(path: &Path) -> Option<Finding> {
    let word = path
        .components()
        .filter_map(|part| part.as_os_str().to_str())
        .find_map(forbidden_word)?;
    Some(finding(path, word))
}

/// Looks at the names of the crates.
pub fn check_crates(workspace: &Workspace) -> Vec<Finding> {
    let named_badly = |name: &str, manifest: &Path| Some(finding(workspace.relative(manifest), forbidden_word(name)?));
    workspace
        .packages
        .iter()
        .filter_map(|package| named_badly(&package.name, &package.manifest_path))
        .collect()
}

fn forbidden_word(name: &str) -> Option<&'static str> {
    name.split(['_', '-', '.']).find_map(|word| {
        FORBIDDEN
            .into_iter()
            .find(|forbidden| forbidden.eq_ignore_ascii_case(word))
    })
}

fn finding(path: &Path, word: &str) -> Finding {
    Finding {
        rule: Rule::Name,
        path: path.to_path_buf(),
        line: None,
        message: format!("`{word}` says nothing about what is inside: name it after what it does"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_words_are_looked_at() {
        for (path, refused) in [
            ("node/src/util.rs", true),
            ("node/src/pod_helper.rs", true),
            ("node/src/common/pod.rs", true),
            ("node/src/Manager.rs", true),
            ("node/src/commonwealth.rs", false),
            ("node/src/utilisation.rs", false),
        ] {
            assert_eq!(check_file(Path::new(path)).is_some(), refused, "{path}");
        }
    }
}
