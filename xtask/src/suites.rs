//! `cargo xtask test`: all tests, or one suite, with everything that they need in place.
//!
//! `.ci/run` and people call it. A suite is a test target of the crate `tests`. One that has `required-features` in its
//! manifest is left out of the plain run and runs only when it is named, with those features.

use crate::system_packages::{self, Purpose};
use crate::workspace::{Target, Workspace, cargo_command};
use crate::{clients, command, images, up};
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

/// Runs the tests that were asked for.
pub fn run(workspace: &Workspace, arguments: &TestArguments) -> Result<()> {
    let suites = suites(&workspace.package("tests")?.targets);
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
    let binary = up::build(workspace)?;
    let mut test = cargo_command(workspace)?;
    test.args(["test", "--release", "--workspace", "--no-fail-fast"])
        .args(selection)
        .env("ACTORIUM_BIN", binary)
        .env("ACTORIUM_IMAGES", images::directory(workspace))
        .env("ACTORIUM_KUBECTL", clients.kubectl)
        .env("ACTORIUM_HELM", clients.helm)
        .env("ACTORIUM_REGISTRY", clients.registry);
    command::run(&mut test)
}

/// The test targets, by name.
fn suites(targets: &[Target]) -> Vec<&Target> {
    let mut suites: Vec<&Target> = targets
        .iter()
        .filter(|target| target.kind.iter().any(|kind| kind == "test"))
        .collect();
    suites.sort_by(|left, right| left.name.cmp(&right.name));
    suites
}

/// Cargo's arguments for what was asked.
fn selection(suites: &[&Target], arguments: &TestArguments) -> Result<Vec<String>> {
    let mut words = Vec::new();
    if let Some(name) = &arguments.suite {
        let suite = suites.iter().find(|suite| suite.name == *name).ok_or_else(|| {
            let names: Vec<_> = suites.iter().map(|suite| suite.name.as_str()).collect();
            anyhow!("there is no suite `{name}`; there are: {}", names.join(", "))
        })?;
        words.extend(["--test".to_owned(), name.clone()]);
        for feature in &suite.required_features {
            words.extend(["--features".to_owned(), format!("tests/{feature}")]);
        }
    }
    if let Some(filter) = &arguments.filter {
        if filter.starts_with('-') {
            bail!("`{filter}` is no part of a test's name");
        }
        words.push(filter.clone());
    }
    Ok(words)
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

    fn selected(suite: Option<&str>, filter: Option<&str>) -> Result<String> {
        let targets = targets();
        let arguments = TestArguments {
            suite: suite.map(Into::into),
            list: false,
            filter: filter.map(Into::into),
        };
        selection(&suites(&targets), &arguments).map(|words| words.join(" "))
    }

    #[test]
    fn suites_are_the_test_targets() {
        let targets = targets();
        let names: Vec<_> = suites(&targets).into_iter().map(|suite| suite.name.as_str()).collect();
        assert_eq!(names, ["clients", "guestbook"]);
    }

    #[test]
    fn a_suite_becomes_its_target_and_its_features() {
        assert_eq!(selected(None, None).unwrap(), "");
        assert_eq!(selected(None, Some("leader")).unwrap(), "leader");
        assert_eq!(
            selected(Some("guestbook"), Some("leader")).unwrap(),
            "--test guestbook leader"
        );
        assert_eq!(
            selected(Some("clients"), None).unwrap(),
            "--test clients --features tests/slow"
        );
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
