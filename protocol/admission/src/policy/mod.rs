//! ValidatingAdmissionPolicies and MutatingAdmissionPolicies: rules in CEL over requests. Which are in force for a request,
//! which objects they take as parameters, and what they say. The gateway reads the parameters; nothing here does I/O.
//!
//! After apiserver's `plugin/policy/{generic,validating,mutating}`.

mod definition;
mod due;
mod mutate;
mod type_check;
mod validate;

pub use definition::{Binding, InForce, Mutation, Policies, Policy, PolicySort, problems};
pub use due::{Due, Parameters, due};
pub use mutate::mutate;
pub use type_check::type_checking;
pub use validate::validate;

/// The resources that hold policies and their bindings. Whoever keeps `Policies` follows these.
pub const RESOURCES: [&str; 4] = [
    "validatingadmissionpolicies.admissionregistration.k8s.io",
    "validatingadmissionpolicybindings.admissionregistration.k8s.io",
    "mutatingadmissionpolicies.admissionregistration.k8s.io",
    "mutatingadmissionpolicybindings.admissionregistration.k8s.io",
];
