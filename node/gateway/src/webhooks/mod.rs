//! Webhooks, the acting part: the HTTPS client by which the gateway asks them, reused for conversions of custom resources and
//! for aggregated APIs. Which webhooks are asked, what, and what their answers mean is `admission::webhook`'s business.

pub mod address;
pub mod asking;
pub mod client;
pub mod https;
pub mod trust;
