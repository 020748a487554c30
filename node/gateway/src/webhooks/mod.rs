//! Webhooks, the acting part: the client by which the gateway asks them, and the asking in the middle of a write. Which webhooks
//! are asked, what, and what their answers mean is `admission::webhook`'s business.

pub mod asking;
pub mod client;
