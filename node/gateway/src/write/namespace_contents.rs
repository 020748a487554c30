//! What every namespace has from its first moment: the account that pods run as unless they name another, and the cluster's
//! CA, by which they know the API. Written in the transaction that creates the namespace, so that no pod comes too early.

use serde_json::{Value, json};

use api::kinds;
use api::status::Status;
use api::write::{FieldValidation, WriteContext};
use protocol::store::{Precondition, Write};
use protocol::{Key, Uid};

use super::Circumstances;

/// The writes that go with a new object: for a namespace its contents, for others none.
pub(super) fn of(key: &Key, cluster_ca: &str, with: &Circumstances) -> Result<Vec<Write>, Status> {
    if key.resource.as_str() != "namespaces" {
        return Ok(Vec::new());
    }
    let account = json!({"metadata": {"name": "default"}});
    let authority = json!({
        "metadata": {"name": "kube-root-ca.crt", "annotations": {"kubernetes.io/description": DESCRIPTION}},
        "data": {"ca.crt": cluster_ca},
    });
    let contents = [("serviceaccounts", account), ("configmaps", authority)];
    let write = |(index, (plural, object)): (u64, (&str, Value))| new_object(plural, &key.name, object, index, with);
    (0..).zip(contents).map(write).collect()
}

/// Upstream's text.
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints \
     such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of \
     Kubernetes clusters.";

fn new_object(plural: &str, namespace: &str, object: Value, index: u64, with: &Circumstances) -> Result<Write, Status> {
    let kind = kinds::find("", "v1", plural).ok_or_else(Status::no_such_resource)?;
    // Distinct from the namespace's own uid and from each other; the request's bits are random.
    let bits = u128::from(with.random.rotate_left(17)) << 64 | u128::from(with.random ^ (index << 56));
    let uid = Uid::from_bits(bits);
    let context = WriteContext {
        now: with.now,
        new_uid: uid.as_str(),
        random_suffix: "",
        field_manager: "actorium-control-plane",
        field_validation: FieldValidation::Ignore,
        user: "system:kube-controller-manager",
        ..WriteContext::default()
    };
    let written = api::write::prepare_create(kind, namespace, object, &context)?;
    let name = written.object["metadata"]["name"].as_str().unwrap_or_default();
    Ok(Write::Put {
        key: Key::new(kind.resource(), namespace, name),
        // Whatever a namespace of this name has left behind is replaced.
        precondition: Precondition::None,
        draft: kind.draft(&written.object).map_err(Status::internal)?,
    })
}
