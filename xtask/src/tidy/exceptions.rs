//! The exceptions to the rules (`xtask/tidy.toml`), each with its reason.
//!
//! Tidy's entry applies them last. An exception must never outlive what it excepts: a stale one is a finding.

use super::{Finding, Rule};
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// The exceptions.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exceptions {
    allow: Vec<Exception>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exception {
    rule: String,
    path: PathBuf,
    reason: String,
}

/// The rules to which there can be an exception. A missing `//!` or an arrow against the order has none.
const EXCEPTABLE: [Rule; 3] = [Rule::FileLength, Rule::Purity, Rule::Name];

impl Exceptions {
    /// Reads `tidy.toml`.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("in {}", path.display()))
    }

    /// Parses the text of `tidy.toml`.
    pub fn parse(text: &str) -> Result<Self> {
        let exceptions: Self = toml::from_str(text)?;
        for exception in &exceptions.allow {
            if !EXCEPTABLE.iter().any(|rule| rule.name() == exception.rule) {
                let names = EXCEPTABLE.map(Rule::name).join(", ");
                bail!("`{}` is no rule with exceptions: those are {names}", exception.rule);
            }
            if exception.reason.trim().is_empty() {
                bail!("the exception for {} gives no reason", exception.path.display());
            }
        }
        Ok(exceptions)
    }

    /// The findings that no exception covers, and one for every exception that covers none.
    pub fn apply(&self, findings: Vec<Finding>) -> Vec<Finding> {
        let mut used = vec![false; self.allow.len()];
        let mut left: Vec<Finding> = findings
            .into_iter()
            .filter(|finding| {
                let covering = self
                    .allow
                    .iter()
                    .position(|exception| exception.rule == finding.rule.name() && exception.path == finding.path);
                covering.inspect(|&index| used[index] = true).is_none()
            })
            .collect();
        for (exception, _) in self.allow.iter().zip(used).filter(|(_, used)| !used) {
            left.push(Finding {
                rule: Rule::Exception,
                path: exception.path.clone(),
                line: None,
                message: format!(
                    "tidy.toml excepts `{}`, but nothing breaks that rule: take it out",
                    exception.rule
                ),
            });
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exception_without_reason_or_to_a_rule_without_exceptions_is_refused() {
        let without_reason = "[[allow]]\nrule = \"name\"\npath = \"a.rs\"\nreason = \" \"\n";
        assert!(
            Exceptions::parse(without_reason)
                .unwrap_err()
                .to_string()
                .contains("no reason")
        );
        let arrow = "[[allow]]\nrule = \"arrow\"\npath = \"a.rs\"\nreason = \"please\"\n";
        assert!(
            Exceptions::parse(arrow)
                .unwrap_err()
                .to_string()
                .contains("no rule with exceptions")
        );
        assert!(Exceptions::parse("allow = []\nallowed = []").is_err());
    }
}
