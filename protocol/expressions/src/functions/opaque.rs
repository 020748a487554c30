//! Values of Kubernetes' libraries: what a quantity, an address or a URL is to an expression.

use std::sync::Arc;

use ipnet::IpNet;
use protocol::quantity::Quantity;

use super::NamedFormat;
use super::access::{AccessQuestion, AccessReview, Authorizer};

/// Such a value.
#[derive(Clone)]
pub enum Opaque<'a> {
    Quantity(Quantity),
    Ip(std::net::IpAddr),
    Cidr(IpNet),
    Url(Arc<url::Url>, Arc<str>),
    Format(&'static NamedFormat),
    Semver(Arc<semver::Version>),
    Access(&'a dyn Authorizer, Arc<AccessQuestion>),
    Answer(Arc<AccessReview>),
}

impl<'a> Opaque<'a> {
    /// The one that asks about access.
    pub(crate) fn authorizer(authorizer: &'a dyn Authorizer) -> Opaque<'a> {
        Opaque::Access(authorizer, Arc::new(AccessQuestion::default()))
    }

    /// Its type's name.
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Opaque::Quantity(_) => QUANTITY,
            Opaque::Ip(_) => IP,
            Opaque::Cidr(_) => CIDR,
            Opaque::Url(..) => URL,
            Opaque::Format(_) => FORMAT,
            Opaque::Semver(_) => SEMVER,
            Opaque::Access(_, question) => question.type_name(),
            Opaque::Answer(_) => DECISION,
        }
    }

    /// The text that stands for it, where one does.
    pub(crate) fn text(&self) -> Option<String> {
        match self {
            Opaque::Ip(address) => Some(address.to_string()),
            Opaque::Cidr(net) => Some(net.to_string()),
            Opaque::Url(_, text) => Some(text.to_string()),
            Opaque::Semver(version) => Some(version.to_string()),
            Opaque::Quantity(_) | Opaque::Format(_) | Opaque::Access(..) | Opaque::Answer(_) => None,
        }
    }

    pub(crate) fn same(&self, other: &Opaque<'_>) -> bool {
        match (self, other) {
            (Opaque::Quantity(a), Opaque::Quantity(b)) => a == b,
            (Opaque::Ip(a), Opaque::Ip(b)) => a == b,
            (Opaque::Cidr(a), Opaque::Cidr(b)) => a == b,
            (Opaque::Url(_, a), Opaque::Url(_, b)) => a == b,
            (Opaque::Format(a), Opaque::Format(b)) => a.name == b.name,
            (Opaque::Semver(a), Opaque::Semver(b)) => a == b,
            (Opaque::Answer(a), Opaque::Answer(b)) => a == b,
            _ => false,
        }
    }
}

impl std::fmt::Debug for Opaque<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}({:?})", self.type_name(), self.text())
    }
}

pub(crate) const QUANTITY: &str = "kubernetes.Quantity";
pub(crate) const IP: &str = "net.IP";
pub(crate) const CIDR: &str = "net.CIDR";
pub(crate) const URL: &str = "kubernetes.URL";
pub(crate) const FORMAT: &str = "kubernetes.NamedFormat";
pub(crate) const SEMVER: &str = "kubernetes.Semver";
pub(crate) const AUTHORIZER: &str = "kubernetes.authorization.Authorizer";
pub(crate) const PATH_CHECK: &str = "kubernetes.authorization.PathCheck";
pub(crate) const GROUP_CHECK: &str = "kubernetes.authorization.GroupCheck";
pub(crate) const RESOURCE_CHECK: &str = "kubernetes.authorization.ResourceCheck";
pub(crate) const DECISION: &str = "kubernetes.authorization.Decision";
