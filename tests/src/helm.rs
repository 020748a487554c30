//! The unmodified helm, on a test's cluster.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// A helm with a kubeconfig and a namespace.
pub struct Helm {
    kubeconfig: PathBuf,
    home: PathBuf,
    namespace: String,
}

/// The program that `cargo xtask test` has put in place.
fn program() -> PathBuf {
    PathBuf::from(std::env::var_os("ACTORIUM_HELM").expect("ACTORIUM_HELM names helm: run `cargo xtask test`"))
}

impl Helm {
    /// For a kubeconfig; what helm keeps for itself goes below `home`.
    pub fn new(kubeconfig: &Path, home: &Path, namespace: &str) -> Helm {
        Helm {
            kubeconfig: kubeconfig.to_owned(),
            home: home.to_owned(),
            namespace: namespace.to_owned(),
        }
    }

    /// Runs it within two minutes; `arguments` are separated by blanks.
    pub fn output(&self, arguments: &str) -> Output {
        let mut command = Command::new("timeout");
        command
            .arg("120")
            .arg(program())
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(["--namespace", &self.namespace])
            .args(arguments.split_whitespace())
            .env("HOME", &self.home)
            .env_remove("KUBECONFIG");
        for kept in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            command.env(kept, self.home.join("helm"));
        }
        command.output().expect("the program `timeout` (coreutils) runs")
    }

    /// Runs it and returns what it prints; panics when it fails.
    pub fn run(&self, arguments: &str) -> String {
        let output = self.output(arguments);
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "helm {arguments} failed:\n{printed}{errors}");
        printed
    }

    /// Runs it; it must fail and complain of `part`.
    pub fn refused(&self, arguments: &str, part: &str) {
        let output = self.output(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && errors.contains(part),
            "helm {arguments} ended with {} and did not complain of {part:?} but:\n{errors}",
            output.status
        );
    }

    /// Runs it with `-o json`.
    pub fn json(&self, arguments: &str) -> Value {
        let printed = self.run(&format!("{arguments} -o json"));
        serde_json::from_str(&printed).unwrap_or_else(|error| panic!("helm {arguments}: {error}:\n{printed}"))
    }
}
