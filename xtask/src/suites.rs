//! `cargo xtask test`: all tests, or one suite, with everything that they need in place.
//!
//! `.ci/run` and people call it. A suite is a test target of the crates `tests` and `fuzz`. One that has `required-features` in
//! its manifest is left out of the plain run and runs only when it is named, with those features.

use crate::system_packages::{self, Purpose};
use crate::workspace::{Target, Workspace, cargo_command};
use crate::{clients, failures, images, up};
use anyhow::{Result, anyhow, bail};
use clap::Args;

/// Which tests to run.
#[derive(Debug, Args)]
pub struct TestArguments {
    /// Run this suite only; `--list` names them.
    #[arg(long, value_name = "NAME")]
    suite: Option<String>,
    /// List the suites and run nothing.
    #[arg(long)]
    list: bool,
    /// Run only the tests whose name contains this.
    filter: Option<String>,
}

/// The suite of fuzz targets, and what says how many seconds each of them takes. In the plain run it is a few.
const FUZZ: &str = "fuzz";
const FUZZ_SECONDS: &str = "ACTORIUM_FUZZ_SECONDS";

/// Runs the tests that were asked for.
pub fn run(workspace: &Workspace, arguments: &TestArguments) -> Result<()> {
    let suites = suites(
        &workspace.package("tests")?.targets,
        &workspace.package("fuzz")?.targets,
    );
    if arguments.list {
        for suite in &suites {
            let note = if suite.required_features.is_empty() {
                "in the plain run"
            } else {
                "only when named"
            };
            println!("{:<24} {note}", suite.name);
        }
        return Ok(());
    }
    let selection = selection(&suites, arguments)?;
    system_packages::ensure(&[Purpose::Build, Purpose::Run, Purpose::Test])?;
    let clients = clients::ensure(workspace)?;
    images::run(workspace, false, false)?;
    let binary = up::build(workspace, &selection.targets)?;
    let mut test = cargo_command(workspace)?;
    test.args(["test", "--release", "--workspace", "--no-fail-fast"])
        .args(selection.words)
        .env("ACTORIUM_BIN", binary)
        .env("ACTORIUM_IMAGES", images::directory(workspace))
        .env("ACTORIUM_KUBECTL", clients.kubectl)
        .env("ACTORIUM_HELM", clients.helm)
        .env("ACTORIUM_PYTHON", clients.python)
        .env("ACTORIUM_JAVASCRIPT_CLIENT", clients.javascript)
        .env("ACTORIUM_REGISTRY", clients.registry);
    if arguments.suite.is_some() {
        // A suite prints what it measured.
        test.args(["--", "--nocapture"]);
    }
    if arguments.suite.as_deref() == Some(FUZZ) && std::env::var_os(FUZZ_SECONDS).is_none() {
        test.env(FUZZ_SECONDS, "60");
    }
    failures::run(&mut test)
}

/// The test targets, by name.
fn suites<'t>(tests: &'t [Target], fuzz: &'t [Target]) -> Vec<&'t Target> {
    let mut suites: Vec<&Target> = tests
        .iter()
        .chain(fuzz)
        .filter(|target| target.kind.iter().any(|kind| kind == "test"))
        .collect();
    suites.sort_by(|left, right| left.name.cmp(&right.name));
    suites
}

/// What was asked, as cargo's arguments.
#[derive(Debug, Default, PartialEq, Eq)]
struct Selection {
    /// For the build that comes first: the targets that the tests are in. The node's binary is built together with them,
    /// because the features that tests want of dependencies change how those are compiled for the binary too.
    targets: Vec<String>,
    /// For the run.
    words: Vec<String>,
}

/// Turns what was asked into arguments.
fn selection(suites: &[&Target], arguments: &TestArguments) -> Result<Selection> {
    let mut selection = Selection::default();
    if let Some(name) = &arguments.suite {
        let suite = suites.iter().find(|suite| suite.name == *name).ok_or_else(|| {
            let names: Vec<_> = suites.iter().map(|suite| suite.name.as_str()).collect();
            anyhow!("there is no suite `{name}`; there are: {}", names.join(", "))
        })?;
        selection.words.extend(["--test".to_owned(), name.clone()]);
        for feature in &suite.required_features {
            selection
                .words
                .extend(["--features".to_owned(), format!("tests/{feature}")]);
        }
        selection.targets.clone_from(&selection.words);
    } else {
        selection.targets.push("--tests".to_owned());
    }
    if let Some(filter) = &arguments.filter {
        if filter.starts_with('-') {
            bail!("`{filter}` is no part of a test's name");
        }
        selection.words.push(filter.clone());
    }
    Ok(selection)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets() -> Vec<Target> {
        serde_json::from_value(serde_json::json!([
            {"name": "tests", "kind": ["lib"]},
            {"name": "guestbook", "kind": ["test"]},
            {"name": "clients", "kind": ["test"], "required-features": ["slow"]},
        ]))
        .unwrap()
    }

    fn selected(suite: Option<&str>, filter: Option<&str>) -> Result<(String, String)> {
        let targets = targets();
        let arguments = TestArguments {
            suite: suite.map(Into::into),
            list: false,
            filter: filter.map(Into::into),
        };
        selection(&suites(&targets, &[]), &arguments).map(|it| (it.targets.join(" "), it.words.join(" ")))
    }

    #[test]
    fn suites_are_the_test_targets() {
        let targets = targets();
        let names: Vec<_> = suites(&targets[..2], &targets[2..])
            .into_iter()
            .map(|suite| suite.name.as_str())
            .collect();
        assert_eq!(names, ["clients", "guestbook"]);
    }

    #[test]
    fn a_suite_becomes_its_target_and_its_features() {
        for (suite, filter, targets, words) in [
            (None, None, "--tests", ""),
            (None, Some("leader"), "--tests", "leader"),
            (
                Some("guestbook"),
                Some("leader"),
                "--test guestbook",
                "--test guestbook leader",
            ),
            (
                Some("clients"),
                None,
                "--test clients --features tests/slow",
                "--test clients --features tests/slow",
            ),
        ] {
            assert_eq!(selected(suite, filter).unwrap(), (targets.to_owned(), words.to_owned()));
        }
    }

    #[test]
    fn a_suite_that_does_not_exist_is_refused_with_those_that_do() {
        let error = selected(Some("ghost"), None).unwrap_err().to_string();
        assert!(
            error.contains("ghost") && error.contains("clients, guestbook"),
            "{error}"
        );
    }
}
