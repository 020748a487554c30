//! The keeper of ValidatingAdmissionPolicies' status: says which generation it has looked at, and which expressions do not fit
//! the kinds that the policy is about. Runs where the control plane runs; what it writes is compare-and-set. What it finds is
//! `admission::policy`'s.

use std::sync::Arc;
use std::time::Duration;

use admission::policy;
use api::custom::CustomKinds;
use protocol::Resource;
use protocol::store::{ObjectStore, Precondition, ProposeError};
use serde_json::{Value, json};

use crate::custom::DEFINITIONS;
use crate::definitions::{KeepError, Known, put};
use crate::follow::{Follower, follow};

/// The resource of the policies.
const POLICIES: &str = "validatingadmissionpolicies.admissionregistration.k8s.io";

/// When it tries again what could not be written.
const AGAIN: Duration = Duration::from_millis(300);

/// Keeps the policies' status until it is dropped.
pub async fn keep(store: Arc<dyn ObjectStore>) {
    let (policies, definitions) = (Arc::new(Known::default()), Arc::new(Known::default()));
    let follows = |resource: &str, known: &Arc<Known>| {
        let follower = Arc::clone(known) as Arc<dyn Follower>;
        follow(Arc::clone(&store), vec![Resource::new(resource)], follower)
    };
    let working = async {
        // Policies about custom kinds are looked at with those at hand.
        definitions.changed.notified().await;
        loop {
            let failed = look(store.as_ref(), &policies, &definitions).await;
            if failed {
                let _ = tokio::time::timeout(AGAIN, policies.changed.notified()).await;
            } else {
                policies.changed.notified().await;
            }
        }
    };
    tokio::select! {
        () = follows(POLICIES, &policies) => {}
        () = follows(DEFINITIONS, &definitions) => {}
        () = working => {}
    }
}

/// Writes the status of every policy whose generation was not looked at. Whether one could not be written.
async fn look(store: &dyn ObjectStore, policies: &Known, definitions: &Known) -> bool {
    let mut due = policies.objects.lock().clone();
    due.retain(|_, (policy, _)| is_due(policy));
    if due.is_empty() {
        return false;
    }
    let customs = CustomKinds::default();
    for (definition, _) in definitions.objects.lock().values() {
        customs.define(definition);
    }
    let rows = customs.rows();
    let mut failed = false;
    for (key, (mut policy, revision)) in due {
        policy["status"]["typeChecking"] = policy::type_checking(&policy, &rows);
        policy["status"]["observedGeneration"] = generation(&policy);
        match put(store, &key, Precondition::Revision(revision), &policy).await {
            // Of a refused one the newer form comes as an event.
            Ok(()) | Err(KeepError::Propose(ProposeError::Refused(_))) => {}
            Err(error) => {
                tracing::debug!(%key, %error, "a policy's status cannot be written; trying again");
                failed = true;
            }
        }
    }
    failed
}

fn generation(policy: &Value) -> Value {
    policy["metadata"]
        .get("generation")
        .cloned()
        .unwrap_or_else(|| json!(0))
}

fn is_due(policy: &Value) -> bool {
    let observed = policy["status"].get("observedGeneration");
    observed != Some(&generation(policy))
}
