//! What can go wrong in the data plane, in words that say what is missing and what to do.
//!
//! Built by the acting modules, read by the node process and by people. Pure.

use std::{io, path::PathBuf};

use thiserror::Error;

use crate::{address::Ipv4Cidr, ipam::IpamError};

/// Why an operation on the data plane failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// The configuration contradicts itself.
    #[error("the node's network configuration is wrong: {field} is {value}, but {rule}")]
    Configuration {
        /// The field of `NodeNetworkConfig`.
        field: &'static str,
        /// Its value.
        value: String,
        /// What it must satisfy.
        rule: &'static str,
    },
    /// The process may not change the network.
    #[error(
        "{action}: permission denied. The node process needs root or CAP_NET_ADMIN (and CAP_SYS_ADMIN to enter a pod's namespace)"
    )]
    Permission {
        /// What was attempted.
        action: String,
    },
    /// The kernel lacks a feature.
    #[error("{action}: this kernel has no {feature} ({source}). {remedy}")]
    MissingFeature {
        /// What was attempted.
        action: String,
        /// The feature, in the kernel's words.
        feature: &'static str,
        /// What a person can do.
        remedy: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The `nft` program could not be started.
    #[error("cannot run the program nft ({source}). Install the package nftables, and check that nft is in PATH")]
    NftMissing {
        /// Why it could not be started.
        source: io::Error,
    },
    /// `nft` refused a batch. Nothing of the batch has been applied.
    #[error("nft refused to {action}: {stderr}")]
    NftRefused {
        /// What was attempted.
        action: String,
        /// What nft printed.
        stderr: String,
    },
    /// `nft` answered with something that cannot be read.
    #[error("cannot read the answer of nft to {action}: {reason}")]
    NftAnswer {
        /// What was attempted.
        action: String,
        /// What was wrong with it.
        reason: String,
    },
    /// The nft program did not end, and was killed.
    #[error(
        "nft did not {action} within {seconds} s and was killed; whether the kernel took the change is unknown, and the table is compared and corrected with the next one"
    )]
    NftHung {
        /// What was attempted.
        action: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The kernel refused a netlink request.
    #[error("{action}: {source}")]
    Netlink {
        /// What was attempted.
        action: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A link of ours should exist and does not.
    #[error("the interface {name} is missing: {consequence}")]
    LinkMissing {
        /// The interface.
        name: String,
        /// What could not be done because of it.
        consequence: String,
    },
    /// Some routes could not be set; the others were.
    #[error("{} of {attempted} routes to other nodes' pods could not be set; first: {}", failures.len(), first_failure(failures))]
    Routes {
        /// How many changes were attempted.
        attempted: usize,
        /// The range, and why.
        failures: Vec<(Ipv4Cidr, String)>,
    },
    /// The namespace of a pod could not be opened or entered.
    #[error("cannot enter the pod's network namespace {namespace}: {source}")]
    Namespace {
        /// The path or descriptor.
        namespace: String,
        /// The system's answer.
        source: io::Error,
    },
    /// No address could be given to a pod, or its record not be kept.
    #[error(transparent)]
    Ipam(#[from] IpamError),
    /// A kernel setting could not be written.
    #[error("cannot write {value:?} to {path}: {source}. Pods cannot be reached without it")]
    Sysctl {
        /// The file under /proc/sys.
        path: PathBuf,
        /// The wanted value.
        value: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// A file of the state directory could not be used.
    #[error("cannot {action} {path}: {source}")]
    State {
        /// What was attempted.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A worker thread could not be started, or has stopped.
    #[error("the worker thread {name} of the data plane is gone ({reason}); open the data plane anew")]
    Worker {
        /// The thread.
        name: &'static str,
        /// Why.
        reason: String,
    },
}

fn first_failure(failures: &[(Ipv4Cidr, String)]) -> String {
    failures
        .first()
        .map(|(cidr, why)| format!("{cidr}: {why}"))
        .unwrap_or_default()
}

/// What a link kind needs from the kernel, for the message when it is missing.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Feature {
    Bridge,
    Veth,
}

impl NetworkError {
    /// Turns the kernel's answer to `action` into an error, with the remedy if it is a known one.
    pub(crate) fn from_kernel(action: String, source: io::Error, needs: Option<Feature>) -> Self {
        let unsupported = matches!(
            source.raw_os_error(),
            Some(nix::libc::EOPNOTSUPP | nix::libc::EAFNOSUPPORT | nix::libc::EPROTONOSUPPORT)
        );
        match (source.kind(), needs) {
            (io::ErrorKind::PermissionDenied, _) => Self::Permission { action },
            (_, Some(Feature::Bridge)) if unsupported => Self::MissingFeature {
                action,
                feature: "bridge driver",
                remedy: "Load it with `modprobe bridge`, or use a kernel with CONFIG_BRIDGE",
                source,
            },
            (_, Some(Feature::Veth)) if unsupported => Self::MissingFeature {
                action,
                feature: "veth driver",
                remedy: "Load it with `modprobe veth`, or use a kernel with CONFIG_VETH",
                source,
            },
            _ => Self::Netlink { action, source },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_what_is_missing_and_what_to_do() {
        let cases = [
            (nix::libc::EPERM, None, "CAP_NET_ADMIN"),
            (nix::libc::EOPNOTSUPP, Some(Feature::Bridge), "modprobe bridge"),
            (nix::libc::EOPNOTSUPP, Some(Feature::Veth), "CONFIG_VETH"),
            (nix::libc::EEXIST, Some(Feature::Veth), "File exists"),
        ];
        for (errno, needs, expected) in cases {
            let text =
                NetworkError::from_kernel("make it".into(), io::Error::from_raw_os_error(errno), needs).to_string();
            assert!(text.contains(expected) && text.contains("make it"), "{text}");
        }
    }
}
