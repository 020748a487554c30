//! CertificateSubjectRestriction: nobody asks the signer of API clients for a certificate of the group that may do everything.

use api::access::Access;
use api::status::Status;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::FromDer;

use crate::chain::Plugin;
use crate::facts::Facts;
use crate::review::{Attributes, Review};

const SIGNER: &str = "kubernetes.io/kube-apiserver-client";

/// The plugin.
pub struct CertificateSubjectRestriction;

impl Plugin for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    fn concerns(&self, attributes: &Attributes<'_>) -> bool {
        attributes.creates("certificatesigningrequests.certificates.k8s.io")
    }

    fn validate(&self, review: &mut Review<'_>, _: &Facts) -> Result<(), Status> {
        if review.spec().text("signerName") != SIGNER {
            return Ok(());
        }
        match organisations(review.spec().text("request")) {
            Ok(groups) if groups.iter().any(|group| group == access::user::MASTERS) => {
                let why = format!(
                    "use of {SIGNER} signer with {} group is not allowed",
                    access::user::MASTERS
                );
                Err(review.attributes.forbidden(why))
            }
            Ok(_) => Ok(()),
            Err(why) => Err(review.attributes.forbidden(format!("failed to parse CSR: {why}"))),
        }
    }
}

/// The organisations in the subject of a signing request: base64 of PEM.
fn organisations(request: &str) -> Result<Vec<String>, &'static str> {
    let pem = STANDARD.decode(request).map_err(|_| "the request is not base64")?;
    let (_, pem) = parse_x509_pem(&pem).map_err(|_| "PEM block type must be CERTIFICATE REQUEST")?;
    let (_, request) =
        X509CertificationRequest::from_der(&pem.contents).map_err(|_| "the request is not a PKCS#10 request")?;
    let subject = &request.certification_request_info.subject;
    let groups = subject.iter_organization().filter_map(|group| group.as_str().ok());
    Ok(groups.map(str::to_owned).collect())
}
