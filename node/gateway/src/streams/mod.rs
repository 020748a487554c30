//! `pods/exec`, `pods/attach` and `pods/portforward`: sessions over WebSocket. A request is planned like any other (`plan`);
//! then the connection is upgraded (`upgrade`) and an actix actor (`actor`) carries the session until one side ends it.
//!
//! - `channel` is the framing of exec and attach, and of port-forward as client libraries speak it (v1, v4 and v5 of
//!   `channel.k8s.io`); `containers` and `ports` carry it;
//! - `spdy` is the framing of SPDY/3.1 that kubectl tunnels through a WebSocket for port-forward; `tunnel` carries it.
//!
//! Absent on purpose: upgrades to SPDY itself. kubectl speaks WebSocket since 1.31, client libraries always did.

mod actor;
pub mod channel;
mod containers;
pub mod plan;
mod ports;
pub mod spdy;
mod tunnel;
mod upgrade;

pub use upgrade::{Upgrade, upgrade, upgrades_to};
