//! What the gateway asks of other servers by HTTPS: whose certificates are believed (`trust`), where a Service is reached
//! (`address`), and the requests themselves with their connections (`https`). Webhooks, aggregated APIs and the `proxy`
//! subresource go through it. It knows nothing of what is asked.

pub mod address;
pub mod https;
pub mod trust;
