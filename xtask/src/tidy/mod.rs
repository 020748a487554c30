//! The rules of the house that the compiler does not check: arrows between rooms, deciding code that is pure, one place
//! that encodes, a `//!` on every file, sizes and names.
//!
//! `cargo xtask tidy` and `cargo xtask lint` call it. Each rule is a pure function from what was read to findings; this
//! file reads and prints. It must never change a file.

mod arrows;
mod codec;
mod exceptions;
mod names;
mod paths;
mod purity;
mod shape;
mod source;

use crate::workspace::Workspace;
use anyhow::{Result, bail};
use exceptions::Exceptions;
use std::fmt;
use std::path::{Path, PathBuf};

/// A rule that was broken, where, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The rule.
    pub rule: Rule,
    /// The file, relative to the workspace.
    pub path: PathBuf,
    /// The line, where there is one.
    pub line: Option<usize>,
    /// What was found and what to do.
    pub message: String,
}

/// The rules, by the names that `tidy.toml` uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// A file without `//!` at its top.
    Header,
    /// A dependency against protocol <- config <- cluster <- actors <- node.
    Arrow,
    /// A clock, random source, file, socket or process in deciding code.
    Purity,
    /// bincode called outside of the codec module.
    Codec,
    /// A file that is too long.
    FileLength,
    /// A function that is too long; a warning.
    FunctionLength,
    /// A file or crate that is named after nothing.
    Name,
    /// A file that does not parse.
    Syntax,
    /// An exception that excepts nothing.
    Exception,
}

impl Rule {
    /// The name by which `tidy.toml` calls the rule.
    pub fn name(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Arrow => "arrow",
            Self::Purity => "purity",
            Self::Codec => "codec",
            Self::FileLength => "file-length",
            Self::FunctionLength => "function-length",
            Self::Name => "name",
            Self::Syntax => "syntax",
            Self::Exception => "exception",
        }
    }

    /// Whether breaking the rule fails the check, or is only counted.
    fn is_warning(self) -> bool {
        self == Self::FunctionLength
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.path.display())?;
        if let Some(line) = self.line {
            write!(formatter, ":{line}")?;
        }
        write!(formatter, ": {}: {}", self.rule.name(), self.message)
    }
}

/// Checks the whole workspace, prints what it found, and fails when a rule was broken.
pub fn run(workspace: &Workspace) -> Result<()> {
    let files = source::read(&workspace.root)?;
    let exceptions = Exceptions::read(&workspace.root.join("xtask/tidy.toml"))?;
    let (warnings, failures): (Vec<_>, Vec<_>) = check(workspace, &files, &exceptions)
        .into_iter()
        .partition(|finding| finding.rule.is_warning());
    for finding in warnings.iter().chain(&failures) {
        let severity = if finding.rule.is_warning() { "warning" } else { "error" };
        eprintln!("{severity}: {finding}");
    }
    println!(
        "tidy: {} files, {} failures, {} warnings",
        files.len(),
        failures.len(),
        warnings.len()
    );
    if !failures.is_empty() {
        bail!(
            "{} rules of the house are broken (ARCHITECTURE.md says why they are there)",
            failures.len()
        );
    }
    Ok(())
}

/// All findings, in the order of the files; exceptions taken out, stale exceptions put in.
fn check(workspace: &Workspace, files: &[source::SourceFile], exceptions: &Exceptions) -> Vec<Finding> {
    let pure_crates = pure_crates(workspace);
    let mut findings = arrows::check(&workspace.root, &workspace.packages);
    findings.extend(names::check_crates(workspace));
    for file in files {
        findings.extend(names::check_file(&file.path));
        findings.extend(shape::check_header(file));
        findings.extend(shape::check_length(file));
        match file.parse() {
            Ok(syntax) => {
                findings.extend(shape::check_functions(file, &syntax));
                let spoken = paths::spoken_paths(syntax);
                findings.extend(codec::check(&file.path, &spoken));
                if purity::must_be_pure(&file.path, &pure_crates) {
                    findings.extend(purity::check(&file.path, &spoken));
                }
            }
            Err(error) => findings.push(Finding {
                rule: Rule::Syntax,
                path: file.path.clone(),
                line: Some(error.span().start().line),
                message: error.to_string(),
            }),
        }
    }
    exceptions.apply(findings)
}

