//! CertificateApproval, CertificateSigning and ClusterTrustBundleAttest: who approves or signs a certificate signing request, or
//! publishes a trust bundle, must hold the right to do so for its signer. What right that is, is decided here; whether the user
//! holds it, the caller asks of authorization.

use api::access::Access;
use api::kinds::Subresource;
use serde_json::Value;

use crate::review::{Attributes, Operation};

/// A right over a signer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignerRight {
    /// `approve`, `sign` or `attest`.
    pub verb: &'static str,
    /// The signer's name.
    pub signer: String,
}

/// The right that a write needs beside its own verb; null stands for an object that there is not.
pub fn needed(attributes: &Attributes<'_>, object: &Value, old: &Value) -> Option<SignerRight> {
    if attributes.kind.group != "certificates.k8s.io" || attributes.operation == Operation::Delete {
        return None;
    }
    let right = |verb, of: &Value| {
        let signer = of.at(&["spec"]).text("signerName").to_owned();
        Some(SignerRight { verb, signer })
    };
    match (attributes.kind.plural, attributes.subresource) {
        ("certificatesigningrequests", Some(Subresource::Approval)) => right("approve", old),
        ("certificatesigningrequests", Some(Subresource::Status)) => {
            let certificate = |of: &Value| of.at(&["status"]).text("certificate").to_owned();
            let failed = |of: &Value| {
                let conditions = of.at(&["status"]).items("conditions").iter();
                conditions
                    .filter(|condition| condition.text("type") == "Failed")
                    .cloned()
                    .collect::<Vec<_>>()
            };
            let signs = certificate(object) != certificate(old) || failed(object) != failed(old);
            signs.then(|| right("sign", old)).flatten()
        }
        ("clustertrustbundles", None) => {
            let named = !object.at(&["spec"]).text("signerName").is_empty();
            let changed = object.at(&["spec"]) != old.at(&["spec"]);
            (named && changed).then(|| right("attest", object)).flatten()
        }
        _ => None,
    }
}
