//! Mutating and validating webhooks, the pure part: which are asked, in which order, what they are sent, what their answers
//! mean, and when they are asked again. The gateway carries the documents.
//!
//! Mutating webhooks change the object in the middle of a write, and asking takes time. So `mutate` is run over answers that
//! are known already; where one is missing it stops and says what is to be asked (`Pause::Ask`). The caller asks, notes the
//! answer and decides the whole write again, which comes to the same point with the same object. So the deciding code needs
//! no callback into the world and stays one function from start to end.
//!
//! After apiserver's `plugin/webhook/{generic,mutating,validating,request}`.

mod configuration;
mod consult;
mod dialogue;
mod mutate;
mod refusal;
mod review;
mod validate;

pub use configuration::{ReviewVersion, Webhook, Webhooks, problems};
pub use consult::Said;
pub use dialogue::{Answer, Answers, Place, Question};
pub use mutate::{Mutation, mutate};
pub use refusal::Pause;
pub use validate::{questions, verdicts};

/// The resources that hold webhooks. Whoever keeps `Webhooks` follows these.
pub const RESOURCES: [&str; 2] = [
    "mutatingwebhookconfigurations.admissionregistration.k8s.io",
    "validatingwebhookconfigurations.admissionregistration.k8s.io",
];