/// The directories of the crates that hold deciding code only.
fn pure_crates(workspace: &Workspace) -> Vec<PathBuf> {
    workspace
        .packages
        .iter()
        .filter(|package| ["protocol", "api", "access", "scheduler"].contains(&package.name.as_str()))
        .filter_map(|package| package.manifest_path.parent().map(Path::to_path_buf))
        .map(|directory| workspace.relative(&directory).join("src"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A workspace on disk with one planted file.
    fn findings_of(path: &str, text: &str, exceptions: &str) -> Vec<Finding> {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, text).unwrap();
        let package = serde_json::from_value(serde_json::json!({
            "name": "protocol", "manifest_path": root.path().join("protocol/Cargo.toml"), "dependencies": [], "targets": []
        }));
        let workspace = Workspace {
            root: root.path().into(),
            target: root.path().join("target"),
            packages: vec![package.unwrap()],
        };
        let files = source::read(root.path()).unwrap();
        check(&workspace, &files, &Exceptions::parse(exceptions).unwrap())
    }

    fn rules(findings: &[Finding]) -> Vec<Rule> {
        findings.iter().map(|finding| finding.rule).collect()
    }

    #[test]
    fn a_clean_file_has_no_findings() {
        assert_eq!(
            findings_of(
                "actors/src/pod/decide.rs",
                "//! Pods.\nfn decide(now_ms: u64) {}\n",
                "allow = []"
            ),
            []
        );
    }

    #[test]
    fn a_planted_violation_of_each_rule_is_found() {
        let long_file = format!("//! Long.\n{}", "const A: u8 = 1;\n".repeat(801)).replace("A:", "_:");
        let long_function = format!("//! Long.\nfn f() {{\n{}}}\n", "    g();\n".repeat(70));
        let cases: [(&str, &str, Rule); 9] = [
            ("node/src/a.rs", "fn f() {}\n", Rule::Header),
            ("node/src/util.rs", "//! x\n", Rule::Name),
            ("node/src/helpers/mod.rs", "//! x\n", Rule::Name),
            (
                "actors/src/pod/decide.rs",
                "//! x\nfn f() { std::time::Instant::now(); }\n",
                Rule::Purity,
            ),
            (
                "protocol/src/key.rs",
                "//! x\nuse std::{collections::BTreeMap, fs};\n",
                Rule::Purity,
            ),
            ("cluster/src/a.rs", "//! x\nuse bincode::config;\n", Rule::Codec),
            ("node/src/a.rs", &long_file, Rule::FileLength),
            ("node/src/a.rs", &long_function, Rule::FunctionLength),
            ("node/src/a.rs", "//! x\nfn f( {}\n", Rule::Syntax),
        ];
        for (path, text, rule) in cases {
            assert_eq!(rules(&findings_of(path, text, "allow = []")), [rule], "{path}");
        }
    }

    #[test]
    fn acting_code_may_read_the_clock() {
        assert_eq!(
            findings_of(
                "node/src/a.rs",
                "//! x\nfn f() { std::time::Instant::now(); }\n",
                "allow = []"
            ),
            []
        );
    }

    #[test]
    fn an_exception_takes_its_finding_out_and_a_stale_one_is_itself_a_finding() {
        let exceptions = "[[allow]]\nrule = \"name\"\npath = \"node/src/util.rs\"\nreason = \"a test\"\n";
        assert_eq!(findings_of("node/src/util.rs", "//! x\n", exceptions), []);
        assert_eq!(
            rules(&findings_of("node/src/pod.rs", "//! x\n", exceptions)),
            [Rule::Exception]
        );
    }

    #[test]
    fn only_long_functions_are_warnings() {
        assert!(Rule::FunctionLength.is_warning());
        assert!(!Rule::FileLength.is_warning());
    }
}
