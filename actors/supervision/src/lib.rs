//! Supervision on top of ractor's links: restart rules, actor paths, bounded mailboxes, and the shell's view of every
//! actor of this node.
//!
//! `actors` and `agent` build their trees with it; the node process answers the shell's `AdminRequest`s from its
//! `Registry`. It knows no kind of object and makes no decision that belongs to one: `restart` decides when a child is
//! started again (pure), everything else carries that out.

mod clock;
mod mailbox;
mod path;
mod registry;
pub mod restart;
mod supervisor;

pub use clock::{Clock, SystemClock};
pub use mailbox::{AdminInbox, AdminMessage, Credit, Credits, PendingKeys};
pub use path::{ActorPath, PathError};
pub use registry::{ActorView, Registration, Registry, RunState, Sleepers, SleepersGuard};
pub use restart::{Decision, Exit, RestartPolicy, RestartRule, RestartState};
pub use supervisor::{
    ChildContext, ChildSpec, StartChild, StartError, StartedChild, Supervisor, SupervisorArguments, SupervisorMessage,
};
