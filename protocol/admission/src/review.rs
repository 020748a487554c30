//! What a plugin sees of a request, and what it may change.

pub use access::node::Operation;
use api::access::Access;
use api::kinds::{Kind, Subresource};
use api::status::Status;
use protocol::object::DraftError;
use protocol::store::{Precondition, Write};
use protocol::{Draft, Key, Revision};
use serde_json::Value;

/// The request apart from its content.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    /// What is asked for.
    pub operation: Operation,
    /// The object's kind.
    pub kind: &'a Kind,
    /// Its namespace; empty for cluster-scoped kinds.
    pub namespace: &'a str,
    /// Its name; empty while a generated one is not chosen.
    pub name: &'a str,
    /// What below the object is written.
    pub subresource: Option<Subresource>,
    /// Who asks.
    pub user: &'a str,
    /// The asker's groups.
    pub groups: &'a [String],
    /// A random number below 27^5, for names that a plugin makes up.
    pub random: u64,
}

impl Attributes<'_> {
    /// Whether it is about the objects of this resource themselves, not about something below them.
    pub fn is_object_of(&self, resource: &str) -> bool {
        self.subresource.is_none() && self.kind.resource().as_str() == resource
    }

    /// Whether it creates objects of this resource.
    pub fn creates(&self, resource: &str) -> bool {
        self.operation == Operation::Create && self.is_object_of(resource)
    }

    /// A refusal, 403.
    pub fn forbidden(&self, why: impl std::fmt::Display) -> Status {
        Status::forbidden(self.kind, self.name, why)
    }
}

/// A quota's new status: written with the object, and only if the quota is still as it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Charge {
    /// The ResourceQuota.
    pub key: Key,
    /// The revision that was read.
    pub revision: Revision,
    /// The whole quota with its new status.
    pub quota: Value,
}

impl Charge {
    /// The write of the charge.
    pub fn write(self) -> Result<Write, DraftError> {
        let kind = api::kinds::find_by_resource(&self.key.resource);
        let fields = kind.map(|kind| kind.fields(&self.quota)).unwrap_or_default();
        Ok(Write::Put {
            draft: Draft::encode(&self.quota, fields)?,
            key: self.key,
            precondition: Precondition::Revision(self.revision),
        })
    }
}

/// A request in review.
#[derive(Debug)]
pub struct Review<'a> {
    /// The request apart from its content.
    pub attributes: Attributes<'a>,
    /// The object as it will be stored; null for a removal.
    pub object: Value,
    /// The object as it is stored.
    pub old: Option<&'a Value>,
    /// What the client's user is told.
    pub warnings: Vec<String>,
    /// What is written to quotas with the object.
    pub charges: Vec<Charge>,
}

impl<'a> Review<'a> {
    /// A review that no plugin has seen.
    pub fn new(attributes: Attributes<'a>, object: Value, old: Option<&'a Value>) -> Review<'a> {
        Review {
            attributes,
            object,
            old,
            warnings: Vec::new(),
            charges: Vec::new(),
        }
    }

    /// The object's `spec`; null when it has none.
    pub fn spec(&self) -> &Value {
        self.object.at(&["spec"])
    }
}
