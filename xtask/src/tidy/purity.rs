//! Deciding code is pure: no clock, random source, file, socket, process, thread or environment of its own.
//!
//! Looks at the crates that only decide and at every `decide.rs`. The check knows paths, not types: what comes in under
//! another name through a re-export is left to clippy's `disallowed-methods`.

use super::paths::{SpokenPath, begins};
use super::{Finding, Rule};
use std::path::{Path, PathBuf};

/// Paths that end so are calls to a clock or a random source.
const FORBIDDEN_ENDINGS: [(&str, &str); 15] = [
    ("SystemTime::now", "a clock"),
    ("Instant::now", "a clock"),
    ("Timestamp::now", "a clock"),
    ("Zoned::now", "a clock"),
    ("Utc::now", "a clock"),
    ("Local::now", "a clock"),
    ("rand::rng", "a random source"),
    ("rand::random", "a random source"),
    ("thread_rng", "a random source"),
    ("from_os_rng", "a random source"),
    ("from_entropy", "a random source"),
    ("OsRng", "a random source"),
    ("Uuid::new_v4", "a random source"),
    ("Uuid::now_v7", "a clock"),
    ("getrandom::fill", "a random source"),
];

/// Paths that begin so reach out of the process or start something in it.
const FORBIDDEN_BEGINNINGS: [(&str, &str); 11] = [
    ("std::fs", "a file"),
    ("std::net", "a socket"),
    ("std::os", "the operating system"),
    ("std::process", "a process"),
    ("std::thread", "a thread"),
    ("std::env", "the environment"),
    ("tokio", "the async runtime"),
    ("quinn", "a socket"),
    ("rocksdb", "a file"),
    ("nix", "the operating system"),
    ("libc", "the operating system"),
];

/// What lives in a forbidden module and is harmless: plain values, and threads that have ended when the call returns.
const VALUES: [&str; 7] = [
    "std::net::IpAddr",
    "std::net::Ipv4Addr",
    "std::net::Ipv6Addr",
    "std::net::SocketAddr",
    "std::net::AddrParseError",
    "std::net::SocketAddrV4",
    "std::thread::scope",
];

/// Whether a file holds deciding code: it is called `decide.rs`, lies in a directory `decide`, or in a pure crate.
pub fn must_be_pure(path: &Path, pure_crates: &[PathBuf]) -> bool {
    path.file_name().is_some_and(|name| name == "decide.rs")
        || path.components().any(|part| part.as_os_str() == "decide")
        || pure_crates.iter().any(|directory| path.starts_with(directory))
}

/// The impure paths of a file.
pub fn check(path: &Path, spoken: &[SpokenPath]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    for SpokenPath { line, name } in spoken {
        if let Some(what) = forbidden(name) {
            let message = format!("`{name}` is {what}: deciding code takes it as an argument");
            let finding = Finding {
                rule: Rule::Purity,
                path: path.to_path_buf(),
                line: Some(*line),
                message,
            };
            if !findings.contains(&finding) {
                findings.push(finding);
            }
        }
    }
    findings
}

fn forbidden(name: &str) -> Option<&'static str> {
    let is_value = VALUES.iter().any(|value| begins(name, value));
    let ending = FORBIDDEN_ENDINGS
        .iter()
        .find(|(ending, _)| name == *ending || name.ends_with(&format!("::{ending}")));
    let beginning = FORBIDDEN_BEGINNINGS
        .iter()
        .find(|(beginning, _)| begins(name, beginning) && !is_value);
    ending.or(beginning).map(|(_, what)| *what)
}

#[cfg(test)]
mod tests {
    use super::super::paths::spoken_paths;
    use super::*;

    fn lines(text: &str) -> Vec<usize> {
        let findings = check(Path::new("decide.rs"), &spoken_paths(syn::parse_str(text).unwrap()));
        findings.iter().map(|finding| finding.line.unwrap()).collect()
    }

    #[test]
    fn clocks_random_sources_files_sockets_and_processes_are_found() {
        for text in [
            "fn f() { std::time::SystemTime::now(); }",
            "fn f() { Instant::now(); }",
            "fn f() { let t = tokio::time::Instant::now(); }",
            "use std::{collections::BTreeMap, fs};",
            "use std::{collections::{BTreeMap}, net::{TcpStream, IpAddr}};",
            "fn f() { assert!(jiff::Timestamp::now() > x); }",
            "fn f() { let mut r = rand::rng(); }",
            "use rand::rngs::OsRng;",
            "fn f() { uuid::Uuid::new_v4(); }",
            "fn f() { std::thread::spawn(|| ()); }",
            "async fn f() { tokio::spawn(async {}); }",
            "mod inner { fn f() { std::env::var(\"X\"); } }",
        ] {
            assert_eq!(lines(text), [1], "{text}");
        }
    }

    #[test]
    fn addresses_words_in_text_fields_and_tests_are_not_found() {
        for text in [
            "use std::net::{IpAddr, SocketAddr};",
            "use std::net::IpAddr;",
            "/// Like tokio, but std::fs is not used and Instant::now() neither.\nfn f() { g(\"std::fs\"); }",
            "fn f(x: X) { x.tokio; x.nix::<u8>(); }",
            "#[cfg(test)] mod tests { use std::fs; }",
            "#[cfg(test)] use std::fs;",
            "use std::collections::BTreeMap;",
            "fn f(now_ms: u64, rng: &mut SmallRng) {}",
            "use std::fsx::y;",
            "fn f() { std::thread::scope(|scope| g(scope)); }",
        ] {
            assert_eq!(lines(text), [] as [usize; 0], "{text}");
        }
    }

    #[test]
    fn the_line_is_where_the_path_starts_and_a_path_is_reported_once_a_line() {
        assert_eq!(
            lines("fn f() {\n    g(Instant::now(), Instant::now());\n    Instant::now();\n}"),
            [2, 3]
        );
    }

    #[test]
    fn decide_files_and_pure_crates_must_be_pure() {
        let crates = [PathBuf::from("protocol/src")];
        for (path, pure) in [
            ("actors/src/pod/decide.rs", true),
            ("actors/src/pod/decide/probe.rs", true),
            ("protocol/src/key.rs", true),
            ("protocol/tests/key.rs", false),
            ("actors/src/pod/actor.rs", false),
        ] {
            assert_eq!(must_be_pure(Path::new(path), &crates), pure, "{path}");
        }
    }
}
