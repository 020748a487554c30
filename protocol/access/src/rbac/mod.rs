//! Role-based access control: which rules the user's bindings give, and who may write roles and bindings. The index takes
//! the four kinds as they are written; a check is a few hash lookups. The gateway feeds it from a watch and asks it.

mod escalation;
mod index;
mod rule;

pub use escalation::{RbacWrite, RoleChange};
pub use index::{Grant, Rbac, Resolved};
pub use rule::{Rule, compacted, uncovered};

/// The API group of the four kinds.
pub const GROUP: &str = "rbac.authorization.k8s.io";
