//! Who is a member, and who is alive: SWIM gossip (foca) over the mesh's datagrams. The process starts it once the mesh
//! is up; the autopilot, the node controller, the agents and the shell read it.
//!
//! `swim` is the protocol without input and output: it is given datagrams and the time, and returns datagrams and
//! events. `view` turns its knowledge into members with a history. `driver` owns the timers and the mesh. Membership
//! says who is alive; it never decides what follows from that.

mod codec;
mod driver;
mod identity;
pub mod swim;
mod timing;
mod view;

pub use driver::{Membership, MembershipOptions};
pub use identity::{MemberFacts, MemberIdentity};
pub use timing::timings;
pub use view::{Member, MemberEvent, MemberStatus};
