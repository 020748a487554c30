//! Runs the `nft` program: one transaction at a time, on the nft worker's thread.
//!
//! The only place that starts a process in this crate. It never builds rules; [`crate::ruleset`] and [`crate::service`] do.

use std::{
    io::{self, Write},
    process::{Command, Output, Stdio},
};

use nftables::batch::Batch;

use crate::{
    conntrack,
    error::NetworkError,
    listing,
    ruleset::{self, BaseRules, TABLE},
    service::{Plan, Programmed, ServiceChange, ServiceRule, ServiceTable},
    worker::Chores,
};

const PROGRAM: &str = "nft";

/// The state of the nft worker.
#[derive(Debug)]
pub(crate) struct Rules {
    base: BaseRules,
    services: ServiceTable,
}

impl Chores for Rules {}

impl Rules {
    /// Makes the table, or brings an existing one up to date and reads which services it holds.
    pub(crate) fn open(base: BaseRules) -> Result<Self, NetworkError> {
        let programmed = list()?;
        apply(ruleset::base(&base), "set up the table inet actorium")?;
        let services = ServiceTable::adopt(base.pod_cidr, programmed);
        Ok(Self { base, services })
    }

    /// Applies changes of some services.
    pub(crate) fn change(&mut self, changes: &[ServiceChange]) -> Result<(), NetworkError> {
        match self.carry_out(self.services.plan(changes)) {
            Err(error @ NetworkError::NftRefused { .. }) => self.recover(error, |services| services.plan(changes)),
            outcome => outcome,
        }
    }

    /// Makes these services all there are.
    pub(crate) fn replace_all(&mut self, rules: &[ServiceRule]) -> Result<(), NetworkError> {
        match self.carry_out(self.services.plan_all(rules)) {
            Err(error @ NetworkError::NftRefused { .. }) => self.recover(error, |services| services.plan_all(rules)),
            outcome => outcome,
        }
    }

    /// Compares the kernel's table with what it should hold, and corrects it. Returns whether anything was wrong.
    pub(crate) fn repair(&mut self) -> Result<bool, NetworkError> {
        let found = list()?;
        let differs = found != *self.services.programmed();
        // The fixed rules are filled in anew in any case: that costs less than comparing them.
        apply(ruleset::base(&self.base), "set up the table inet actorium")?;
        if differs {
            self.services.replace_programmed(found);
            self.carry_out(self.services.plan_repair())?;
        }
        Ok(differs)
    }

    /// The names of the services that are known.
    pub(crate) fn names(&self) -> Vec<String> {
        self.services.names().map(str::to_owned).collect()
    }

    /// Applies a plan; the table's memory follows only if nft accepted it.
    fn carry_out(&mut self, plan: Plan) -> Result<(), NetworkError> {
        if !plan.is_empty() {
            apply(plan.batch(), "change the services")?;
        }
        let stale = plan.stale_flows(&self.services);
        self.services.commit(plan);
        if !stale.is_empty()
            && let Err(error) = conntrack::forget(&stale)
        {
            tracing::warn!(%error, "cannot forget the flows to removed UDP endpoints; their clients may wait for minutes");
        }
        Ok(())
    }

    /// A refused change means that the kernel does not hold what we remember: somebody has flushed the ruleset, as firewalls
    /// do when they are reloaded. So the table is read and corrected, and the change tried once more.
    fn recover(&mut self, refusal: NetworkError, plan: impl Fn(&ServiceTable) -> Plan) -> Result<(), NetworkError> {
        if !self.repair()? {
            return Err(refusal);
        }
        tracing::warn!(%refusal, "the nftables table had been changed by somebody else; it is as it should be again");
        self.carry_out(plan(&self.services))
    }
}

/// Deletes the table; it is no error if there is none.
pub(crate) fn delete_table() -> Result<(), NetworkError> {
    let mut batch = Batch::new();
    let table = || nftables::schema::NfListObject::Table(ruleset::table());
    // Adding first makes the deletion succeed in any case.
    batch.add(table());
    batch.delete(table());
    apply(batch, "delete the table inet actorium")
}

fn apply(batch: Batch<'static>, action: &str) -> Result<(), NetworkError> {
    let document = ruleset::document(batch).map_err(|error| NetworkError::NftAnswer {
        action: action.to_owned(),
        reason: error.to_string(),
    })?;
    let output = run(&["-j", "-f", "-"], Some(document.as_bytes()))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(refused(action, &output))
    }
}

/// What the kernel's table holds; nothing if there is no table.
fn list() -> Result<Programmed, NetworkError> {
    let action = "list the table inet actorium";
    let tables = run(&["list", "tables", "inet"], None)?;
    if !tables.status.success() {
        return Err(refused(action, &tables));
    }
    let wanted = format!("table inet {TABLE}");
    if !String::from_utf8_lossy(&tables.stdout)
        .lines()
        .any(|line| line.trim() == wanted)
    {
        return Ok(Programmed::default());
    }
    let output = run(&["-j", "list", "table", "inet", TABLE], None)?;
    if !output.status.success() {
        return Err(refused(action, &output));
    }
    let listing = serde_json::from_slice(&output.stdout).map_err(|error| NetworkError::NftAnswer {
        action: action.to_owned(),
        reason: error.to_string(),
    })?;
    Ok(listing::read_listing(&listing))
}

fn run(arguments: &[&str], input: Option<&[u8]>) -> Result<Output, NetworkError> {
    let failed = |source: io::Error| NetworkError::NftMissing { source };
    let mut child = Command::new(PROGRAM)
        .args(arguments)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    // nft reads all of its input before it answers, so writing first cannot block both sides. If nft dies early the
    // write fails with EPIPE, and its exit and words are what matters.
    if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
        let _ = stdin.write_all(input);
    }
    child.wait_with_output().map_err(failed)
}

fn refused(action: &str, output: &Output) -> NetworkError {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = stderr.lines().filter(|line| !line.trim().is_empty()).take(6).collect();
    let printed = lines.join("; ");
    explain(action, &printed)
}

/// Turns nft's words into an error that says what to do.
fn explain(action: &str, printed: &str) -> NetworkError {
    if printed.contains("Operation not permitted") {
        return NetworkError::Permission {
            action: action.to_owned(),
        };
    }
    let missing = [
        "Operation not supported",
        "Protocol not supported",
        "cache initialization failed",
    ];
    if missing.iter().any(|words| printed.contains(words)) {
        return NetworkError::MissingFeature {
            action: action.to_owned(),
            feature: "nftables with NAT",
            remedy: "Load the modules nf_tables, nft_chain_nat, nft_masq, nft_numgen, nft_fib_inet and nft_reject_inet, or use a kernel that has them",
            source: io::Error::other(printed.to_owned()),
        };
    }
    NetworkError::NftRefused {
        action: action.to_owned(),
        stderr: printed.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_nft_become_advice() {
        let cases = [
            (
                "Error: Could not process rule: Operation not permitted",
                "CAP_NET_ADMIN",
            ),
            (
                "Error: Could not process rule: Operation not supported",
                "nft_chain_nat",
            ),
            (
                "netlink: Error: cache initialization failed: Protocol not supported",
                "nf_tables",
            ),
            ("Error: syntax error, unexpected foo", "unexpected foo"),
        ];
        for (printed, expected) in cases {
            let text = explain("do it", printed).to_string();
            assert!(text.contains(expected) && text.contains("do it"), "{text}");
        }
    }
}
