//! API priority and fairness as pure code: which priority level and flow a request belongs to, and when it may run. After
//! KEP-1040. The gateway classifies a request, tells `FlowControl` of its arrival and its end, and starts, holds or refuses
//! it as the effects say.
//!
//! One thing differs from Kubernetes: seats that a level lends are borrowed at once when somebody can use them, and not by
//! a calculation every ten seconds. Their owner gets each back as soon as a borrower finishes.

mod control;
mod defaults;
mod level;
mod queues;
mod schema;

pub use control::{FlowControl, FlowEffect, FlowEvent, FlowLimits, RequestId, WaitRefusal};
pub use defaults::{CATCH_ALL, EXEMPT, default_flow_schemas, default_priority_levels};
pub use level::seats_of_list;
pub use queues::Micros;
pub use schema::Flow;
