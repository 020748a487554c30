//! The unmodified kubectl, on a test's cluster.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// A kubectl with a kubeconfig.
#[derive(Clone)]
pub struct Kubectl {
    kubeconfig: PathBuf,
}

/// The program that `cargo xtask test` has put in place.
fn program() -> PathBuf {
    PathBuf::from(std::env::var_os("ACTORIUM_KUBECTL").expect("ACTORIUM_KUBECTL names kubectl: run `cargo xtask test`"))
}

impl Kubectl {
    /// For a kubeconfig.
    pub fn new(kubeconfig: &Path) -> Kubectl {
        Kubectl {
            kubeconfig: kubeconfig.to_owned(),
        }
    }

    /// Runs it; `arguments` are separated by blanks.
    pub fn output(&self, arguments: &str) -> Output {
        self.command()
            .args(arguments.split_whitespace())
            .output()
            .expect("kubectl runs")
    }

    /// A command to add arguments to.
    pub fn command(&self) -> Command {
        let mut command = Command::new(program());
        command
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .env("HOME", self.kubeconfig.parent().unwrap_or(Path::new("/")));
        command
    }

    /// Runs it and returns what it prints; panics when it fails.
    pub fn run(&self, arguments: &str) -> String {
        let output = self.output(arguments);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {arguments} failed:\n{text}{errors}");
        text
    }

    /// Runs it and returns what it complains of; panics when it succeeds.
    pub fn refused(&self, arguments: &str) -> String {
        let output = self.output(arguments);
        assert!(
            !output.status.success(),
            "kubectl {arguments} succeeded:\n{}",
            String::from_utf8_lossy(&output.stdout)
        );
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// `get -o json`.
    pub fn get(&self, what: &str) -> Value {
        serde_json::from_str(&self.run(&format!("get {what} -o json"))).expect("kubectl prints JSON")
    }

    /// Applies a text.
    pub fn apply(&self, text: &str) -> String {
        let output = self.fed("apply", text);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "kubectl apply failed:\n{said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        said
    }

    /// Runs a verb, and flags behind it, with `-f -` over a text.
    pub fn fed(&self, verb: &str, text: &str) -> Output {
        use std::io::Write;
        let mut child = self
            .command()
            .args(verb.split_whitespace())
            .args(["-f", "-"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("kubectl runs");
        child
            .stdin
            .take()
            .expect("a pipe")
            .write_all(text.as_bytes())
            .expect("kubectl reads");
        child.wait_with_output().expect("kubectl ends")
    }
}
